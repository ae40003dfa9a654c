"""One suite for the real daemon and for the fake: what clients answer."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta

import pytest
from conftest import Daemon
from parties import NAMES, Party, cookie_of

from sessiond import (
    CookieHeader,
    DataTooLargeError,
    InvalidArgumentError,
    SessionGoneError,
    SessionState,
    Token,
    TooManySessionsError,
    VersionMismatchError,
)
from sessiond.testing import FakeEngine

LIMITED = {"engine.default.max_sessions_per_principal": "2", "engine.default.roll_grace": '1s'}


@pytest.fixture(params=NAMES)
def party(request: pytest.FixtureRequest, shared_daemon: Daemon) -> Iterator[Party]:
    made = Party(request.param, shared_daemon.address)
    yield made
    made.close()


@pytest.fixture(scope="module")
def limited_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("limited"), *(f"{key}={value}" for key, value in LIMITED.items()))
    yield daemon
    daemon.stop()


@pytest.fixture(params=NAMES)
def limited(request: pytest.FixtureRequest, limited_daemon: Daemon) -> Iterator[Party]:
    engine = FakeEngine(max_sessions_per_principal=2, roll_grace=timedelta(seconds=1))
    made = Party(request.param, limited_daemon.address, engines=[engine])
    yield made
    made.close()


def test_nobody(party: Party) -> None:
    for header in (b"", b"a=b", b"\xff\xfe=\x00; ;=;session2=x", b"xsession=y"):
        found = party.client.resolve(CookieHeader(header))
        assert (found.state, found.session, found.set_cookie) == (SessionState.NONE, None, ())
    for header in (b"session=", b"session=garbage", b"session=" + b"a" * 40 + b"." + b"b" * 43):
        assert party.client.resolve(CookieHeader(header)).state is SessionState.INVALID
    assert party.client.resolve(Token("nonsense")).state is SessionState.INVALID
    assert party.client.resolve(CookieHeader("session=" + "a" * 70_000)).state is SessionState.INVALID


def test_create_read_change(party: Party) -> None:
    created = party.client.write(set={"cart": ["tea"], "n": 7})
    assert created.token and len(created.session.id) == 16 and created.session.version == 1
    assert created.session.data == {}, "answers of a write have no data"
    header = CookieHeader(cookie_of(created.set_cookie))
    found = party.client.resolve(header)
    assert found.state is SessionState.ACTIVE and found.session.data == {"cart": ["tea"], "n": 7}
    assert found.session.principal is None and found.session.label == ""
    assert found.session.duration == timedelta(minutes=30)
    assert timedelta(minutes=30) <= found.session.expire_time - found.session.create_time <= timedelta(minutes=31)
    assert found.session.last_use_time <= found.session.create_time + timedelta(seconds=60)
    written = party.client.write(header, set={"theme": "dark"}, unset=["cart", "never"])
    assert (written.session.version, written.token, written.set_cookie) == (2, None, ())
    assert party.client.resolve(Token(created.token)).session.data == {"n": 7, "theme": "dark"}
    party.client.write(header, replace=True, set={"only": 1})
    assert party.client.resolve(header).session.data == {"only": 1}


def test_values_keep_their_octets(party: Party) -> None:
    text = '{"big": 12345678901234567890123, "x": 1.50, "e": "\\u00e9", "o": { "b":1, "a":2 }}'
    created = party.client.write(set=text)
    party.client.write(Token(created.token), set={"other": True})
    data = party.client.resolve(Token(created.token)).session.data_json
    for value in ("12345678901234567890123", "1.50", '"\\u00e9"'):
        assert value in data, f"{value} is not as it was written: {data}"


def test_create_by_resolve(party: Party) -> None:
    found = party.client.resolve(CookieHeader("session=bad"), create=True)
    assert found.state is SessionState.CREATED and found.session.data == {} and found.token
    again = party.client.resolve(CookieHeader(cookie_of(found.set_cookie)), create=True)
    assert again.state is SessionState.ACTIVE and again.session.id == found.session.id


def test_if_version(party: Party) -> None:
    created = party.client.write(set={"n": 1})
    token = Token(created.token)
    party.client.write(token, set={"n": 2}, if_version=1)
    with pytest.raises(VersionMismatchError) as caught:
        party.client.write(token, set={"n": 3}, if_version=1)
    assert (caught.value.reason, caught.value.code, caught.value.applied) == ("VERSION_MISMATCH", "ABORTED", "no")
    assert party.client.resolve(token).session.data == {"n": 2}
    with pytest.raises(InvalidArgumentError):
        party.client.write(set={}, if_version=1)
    with pytest.raises(InvalidArgumentError):
        party.client.write(token, if_version=0)


def test_roll_and_superseded(party: Party) -> None:
    created = party.client.write(set={"n": 1})
    old = CookieHeader(cookie_of(created.set_cookie))
    rolled = party.client.write(old, roll=True)
    assert rolled.token and rolled.token != created.token and rolled.session.id == created.session.id
    assert len(rolled.set_cookie) == 1
    for create in (False, True):
        found = party.client.resolve(old, create=create)
        assert (found.state, found.set_cookie, found.token) == (SessionState.SUPERSEDED, (), None)
    with pytest.raises(SessionGoneError) as caught:
        party.client.write(old, set={"n": 2})
    assert caught.value.code == "NOT_FOUND"
    assert party.client.touch(old).state is SessionState.SUPERSEDED
    destroyed = party.client.destroy(old)
    assert destroyed.destroyed == 1, "within roll_grace the old id ends its session"
    assert destroyed.set_cookie[0].startswith("session=;")
    assert party.client.resolve(Token(rolled.token)).state is SessionState.NOT_FOUND


def test_after_roll_grace(limited: Party) -> None:
    created = limited.client.write(set={"n": 1})
    old = Token(created.token)
    rolled = limited.client.write(old, roll=True)
    limited.wait_until(lambda: limited.client.resolve(old, create=True).state is SessionState.CREATED, 1.1)
    assert limited.client.resolve(old).state is SessionState.SUPERSEDED
    assert limited.client.destroy(old).destroyed == 0
    assert limited.client.resolve(Token(rolled.token)).state is SessionState.ACTIVE


def test_principals(party: Party) -> None:
    anonymous = party.client.write(set={"cart": [1]})
    name = f"ann-{anonymous.session.id}"
    login = party.client.write(Token(anonymous.token), principal=name)
    assert login.token != anonymous.token, "another principal rolls"
    token = Token(login.token)
    found = party.client.resolve(token).session
    assert (found.principal, found.data) == (name, {"cart": [1]})
    assert party.client.write(token, principal=name).token is None, "the same principal does not roll"
    bob = party.client.write(token, principal=f"bob-{name}", set={"mine": 1})
    assert party.client.resolve(Token(bob.token)).session.data == {"mine": 1}, "another user's data is dropped"
    nobody = party.client.write(Token(bob.token), principal="")
    assert party.client.resolve(Token(nobody.token)).session.principal is None


def test_scopes_and_lists(party: Party) -> None:
    made = [party.client.write(set={"n": n}, label=f"device {n}") for n in range(4)]
    name = f"ann-{made[0].session.id}"
    tokens = [Token(party.client.write(Token(one.token), principal=name, roll=True).token) for one in made]
    ids = sorted((one.session.id for one in made), key=base64.urlsafe_b64decode)
    listed = party.client.list_sessions(tokens[0])
    assert [session.id for session in listed.sessions] == ids, "ordered by the octets of their ids"
    assert listed.current_session_id == made[0].session.id
    assert {session.label for session in listed.sessions} == {f"device {n}" for n in range(4)}
    assert all(session.data == {} and session.principal == name for session in listed.sessions)
    # Of ids, only the principal's own are ended.
    stranger = party.client.write(set={})
    answer = party.client.destroy(tokens[0], session_ids=[made[1].session.id, stranger.session.id, "x" * 16])
    assert (answer.destroyed, answer.set_cookie) == (1, ())
    assert party.client.resolve(Token(stranger.token)).state is SessionState.ACTIVE
    assert party.client.destroy(tokens[0], session_ids=[]).destroyed == 0
    assert party.client.resolve(tokens[0]).state is SessionState.ACTIVE, "an empty list ends nothing"
    answer = party.client.destroy(tokens[0], scope="others")
    assert (answer.destroyed, answer.set_cookie) == (2, ())
    answer = party.client.destroy(tokens[0], scope="all")
    assert answer.destroyed == 1
    assert party.client.list_sessions(tokens[0]).state is SessionState.NOT_FOUND
    assert party.client.list_sessions(CookieHeader("")).state is SessionState.NONE


def test_scopes_of_an_anonymous_session(party: Party) -> None:
    made = party.client.write(set={"n": 1})
    token = Token(made.token)
    assert [session.id for session in party.client.list_sessions(token).sessions] == [made.session.id]
    assert party.client.destroy(token, scope="others").destroyed == 0
    assert party.client.destroy(token, session_ids=["y" * 16]).destroyed == 0
    header = CookieHeader(cookie_of(made.set_cookie))
    ended = party.client.destroy(header, session_ids=[made.session.id])
    assert ended.destroyed == 1 and ended.set_cookie[0].startswith("session=;")
    again = party.client.destroy(header)
    assert again.destroyed == 0 and len(again.set_cookie) == 1, "the cookie is deleted all the same"
    assert party.client.destroy(CookieHeader("a=b")).set_cookie == ()


def test_persistence(party: Party) -> None:
    made = party.client.write(set={}, persistent=True)
    assert "Max-Age=" in made.set_cookie[0] and "Expires=" in made.set_cookie[0]
    changed = party.client.write(Token(made.token), persistent=False)
    assert "Max-Age=" not in changed.set_cookie[0] and changed.token is None
    assert party.client.write(Token(made.token), persistent=False).set_cookie == ()


def test_durations(party: Party) -> None:
    made = party.client.write(set={}, duration=timedelta(hours=2), persistent=True)
    token = Token(made.token)
    assert made.session.duration == timedelta(hours=2)
    touched = party.client.touch(token, duration=0.2001)
    assert touched.state is SessionState.ACTIVE and touched.session.version == 1
    assert touched.session.duration == timedelta(milliseconds=201), "rounded up to milliseconds"
    assert len(touched.set_cookie) == 1, "the browser learns the new end"
    party.wait_until(lambda: party.client.resolve(token, peek=True).state is not SessionState.ACTIVE, 0.5)
    assert party.client.resolve(token).state in (SessionState.EXPIRED, SessionState.NOT_FOUND)
    assert party.client.touch(token).session is None
    for bad in (0, -1, 401 * 86_400.0, float("nan"), float("inf"), timedelta(0)):
        with pytest.raises(InvalidArgumentError):
            party.client.touch(token, duration=bad)


def test_limits(party: Party) -> None:
    limit = party.client.describe().engine().max_data_bytes
    with pytest.raises(DataTooLargeError) as caught:
        party.client.write(set={"x": "y" * limit})
    assert caught.value.reason == "DATA_TOO_LARGE" and caught.value.applied == "no"
    made = party.client.write(set={"x": "y" * (limit - 100)})
    with pytest.raises(DataTooLargeError):
        party.client.write(Token(made.token), set={"z": "y" * 200})
    with pytest.raises(DataTooLargeError) as caught:
        party.client.write(set={"x": "y" * (1 << 20)})
    with pytest.raises(InvalidArgumentError):
        party.client.write(set={}, principal="p" * 257)
    with pytest.raises(InvalidArgumentError):
        party.client.write(set={}, label="l" * 257)
    with pytest.raises(InvalidArgumentError):
        party.client.write(Token(made.token), unset=[str(n) for n in range(1001)])
    with pytest.raises(InvalidArgumentError):
        party.client.write(set={str(n): n for n in range(4097)})
    with pytest.raises(InvalidArgumentError):
        party.client.destroy(Token(made.token), session_ids=["unknown"])
    for text in ("[]", "1", "{", '{"a":NaN}', '{"a":1}x', '{"a":' + "[" * 70 + "]" * 70 + "}"):
        with pytest.raises(InvalidArgumentError) as refused:
            party.client.write(set=text)
        assert refused.value.reason == "INVALID_DATA"
    assert party.client.resolve(Token(made.token)).session.version == 1


def test_unknown_engine(party: Party) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        party.client.resolve(Token("x"), engine="nope")
    assert caught.value.reason == "UNKNOWN_ENGINE"


def test_too_many_sessions(limited: Party) -> None:
    first = limited.client.write(set={})
    name = f"ann-{first.session.id}"
    limited.client.write(Token(first.token), principal=name)
    limited.client.write(principal=name)
    third = limited.client.write(set={"keep": 1})
    with pytest.raises(TooManySessionsError) as caught:
        limited.client.write(Token(third.token), principal=name)
    assert caught.value.code == "FAILED_PRECONDITION"
    assert limited.client.resolve(Token(third.token)).session.data == {"keep": 1}, "nothing was done"


def test_describe(party: Party) -> None:
    found = party.client.describe()
    assert found is party.client.describe() or party.is_fake, "asked once"
    engine = found.engine()
    assert engine is not None and engine.cookie_name == "session"
    assert found.engine("default") == engine and found.engine("nope") is None
    assert found.limits.max_unset == 1000 and found.limits.max_duration == timedelta(days=400)
    assert engine.duration == timedelta(minutes=30) and engine.absolute_duration is None
    assert engine.automatic_touch and engine.cookie_format == "plain"
