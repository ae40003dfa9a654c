"""The Python of docs/guides/flask.md runs."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flask")
from documents import blocks, run

from sessiond.testing import FakeClient


def test_the_guide() -> None:
    program, more = blocks("docs/guides/flask.md")
    fake = FakeClient()
    names: dict[str, Any] = {"__name__": "app", "fake": fake}
    run(program, names, fake='"127.0.0.1:50051"')
    app = run(more, names)["app"]
    browser = app.test_client()
    assert [browser.get("/").json for _ in range(2)] == [{"visits": 1}, {"visits": 2}]
    assert [browser.post("/cart", data={"item": item}).json for item in "ab"] == [{"items": 1}, {"items": 2}]
    assert browser.post("/login", data={"user": "ann"}).status_code == 200
    session, = fake.sessions()
    assert (session.principal, session.data) == ("ann", {"visits": 2, "cart": ["a", "b"]})
    assert browser.get("/devices").json == {"devices": [""]}
    assert browser.post("/logout").status_code == 200 and fake.sessions() == []
