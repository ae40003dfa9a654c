"""One operation on its way, what its end means, and whether it may be sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _messages as messages
from ._encode import frame_request
from .errors import (
    Applied,
    AuthenticationError,
    DataTooLargeError,
    InvalidArgumentError,
    OverloadedError,
    RecordUnreadableError,
    SessiondError,
    SessionGoneError,
    TooManySessionsError,
    UnavailableError,
    VersionMismatchError,
)

CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

KINDS: dict[str, tuple[type[SessiondError], bool]] = {
    "INVALID_ARGUMENT": (InvalidArgumentError, False),
    "INVALID_DATA": (InvalidArgumentError, False),
    "UNKNOWN_ENGINE": (InvalidArgumentError, False),
    "DATA_TOO_LARGE": (DataTooLargeError, False),
    "MESSAGE_TOO_LARGE": (DataTooLargeError, False),
    "SESSION_GONE": (SessionGoneError, False),
    "VERSION_MISMATCH": (VersionMismatchError, True),
    "TOO_MANY_SESSIONS": (TooManySessionsError, False),
    "OVERLOADED": (OverloadedError, True),
    "STORE_FULL": (UnavailableError, True),
    "STORE_UNAVAILABLE": (UnavailableError, True),
    "SHUTTING_DOWN": (UnavailableError, True),
    "TIMEOUT": (UnavailableError, True),
    "RECORD_UNREADABLE": (RecordUnreadableError, False),
    "TOKEN_REQUIRED": (AuthenticationError, False),
    "TOKEN_UNKNOWN": (AuthenticationError, False),
    "ROLE_REQUIRED": (AuthenticationError, False),
}
"""The class for each of the daemon's reasons, and whether it may pass by itself."""

RETRY_AFTER = 1.0
"""Seconds to wait where the daemon names none; also its own default."""
MAX_REPETITIONS = 2
"""How often an operation is repeated after OVERLOADED or STORE_UNAVAILABLE."""
MAX_CUTS = 3
"""How often an operation is repeated after it was sent and the connection was cut. One that
itself makes the daemon cut the connection must come to an end."""


class Operation:
    """An operation of a caller, from its call to its end."""

    # What most operations never change stands in the class: to make one is on the way of each.
    sequence = 0
    started = 0.0
    deadline = 0.0
    timeout = b""
    """The `timeout` field for the first attempt, encoded."""
    attempts = 0
    sent = False
    """Whether this attempt has left, at least in part."""
    unknown = False
    """Whether an attempt before may have been applied."""
    cuts = 0
    repetitions = 0
    done = False
    result: Any = None
    error: SessiondError | None = None
    waiter: Any = None
    """What the front wakes the caller with."""

    def __init__(
        self,
        name: str,
        engine: str,
        body: bytes,
        *,
        safe: bool,
        path: str | None = None,
        decode: Callable[[bytes], Any] | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.body = body
        """Of a Pipeline: the operation's field. Of a unary call: the request."""
        self.safe = safe
        """Whether it may be sent again although it may have been applied."""
        self.path = path
        """Of a unary call."""
        self.decode = decode
        """Of a unary call: makes the result of the response."""

    def succeed(self, result: Any) -> None:
        """Ends with an answer."""
        self.done = True
        self.result = result

    def fail(self, error: SessiondError) -> None:
        """Ends with an error."""
        if self.unknown:
            error.applied = "unknown"
        self.done = True
        self.error = error

    def message(self, now: float) -> bytes:
        """The next attempt as a message of the Pipeline. It tells the daemon how long there is left."""
        self.attempts += 1
        self.sent = True
        if now - self.started > 0.01:
            self.timeout = messages.encode_timeout(int((self.deadline - now) * messages.NANOSECONDS))
        return frame_request(self.sequence, self.body, self.timeout)

    # -------------------------------------------------------- the rules

    def repeat_after_cut(self, *, applied: bool) -> bool:
        """The connection is gone, and no answer came. `applied` is False if it is known that
        nothing was: then everything may be sent again."""
        if not self.sent or not applied:
            self.sent = False
            return True
        self.unknown = True
        self.sent = False
        self.cuts += 1
        return self.safe and self.cuts <= MAX_CUTS

    def repeat_after(self, status: messages.Status, now: float) -> float | None:
        """How many seconds later to send it again after an answer with an error; None: not."""
        self.sent = False
        if status.reason == "SHUTTING_DOWN":
            return 0.0
        if status.reason not in ("OVERLOADED", "STORE_UNAVAILABLE"):
            return None
        if status.applied != "no":
            self.unknown = True
            if not self.safe:
                return None
        if status.retry_after is None or self.repetitions >= MAX_REPETITIONS:
            return None
        if now + status.retry_after >= self.deadline:
            return None
        self.repetitions += 1
        return status.retry_after


def error_of(status: messages.Status) -> SessiondError:
    """The error for a status. It holds the daemon's text, in which there are no secrets."""
    code = CODES[status.code] if 0 <= status.code < len(CODES) else "UNKNOWN"
    reason = status.reason
    kind, retryable = KINDS.get(reason, (SessiondError, False))
    if not reason:
        if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"):
            kind, retryable = UnavailableError, True
            reason = "TIMEOUT" if code == "DEADLINE_EXCEEDED" else code
        elif code == "UNAUTHENTICATED":
            kind, reason = AuthenticationError, code
        else:
            reason = "PROTOCOL_ERROR"
    applied: Applied = "no"
    if status.applied != "no" and issubclass(kind, UnavailableError) and reason != "SHUTTING_DOWN":
        applied = "unknown"
    retry_after = status.retry_after
    if retry_after is None and issubclass(kind, UnavailableError):
        retry_after = RETRY_AFTER
    message = "; ".join([status.message, *(f"{name}: {text}" for name, text in status.fields)])
    return kind(
        message, reason=reason, code=code, retryable=retryable, applied=applied, retry_after=retry_after
    )


def timeout_error(message: str, applied: Applied) -> UnavailableError:
    """The caller's time is over."""
    return UnavailableError(
        message,
        reason="TIMEOUT",
        code="DEADLINE_EXCEEDED",
        retryable=True,
        applied=applied,
        retry_after=RETRY_AFTER,
    )


def connection_error(message: str, applied: Applied = "no") -> UnavailableError:
    """There is no connection, or there is none any more."""
    return UnavailableError(
        message,
        reason="CONNECTION_FAILED",
        code="UNAVAILABLE",
        retryable=True,
        applied=applied,
        retry_after=RETRY_AFTER,
    )


def closed_error(applied: Applied = "no") -> UnavailableError:
    """The client was closed."""
    return UnavailableError(
        "the client is closed",
        reason="CLOSED",
        code="CANCELLED",
        applied=applied,
        retry_after=RETRY_AFTER,
    )
