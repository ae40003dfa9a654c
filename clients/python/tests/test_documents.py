"""The Python of the documents runs: that of the package's README and of docs/guides/testing.md here, that
of the guides of frameworks beside the tests of these frameworks. (tests/suite/documents.rs runs that of the
other documents.)"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY, Daemon, find_daemon
from documents import GUIDES, blocks, run, without_fixtures

from sessiond import AsyncClient, Client, CookieHeader, SessionState
from sessiond.testing import FakeClient, FakeEngine

README = "clients/python/README.md"
TESTING = "docs/guides/testing.md"


def test_no_guide_is_forgotten() -> None:
    found = {path.stem for path in (REPOSITORY / "docs/guides").glob("*.md") if blocks(f"docs/guides/{path.name}")}
    assert found == set(GUIDES), "a guide with Python needs a test that runs it"


# ---------------------------------------------------------------- README.md


def test_the_program_of_the_readme(shared_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    # scripts/try-packed runs it with curl's like and the packed wheel.
    servers: list[Any] = []
    monkeypatch.setattr("wsgiref.simple_server.WSGIServer.serve_forever", lambda server: servers.append(server))
    program = blocks(README)[0].replace("127.0.0.1:50051", shared_daemon.address).replace("3000", "0")
    names = run(program, {})
    app = names["app"]
    servers[0].server_close()
    cookie = ""
    for count in (1, 2):
        heads: list[tuple[str, list[tuple[str, str]]]] = []
        body = app({"HTTP_COOKIE": cookie}, lambda status, headers: heads.append((status, headers)))
        assert b"".join(body) == f"visit {count}\n".encode()
        status, headers = heads[0]
        assert status == "200 OK"
        cookie = dict(headers).get("Set-Cookie", cookie).partition(";")[0]
    names["client"].close()


def test_the_clients_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trustme = pytest.importorskip("trustme")
    trustme.CA().cert_pem.write_to_path("ca.pem")
    client = run(blocks(README)[1], {})["client"]
    assert isinstance(client, AsyncClient) and client.address == "unix:/run/sessiond/sessiond.sock"


def test_the_hook_of_the_readme(shared_daemon: Daemon) -> None:
    records: list[tuple[float, dict[str, str]]] = []
    histogram = SimpleNamespace(record=lambda value, labels: records.append((value, labels)))
    hook: Callable[[Any], None] = run(blocks(README)[2], {"histogram": histogram})["on_event"]
    with Client(shared_daemon.address, on_event=hook) as client:
        client.resolve(CookieHeader(""))
    assert len(blocks(README)) == 3
    (took, labels), = records
    assert 0 < took < 5 and labels == {"operation": "resolve", "reason": "ok"}


# ---------------------------------------------------------------- docs/guides/testing.md


def block_with(text: str) -> str:
    found = [block for block in blocks(TESTING) if text in block]
    assert len(found) == 1, f"expected one block with {text!r}"
    return found[0]


@pytest.fixture
def guide() -> dict[str, Any]:
    """What the first block gives to the others: `fake` and `browser`. The application is a small shop."""
    pytest.importorskip("flask")
    from flask import Flask, request

    from sessiond.flask import Sessiond, current_session

    def make_app(sessions: FakeClient) -> Any:
        app = Flask(__name__)
        Sessiond(app, sessions)

        @app.get("/")
        def home() -> Any:
            return {"user": current_session.principal}

        @app.get("/account")
        def account() -> Any:
            return ({}, 200) if current_session.principal else ({}, 401)

        @app.get("/cart")
        def cart() -> Any:
            return current_session.data.get("cart", [])

        @app.post("/cart")
        def add() -> Any:
            item = request.form["item"]
            return current_session.update(lambda data: data.setdefault("cart", []).append(item))

        @app.post("/login")
        def login() -> Any:
            current_session.login(request.form["user"])
            return {}

        return app

    first = without_fixtures(blocks(TESTING)[0])
    names = run(first, {})
    names["make_app"] = make_app
    names["a_fake"] = fake = names["fake"]()
    names["a_browser"] = names["browser"](fake)
    return names


@pytest.mark.parametrize(
    "test", ["test_cart", "test_expiry", "test_old_id", "test_strangers_cost_nothing"]
)
def test_a_test_of_the_guide(guide: dict[str, Any], test: str) -> None:
    run(block_with(f"def {test}("), guide)[test](guide["a_fake"], guide["a_browser"])


def test_the_outage_of_the_guide(guide: dict[str, Any]) -> None:
    fake = guide["fake"] = guide["a_fake"]  # the block goes on with it, outside of a test
    run(block_with("def test_outage("), guide)
    with pytest.raises(Exception, match="VERSION_MISMATCH"):
        fake.write(set={"a": 1})
    fake.write(set={"a": 1})
    guide["test_outage"](fake, guide["a_browser"])


def test_the_logout_of_the_guide(guide: dict[str, Any]) -> None:
    run(block_with("def test_logout_wins("), guide)["test_logout_wins"](guide["a_fake"])


def test_the_engines_of_the_guide() -> None:
    fake: FakeClient = run(block_with("FakeEngine("), {})["fake"]
    default, admin = sorted(fake.describe().engines, key=lambda engine: engine.name != "default")
    assert (default.duration, default.persistent) == (timedelta(minutes=10), True)
    assert isinstance(admin, FakeEngine) and (admin.cookie_name, admin.max_sessions_per_principal) == ("admin", 1)


def test_the_daemon_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        assert command[0] == "sessiond"
        return popen([str(find_daemon()), *command[1:]], **options, stderr=subprocess.DEVNULL, env={})

    monkeypatch.setattr(subprocess, "Popen", start)
    running = run(without_fixtures(blocks(TESTING)[-1]), {})["sessions"]()
    client: Client = next(running)
    assert client.resolve(CookieHeader("")).state is SessionState.NONE
    assert next(running, None) is None
