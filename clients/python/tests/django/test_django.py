"""The Django backend and middleware, on a daemon and on the fake."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("django")
import django_project  # noqa: F401 # pyright: ignore[reportUnusedImport], before the settings are used
from conftest import Daemon
from django.contrib.auth import get_user_model
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection
from django.http import HttpResponse
from django.test import AsyncClient as AsyncBrowser
from django.test import Client as Browser
from django.test import RequestFactory
from django.test.utils import override_settings

from sessiond import Client
from sessiond.django import SessionMiddleware, SessionStore, _clients
from sessiond.testing import AsyncFakeClient, FakeClient


@pytest.fixture
def fake() -> Iterator[FakeClient]:
    made = FakeClient()
    with override_settings(SESSIOND={"client": made, "async_client": AsyncFakeClient(sharing=made)}):
        yield made


@pytest.fixture
def on_daemon(shared_daemon: Daemon) -> Iterator[Client]:
    with override_settings(SESSIOND=shared_daemon.address), Client(shared_daemon.address) as client:
        yield client


@pytest.fixture
def users() -> None:
    if "auth_user" not in connection.introspection.table_names():
        call_command("migrate", verbosity=0)
    for name in ("ann", "bob"):
        get_user_model().objects.get_or_create(username=name)


def run(main: Callable[[AsyncBrowser], Coroutine[Any, Any, None]]) -> None:
    async def closing() -> None:
        try:
            await main(AsyncBrowser())
        finally:
            await _clients.async_client().close()

    asyncio.run(closing())


def cookie_of(response: Any) -> str:
    assert list(response.cookies) == ["session"], f"expected the session's cookie, found {response.cookies}"
    return str(response.cookies["session"].OutputString()).partition(";")[0]


def test_request_session_lasts(fake: FakeClient) -> None:
    browser = Browser()
    first = browser.get("/count")
    assert first.json() == {"n": 1} and first["Vary"] == "Cookie" and first["Cache-Control"] == "no-store"
    assert first.cookies["session"]["httponly"] is True
    second = browser.get("/count")
    assert second.json() == {"n": 2} and not second.cookies, "the browser has the cookie"
    assert browser.get("/read").json() == {"data": {"n": 2}}


def test_async_views_take_the_asyncio_client(on_daemon: Client) -> None:
    async def main(browser: AsyncBrowser) -> None:
        assert (await browser.get("/acount")).json() == {"n": 1}
        assert (await browser.get("/acount")).json() == {"n": 2}
        assert (await browser.get("/aupdate")).json() == {"n": 3}
        assert (await browser.get("/count")).json() == {"n": 4}, "sync views work there, too"

    run(main)


def test_blocking_in_an_event_loop_is_refused(on_daemon: Client) -> None:
    async def main(browser: AsyncBrowser) -> None:
        await browser.get("/acount")
        with pytest.raises(SynchronousOnlyOperation, match="aget"):
            await browser.get("/blocking")

    run(main)


def test_who_does_not_look_asks_nobody(fake: FakeClient) -> None:
    browser = Browser()
    browser.get("/count")
    before = len(fake.calls)
    response = browser.get("/blind")
    assert len(fake.calls) == before and "Vary" not in response.headers


def test_changes_inside_a_value_are_saved(fake: FakeClient) -> None:
    browser = Browser()
    browser.get("/deep")
    assert browser.get("/deep").json() == {"cart": ["tea", "tea"]}


def test_update_and_request_session_are_one(fake: FakeClient) -> None:
    browser = Browser()
    browser.get("/update")
    assert browser.get("/update").json() == {"n": 2, "live": True}
    assert browser.get("/read").json() == {"data": {"mine": True, "n": 2}}
    assert len(fake.sessions()) == 1


def test_auth_login_sets_the_principal_in_one_write(fake: FakeClient, users: None) -> None:
    browser = Browser()
    old = cookie_of(browser.get("/count"))
    writes = fake.calls.count("write")
    response = browser.get("/log_in?user=ann")
    assert cookie_of(response) != old, "a login gives a new key"
    assert fake.calls.count("write") == writes + 1
    [session] = fake.sessions()
    assert session.principal == str(get_user_model().objects.get(username="ann").pk)
    assert session.data["n"] == 1, "what an anonymous session holds stays"
    assert browser.get("/whoami").json()["user"] == "ann"


def test_auth_login_of_another_user_begins_a_new_session(fake: FakeClient, users: None) -> None:
    browser = Browser()
    browser.get("/count")
    browser.get("/log_in?user=ann")
    browser.get("/count")
    browser.get("/log_in?user=bob")
    [session] = fake.sessions()
    assert session.principal == str(get_user_model().objects.get(username="bob").pk) and "n" not in session.data


def test_auth_logout_ends_the_session(fake: FakeClient, users: None) -> None:
    browser = Browser()
    browser.get("/log_in?user=ann")
    response = browser.get("/log_out")
    assert not fake.sessions() and response.cookies["session"]["max-age"] == "0"
    assert browser.get("/whoami").json() == {"user": "", "key": None}


def test_auth_works_in_async_views(on_daemon: Client) -> None:
    async def main(browser: AsyncBrowser) -> None:
        await browser.get("/acount")
        old = browser.cookies["session"].value
        await browser.get("/alog_in")
        assert browser.cookies["session"].value != old
        await browser.get("/alog_out")
        assert browser.cookies["session"].value == ""

    run(main)


def test_the_test_client_can_log_in(on_daemon: Client, users: None) -> None:
    browser = Browser()
    browser.force_login(get_user_model().objects.get(username="ann"))
    seen = browser.get("/whoami").json()
    assert seen["user"] == "ann" and seen["key"] == browser.session.session_key
    session = browser.session
    session["n"] = 41
    session.save()
    assert browser.get("/count").json() == {"n": 42}
    browser.logout()
    assert browser.get("/whoami").json()["user"] == ""


def test_parallel_requests_keep_each_other_s_keys(on_daemon: Client) -> None:
    one = SessionStore()
    one["a"] = 1
    one.save()
    two = SessionStore(one.session_key)
    two["b"] = 2
    one["c"] = 3
    one.save()
    two.save()
    assert SessionStore(one.session_key).load() == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("odd", ["x=\xff\xfe; ", "x=\xc3\xbc\xe2\x82\xac; ", "session=junk; ", "; ;=;"])
def test_other_cookies_break_nothing(odd: str, on_daemon: Client) -> None:
    own = cookie_of(Browser().get("/count"))
    # As WSGI has it: one character for each octet.
    assert Browser().get("/count", HTTP_COOKIE=odd + own).json() == {"n": 2}
    assert Browser().get("/count", HTTP_COOKIE=odd).json() == {"n": 1}


@pytest.mark.parametrize("when", ["resolve", "write"])
def test_an_outage_is_503_and_logs_nobody_out(when: Any, fake: FakeClient) -> None:
    browser = Browser()
    browser.get("/count")
    fake.fail("STORE_UNAVAILABLE", operation=when)
    response = browser.get("/count")
    assert response.status_code == 503 and response.content == b"{}" and not response.cookies
    assert int(response["Retry-After"]) >= 1
    fake.fail(None)
    assert browser.get("/count").json() == {"n": 2}


def test_an_outage_in_another_middleware_is_503_too(fake: FakeClient) -> None:
    class Early:
        def __init__(self, get_response: Any) -> None:
            self.get_response = get_response

        def __call__(self, request: Any) -> Any:
            request.session.get("n")
            return self.get_response(request)

    from django.core.handlers.exception import convert_exception_to_response

    fake.fail("STORE_UNAVAILABLE")
    application = SessionMiddleware(convert_exception_to_response(Early(lambda request: HttpResponse())))
    response: Any = application(RequestFactory().get("/", HTTP_COOKIE="session=x"))
    assert response.status_code == 503


def test_a_paused_daemon_is_503(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    with override_settings(SESSIOND={"address": daemon.address, "timeout": 3}):
        browser = Browser()
        browser.get("/count")
        daemon.send(signal.SIGSTOP)
        assert browser.get("/count").status_code == 503
        daemon.send(signal.SIGCONT)
        assert browser.get("/count").status_code == 200


def test_an_id_from_before_a_login_is_409(fake: FakeClient, users: None) -> None:
    old = cookie_of(Browser().get("/count"))
    new = cookie_of(Browser().get("/become?user=ann", HTTP_COOKIE=old))
    read = Browser().get("/read", HTTP_COOKIE=old)
    assert read.json() == {"data": {}} and not read.cookies
    for path in ("/count", "/become?user=ann", "/log_in?user=ann", "/update"):
        refused = Browser().get(path, HTTP_COOKIE=old)
        assert refused.status_code == 409 and refused.content == b"{}" and not refused.cookies, path
    assert Browser().get("/read", HTTP_COOKIE=new).json() == {"data": {"n": 1}}
    assert len(fake.sessions()) == 1


def test_a_logout_is_not_undone(fake: FakeClient) -> None:
    def slow(request: Any) -> HttpResponse:
        request.session["n"] = 2
        fake.destroy(request.session.request_session.credential)
        return HttpResponse()

    cookie = cookie_of(Browser().get("/count"))
    with pytest.raises(SessionInterrupted):
        SessionMiddleware(slow)(RequestFactory().get("/", HTTP_COOKIE=cookie))
    assert not fake.sessions()


def test_a_fault_saves_nothing_and_keeps_the_cookie(fake: FakeClient) -> None:
    browser = Browser(raise_request_exception=False)
    response = browser.get("/fault")
    assert response.status_code == 500 and cookie_of(response)
    [session] = fake.sessions()
    assert session.principal == "ann" and session.data == {}


def test_a_stream_has_the_cookie_in_its_head(fake: FakeClient) -> None:
    response = Browser().get("/stream")
    assert b"".join(response) == b"ab" and cookie_of(response)


def test_set_expiry_is_the_session_s_own_timeout(on_daemon: Client) -> None:
    browser = Browser()
    cookie = browser.get("/expiry?value=60").cookies["session"]
    assert int(cookie["max-age"]) in range(60, 63)
    store = SessionStore(browser.session.session_key)
    assert store.get_expiry_age() == 60
    browser.get("/expiry?value=0")
    assert "max-age" not in str(browser.cookies["session"].OutputString()).lower()
    browser.get("/expiry?value=none")
    store = SessionStore(browser.session.session_key)
    assert store.get("n") == 1
    assert store.request_session.view.session is not None
    engine = on_daemon.describe().engine()
    assert engine is not None and store.request_session.view.session.duration == engine.duration


def test_a_fixed_end_is_kept_although_deadlines_move(fake: FakeClient) -> None:
    store = SessionStore()
    store["n"] = 1
    store.set_expiry(timedelta(seconds=60))
    store.save()
    key = store.session_key
    assert SessionStore(key).get("n") == 1
    store["_session_expiry"] = "2020-01-01T00:00:00+00:00"
    store.request_session.update(lambda data: data.update(_session_expiry="2020-01-01T00:00:00+00:00"))
    late = SessionStore(key)
    assert late.get("n") is None and not fake.sessions(), "it is over"


def test_clear_keeps_the_session_and_flush_ends_it(fake: FakeClient) -> None:
    browser = Browser()
    browser.get("/count")
    assert browser.get("/clear").status_code == 200
    assert [session.data for session in fake.sessions()] == [{}]
    browser.get("/log_out")
    assert not fake.sessions()


def test_settings_say_what_is_missing() -> None:
    with override_settings(SESSIOND=None), pytest.raises(ImproperlyConfigured, match="SESSIOND"):
        SessionStore()
    with (
        override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"),
        pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"),
    ):
        SessionMiddleware(lambda request: HttpResponse())


def test_data_that_is_not_json_is_a_mistake_of_the_application(fake: FakeClient) -> None:
    store = SessionStore()
    store["when"] = object()
    with pytest.raises(ValueError, match="INVALID_DATA"):
        store.save()
