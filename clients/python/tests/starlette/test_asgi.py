"""The ASGI middleware under Starlette, FastAPI and Litestar, on the fake and on a daemon."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")
import httpx
from conftest import Daemon
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from sessiond import AsyncClient
from sessiond.starlette import SessionMiddleware, get_session
from sessiond.testing import AsyncFakeClient

Handler = Callable[[Any], Any]


def app_of(handler: Handler, client: Any, **options: Any) -> Starlette:
    routes = [Route("/{rest:path}", handler, methods=["GET", "POST"])]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, client=client, **options)])


async def ask(
    app: Any, *, cookie: bytes | str | None = None, raise_app_exceptions: bool = True, path: str = "/"
) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    headers = [] if cookie is None else [(b"cookie", cookie.encode() if isinstance(cookie, str) else cookie)]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as browser:
        return await browser.get(path, headers=headers)


def cookies(response: httpx.Response) -> list[str]:
    return response.headers.get_list("set-cookie")


def cookie_of(response: httpx.Response) -> str:
    lines = cookies(response)
    assert len(lines) == 1, f"expected one Set-Cookie line, found {lines}"
    return lines[0].partition(";")[0]


async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(dict(request.session))


def test_it_keeps_what_handlers_put_in() -> None:
    async def main() -> None:
        app = app_of(count, AsyncFakeClient())
        first = await ask(app)
        assert first.json() == {"n": 1}
        assert first.headers["cache-control"] == "no-store", "a cookie must not be cached"
        assert first.headers["vary"] == "Cookie"
        second = await ask(app, cookie=cookie_of(first))
        assert second.json() == {"n": 2}
        assert cookies(second) == [], "the browser has the cookie"
        assert "cache-control" not in second.headers

    asyncio.run(main())


def test_who_changes_nothing_leaves_no_trace() -> None:
    async def read(request: Request) -> Response:
        return JSONResponse({"session": request.session, "n": request.session.get("n")})

    async def main() -> None:
        fake = AsyncFakeClient()
        response = await ask(app_of(read, fake), cookie="other=1")
        assert response.json() == {"session": {}, "n": None}
        assert cookies(response) == [] and not fake.sessions()
        assert set(fake.calls) <= {"describe"}, "a request without the cookie needs no call"

    asyncio.run(main())


def test_a_handler_that_does_not_look_gets_no_vary() -> None:
    async def blind(request: Request) -> Response:
        return Response("hi", headers={"vary": "Accept"})

    async def main() -> None:
        assert (await ask(app_of(blind, AsyncFakeClient()))).headers["vary"] == "Accept"

    asyncio.run(main())


def test_changes_inside_a_value_are_saved() -> None:
    async def deep(request: Request) -> Response:
        request.session.setdefault("cart", []).append("tea")
        return JSONResponse(request.session["cart"])

    async def main() -> None:
        app = app_of(deep, AsyncFakeClient())
        first = await ask(app)
        assert (await ask(app, cookie=cookie_of(first))).json() == ["tea", "tea"]

    asyncio.run(main())


def test_clear_ends_the_session_and_what_follows_begins_one() -> None:
    async def handler(request: Request) -> Response:
        if request.url.path == "/fill":
            request.session["n"] = 1
        else:
            request.session.clear()
        if request.url.path == "/anew":
            request.session["m"] = 2
        return JSONResponse(dict(request.session))

    async def main() -> None:
        fake = AsyncFakeClient()
        app = app_of(handler, fake)
        cookie = cookie_of(await ask(app, path="/fill"))
        anew = await ask(app, cookie=cookie, path="/anew")
        assert cookie_of(anew) != cookie, "what follows clear() goes into a new session"
        assert [session.data for session in fake.sessions()] == [{"m": 2}]
        ended = await ask(app, cookie=cookie_of(anew), path="/clear")
        assert "Max-Age=0" in cookies(ended)[0] and not fake.sessions()

    asyncio.run(main())


def test_login_after_clear_does_not_end_the_login() -> None:
    async def handler(request: Request) -> Response:
        request.session["n"] = 1
        request.session.clear()
        await (await get_session(request)).login("ann")
        return JSONResponse({})

    async def main() -> None:
        fake = AsyncFakeClient()
        app = app_of(handler, fake)
        first = await ask(app)
        await ask(app, cookie=cookie_of(first))
        assert [session.principal for session in fake.sessions()] == ["ann"]

    asyncio.run(main())


def test_the_application_s_own_line_of_the_cookie_gives_way() -> None:
    async def handler(request: Request) -> Response:
        request.session["n"] = 1
        response = JSONResponse({}, headers={"cache-control": "public, max-age=60"})
        response.delete_cookie("session")
        response.set_cookie("other", "1")
        return response

    async def main() -> None:
        response = await ask(app_of(handler, AsyncFakeClient()))
        names = [line.partition("=")[0] for line in cookies(response)]
        assert sorted(names) == ["other", "session"]
        assert response.headers.get_list("cache-control") == ["no-store"]

    asyncio.run(main())


def test_a_stream_has_the_cookie_in_its_head() -> None:
    async def handler(request: Request) -> Response:
        request.session["n"] = 1

        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingResponse(parts())

    async def main() -> None:
        response = await ask(app_of(handler, AsyncFakeClient()))
        assert response.content == b"ab" and cookie_of(response)

    asyncio.run(main())


@pytest.mark.parametrize("cookie", [b"x=\xff\xfe; ", "x=\u00fc\u20ac; ".encode(), b"session=junk; ", b"; ;=;"])
def test_other_cookies_break_nothing(cookie: bytes, shared_daemon: Daemon) -> None:
    async def main() -> None:
        async with AsyncClient(shared_daemon.address) as client:
            app = app_of(count, client)
            own = cookie_of(await ask(app)).encode()
            assert (await ask(app, cookie=cookie + own)).json() == {"n": 2}
            assert (await ask(app, cookie=cookie)).json() == {"n": 1}

    asyncio.run(main())


def test_several_lines_are_one_header() -> None:
    async def main() -> None:
        app = app_of(count, AsyncFakeClient())
        own = cookie_of(await ask(app)).encode()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as browser:
            response = await browser.get("/", headers=[(b"cookie", b"a=1"), (b"cookie", own), (b"cookie", b"b=2")])
            assert response.json() == {"n": 2}

    asyncio.run(main())


@pytest.mark.parametrize("when", ["resolve", "write"])
def test_an_outage_is_503_and_logs_nobody_out(when: Any) -> None:
    async def main() -> None:
        fake = AsyncFakeClient()
        app = app_of(count, fake)
        cookie = cookie_of(await ask(app))
        fake.fail("STORE_UNAVAILABLE", operation=when)
        response = await ask(app, cookie=cookie)
        assert response.status_code == 503 and response.content == b"{}"
        assert int(response.headers["retry-after"]) >= 1 and cookies(response) == []
        fake.fail(None)
        assert (await ask(app, cookie=cookie)).json() == {"n": 2}

    asyncio.run(main())


def test_a_paused_daemon_is_503(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        async with AsyncClient(daemon.address, timeout=3) as client:
            app = app_of(count, client)
            cookie = cookie_of(await ask(app))
            daemon.send(signal.SIGSTOP)
            assert (await ask(app, cookie=cookie)).status_code == 503
            daemon.send(signal.SIGCONT)
            assert (await ask(app, cookie=cookie)).status_code == 200

    asyncio.run(main())


def test_an_id_from_before_a_login_is_409() -> None:
    async def handler(request: Request) -> Response:
        if request.url.path == "/login":
            await (await get_session(request)).login("ann")
        elif request.url.path == "/change":
            request.session["n"] = 2
        return JSONResponse(dict(request.session))

    async def main() -> None:
        fake = AsyncFakeClient()
        app = app_of(handler, fake)
        old = cookie_of(await ask(app, path="/change"))
        new = cookie_of(await ask(app, cookie=old, path="/login"))
        read = await ask(app, cookie=old)
        assert read.json() == {} and read.status_code == 200 and cookies(read) == []
        for path in ("/change", "/login"):
            refused = await ask(app, cookie=old, path=path)
            assert refused.status_code == 409 and cookies(refused) == [] and refused.json() == {}
        assert (await ask(app, cookie=new)).json() == {"n": 2}
        assert len(fake.sessions()) == 1, "nothing is created for it"

    asyncio.run(main())


def test_a_change_to_a_session_that_ended_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    fake = AsyncFakeClient()

    async def handler(request: Request) -> Response:
        if request.url.path == "/slow":
            other = await ask(app, cookie=request.headers["cookie"], path="/logout")
            assert other.status_code == 200
            request.session["n"] = 2
        elif request.url.path == "/logout":
            await (await get_session(request)).logout()
        else:
            request.session["n"] = 1
        return JSONResponse({})

    app = app_of(handler, fake)

    async def main() -> None:
        cookie = cookie_of(await ask(app))
        slow = await ask(app, cookie=cookie, path="/slow")
        assert slow.status_code == 200 and not fake.sessions(), "a logout is not undone"

    with caplog.at_level(logging.WARNING, "sessiond"):
        asyncio.run(main())
    assert "dropped" in caplog.text


def test_a_fault_after_a_login_does_not_lose_the_cookie() -> None:
    async def handler(request: Request) -> Response:
        await (await get_session(request)).login("ann")
        raise ZeroDivisionError

    async def main() -> None:
        fake = AsyncFakeClient()
        app = app_of(handler, fake)
        response = await ask(app, raise_app_exceptions=False)
        assert response.status_code == 500 and cookie_of(response)
        with pytest.raises(ZeroDivisionError):
            await ask(app)

    asyncio.run(main())


def test_a_fault_saves_nothing() -> None:
    async def handler(request: Request) -> Response:
        request.session["n"] = 1
        raise ZeroDivisionError

    async def main() -> None:
        fake = AsyncFakeClient()
        response = await ask(app_of(handler, fake), raise_app_exceptions=False)
        assert response.status_code == 500 and not fake.sessions()

    asyncio.run(main())


def test_the_answer_to_an_error_can_be_chosen() -> None:
    async def main() -> None:
        fake = AsyncFakeClient()
        fake.fail("STORE_UNAVAILABLE")
        app = app_of(count, fake, error_response=lambda error: Response(error.reason, 418))
        response = await ask(app, cookie="session=x")
        assert response.status_code == 418 and response.text == "STORE_UNAVAILABLE"

    asyncio.run(main())


def test_data_that_is_not_json_is_a_mistake_of_the_application() -> None:
    async def handler(request: Request) -> Response:
        request.session["when"] = object()
        return JSONResponse({})

    async def main() -> None:
        with pytest.raises(ValueError, match="INVALID_DATA"):
            await ask(app_of(handler, AsyncFakeClient()))

    asyncio.run(main())


async def websocket(app: Any, cookie: bytes = b"", receive: list[dict[str, Any]] | None = None) -> list[Any]:
    """What a websocket is sent."""
    incoming = [{"type": "websocket.connect"}, *(receive or []), {"type": "websocket.disconnect", "code": 1000}]
    sent: list[Any] = []

    async def next_message() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [(b"cookie", cookie)] if cookie else [], "subprotocols": []}
    await app({**scope, "query_string": b"", "extensions": {}, "root_path": ""}, next_message, send)
    return sent


def test_a_websocket_is_saved_before_it_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    async def socket(ws: WebSocket) -> None:
        ws.session["n"] = ws.session.get("n", 0) + 1
        await ws.accept()
        ws.session["late"] = True
        await ws.close()

    async def main() -> None:
        fake = AsyncFakeClient()
        app = Starlette(routes=[WebSocketRoute("/", socket)], middleware=[Middleware(SessionMiddleware, client=fake)])
        accept = (await websocket(app))[0]
        lines = [value for name, value in accept["headers"] if name == b"set-cookie"]
        assert accept["type"] == "websocket.accept" and len(lines) == 1
        await websocket(app, lines[0].partition(b";")[0])
        assert [session.data for session in fake.sessions()] == [{"n": 2}]
        fake.fail("STORE_UNAVAILABLE")
        assert (await websocket(app, lines[0].partition(b";")[0]))[0] == {"type": "websocket.close", "code": 1013}

    with caplog.at_level(logging.WARNING, "sessiond"):
        asyncio.run(main())
    assert "after it was accepted" in caplog.text


def test_fastapi_has_the_session_as_a_dependency() -> None:
    fastapi = pytest.importorskip("fastapi")
    from sessiond.starlette import RequestSession

    Session = Annotated[RequestSession, fastapi.Depends(get_session)]
    app = fastapi.FastAPI()
    app.add_middleware(SessionMiddleware, client=AsyncFakeClient())

    async def handler(session):  # type: ignore[no-untyped-def]
        data = await session.update(lambda data: data.update(n=data.get("n", 0) + 1))
        return {"n": data["n"], "live": session.live}

    handler.__annotations__ = {"session": Session}
    app.get("/")(handler)

    async def main() -> None:
        first = await ask(app)
        assert first.json() == {"n": 1, "live": True}
        assert (await ask(app, cookie=cookie_of(first))).json() == {"n": 2, "live": True}

    asyncio.run(main())


def test_litestar_has_request_session() -> None:
    litestar = pytest.importorskip("litestar")
    from litestar.middleware import DefineMiddleware

    async def handler(request):  # type: ignore[no-untyped-def]
        request.session["n"] = request.session.get("n", 0) + 1
        return dict(request.session)

    handler.__annotations__ = {"request": litestar.Request, "return": dict[str, int]}
    app = litestar.Litestar(
        [litestar.get("/")(handler)],
        middleware=[DefineMiddleware(SessionMiddleware, client=AsyncFakeClient())],  # type: ignore[arg-type]
    )

    async def main() -> None:
        first = await ask(app)
        assert first.json() == {"n": 1}
        assert (await ask(app, cookie=cookie_of(first))).json() == {"n": 2}

    asyncio.run(main())


def test_an_address_s_client_is_closed_with_the_application(shared_daemon: Daemon) -> None:
    async def main() -> None:
        app = app_of(count, shared_daemon.address)
        for _ in range(2):  # an application can be started again, as tests do
            incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
            sent: list[str] = []

            async def receive(incoming: list[dict[str, str]] = incoming, sent: list[str] = sent) -> Any:
                if len(incoming) == 1:
                    assert (await ask(app)).json() == {"n": 1}
                return incoming.pop(0)

            async def send(message: Any, sent: list[str] = sent) -> None:
                sent.append(message["type"])

            await app({"type": "lifespan", "state": {}}, receive, send)
            assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(main())
