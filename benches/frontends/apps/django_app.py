"""Django: bare, with cached sessions on django-redis, and with sessiond. The handlers are the same."""

import json
import os
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

DATA = json.loads((Path(__file__).parent / "data.json").read_text())


def bare(get_response):
    def middleware(request):
        request.session = dict(DATA)
        return get_response(request)

    return middleware


VARIANTS = {
    "bare": {"MIDDLEWARE": ["django_app.bare"]},
    "today": {
        "MIDDLEWARE": ["django.contrib.sessions.middleware.SessionMiddleware"],
        "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
        "CACHES": {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": os.environ["REDIS"]}},
    },
    "ours": {
        "MIDDLEWARE": ["sessiond.django.SessionMiddleware"],
        "SESSION_ENGINE": "sessiond.django",
        "SESSIOND": os.environ["SESSIOND"],
    },
}
settings.configure(
    SECRET_KEY="a secret of the application, long enough",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF="django_app",
    # A save alone moves the deadline of Django's sessions. Those of connect-redis, Flask-Session and sessiond
    # live from use to use; with this, Django's do, too.
    SESSION_SAVE_EVERY_REQUEST="EVERY" in os.environ,
    **VARIANTS[os.environ["VARIANT"]],
)
django.setup()


def shown(session):
    answer = {"user": session.get("user"), "items": len(session.get("cart", ())), "count": session.get("count", 0)}
    return JsonResponse(answer)


def show(request):
    return shown(request.session)


def change(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return shown(request.session)


def begin(request):
    request.session.update(DATA)
    return shown(request.session)


urlpatterns = [path("", show), path("change", change), path("begin", begin)]
app = get_wsgi_application()
