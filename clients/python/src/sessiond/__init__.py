"""Web sessions that live in sessiond, a daemon that owns them for every service of an application.

- `Client` and `AsyncClient` talk to the daemon.
- `RequestSession` and `AsyncRequestSession` are one request's view of its session: what the
  adapters for frameworks are made of.
- `SessiondError` is the base of all errors.
- `sessiond.testing` has a fake in memory.
"""

from ._version import VERSION as __version__
from .client import AsyncClient, Client
from .errors import (
    AuthenticationError,
    DataTooLargeError,
    InvalidArgumentError,
    OverloadedError,
    RecordUnreadableError,
    SessiondError,
    SessionGoneError,
    SupersededError,
    TooManySessionsError,
    UnavailableError,
    VersionMismatchError,
)
from .session import AsyncRequestSession, RequestSession
from .types import (
    TLS,
    ConnectionEvent,
    CookieHeader,
    Credential,
    Description,
    Destroyed,
    Device,
    DroppedChangeEvent,
    Engine,
    Event,
    Limits,
    OperationEvent,
    Resolved,
    Session,
    SessionList,
    SessionState,
    Token,
    Touched,
    Written,
)

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncRequestSession",
    "AuthenticationError",
    "Client",
    "ConnectionEvent",
    "CookieHeader",
    "Credential",
    "DataTooLargeError",
    "Description",
    "Destroyed",
    "Device",
    "DroppedChangeEvent",
    "Engine",
    "Event",
    "InvalidArgumentError",
    "Limits",
    "OperationEvent",
    "OverloadedError",
    "RecordUnreadableError",
    "RequestSession",
    "Resolved",
    "Session",
    "SessionGoneError",
    "SessionList",
    "SessionState",
    "SessiondError",
    "SupersededError",
    "Token",
    "TooManySessionsError",
    "Touched",
    "UnavailableError",
    "VersionMismatchError",
    "Written",
    "__version__",
]
