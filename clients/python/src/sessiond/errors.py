"""What can go wrong. Every error of this package is a `SessiondError`.

Act upon the class or upon `reason`, not upon the text. No error holds a token, a
cookie or data of a session, so every one of them can be logged.
"""

from __future__ import annotations

from typing import Literal, Self

__all__ = [
    "AuthenticationError",
    "DataTooLargeError",
    "InvalidArgumentError",
    "OverloadedError",
    "RecordUnreadableError",
    "SessionGoneError",
    "SessiondError",
    "SupersededError",
    "TooManySessionsError",
    "UnavailableError",
    "VersionMismatchError",
]

Applied = Literal["no", "unknown"]
"""Whether the operation may have changed something all the same."""


class SessiondError(Exception):
    """The base class. An operation failed; nobody knows by it who the visitor is."""

    reason: str
    """The daemon's reason, such as `STORE_UNAVAILABLE` (docs/api.md lists them), or
    one of the client's own: `CONNECTION_FAILED`, `TIMEOUT`, `IN_FLIGHT_LIMIT`,
    `CLOSED`, `PROTOCOL_ERROR`, `DAEMON_TOO_OLD`, `INVALID_DATA`."""
    code: str
    """The name of the gRPC status code, such as `UNAVAILABLE`."""
    retryable: bool
    """Whether the same operation may succeed later without a change."""
    applied: Applied
    """`"no"`: nothing was changed. `"unknown"`: the change may have been made."""
    retry_after: float | None
    """Seconds after which to try again, if the daemon said so."""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        code: str = "UNKNOWN",
        retryable: bool = False,
        applied: Applied = "no",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
        self.retryable = retryable
        self.applied = applied
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.reason}: {super().__str__()}"

    def copy(self) -> Self:
        """The same error without a traceback, to raise it once more."""
        return type(self)(
            super().__str__(),
            reason=self.reason,
            code=self.code,
            retryable=self.retryable,
            applied=self.applied,
            retry_after=self.retry_after,
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default way of pickling.
        return (
            _restore,
            (type(self), super().__str__(), self.reason, self.code, self.retryable, self.applied, self.retry_after),
        )


def _restore(
    kind: type[SessiondError],
    message: str,
    reason: str,
    code: str,
    retryable: bool,
    applied: Applied,
    retry_after: float | None,
) -> SessiondError:
    return kind(message, reason=reason, code=code, retryable=retryable, applied=applied, retry_after=retry_after)


class UnavailableError(SessiondError):
    """The daemon or its store cannot answer now: no connection, a timeout, an overload,
    a store that failed or is full, too many operations in flight, a closed client.

    It says nothing about the session. Answer 503 with Retry-After, and log nobody out."""


class OverloadedError(UnavailableError):
    """Too much at a time: the client has `max_in_flight` operations under way
    (`IN_FLIGHT_LIMIT`), or the daemon is overloaded (`OVERLOADED`)."""


class VersionMismatchError(SessiondError):
    """Another write came first (`if_version`). Resolve, apply the change to what was
    read, and write again; `RequestSession.update` does that."""


class SessionGoneError(SessiondError):
    """The session of a write is not live: it ended, expired or was rolled."""


class TooManySessionsError(SessiondError):
    """The user has as many sessions as `max_sessions_per_principal` allows.
    One of them has to end first."""


class InvalidArgumentError(SessiondError, ValueError):
    """A value that is not allowed; the text names the argument. Also data that is not
    JSON (`reason` is `INVALID_DATA`)."""


class DataTooLargeError(InvalidArgumentError):
    """The data would exceed the engine's `max_data_bytes`. Store less."""


class RecordUnreadableError(SessiondError):
    """The stored record is damaged. A destroy ends it and deletes the cookie."""


class AuthenticationError(SessiondError):
    """The daemon wants a bearer token and got none, or does not know the one it got."""


class SupersededError(SessiondError):
    """A request changed its session with an id from before a login. The browser has,
    or is about to get, a newer id. Answer 409, and change no cookie."""
