"""The Flask extension, on the fake and on a daemon."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

flask = pytest.importorskip("flask")
from conftest import Daemon
from flask import Flask, Response, flash, get_flashed_messages, request, session, stream_with_context
from markupsafe import Markup
from werkzeug.test import TestResponse

from sessiond import Client, SupersededError
from sessiond.flask import Sessiond, current_session
from sessiond.testing import FakeClient


def make(client: Any, **options: Any) -> Flask:
    app = Flask(__name__)
    Sessiond(app, client, **options)

    @app.get("/count")
    def count() -> Any:
        session["n"] = session.get("n", 0) + 1
        return {"n": session["n"]}

    @app.get("/read")
    def read() -> Any:
        return {"data": dict(session)}

    @app.get("/blind")
    def blind() -> Any:
        return {}

    @app.get("/login")
    def login() -> Any:
        current_session.login("ann")
        return {}

    @app.get("/clear")
    def clear() -> Any:
        session.clear()
        return {}

    return app


def cookies(response: TestResponse) -> list[str]:
    return response.headers.getlist("Set-Cookie")


def cookie_of(response: TestResponse) -> str:
    lines = cookies(response)
    assert len(lines) == 1, f"expected one Set-Cookie line, found {lines}"
    return lines[0].partition(";")[0]


def test_session_is_a_dict_that_lasts() -> None:
    browser = make(FakeClient()).test_client()
    first = browser.get("/count")
    assert first.json == {"n": 1}
    assert first.headers["Vary"] == "Cookie" and first.headers["Cache-Control"] == "no-store"
    second = browser.get("/count")
    assert second.json == {"n": 2} and cookies(second) == []
    assert browser.get("/read").json == {"data": {"n": 2}}


def test_who_does_not_look_asks_nobody() -> None:
    fake = FakeClient()
    browser = make(fake).test_client()
    browser.get("/count")
    before = len(fake.calls)
    response = browser.get("/blind")
    assert len(fake.calls) == before and "Vary" not in response.headers


def test_what_flask_knows_comes_back() -> None:
    fake = FakeClient()
    app = make(fake)
    values = {
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "id": uuid.UUID(int=7),
        "octets": b"\xff\x00",
        "pair": (1, "a"),
        "html": Markup("<b>"),
        "plain": {"a": [1, None, "x"]},
    }

    @app.get("/put")
    def put() -> Any:
        session.update(values)
        return {}

    seen: dict[str, Any] = {}

    @app.get("/look")
    def look() -> Any:
        seen.update(session)
        return {}

    browser = app.test_client()
    browser.get("/put")
    writes = fake.calls.count("write")
    browser.get("/look")
    assert seen == values and isinstance(seen["html"], Markup)
    assert fake.calls.count("write") == writes, "reading writes nothing"
    [stored] = fake.sessions()
    assert stored.data["plain"] == {"a": [1, None, "x"]}, "what JSON has is stored as it is"


def test_without_tags_it_is_refused() -> None:
    app = make(FakeClient(), tags=None)

    @app.get("/put")
    def put() -> Any:
        session["when"] = datetime.now(UTC)
        return {}

    app.testing = True
    with pytest.raises(ValueError, match="INVALID_DATA"):
        app.test_client().get("/put")


def test_flashes_are_shown_once() -> None:
    app = make(FakeClient())

    @app.get("/flash")
    def put() -> Any:
        flash("hi", "info")
        flash(Markup("<b>"))
        return {}

    @app.get("/flashes")
    def show() -> Any:
        return {"flashes": get_flashed_messages(with_categories=True)}

    browser = app.test_client()
    browser.get("/flash")
    assert browser.get("/flashes").json == {"flashes": [["info", "hi"], ["message", "<b>"]]}
    assert browser.get("/flashes").json == {"flashes": []}


def test_changes_inside_a_value_are_saved() -> None:
    app = make(FakeClient())

    @app.get("/deep")
    def deep() -> Any:
        session.setdefault("cart", []).append("tea")
        return {"cart": session["cart"]}

    browser = app.test_client()
    browser.get("/deep")
    assert browser.get("/deep").json == {"cart": ["tea", "tea"]}


def test_clear_is_a_logout() -> None:
    fake = FakeClient()
    browser = make(fake).test_client()
    browser.get("/count")
    browser.get("/login")
    assert "Max-Age=0" in cookies(browser.get("/clear"))[0]
    assert not fake.sessions() and browser.get("/read").json == {"data": {}}


def test_clear_and_fill_is_a_new_session() -> None:
    fake = FakeClient()
    app = make(fake)

    @app.get("/anew")
    def anew() -> Any:
        session.clear()
        session["user_id"] = 7
        return {}

    browser = app.test_client()
    old = cookie_of(browser.get("/count"))
    assert cookie_of(browser.get("/anew")) != old
    assert [stored.data for stored in fake.sessions()] == [{"user_id": 7}]


def test_permanent_decides_whether_the_cookie_lasts() -> None:
    app = make(FakeClient())

    @app.get("/permanent/<int:wanted>")
    def permanent(wanted: int) -> Any:
        session.permanent = bool(wanted)
        return {"permanent": session.permanent}

    browser = app.test_client()
    assert "Max-Age" not in cookies(browser.get("/permanent/0"))[0]
    assert "Max-Age" in cookies(browser.get("/permanent/1"))[0]
    assert browser.get("/permanent/1").json == {"permanent": True}


def test_session_transaction_works() -> None:
    app = make(FakeClient())
    with app.test_client() as browser:
        with browser.session_transaction() as data:
            data["n"] = 41
        assert browser.get("/count").json == {"n": 42}
        with browser.session_transaction() as data:
            assert data["n"] == 42


def test_a_stream_has_the_cookie_in_its_head() -> None:
    app = make(FakeClient())

    @app.get("/stream")
    def stream() -> Any:
        session["n"] = 1
        return Response(stream_with_context(f"{part}{session['n']}" for part in "ab"))

    response = app.test_client().get("/stream")
    assert response.data == b"a1b1" and cookie_of(response)


@pytest.mark.parametrize("odd", ["x=\xff\xfe; ", "x=\xc3\xbc\xe2\x82\xac; ", "session=junk; ", "; ;=;"])
def test_other_cookies_break_nothing(odd: str, shared_daemon: Daemon) -> None:
    with Client(shared_daemon.address) as client:
        browser = make(client).test_client(use_cookies=False)
        own = cookie_of(browser.get("/count"))
        # As WSGI has it: one character for each octet.
        assert browser.get("/count", environ_overrides={"HTTP_COOKIE": odd + own}).json == {"n": 2}
        assert browser.get("/count", environ_overrides={"HTTP_COOKIE": odd}).json == {"n": 1}


@pytest.mark.parametrize("when", ["resolve", "write"])
def test_an_outage_is_503_and_logs_nobody_out(when: Any) -> None:
    fake = FakeClient()
    browser = make(fake).test_client()
    browser.get("/count")
    fake.fail("STORE_UNAVAILABLE", operation=when)
    response = browser.get("/count")
    assert response.status_code == 503 and response.data == b"{}" and cookies(response) == []
    assert int(response.headers["Retry-After"]) >= 1
    fake.fail(None)
    assert browser.get("/count").json == {"n": 2}


def test_a_paused_daemon_is_503(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    with Client(daemon.address, timeout=3) as client:
        browser = make(client).test_client()
        browser.get("/count")
        daemon.send(signal.SIGSTOP)
        assert browser.get("/count").status_code == 503
        daemon.send(signal.SIGCONT)
        assert browser.get("/count").status_code == 200


def test_an_id_from_before_a_login_is_409() -> None:
    fake = FakeClient()
    app = make(fake)
    browser = app.test_client(use_cookies=False)
    old = cookie_of(browser.get("/count"))
    new = cookie_of(browser.get("/login", headers={"Cookie": old}))
    read = browser.get("/read", headers={"Cookie": old})
    assert read.json == {"data": {}} and cookies(read) == []
    for path in ("/count", "/login"):
        refused = browser.get(path, headers={"Cookie": old})
        assert refused.status_code == 409 and refused.json == {} and cookies(refused) == []
    assert browser.get("/read", headers={"Cookie": new}).json == {"data": {"n": 1}}
    assert len(fake.sessions()) == 1


def test_error_handlers_of_the_application_come_first() -> None:
    fake = FakeClient()
    app = make(fake)

    @app.errorhandler(SupersededError)
    def superseded(error: SupersededError) -> Any:
        return {"again": True}, 418

    browser = app.test_client(use_cookies=False)
    old = cookie_of(browser.get("/count"))
    browser.get("/login", headers={"Cookie": old})
    assert browser.get("/login", headers={"Cookie": old}).json == {"again": True}


def test_a_fault_after_a_login_does_not_lose_the_cookie() -> None:
    app = make(FakeClient())
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/fault")
    def fault() -> Any:
        current_session.login("ann")
        raise ZeroDivisionError

    response = app.test_client().get("/fault")
    assert response.status_code == 500 and cookie_of(response)


def test_it_works_with_a_factory_and_the_configuration() -> None:
    extension = Sessiond()
    app = Flask(__name__)
    app.config["SESSIOND"] = FakeClient()
    extension.init_app(app)

    @app.get("/")
    def home() -> Any:
        session["a"] = request.path
        return dict(session)

    assert app.test_client().get("/").json == {"a": "/"}


def test_current_session_says_what_is_missing() -> None:
    app = Flask(__name__)
    app.secret_key = "x"
    with pytest.raises(RuntimeError, match="outside of a request"):
        _ = current_session.id
    with app.test_request_context(), pytest.raises(RuntimeError, match="not installed"):
        _ = current_session.id
