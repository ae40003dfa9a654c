"""Sessions for aiohttp, with the surface of aiohttp-session.

    from sessiond.aiohttp import get_session, setup

    app = web.Application()
    setup(app, "127.0.0.1:50051")

    async def handler(request):
        session = await get_session(request)
        session["theme"] = "dark"

`session.request_session` is the same session with all that it can do: `update`, `login`,
`logout`, `devices` and the rest.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion11, web

from ._adapters import (
    ERROR_BODY,
    ERROR_TYPE,
    EXPECTED_ERRORS,
    ExpectedError,
    SessionDict,
    cache_control,
    error_headers,
    error_status,
    finish_async,
    same_cookie,
)
from .client import AsyncClient
from .protocols import AsyncSessionClient
from .session import AsyncRequestSession

__all__ = ["Session", "get_session", "new_session", "setup"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Session(SessionDict):
    """The session of a request: a dict. It is saved before the response goes out; changes inside a
    value are found by themselves.

    `invalidate()` or `clear()` ends the session: what is put in afterwards goes into a new one."""

    request_session: AsyncRequestSession
    """The same session, with `update`, `login`, `logout`, `devices` and the rest."""
    max_age_wanted: int | None = None
    wants_max_age: bool = False

    @property
    def new(self) -> bool:
        """Whether the request came without a session."""
        return self.request_session.is_new or not self.request_session.live

    @property
    def identity(self) -> str | None:
        """The public id, which is no credential. None: there is no session yet."""
        return self.request_session.id

    @property
    def created(self) -> int:
        """When it was created, in seconds since 1970."""
        session = self.request_session.view.session
        return int(time.time() if session is None else session.create_time.timestamp())

    @property
    def empty(self) -> bool:
        """Whether there is no data."""
        return not self

    @property
    def max_age(self) -> int | None:
        """The idle timeout, in seconds. Setting it gives the session its own; None makes the
        cookie one that the browser drops when it closes."""
        if self.wants_max_age:
            return self.max_age_wanted
        session = self.request_session.view.session
        return None if session is None else int(session.duration.total_seconds())

    @max_age.setter
    def max_age(self, value: int | None) -> None:
        self.accessed = self.wants_max_age = True
        self.max_age_wanted = value

    def changed(self) -> None:
        """Does nothing: what has changed is found out."""

    def invalidate(self) -> None:
        """Ends the session. See the class."""
        self.clear()


class _State:
    """What a request has of its session."""

    def __init__(self, client: AsyncSessionClient, engine: str | None, request: web.Request) -> None:
        # As octets: request.headers has them decoded.
        lines = [value for name, value in request.raw_headers if name.lower() == b"cookie"]
        self.data = Session()
        self.session = AsyncRequestSession(client, b"; ".join(lines) or None, engine=engine, data=self.data)
        self.data.bind(self.session)
        self.data.request_session = self.session
        self.finished = False
        self.chunked = False
        """Whether the connection expects chunks for what is sent next."""

    async def load(self) -> Session:
        if not self.session.loaded:
            await self.session.load()
        self.data.accessed = True
        return self.data

    async def finish(self, response: web.StreamResponse) -> None:
        """Saves, once, and sets the cookie."""
        if self.finished:
            return
        self.finished = True
        if self.used:
            options: dict[str, Any] = {}
            if self.data.wants_max_age:
                age = self.data.max_age_wanted
                options = {"persistent": age is not None, "duration": age}
            await finish_async(self.session, self.data.cleared, **options)
        self.add_headers(response)

    @property
    def used(self) -> bool:
        return self.data.accessed or self.session.accessed

    def add_headers(self, response: web.StreamResponse) -> None:
        cookie = self.session.set_cookie
        headers = response.headers
        if self.used or cookie is not None:
            present = headers.getall("Vary", [])
            names = {part.strip().lower() for line in present for part in line.split(",")}
            if not names & {"*", "cookie"}:
                headers["Vary"] = ", ".join([*present, "Cookie"])
        if cookie is not None:
            lines = headers.popall("Set-Cookie", [])
            response.cookies.pop(cookie.partition("=")[0], None)
            for line in lines:
                if not same_cookie(line, cookie):
                    headers.add("Set-Cookie", line)
            headers.add("Set-Cookie", cookie)
            needed = cache_control(", ".join(headers.getall("Cache-Control", [])))
            if needed is not None:
                headers["Cache-Control"] = needed


# aiohttp 3.14 and later warns about keys that are text.
_KEY: Any = web.RequestKey("sessiond", _State) if hasattr(web, "RequestKey") else "sessiond"


def setup(app: web.Application, client: AsyncSessionClient | str, *, engine: str | None = None) -> None:
    """Gives the requests of `app` their sessions. `client`: an `AsyncClient`, or the daemon's address
    for one that is closed with the application. `engine`: None for the client's.

    It answers by itself if the daemon or its store is away (503 with Retry-After), and if a
    request changes a session that a login or logout has replaced meanwhile (409)."""
    if isinstance(client, str):
        own = AsyncClient(client)

        async def close(_: web.Application) -> AsyncIterator[None]:
            yield
            await own.close()

        app.cleanup_ctx.append(close)
        app.middlewares.append(_middleware(own, engine))
    else:
        app.middlewares.append(_middleware(client, engine))
    app.on_response_prepare.append(_on_prepare)


def _middleware(client: AsyncSessionClient, engine: str | None) -> Any:
    @web.middleware
    async def sessiond(request: web.Request, handler: Handler) -> web.StreamResponse:
        state = request[_KEY] = _State(client, engine, request)
        error_raised: web.HTTPException | None = None
        response: web.StreamResponse
        try:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = error_raised = error
            if not response.prepared:
                await state.finish(response)
        except EXPECTED_ERRORS as error:
            state.finished = True
            response, error_raised = _answer(error), None
            if state.chunked:
                response.enable_chunked_encoding()
            state.add_headers(response)
        except BaseException:
            state.finished = True  # the answer to a fault is not saved for; a cookie goes out, see below
            raise
        if error_raised is not None:
            raise error_raised
        return response

    return sessiond


async def _on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """Before the head of a response goes out that the middleware does not see: of a stream, a
    websocket, and a fault."""
    state = request.get(_KEY)
    if state is None:
        return
    if not state.finished:
        # If this fails, the answer to the error is sent on what is prepared for the stream by now.
        state.chunked = response.content_length is None and request.version >= HttpVersion11
        await state.finish(response)
    elif state.session.set_cookie not in (None, *response.headers.getall("Set-Cookie", [])):
        state.add_headers(response)


def _answer(error: ExpectedError) -> web.Response:
    return web.Response(
        body=ERROR_BODY, content_type=ERROR_TYPE, status=error_status(error), headers=error_headers(error)
    )


def _state(request: web.Request) -> _State:
    state = request.get(_KEY)
    if not isinstance(state, _State):
        raise RuntimeError("sessiond.aiohttp is not installed: setup(app, ADDRESS)")
    return state


async def get_session(request: web.Request) -> Session:
    """The session of a request. It is resolved at the first call."""
    return await _state(request).load()


async def new_session(request: web.Request) -> Session:
    """An empty session in place of that of the request, which ends."""
    session = await get_session(request)
    session.clear()
    return session
