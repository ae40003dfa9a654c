"""The Python of docs/guides/fastapi.md runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
import httpx
from documents import blocks, run

from sessiond import AsyncClient, CookieHeader, SessiondError
from sessiond.testing import AsyncFakeClient

PROGRAM, MORE, OWN_CLIENT, LITESTAR = blocks("docs/guides/fastapi.md")


async def ask(app: Any, *requests: tuple[str, str]) -> list[httpx.Response]:
    """The answers that one browser gets, one after the other."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as browser:
        return [await browser.request(method, path) for method, path in requests]


def test_the_program_and_its_handlers() -> None:
    fake = AsyncFakeClient()
    # FastAPI reads the annotations of handlers in the globals of their module.
    names: dict[str, Any] = {"__name__": "app", "fake": fake}
    run(PROGRAM, names, fake='"127.0.0.1:50051"')
    app = run(MORE, names)["app"]
    answers = asyncio.run(
        ask(
            app,
            ("GET", "/"),
            ("GET", "/"),
            ("POST", "/cart?item=tea"),
            ("POST", "/login?user=ann"),
            ("POST", "/cart?item=milk"),
        )
    )
    assert [answer.json() for answer in answers] == [{"visits": 1}, {"visits": 2}, {"items": 1}, None, {"items": 2}]
    session, = fake.sessions()
    assert (session.principal, session.data) == ("ann", {"visits": 2, "cart": ["tea", "milk"]})
    header = answers[3].headers["set-cookie"].partition(";")[0]

    async def logout() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers={"Cookie": header}) as browser:
            assert (await browser.post("/logout")).status_code == 200

    asyncio.run(logout())
    assert fake.sessions() == []


def test_a_client_of_its_own_is_closed_with_the_application() -> None:
    names = run(OWN_CLIENT, run(PROGRAM, {"__name__": "app"}))
    app, sessions = names["app"], names["sessions"]
    assert isinstance(sessions, AsyncClient) and sessions.address == "sessiond.internal:50051"

    async def main() -> None:
        async with app.router.lifespan_context(app):
            pass
        with pytest.raises(SessiondError, match="CLOSED"):
            await sessions.resolve(CookieHeader(""))

    asyncio.run(main())


def test_litestar() -> None:
    litestar = pytest.importorskip("litestar")

    async def visit(request: Any) -> Any:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return {"visits": request.session["visits"]}

    # Litestar reads the annotations of a handler.
    visit.__annotations__ = {"request": litestar.Request, "return": dict[str, int]}
    home = litestar.get("/")(visit)
    fake = AsyncFakeClient()
    names: dict[str, Any] = {"home": home, "fake": fake}
    app = run(LITESTAR.replace("[...]", "[home]"), names, fake='"127.0.0.1:50051"')["app"]
    answers = asyncio.run(ask(app, ("GET", "/"), ("GET", "/")))
    assert [answer.json() for answer in answers] == [{"visits": 1}, {"visits": 2}]
