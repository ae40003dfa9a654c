"""The shop in Django, in one file. sessiond owns the sessions."""

import os
import secrets
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from sessiond import SessionGoneError, SupersededError

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=["sessiond.django.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_urlsafe(32),
    SESSION_ENGINE="sessiond.django",
    SESSIOND=os.environ.get("SESSIOND", "127.0.0.1:50051"),
)
application = get_wsgi_application()

from sessiond.django import get_session  # noqa: E402, after the settings

ENDED = (SessionGoneError, SupersededError)  # meanwhile, by a logout or a login in another request


@require_GET
def show(request: HttpRequest):
    session = get_session(request)
    return {
        "user": session.principal,
        "visits": request.session.get("visits", 0),
        "cart": request.session.get("cart", []),
        "live": session.live,
    }


@require_POST
def visit(request: HttpRequest):
    return {"visits": get_session(request).update(count_visit)["visits"]}


@require_POST
def cart(request: HttpRequest):
    item = request.POST["item"]
    data = get_session(request).update(lambda data: data.setdefault("cart", []).append(item))
    return {"items": len(data["cart"])}


def flash(request: HttpRequest):
    if request.method == "POST":
        request.session["flash"] = request.POST["text"]
        return {}
    taken = [None]
    if "flash" in request.session:
        try:
            # The last run of the function is the one that counts.
            get_session(request).update(lambda data: taken.append(data.pop("flash", None)))
        except ENDED:
            taken = [None]
    return {"flash": taken[-1]}


@require_POST
def login(request: HttpRequest):
    # A real application checks a password here; after django.contrib.auth.login() no more is needed.
    user = request.POST.get("user", "")
    if not 1 <= len(user.encode()) <= 256:
        return JsonResponse({"error": "expected a user of 1 to 256 bytes"}, status=400)
    get_session(request).login(user)
    return {"user": user}


@require_POST
def theme(request: HttpRequest):
    request.session["theme"] = request.POST["theme"]
    return {"theme": request.session["theme"]}


@require_POST
def logout(request: HttpRequest):
    request.session.flush()
    return {}


@require_POST
def logout_others(request: HttpRequest):
    return {"ended": get_session(request).logout_others()}


@require_POST
def logout_everywhere(request: HttpRequest):
    return {"ended": get_session(request).logout_everywhere()}


@require_GET
def slow(request: HttpRequest):
    session = get_session(request)
    if not session.live:
        return {"written": False}
    time.sleep(int(request.GET.get("ms", 300)) / 1000)
    try:
        session.update(count_visit)
    except ENDED:
        return {"written": False}
    return {"written": True}


@require_GET
def devices(request: HttpRequest):
    session = get_session(request)
    if session.principal is None:
        return JsonResponse({}, status=401)
    return {"devices": [{"id": device.id, "current": device.current} for device in session.devices()]}


def count_visit(data):
    data["visits"] = data.get("visits", 0) + 1


def json(view):
    """A view that returns a dict, or a response; a form that lacks something is a bad request."""

    def wrapped(request: HttpRequest):
        try:
            answer = view(request)
        except (LookupError, ValueError):
            return JsonResponse({}, status=400)
        return JsonResponse(answer) if isinstance(answer, dict) else answer

    return never_cache(wrapped)


urlpatterns = [
    path("session", json(show)),
    path("visit", json(visit)),
    path("cart", json(cart)),
    path("flash", json(flash)),
    path("login", json(login)),
    path("theme", json(theme)),
    path("logout", json(logout)),
    path("logout-others", json(logout_others)),
    path("logout-everywhere", json(logout_everywhere)),
    path("slow", json(slow)),
    path("devices", json(devices)),
]
