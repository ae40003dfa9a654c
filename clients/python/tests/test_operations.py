"""The rules of repetition."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from sessiond import (
    CookieHeader,
    DataTooLargeError,
    InvalidArgumentError,
    OverloadedError,
    SessiondError,
    Token,
    UnavailableError,
    VersionMismatchError,
    _calls,
)
from sessiond._messages import Status
from sessiond._operations import MAX_CUTS, Operation, error_of

TOKEN = Token("x")


def write(**options: object) -> Operation:
    arguments: dict[str, Any] = {"unset": (), "replace": False, "roll": False, **options}
    for name in ("set", "if_version", "principal", "duration", "persistent", "label"):
        arguments.setdefault(name, None)
    return _calls.write("", TOKEN, **arguments)


def test_what_is_safe() -> None:
    assert _calls.resolve("", TOKEN, False, False).safe
    assert not _calls.resolve("", TOKEN, True, False).safe
    assert _calls.touch("", TOKEN, None).safe
    destroy = _calls.destroy("", TOKEN, "all", None)
    assert destroy is not None and destroy.safe
    assert write(if_version=1).safe and not write().safe and not write(roll=True).safe


def test_after_a_cut() -> None:
    unsafe = write()
    assert unsafe.repeat_after_cut(applied=True), "it was never sent"
    unsafe.sent = True
    assert unsafe.repeat_after_cut(applied=False), "it is known that nothing was applied"
    assert not unsafe.unknown and not unsafe.sent
    unsafe.sent = True
    assert not unsafe.repeat_after_cut(applied=True) and unsafe.unknown
    safe = _calls.resolve("", TOKEN, False, False)
    for _ in range(MAX_CUTS):
        safe.sent = True
        assert safe.repeat_after_cut(applied=True)
    safe.sent = True
    assert not safe.repeat_after_cut(applied=True), "one that makes the daemon cut comes to an end"


@pytest.mark.parametrize(
    ("reason", "applied", "safe", "expected"),
    [
        ("OVERLOADED", "no", False, 1.0),
        ("OVERLOADED", "unknown", False, None),
        ("OVERLOADED", "unknown", True, 1.0),
        ("STORE_UNAVAILABLE", "no", False, 1.0),
        ("STORE_UNAVAILABLE", "unknown", False, None),
        ("STORE_UNAVAILABLE", "", False, None),
        ("STORE_UNAVAILABLE", "unknown", True, 1.0),
        ("STORE_FULL", "no", True, None),
        ("SESSION_GONE", "no", True, None),
        ("SHUTTING_DOWN", "no", False, 0.0),
    ],
)
def test_after_an_error(reason: str, applied: str, safe: bool, expected: float | None) -> None:
    operation = write(if_version=1) if safe else write()
    operation.deadline = 10.0
    status = Status(14, "", reason, applied, 1.0)
    assert operation.repeat_after(status, 0.0) == expected
    if expected:
        assert operation.repeat_after(status, 9.5) is None, "not after its deadline"
        assert operation.repeat_after(status, 1.0) == expected
        assert operation.repeat_after(status, 2.0) is None, "twice at most"
        assert write().repeat_after(Status(14, "", reason, applied, None), 0.0) is None, "no RetryInfo"


def test_an_outcome_that_became_unknown_stays_so() -> None:
    operation = write(if_version=3)
    operation.sent = True
    operation.repeat_after_cut(applied=True)
    operation.fail(error_of(Status(10, "", "VERSION_MISMATCH", "no")))
    assert isinstance(operation.error, VersionMismatchError) and operation.error.applied == "unknown"


def test_errors() -> None:
    error = error_of(Status(3, "bad", "DATA_TOO_LARGE", "no", None, (("set", "too long"),)))
    assert isinstance(error, DataTooLargeError) and isinstance(error, InvalidArgumentError)
    assert str(error) == "DATA_TOO_LARGE: bad; set: too long" and not error.retryable
    assert isinstance(error_of(Status(8, "", "OVERLOADED", "no", 2.5)), OverloadedError)
    late = error_of(Status(4, "late"))
    assert isinstance(late, UnavailableError) and (late.reason, late.applied) == ("TIMEOUT", "unknown")
    strange = error_of(Status(99, "?", "FROM_THE_FUTURE"))
    assert type(strange) is SessiondError and strange.reason == "FROM_THE_FUTURE" and strange.code == "UNKNOWN"
    for one in (error, late, strange):
        again = pickle.loads(pickle.dumps(one))
        assert type(again) is type(one) and str(again) == str(one)
        assert (again.applied, again.retry_after, again.code) == (one.applied, one.retry_after, one.code)


def test_headers_keep_their_octets() -> None:
    octets = bytes(range(1, 256))
    assert CookieHeader(octets).octets == CookieHeader(octets.decode("latin-1")).octets == octets
    assert CookieHeader("a=\u20ac").octets == "a=\u20ac".encode()
    assert CookieHeader("a=\udcff\u20ac").octets == b"a=\xff" + "\u20ac".encode()
