"""What goes into a client and what comes out of it."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

__all__ = [
    "TLS",
    "ConnectionEvent",
    "CookieHeader",
    "Credential",
    "Description",
    "Destroyed",
    "Device",
    "DroppedChangeEvent",
    "Duration",
    "Engine",
    "Event",
    "EventHook",
    "Limits",
    "OperationEvent",
    "Resolved",
    "Scope",
    "Session",
    "SessionList",
    "SessionState",
    "Token",
    "Touched",
    "Written",
]

# `json.loads` without its choices, for each of which it asks.
_decode: Callable[[str], dict[str, Any]] = json.JSONDecoder().decode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Duration = timedelta | float
"""A length of time: a `timedelta`, or seconds."""

Scope = Literal["this", "others", "all"]
"""Which sessions a destroy ends: that of the credential, all others of the same
principal, or all of the principal."""


class SessionState(enum.StrEnum):
    """What became of a credential."""

    ACTIVE = "ACTIVE"
    """Live."""
    CREATED = "CREATED"
    """Created by this call."""
    NONE = "NONE"
    """No session cookie."""
    INVALID = "INVALID"
    """Malformed, or signed by no known secret."""
    NOT_FOUND = "NOT_FOUND"
    """Authentic, but there is no such session (any more)."""
    EXPIRED = "EXPIRED"
    """Authentic, but the session's time is over."""
    SUPERSEDED = "SUPERSEDED"
    """Authentic, but the id was rolled since. Serve it as nobody, change no cookie."""


@dataclass(frozen=True, slots=True, repr=False)
class CookieHeader:
    """The request's Cookie header as it came; several lines are joined with `"; "`.

    Octets are passed on as they are. Text is taken as WSGI gives it, one character for
    each octet (latin-1); text with other characters is encoded as UTF-8."""

    header: bytes | str

    def __repr__(self) -> str:
        return "CookieHeader(...)"

    @property
    def octets(self) -> bytes:
        """The header as octets."""
        header = self.header
        if isinstance(header, bytes):
            return header
        try:
            return header.encode("latin-1")
        except UnicodeEncodeError:
            return header.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """The token of an answer: the credential without a cookie around it."""

    token: str

    def __repr__(self) -> str:
        return "Token(...)"


Credential = CookieHeader | Token
"""What a request presents to prove which session is its own."""


class Session:
    """A session as the daemon answers it."""

    __slots__ = ("create", "data_json", "expire", "id", "idle", "label", "last_use", "principal", "version")

    id: str
    """Public session id, 16 characters: stable, not a credential, safe to log."""
    data_json: str
    """The data as the JSON text that is stored. Empty in answers of touch and write."""
    version: int
    """1 at creation, one more with each write."""
    principal: str | None
    """Whom the session belongs to. None: nobody."""
    label: str
    """The text for the user's list of devices, or empty."""

    def __init__(
        self,
        id: str,
        data_json: str = "",
        version: int = 0,
        principal: str | None = None,
        label: str = "",
        create: int | bytes = 0,
        expire: int | bytes = 0,
        last_use: int | bytes = 0,
        idle: int | bytes = 0,
    ) -> None:
        self.id = id
        self.data_json = data_json
        self.version = version
        self.principal = principal
        self.label = label
        # Nanoseconds, or the message as it came: few requests look at their session's times.
        self.create = create
        self.expire = expire
        self.last_use = last_use
        self.idle = idle

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, version={self.version})"

    @property
    def data(self) -> dict[str, Any]:
        """The data, parsed anew each time."""
        return _decode(self.data_json) if self.data_json else {}

    @property
    def create_time(self) -> datetime:
        """When it was created."""
        return _EPOCH + _length(self.create)

    @property
    def expire_time(self) -> datetime:
        """When it ends, unless it is touched before."""
        return _EPOCH + _length(self.expire)

    @property
    def last_use_time(self) -> datetime:
        """When it was last used, exact to the engine's touch granularity."""
        return _EPOCH + _length(self.last_use)

    @property
    def duration(self) -> timedelta:
        """The idle timeout in force."""
        return _length(self.idle)


