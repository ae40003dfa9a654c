"""Django's session middleware, with the cookies of the daemon."""

from __future__ import annotations

from collections.abc import Awaitable
from http.cookies import Morsel
from typing import Any, cast

from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

from .._adapters import (
    ERROR_BODY,
    ERROR_TYPE,
    EXPECTED_ERRORS,
    ExpectedError,
    cache_control,
    error_headers,
    error_status,
)
from ..session import AsyncRequestSession, RequestSession
from ._store import SessionStore


class SessionMiddleware(DjangoSessionMiddleware):
    """Takes the place of Django's own, of which it is a subclass.

    It hands the Cookie header to the daemon as it came, and sends the daemon's cookie, so the
    SESSION_COOKIE_* settings count for nothing. It answers by itself if the daemon or its store
    is away (503 with Retry-After), and if a request changes its session with an id from before
    a login (409)."""

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if not issubclass(self.SessionStore, SessionStore):
            raise ImproperlyConfigured('SESSION_ENGINE: sessiond.django.SessionMiddleware needs "sessiond.django"')

    def process_request(self, request: HttpRequest) -> None:
        """Lays `request.session`; nothing is asked yet."""
        store = cast(type[SessionStore], self.SessionStore)
        request.session = store(cookie_header=request.META.get("HTTP_COOKIE"))

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """The answer to what a view did not catch."""
        return _answer(error) if isinstance(error, EXPECTED_ERRORS) else None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Saves what changed, and sets the cookie."""
        session = _store(request)
        if session is None:
            return super().process_response(request, response)
        replaced = _replaced(session, response)
        if replaced is None and _is_used(session) and response.status_code < 500:
            try:
                session.finish()
            except EXPECTED_ERRORS as error:
                replaced = _answer(error)
            except UpdateError as error:
                raise _interrupted() from error
        return _with_cookie(session, replaced or response)

    async def __acall__(self, request: HttpRequest) -> HttpResponse:
        self.process_request(request)
        response = await cast(Awaitable[HttpResponse], self.get_response(request))
        session = _store(request)
        if session is None:
            return super().process_response(request, response)
        replaced = _replaced(session, response)
        if replaced is None and _is_used(session) and response.status_code < 500:
            try:
                await session.afinish()
            except EXPECTED_ERRORS as error:
                replaced = _answer(error)
            except UpdateError as error:
                raise _interrupted() from error
        return _with_cookie(session, replaced or response)


def get_session(request: HttpRequest) -> RequestSession:
    """The session of a request: `update`, `login`, `logout` and the rest, for sync views."""
    session = _store(request)
    if session is None:
        raise ImproperlyConfigured("sessiond.django.SessionMiddleware is not installed")
    return session.open()


async def aget_session(request: HttpRequest) -> AsyncRequestSession:
    """The session of a request: `update`, `login`, `logout` and the rest, for async views."""
    session = _store(request)
    if session is None:
        raise ImproperlyConfigured("sessiond.django.SessionMiddleware is not installed")
    return await session.aopen()


def _store(request: HttpRequest) -> SessionStore | None:
    session = getattr(request, "session", None)
    return session if isinstance(session, SessionStore) else None


def _is_used(session: SessionStore) -> bool:
    if settings.SESSION_SAVE_EVERY_REQUEST:
        session.accessed = True  # a Resolve moves the deadline
    return session.accessed or session.modified


def _replaced(session: SessionStore, response: HttpResponse) -> HttpResponse | None:
    # An error that was raised where no view is, such as in another middleware.
    failure = session.failure
    return _answer(failure) if response.status_code == 500 and isinstance(failure, EXPECTED_ERRORS) else None


def _answer(error: ExpectedError) -> HttpResponse:
    return HttpResponse(ERROR_BODY, content_type=ERROR_TYPE, status=error_status(error), headers=error_headers(error))


def _interrupted() -> SessionInterrupted:
    return SessionInterrupted(
        "The request's session was deleted before the request completed. The user may have logged out in a "
        "concurrent request, for example."
    )


def _with_cookie(session: SessionStore, response: HttpResponse) -> HttpResponse:
    cookie = session.request_session.set_cookie
    if session.accessed or cookie is not None:
        patch_vary_headers(response, ("Cookie",))
    if cookie is not None:
        morsel = _DaemonCookie.parse(cookie)
        response.cookies[morsel.key] = morsel
        needed = cache_control(response.headers.get("Cache-Control"))
        if needed is not None:
            response.headers["Cache-Control"] = needed
    return response


class _DaemonCookie(Morsel[str]):
    """A cookie that goes out as the daemon has written it, and can be read as Django's are."""

    line: str | None = None

    @classmethod
    def parse(cls, line: str) -> _DaemonCookie:
        pair, *attributes = line.split(";")
        name, _, value = pair.partition("=")
        morsel = cls()
        morsel.set(name.strip(), value, value)
        for attribute in attributes:
            key, equals, text = attribute.strip().partition("=")
            if morsel.isReservedKey(key):
                morsel[key] = cast(str, text if equals else True)
        morsel.line = line
        return morsel

    def OutputString(self, attrs: Any = None) -> str:
        return super().OutputString(attrs) if self.line is None else self.line
