"""Sessions for Django. In the settings:

    SESSION_ENGINE = "sessiond.django"
    SESSIOND = "127.0.0.1:50051"
    MIDDLEWARE = [..., "sessiond.django.SessionMiddleware", ...]

The middleware stands where Django's own was. `request.session` behaves as documented by Django,
in sync and async views. `get_session(request)` is the same session with all that it can do:
`update`, `login`, `logout`, `devices` and the rest.
"""

from ._middleware import SessionMiddleware, aget_session, get_session
from ._store import SessionStore, SupersededUpdateError

__all__ = ["SessionMiddleware", "SessionStore", "SupersededUpdateError", "aget_session", "get_session"]
