"""Django is configured once for the process."""

from __future__ import annotations

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        MIDDLEWARE=[
            "sessiond.django.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        ROOT_URLCONF="django_urls",
        SECRET_KEY="for tests",
        SESSION_COOKIE_NAME="session",
        SESSION_ENGINE="sessiond.django",
        SESSIOND={"address": "127.0.0.1:1"},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=True,
    )
    django.setup()

# It writes to the table of users, which is in the memory of one thread.
from django.contrib.auth.signals import user_logged_in

user_logged_in.disconnect(dispatch_uid="update_last_login")
