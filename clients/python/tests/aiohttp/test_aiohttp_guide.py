"""The Python of docs/guides/aiohttp.md runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiohttp")
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from documents import blocks, run

from sessiond.testing import AsyncFakeClient


def test_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    program, more = blocks("docs/guides/aiohttp.md")
    served: list[web.Application] = []
    monkeypatch.setattr(web, "run_app", served.append)
    fake = AsyncFakeClient()
    names: dict[str, Any] = {"fake": fake}
    run(more, run(program, names, fake='"127.0.0.1:50051"'))
    app, = served
    app.router.add_post("/cart", names["add"])
    app.router.add_post("/login", names["login"])

    async def main() -> None:
        # Only an unsafe jar keeps the cookies of an address without a name.
        async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as browser:

            async def ask(method: str, path: str, **form: str) -> Any:
                async with browser.request(method, path, data=form or None) as response:
                    assert response.status == 200
                    return await response.json(content_type=None)

            assert [await ask("GET", "/") for _ in range(2)] == [{"visits": 1}, {"visits": 2}]
            assert [await ask("POST", "/cart", item=item) for item in "ab"] == [{"items": 1}, {"items": 2}]
            assert await ask("POST", "/login") is None

    asyncio.run(main())
    session, = fake.sessions()
    assert (session.principal, session.data) == ("ann", {"visits": 2, "cart": ["a", "b"]})