def _length(value: int | bytes) -> timedelta:
    if isinstance(value, bytes):
        from ._messages import decode_nanoseconds

        value = decode_nanoseconds(value)
    return timedelta(microseconds=value // 1000)


@dataclass(slots=True)
class Resolved:
    """The answer of `resolve`."""

    state: SessionState
    session: Session | None = None
    """Set if the state is ACTIVE or CREATED."""
    set_cookie: tuple[str, ...] = field(default=(), repr=False)
    """Values of Set-Cookie lines to send, each on a line of its own. Mostly empty."""
    token: str | None = field(default=None, repr=False)
    """The token, if it is new to the caller."""


@dataclass(slots=True)
class Touched:
    """The answer of `touch`."""

    state: SessionState
    session: Session | None = None
    """Set if the state is ACTIVE; without data."""
    set_cookie: tuple[str, ...] = field(default=(), repr=False)


@dataclass(slots=True)
class Written:
    """The answer of `write`."""

    session: Session
    """The session after the change, without data."""
    set_cookie: tuple[str, ...] = field(default=(), repr=False)
    token: str | None = field(default=None, repr=False)
    """The token, if it is new to the caller: created, rolled, or signed again."""


@dataclass(slots=True)
class Destroyed:
    """The answer of `destroy`."""

    destroyed: int
    """How many live sessions were ended."""
    set_cookie: tuple[str, ...] = field(default=(), repr=False)
    """The deletion cookie, if the credential held a session cookie that was ended."""


@dataclass(slots=True)
class SessionList:
    """The answer of `list_sessions`."""

    state: SessionState
    sessions: list[Session] = field(default_factory=list["Session"])
    """The live sessions of the credential's principal, without data, ordered by id.
    Of an anonymous session that one alone."""
    current_session_id: str = ""
    """Public id of the credential's own session."""


@dataclass(frozen=True, slots=True)
class Device:
    """A session in the user's own list of devices."""

    id: str
    """Public session id; `RequestSession.end` takes it."""
    current: bool
    """Whether it is the session of this request."""
    label: str
    create_time: datetime
    last_use_time: datetime
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """What the daemon takes. What is more is refused."""

    max_message_bytes: int = 1 << 20
    pipeline_in_flight: int = 256
    max_cookie_header_bytes: int = 64 << 10
    max_principal_bytes: int = 256
    max_label_bytes: int = 256
    max_keys: int = 4096
    max_unset: int = 1000
    max_duration: timedelta = timedelta(days=400)
    max_session_ids: int = 1000


@dataclass(frozen=True, slots=True)
class Engine:
    """Sessions of one kind, with their cookie and their lifetime."""

    name: str
    cookie_name: str
    """A request without a cookie of this name has no session."""
    cookie_format: Literal["plain", "express"] = "plain"
    persistent: bool = False
    """Whether cookies have Max-Age, unless a write says otherwise."""
    duration: timedelta = timedelta(minutes=30)
    """Idle timeout, unless a session has its own."""
    absolute_duration: timedelta | None = None
    """The longest life of a session. None: no limit."""
    touch_granularity: timedelta = timedelta(0)
    automatic_touch: bool = True
    max_data_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class Description:
    """The answer of `describe`."""

    version: str
    """The daemon's version."""
    limits: Limits
    engines: tuple[Engine, ...]

    def engine(self, name: str = "") -> Engine | None:
        """The engine of this name; empty means `default`."""
        name = name or "default"
        for engine in self.engines:
            if engine.name == name:
                return engine
        return None


@dataclass(frozen=True, slots=True)
class TLS:
    """How to speak TLS. Without arguments: the system's authorities, no client certificate."""

    ca: str | bytes | None = None
    """The authorities to trust: the path of a PEM file, or PEM as bytes."""
    cert: str | None = None
    """Path of the client's certificate, PEM, for a daemon that asks for one."""
    key: str | None = None
    """Path of the key of `cert`."""
    server_name: str | None = None
    """The name that the daemon's certificate must have. None: the host of the address."""


@dataclass(frozen=True, slots=True)
class OperationEvent:
    """An operation is over. Everything that a span or a histogram needs."""

    operation: str
    """`resolve`, `touch`, `write`, `destroy`, `list_sessions` or `describe`."""
    engine: str
    duration: float
    """Seconds."""
    state: SessionState | None
    """Of a resolve, touch or list_sessions that was answered."""
    reason: str | None
    """None, or the reason of the error."""
    attempts: int
    """How many times it was sent; 0 if it never was."""


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """The connection changed."""

    kind: Literal["connected", "disconnected", "failed"]
    """`failed`: an attempt to connect did not succeed; the next one follows by itself."""
    address: str
    reason: str | None = None
    """Why, in words, for `disconnected` and `failed`."""


@dataclass(frozen=True, slots=True)
class DroppedChangeEvent:
    """A request changed a session that had ended meanwhile. The change was dropped,
    because making it would undo a logout."""

    session_id: str
    keys: tuple[str, ...]
    """The top-level keys that would have been set or removed."""


Event = OperationEvent | ConnectionEvent | DroppedChangeEvent
"""What an `EventHook` is told."""

EventHook = Callable[[Event], None]
"""Called for each event, in the thread or event loop where it happens. It must return
quickly. What it raises is logged and goes no further."""
