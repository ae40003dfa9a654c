"""The sessions of aiohttp, on the fake and on a daemon."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("aiohttp")
from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from conftest import Daemon

from sessiond import AsyncClient
from sessiond.aiohttp import get_session, new_session, setup
from sessiond.testing import AsyncFakeClient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Answer:
    def __init__(self, response: Any, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def cookies(self) -> list[str]:
        found: list[str] = self.headers.getall("Set-Cookie", [])
        return found

    @property
    def cookie(self) -> str:
        assert len(self.cookies) == 1, f"expected one Set-Cookie line, found {self.cookies}"
        return self.cookies[0].partition(";")[0]


def drive(client: Any, steps: Callable[[Any], Awaitable[None]], **handlers: Handler) -> None:
    """Serves the handlers by their names, and lets `steps` ask for them."""

    async def main() -> None:
        app = web.Application()
        setup(app, client)
        for name, handler in handlers.items():
            app.router.add_get(f"/{name}", handler)
        async with TestClient(TestServer(app), cookie_jar=DummyCookieJar()) as browser:

            async def ask(name: str, cookie: str | None = None) -> Answer:
                headers = {} if cookie is None else {"Cookie": cookie}
                async with browser.get(f"/{name}", headers=headers) as response:
                    return Answer(response, await response.read())

            await steps(ask)

    asyncio.run(main())


async def count(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["n"] = session.get("n", 0) + 1
    return web.json_response(session)


async def read(request: web.Request) -> web.Response:
    return web.json_response(await get_session(request))


async def login(request: web.Request) -> web.Response:
    await (await get_session(request)).request_session.login("ann")
    return web.Response()


def test_it_keeps_what_handlers_put_in(shared_daemon: Daemon) -> None:
    async def blind(request: web.Request) -> web.Response:
        return web.Response()

    async def steps(ask: Any) -> None:
        first = await ask("count")
        assert first.body == b'{"n": 1}' and first.headers["Cache-Control"] == "no-store"
        second = await ask("count", first.cookie)
        assert second.body == b'{"n": 2}' and second.cookies == [] and second.headers["Vary"] == "Cookie"
        assert (await ask("count", "x=\udcff\udcfe; session=junk; " + first.cookie)).body == b'{"n": 3}'
        assert "Vary" not in (await ask("blind", first.cookie)).headers

    drive(shared_daemon.address, steps, count=count, blind=blind)


def test_streams_and_faults_have_the_cookie() -> None:
    fake = AsyncFakeClient()

    async def stream(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["n"] = 1
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"ab")
        return response

    async def fault(request: web.Request) -> web.StreamResponse:
        await login(request)
        (await get_session(request))["n"] = 1
        raise ZeroDivisionError

    async def steps(ask: Any) -> None:
        streamed = await ask("stream")
        assert streamed.body == b"ab" and streamed.cookie
        failed = await ask("fault")
        assert failed.status == 500 and failed.cookie
        assert (await ask("read", failed.cookie)).body == b"{}", "a fault saves nothing"

    drive(fake, steps, stream=stream, fault=fault, read=read)


def test_a_redirect_has_the_cookie() -> None:
    async def main() -> None:
        app = web.Application()
        setup(app, AsyncFakeClient())

        async def redirect(request: web.Request) -> web.StreamResponse:
            (await get_session(request))["n"] = 1
            raise web.HTTPFound("/elsewhere")

        app.router.add_get("/", redirect)
        async with (
            TestClient(TestServer(app), cookie_jar=DummyCookieJar()) as browser,
            browser.get("/", allow_redirects=False) as response,
        ):
            assert response.status == 302 and len(response.headers.getall("Set-Cookie")) == 1

    asyncio.run(main())


def test_invalidate_and_new_session() -> None:
    fake = AsyncFakeClient()

    async def end(request: web.Request) -> web.Response:
        (await get_session(request)).invalidate()
        return web.Response()

    async def anew(request: web.Request) -> web.Response:
        session = await new_session(request)
        session["m"] = 2
        return web.Response()

    async def steps(ask: Any) -> None:
        first = await ask("count")
        second = await ask("anew", first.cookie)
        assert second.cookie != first.cookie
        assert [session.data for session in fake.sessions()] == [{"m": 2}]
        assert "Max-Age=0" in (await ask("end", second.cookie)).cookies[0] and not fake.sessions()

    drive(fake, steps, count=count, end=end, anew=anew)


def test_max_age_is_the_session_s_own_timeout() -> None:
    async def minute(request: web.Request) -> web.Response:
        session = await get_session(request)
        assert session.new and session.identity is None
        session.max_age = 60
        session["n"] = 1
        return web.Response()

    async def look(request: web.Request) -> web.Response:
        session = await get_session(request)
        assert not session.new and session.max_age == 60 and session.identity and session.created > 0
        session.max_age = None
        return web.Response()

    async def steps(ask: Any) -> None:
        first = await ask("minute")
        age = int(first.cookies[0].partition("Max-Age=")[2].partition(";")[0])
        assert 60 <= age < 120, "the timeout and the granularity of touches"
        second = await ask("look", first.cookie)
        assert second.status == 200 and "Max-Age" not in second.cookies[0]

    drive(AsyncFakeClient(), steps, minute=minute, look=look)


def test_an_outage_is_503_and_an_old_id_409() -> None:
    fake = AsyncFakeClient()

    async def stream(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["n"] = 7
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    async def steps(ask: Any) -> None:
        first = await ask("count")
        for name in ("count", "stream"):
            for operation in ("resolve", "write"):
                fake.fail("STORE_UNAVAILABLE", operation=operation)
                answer = await ask(name, first.cookie)
                assert answer.status == 503 and answer.body == b"{}" and answer.cookies == []
                assert int(answer.headers["Retry-After"]) >= 1
        fake.fail(None)
        new = await ask("login", first.cookie)
        old = await ask("read", first.cookie)
        assert old.body == b"{}" and old.status == 200 and old.cookies == []
        for name in ("count", "login", "stream"):
            answer = await ask(name, first.cookie)
            assert answer.status == 409 and answer.cookies == [], name
        assert (await ask("read", new.cookie)).body == b'{"n": 1}'
        assert len(fake.sessions()) == 1

    drive(fake, steps, count=count, login=login, read=read, stream=stream)


def test_a_paused_daemon_is_503(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()

    async def steps(ask: Any) -> None:
        first = await ask("count")
        daemon.send(signal.SIGSTOP)
        assert (await ask("count", first.cookie)).status == 503
        daemon.send(signal.SIGCONT)
        assert (await ask("count", first.cookie)).body == b'{"n": 2}'
        await client.close()

    client = AsyncClient(daemon.address, timeout=3)
    drive(client, steps, count=count)


def test_it_says_when_it_is_not_installed() -> None:
    async def main() -> None:
        async def handler(request: web.Request) -> web.Response:
            with pytest.raises(RuntimeError, match="not installed"):
                await get_session(request)
            return web.Response()

        app = web.Application()
        app.router.add_get("/", handler)
        async with TestClient(TestServer(app)) as browser, browser.get("/") as response:
            assert response.status == 200

    asyncio.run(main())
