"""Sessions for every ASGI framework. `sessiond.starlette` adds what Starlette and FastAPI know.

    from sessiond.asgi import SessionMiddleware

    application = SessionMiddleware(application, "127.0.0.1:50051")

`scope["session"]` is then the session's data, which Starlette, FastAPI and Litestar show as
`request.session`. What changed is saved before the head of the response goes out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

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

__all__ = ["SessionMiddleware"]

logger = logging.getLogger("sessiond")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

KEY = "sessiond"
"""The key of the `AsyncRequestSession` in the scope."""


class SessionMiddleware:
    """Resolves the session of each HTTP request and websocket, and saves what changed.

    `scope["session"]` is the data, `scope["sessiond"]` the `AsyncRequestSession`.

    It answers by itself if the daemon or its store is away (503 with Retry-After), and if a
    request changes a session that a login or logout has replaced meanwhile (409). The
    framework's own handlers for these errors come first where the error is raised in a handler.
    """

    def __init__(
        self,
        app: ASGIApp,
        client: AsyncSessionClient | str,
        *,
        engine: str | None = None,
        error_response: Callable[[ExpectedError], ASGIApp] | None = None,
    ) -> None:
        """`client`: an `AsyncClient`, or the daemon's address for one that is closed when the
        application stops. `engine`: None for the client's. `error_response`: makes the answer
        to an `UnavailableError`, `SupersededError`, `SessionGoneError` or
        `VersionMismatchError`; its status and Retry-After are up to you. By default the
        body is `{}`."""
        self.app = app
        self._address = client if isinstance(client, str) else None
        self._client: AsyncSessionClient = AsyncClient(client) if isinstance(client, str) else client
        self._engine = engine
        self._error_response = error_response or _ErrorResponse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan" and self._address is not None:
            await self._lifespan(self._address, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _open(self, scope: Scope) -> tuple[AsyncRequestSession, SessionDict]:
        # A header may come in several lines (RFC 9113, section 8.2.3).
        lines = [value for name, value in scope["headers"] if name == b"cookie"]
        data = SessionDict()
        session = AsyncRequestSession(self._client, b"; ".join(lines) or None, engine=self._engine, data=data)
        data.bind(session)
        scope["session"] = data
        scope[KEY] = session
        await session.load()
        data.accessed = False
        return session, data

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            session, data = await self._open(scope)
        except EXPECTED_ERRORS as error:
            await self._error_response(error)(scope, receive, send)
            return
        started = False
        replaced = False

        async def start(message: Message) -> None:
            _add_headers(message, session, data)
            await send(message)

        async def answer(error: ExpectedError) -> None:
            # The cookie of an earlier step goes out all the same: after a roll the old one is
            # worthless.
            async def send_with_cookie(message: Message) -> None:
                await (start if message["type"] == "http.response.start" else send)(message)

            await self._error_response(error)(scope, receive, send_with_cookie)

        async def send_wrapper(message: Message) -> None:
            nonlocal started, replaced
            if replaced:
                return
            if message["type"] != "http.response.start":
                await send(message)
                return
            started = True
            if data.accessed or session.accessed:
                try:
                    await finish_async(session, data.cleared)
                except EXPECTED_ERRORS as error:
                    replaced = True
                    await answer(error)
                    return
            await start(message)

        try:
            await self.app(scope, receive, send_wrapper)
        except EXPECTED_ERRORS as error:
            if started:
                raise
            await answer(error)
        except Exception:
            if not started and session.set_cookie is not None:
                # The error's page is made outside of this middleware, and would go out without
                # the cookie.
                await _plain_error(scope, receive, start, send)
            raise

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            session, data = await self._open(scope)
        except EXPECTED_ERRORS as error:
            await receive()  # websocket.connect
            await self._deny(error, scope, receive, send)
            return
        answered = False

        async def send_wrapper(message: Message) -> None:
            nonlocal answered
            if not answered and message["type"] in ("websocket.accept", "websocket.http.response.start"):
                # An error is the application's, which must not go on as if the socket were open.
                if data.accessed or session.accessed:
                    await finish_async(session, data.cleared)
                _add_headers(message, session, data)
            answered = True
            await send(message)

        try:
            await self.app(scope, receive, send_wrapper)
        except EXPECTED_ERRORS as error:
            if answered:
                raise
            await self._deny(error, scope, receive, send)
        else:
            if answered and session.changed:
                logger.warning("a websocket changed its session after it was accepted, without save: dropped")

    async def _deny(self, error: ExpectedError, scope: Scope, receive: Receive, send: Send) -> None:
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1013})  # try again later; 403 before accept
            return

        async def send_denial(message: Message) -> None:
            await send({**message, "type": "websocket." + message["type"]})

        await self._error_response(error)(scope, receive, send_denial)

    async def _lifespan(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_wrapper(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                client, self._client = self._client, AsyncClient(address)
                await client.close()
            await send(message)

        await self.app(scope, receive, send_wrapper)


def _add_headers(message: Message, session: AsyncRequestSession, data: SessionDict) -> None:
    cookie = session.set_cookie
    if cookie is None and not data.accessed and not session.accessed:
        return
    headers: Headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
    _add_vary(headers)
    if cookie is not None:
        headers = [
            (name, value)
            for name, value in headers
            if name.lower() != b"set-cookie" or not same_cookie(value.decode("latin-1"), cookie)
        ]
        headers.append((b"set-cookie", cookie.encode("latin-1")))
        present = b", ".join(value for name, value in headers if name.lower() == b"cache-control")
        needed = cache_control(present.decode("latin-1"))
        if needed is not None:
            headers = [line for line in headers if line[0].lower() != b"cache-control"]
            headers.append((b"cache-control", needed.encode()))
    message["headers"] = headers


def _add_vary(headers: Headers) -> None:
    for index, (name, value) in enumerate(headers):
        if name.lower() == b"vary":
            names = {part.strip().lower() for part in value.split(b",")}
            if not names & {b"*", b"cookie"}:
                headers[index] = (name, value + b", Cookie")
            return
    headers.append((b"vary", b"Cookie"))


class _ErrorResponse:
    """The default answer to an expected error."""

    def __init__(self, error: ExpectedError) -> None:
        self._status = error_status(error)
        self._headers: Headers = [
            (b"content-type", ERROR_TYPE.encode()),
            (b"content-length", str(len(ERROR_BODY)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in error_headers(error).items()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": ERROR_BODY})


async def _plain_error(scope: Scope, receive: Receive, start: Send, send: Send) -> None:
    body = b"Internal Server Error"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await start({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
