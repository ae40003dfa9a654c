"""RequestSession in both forms, on the real daemon and on the fake."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Daemon
from parties import NAMES, Party

from sessiond import (
    AsyncClient,
    AsyncRequestSession,
    Client,
    CookieHeader,
    DroppedChangeEvent,
    InvalidArgumentError,
    RequestSession,
    SessionGoneError,
    SessionState,
    SupersededError,
    Token,
    UnavailableError,
)
from sessiond.testing import AsyncFakeClient, FakeClient


@pytest.fixture(params=NAMES)
def party(request: pytest.FixtureRequest, shared_daemon: Daemon) -> Iterator[Party]:
    made = Party(request.param, shared_daemon.address)
    yield made
    made.close()


def browser(session: Any) -> str:
    """The Cookie header that follows a response."""
    assert session.set_cookie is not None, "expected a cookie to be set"
    return str(session.set_cookie).partition(";")[0]


def test_a_stranger_costs_nothing(party: Party) -> None:
    for header in (None, "", b"other=1; sessions=2", b"\xff\x00"):
        session = party.request(header)
        assert (session.live, session.id, session.principal, session.version) == (False, None, None, 0)
        assert session.data == {} and session.save() and session.set_cookie is None
        assert session.expires is None and session.state is SessionState.NONE
        assert not session.logout() and session.set_cookie is None
        assert session.logout_others() == session.logout_everywhere() == session.end(["x"]) == 0
        assert not session.roll() and not session.touch() and session.devices() == []
    if party.is_fake:
        assert set(party.raw.calls) <= {"describe"}


def test_only_what_changed_is_written(party: Party) -> None:
    first = party.request()
    first.data["cart"] = {"items": ["tea"]}
    first.data["theme"] = "light"
    assert first.changed and first.save() and first.is_new and first.live
    cookie = browser(first)
    assert first.save() and first.version == 1, "a second save has nothing to write"
    one, two = party.request(cookie), party.request(cookie)
    one.data["cart"]["items"].append("coffee")  # a deep change
    two.data["theme"] = "dark"
    del two.data["cart"]
    two.data["cart"] = {"items": ["tea"]}  # put back as it was: no change
    assert one.save() and two.save()
    assert one.set_cookie is None and two.set_cookie is None
    after = party.request(cookie)
    assert after.data == {"cart": {"items": ["tea", "coffee"]}, "theme": "dark"}
    assert after.version == 3 and not after.changed
    del after.data["theme"]
    assert after.save()
    assert party.request(cookie).data == {"cart": {"items": ["tea", "coffee"]}}


def test_untouched_values_keep_their_octets(party: Party) -> None:
    made = party.client.write(set='{"big":1e400,"exact":1.500,"n":1}')
    session = party.request(f"session={made.token}")
    session.data["n"] = 2
    assert session.save()
    assert '"big":1e400,"exact":1.500' in party.client.resolve(Token(made.token)).session.data_json


@pytest.mark.parametrize(
    "bad",
    [float("nan"), float("inf"), b"octets", {1, 2}, print, object(), 1j, "\ud800", {"\udfff": 1}, {(1, 2): 3}],
    ids=repr,
)
def test_data_that_is_not_json(party: Party, bad: Any) -> None:
    session = party.request()
    session.data["bad"] = bad
    session.data["good"] = 1
    with pytest.raises(InvalidArgumentError) as caught:
        session.save()
    assert caught.value.reason == "INVALID_DATA" and "bad" in str(caught.value)
    assert not session.live and session.set_cookie is None, "nothing was created"
    session.data["bad"] = None
    assert session.save() and party.request(browser(session)).data == {"bad": None, "good": 1}


def test_cycles_and_keys(party: Party) -> None:
    session = party.request()
    session.data["self"] = session.data
    with pytest.raises(InvalidArgumentError, match="contains itself"):
        session.save()
    session.data = {1: 2}
    with pytest.raises(InvalidArgumentError, match="a key is a int"):
        session.save()
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    session.data = {"deep": deep}
    with pytest.raises(InvalidArgumentError):
        session.save()


def test_update_counts_every_time(party: Party) -> None:
    session = party.request()
    assert session.update(lambda data: {**data, "n": data.get("n", 0) + 1}) == {"n": 1}
    cookie = browser(session)

    def count(data: dict[str, Any]) -> None:
        data["n"] += 1

    one, two = party.request(cookie), party.request(cookie)
    one.data["mine"] = "unsaved"
    assert two.update(count) == {"n": 2}
    assert one.update(count) == {"n": 3}, "what it had loaded was stale"
    assert one.data == {"n": 3, "mine": "unsaved"} and one.changed
    assert one.save()
    assert party.request(cookie).data == {"n": 3, "mine": "unsaved"}
    assert one.update(lambda data: None) == {"n": 3, "mine": "unsaved"}, "no change is no write"
    assert one.version == 4
    with pytest.raises(InvalidArgumentError):
        one.update(lambda data: 7)


def test_parallel_updates_lose_nothing(shared_daemon: Daemon) -> None:
    with Client(shared_daemon.address) as client:
        first = RequestSession(client)
        first.update(lambda data: {"n": 0})
        cookie = browser(first)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(5):
                    RequestSession(client, cookie).update(lambda data: {**data, "n": data["n"] + 1})
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors, errors
        assert RequestSession(client, cookie).data == {"n": 30}


def test_login_keeps_the_cart_of_nobody_and_drops_that_of_another(party: Party) -> None:
    stranger = party.request()
    stranger.data["cart"] = ["tea"]
    stranger.save()
    name = f"ann-{stranger.id}"
    session = party.request(browser(stranger))
    session.data["seen"] = True
    session.login(name, label="Firefox", persistent=True)
    assert session.principal == name and session.data == {"cart": ["tea"], "seen": True}
    assert "Max-Age" in session.set_cookie
    cookie = browser(session)
    assert [(device.label, device.current) for device in session.devices()] == [("Firefox", True)]
    again = party.request(cookie)
    again.login(name)
    assert browser(again) != cookie, "a login always rolls"
    assert again.data == {"cart": ["tea"], "seen": True}
    other = party.request(browser(again))
    other.data["cart"].append("for bob?")
    other.login(f"bob-{name}")
    assert other.data == {}
    assert party.request(browser(other)).data == {}
    with pytest.raises(InvalidArgumentError):
        other.login("")


def test_login_without_a_session(party: Party) -> None:
    session = party.request(b"session=junk")
    session.data["x"] = 1
    session.login("somebody")
    assert session.is_new and session.live and session.state is SessionState.CREATED
    after = party.request(browser(session))
    assert (after.principal, after.data) == ("somebody", {"x": 1})


def test_superseded(party: Party) -> None:
    first = party.request()
    first.data["a"] = 1
    first.save()
    old = browser(first)
    login = party.request(old)
    login.login(f"ann-{first.id}")
    late = party.request(old)
    assert late.superseded and not late.live and late.data == {} and late.save()
    late.data["flash"] = "hi"
    for change in (late.save, lambda: late.update(lambda data: {"n": 1}), lambda: late.login("eve"), late.roll):
        with pytest.raises(SupersededError):
            change()
    assert late.set_cookie is None
    # A change under way while the id is rolled.
    current = browser(login)
    slow, rolling = party.request(current), party.request(current)
    slow.data["b"] = 2
    assert rolling.roll()
    with pytest.raises(SupersededError):
        slow.save()
    assert slow.set_cookie is None and not slow.live
    # A logout that was sent before the roll still counts.
    assert party.request(current).logout()
    assert party.request(browser(rolling)).state is SessionState.NOT_FOUND


def test_a_logout_is_not_undone(party: Party, caplog: pytest.LogCaptureFixture) -> None:
    first = party.request()
    first.data["a"] = 1
    first.save()
    cookie = browser(first)
    slow, counting = party.request(cookie), party.request(cookie)
    slow.data["a"] = 2
    out = party.request(cookie)
    assert out.logout() and not out.live and out.data == {} and out.set_cookie.startswith("session=;")
    with caplog.at_level(logging.WARNING, "sessiond"):
        assert slow.save() is False
    assert "ended during a request" in caplog.text and cookie not in caplog.text
    assert slow.set_cookie is None and not slow.live and slow.data == {} and not slow.changed
    with pytest.raises(SessionGoneError):
        counting.update(lambda data: {"a": 3})
    assert not counting.live and counting.set_cookie is None
    assert party.request(cookie).state is SessionState.NOT_FOUND


def test_logging_in_after_the_session_ended_meanwhile(party: Party) -> None:
    first = party.request()
    first.data["a"] = 1
    first.save()
    cookie = browser(first)
    slow = party.request(cookie)
    party.request(cookie).logout()
    slow.login("ann")
    assert slow.live and slow.is_new and party.request(browser(slow)).data == {}


def test_what_was_made_here_and_ended_here_leaves_no_cookie(party: Party) -> None:
    session = party.request()
    session.data["a"] = 1
    session.save()
    token = session.token
    assert session.logout() and session.set_cookie is None
    assert party.client.resolve(Token(token)).state is SessionState.NOT_FOUND
    session.data["b"] = 1
    assert session.save() and party.request(browser(session)).data == {"b": 1}


def test_devices_and_ends(party: Party) -> None:
    first = party.request()
    first.login("x")
    name = f"ann-{first.id}"
    browsers = []
    for label in ("phone", "desk", "tablet"):
        session = party.request()
        session.login(name, label=label)
        browsers.append(browser(session))
    here = party.request(browsers[0])
    devices = {device.label: device for device in here.devices()}
    assert set(devices) == {"phone", "desk", "tablet"} and devices["phone"].current
    assert here.end([devices["desk"].id, first.id]) == 1 and here.live
    assert here.end([]) == 0
    assert here.logout_others() == 1 and here.live and here.set_cookie is None
    assert party.request(browsers[2]).state is SessionState.NOT_FOUND
    assert here.end([here.id]) == 1 and not here.live
    assert str(here.set_cookie).startswith("session=;")
    login = party.request()
    login.login(name)
    assert party.request(browser(login)).logout_everywhere() == 1


def test_adapters_options(party: Party) -> None:
    session = party.request()
    session.set_persistent(True)
    session.touch(7200)
    assert session.save(create=True) and session.live and session.data == {}
    assert "Max-Age=7" in session.set_cookie
    assert session.save(principal="ann", label="x", duration=60)
    assert session.principal == "ann" and session.save(principal="ann") and session.version == 2
    assert session.save(roll=True) and session.version == 3
    session.data["cart"] = 1
    assert session.save(principal="bob") and session.data == {"cart": 1}
    assert session.save(principal="") and session.principal is None
    held: dict[str, Any] = {}
    again = party.request(browser(session), data=held)
    assert held == {} and again.data is held, "of another user nothing is kept"
    again.update(lambda data: {"n": 1})
    assert held == {"n": 1}
    again.reload()
    assert again.data is held and held == {"n": 1}
    again.logout()
    assert held == {}


def test_both_forms_share_a_state() -> None:
    fake = FakeClient()
    blocking = RequestSession(fake, fake.cookie(data={"a": 1}))
    both = AsyncRequestSession(AsyncFakeClient(sharing=fake), sharing=blocking)
    with pytest.raises(RuntimeError, match="await its load"):
        both.data  # noqa: B018

    async def use() -> None:
        await both.load()
        both.data["b"] = 2
        assert await both.save()

    asyncio.run(use())
    assert blocking.data == {"a": 1, "b": 2} and not blocking.changed
    assert [session.data for session in fake.sessions()] == [{"a": 1, "b": 2}]


def test_update_takes_coroutines() -> None:
    async def use() -> None:
        session = AsyncRequestSession(AsyncFakeClient())

        async def change(data: dict[str, Any]) -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"n": 1}

        assert await session.update(change) == {"n": 1}

    asyncio.run(use())

    async def wrong(data: dict[str, Any]) -> None: ...

    with pytest.raises(InvalidArgumentError, match="AsyncRequestSession"):
        RequestSession(FakeClient()).update(wrong)  # type: ignore[arg-type]


def test_errors_are_never_nobody() -> None:
    events: list[Any] = []
    fake = FakeClient(on_event=events.append)
    cookie = fake.cookie(principal="ann", data={"a": 1})
    for reason in ("STORE_UNAVAILABLE", "OVERLOADED", "CONNECTION_FAILED", "TIMEOUT"):
        fake.fail(reason, times=1, operation="resolve")
        session = RequestSession(fake, cookie)
        with pytest.raises(UnavailableError) as caught:
            session.data  # noqa: B018
        assert caught.value.reason == reason and caught.value.retry_after == 1.0
        assert not session.loaded
        assert session.data == {"a": 1}, "the next attempt asks again"
    fake.fail("RECORD_UNREADABLE")
    with pytest.raises(Exception, match="RECORD_UNREADABLE"):
        RequestSession(fake, cookie).load()
    fake.fail(None)
    slow = RequestSession(fake, cookie)
    slow.data["a"] = 2
    fake.destroy(CookieHeader(cookie))
    assert slow.save() is False
    assert events == [DroppedChangeEvent(fake_id(cookie), ("a",))]


def fake_id(cookie: str) -> str:
    return cookie.partition("=")[2][:16]


def test_a_hook_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: Any) -> None:
        raise ValueError("boom")

    fake = FakeClient(on_event=hook)
    cookie = fake.cookie(data={"a": 1})
    slow = RequestSession(fake, cookie)
    slow.data["a"] = 2
    fake.destroy(CookieHeader(cookie))
    assert slow.save() is False and "the hook on_event failed" in caplog.text


def test_many_tasks_share_a_client(shared_daemon: Daemon) -> None:
    async def use() -> None:
        async with AsyncClient(shared_daemon.address) as client:
            first = AsyncRequestSession(client)
            await first.update(lambda data: {"n": 0})
            cookie = browser(first)

            async def one(n: int) -> None:
                session = AsyncRequestSession(client, cookie)
                await session.load()
                session.data[f"key{n}"] = n
                assert await session.save()

            await asyncio.gather(*(one(n) for n in range(50)))
            last = AsyncRequestSession(client, cookie)
            await last.load()
            assert last.data == {"n": 0} | {f"key{n}": n for n in range(50)}

    asyncio.run(use())


def test_serializers_of_frameworks() -> None:
    fake = FakeClient()

    def dumps(value: Any) -> str:
        if isinstance(value, bytes):
            return json.dumps({" b": value.hex()})
        return json.dumps(value)

    def loads(text: str) -> dict[str, Any]:
        def back(value: dict[str, Any]) -> Any:
            return bytes.fromhex(value[" b"]) if " b" in value else value

        return dict(json.loads(text, object_hook=back)) if text else {}

    first = RequestSession(fake, dumps=dumps, loads=loads)
    first.data["key"] = b"\x00\xff"
    assert first.save() and not first.changed
    again = RequestSession(fake, browser(first), dumps=dumps, loads=loads)
    assert again.data == {"key": b"\x00\xff"} and not again.changed
    again.update(lambda data: {**data, "n": 1})
    again.data["bad"] = {1, 2}
    with pytest.raises(InvalidArgumentError, match="bad"):
        again.save()
