"""The daemon's rules in memory, for `sessiond.testing`. `tests/test_behaviour.py` holds them to
the daemon's own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

from . import _json
from ._messages import NANOSECONDS, Status
from ._operations import CODES, KINDS, error_of
from .types import (
    CookieHeader,
    Credential,
    Destroyed,
    Engine,
    Limits,
    Resolved,
    Scope,
    Session,
    SessionList,
    SessionState,
    Token,
    Touched,
    Written,
)

GRANULARITY = timedelta(milliseconds=28_125)
MAX_DEPTH = 64
# The daemon's code for each reason, for errors on demand.
_CODE_OF = {
    "INVALID_ARGUMENT": 3,
    "INVALID_DATA": 3,
    "DATA_TOO_LARGE": 3,
    "UNKNOWN_ENGINE": 3,
    "MESSAGE_TOO_LARGE": 3,
    "SESSION_GONE": 5,
    "VERSION_MISMATCH": 10,
    "TOO_MANY_SESSIONS": 9,
    "OVERLOADED": 8,
    "STORE_FULL": 8,
    "STORE_UNAVAILABLE": 14,
    "SHUTTING_DOWN": 14,
    "CONNECTION_FAILED": 14,
    "TIMEOUT": 4,
    "RECORD_UNREADABLE": 15,
    "TOKEN_REQUIRED": 16,
    "TOKEN_UNKNOWN": 16,
    "ROLE_REQUIRED": 7,
}


@dataclass(frozen=True, slots=True)
class FakeEngine(Engine):
    """An engine of the fake. Everything has the daemon's default (in `--dev`, where the cookie is
    called `session`), except that its cookies end with the browser unless `persistent` is set."""

    name: str = "default"
    cookie_name: str = "session"
    touch_granularity: timedelta = GRANULARITY
    roll_grace: timedelta = timedelta(minutes=1)
    """How long an id from before a roll can still end its session."""
    max_sessions_per_principal: int = 0
    """Live sessions that a principal may have. 0: any number."""
    on_limit: Literal["refuse_newest", "end_idlest"] = "refuse_newest"
    """What happens to a login above that."""


def is_public_id(text: str) -> bool:
    """Whether a session can have this public id."""
    return re.fullmatch("[A-Za-z0-9_-]{16}", text) is not None


def failure(reason: str, message: str, applied: str = "no", retry_after: float | None = None) -> Exception:
    """The error that the client makes of the daemon's status."""
    return error_of(Status(_CODE_OF.get(reason, 2), message, reason, applied, retry_after))


def error_on_demand(reason: str) -> Exception:
    """For `fail`: what the client raises for a reason."""
    retry = 1.0 if reason in ("OVERLOADED", "STORE_UNAVAILABLE") else None
    if reason in KINDS:
        return failure(reason, "asked for by the test", "no", retry)
    error = error_of(Status(_CODE_OF.get(reason, 14), "asked for by the test", "", "no"))
    error.reason = reason
    error.code = CODES[_CODE_OF.get(reason, 14)]
    return error


@dataclass(slots=True)
class Record:
    """A session as the fake stores it. Times are seconds since 1970."""

    id: str
    verifier: str
    version: int
    create: float
    deadline: float
    duration: float | None
    principal: str
    members: dict[str, str]
    persistent: bool | None
    label: str
    rolls: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Former verifiers, and when each was rolled. The last 4."""


class FakeDaemon:
    """Engines with their sessions."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self.offset = 0.0
        self.limits = Limits()
        self.secret = secrets.token_bytes(32)
        self.engines: dict[str, _Sessions] = {}
        for engine in engines:
            if not isinstance(engine, FakeEngine):
                engine = FakeEngine(**{f.name: getattr(engine, f.name) for f in fields(engine)})
            self.engines[engine.name] = _Sessions(self, engine)

    @property
    def now(self) -> float:
        """Seconds since 1970. Runs with the real clock."""
        return time.time() + self.offset

    def engine(self, name: str) -> _Sessions:
        """An engine by its name in a request."""
        found = self.engines.get(name or "default")
        if found is None:
            raise failure("UNKNOWN_ENGINE", f"no engine is called {name!r}")
        return found


class _Sessions:
    """One engine's sessions and rules."""

    def __init__(self, daemon: FakeDaemon, engine: FakeEngine) -> None:
        self.daemon = daemon
        self.engine = engine
        self.records: dict[str, Record] = {}

    # ------------------------------------------------------------ lifetimes

    def _duration(self, own: float | None) -> float:
        return self.engine.duration.total_seconds() if own is None else own

    def _granularity(self, duration: float) -> float:
        return min(self.engine.touch_granularity.total_seconds(), duration)

    def _end(self, create: float) -> float:
        absolute = self.engine.absolute_duration
        return float("inf") if absolute is None else create + absolute.total_seconds()

    def _deadline(self, create: float, own: float | None, now: float) -> float:
        duration = self._duration(own)
        return min(now + duration + self._granularity(duration), self._end(create))

    def _slide(self, record: Record, own: float | None) -> bool:
        """Moves the deadline if it is due, or if the session gets an idle timeout of its own."""
        now = self.daemon.now
        if own is not None and own != record.duration:
            record.duration = own
        elif record.deadline >= min(now + self._duration(record.duration), self._end(record.create)):
            return False
        record.deadline = self._deadline(record.create, record.duration, now)
        return True

    def expired(self, record: Record) -> bool:
        """Whether its time is over."""
        return self.daemon.now >= record.deadline

    # ------------------------------------------------------------ tokens and cookies

    def _token(self, record: Record) -> str:
        id = record.id + record.verifier
        digest = hmac.digest(self.daemon.secret, id.encode(), hashlib.sha256)
        return f"{id}.{base64.b64encode(digest).decode().rstrip('=')}"

    def _candidates(self, credential: Credential) -> tuple[SessionState, list[tuple[str, str]]]:
        """What the credential says without looking at records, and the ids that it proves."""
        if isinstance(credential, Token):
            values = [credential.token.encode()]
            state = SessionState.INVALID
        else:
            name = self.engine.cookie_name.encode()
            values = list[bytes]()
            header = credential.octets
            for pair in header.split(b";"):
                key, equals, value = pair.partition(b"=")
                if equals and key.strip(b" \t") == name:
                    value = value.strip(b" \t")
                    values.append(value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value)
            state = SessionState.INVALID if values or len(header) > 65_536 else SessionState.NONE
            if len(header) > 65_536:
                values = []
        proven: list[tuple[str, str]] = []
        for value in values:
            text = value.decode("latin-1").removeprefix("s:").removeprefix("s%3A")
            id, dot, signature = text.partition(".")
            digest = hmac.digest(self.daemon.secret, id.encode("latin-1"), hashlib.sha256)
            good = base64.b64encode(digest).decode().rstrip("=")
            if dot and len(id) == 40 and hmac.compare_digest(good.encode(), signature.encode("latin-1")):
                proven.append((id[:16], id[16:]))
        return state, proven[:8]

    def _set_cookie(self, record: Record) -> tuple[str, ...]:
        value = self._token(record)
        if self.engine.cookie_format == "express":
            value = "s%3A" + value.replace("/", "%2F").replace("+", "%2B")
        if not self._persistent(record):
            return (f"{self.engine.cookie_name}={value}; Path=/; HttpOnly; SameSite=Lax",)
        age = max(0, int(record.deadline - self.daemon.now) + 1)
        expires = format_datetime(datetime.fromtimestamp(int(record.deadline), UTC), usegmt=True)
        return (
            f"{self.engine.cookie_name}={value}; Max-Age={age}; Expires={expires}; Path=/; HttpOnly; SameSite=Lax",
        )

    def _delete_cookie(self) -> tuple[str, ...]:
        return (
            f"{self.engine.cookie_name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; "
            "Path=/; HttpOnly; SameSite=Lax",
        )

    def _persistent(self, record: Record) -> bool:
        return self.engine.persistent if record.persistent is None else record.persistent

    def view(self, record: Record, *, data: bool) -> Session:
        """The record as callers see it."""
        duration = self._duration(record.duration)
        last = max(record.create, record.deadline - duration - self._granularity(duration))
        return Session(
            record.id,
            data_json=_json.encode_members(record.members) if data else "",
            version=record.version,
            principal=record.principal or None,
            label=record.label,
            create=_ns(record.create),
            expire=_ns(record.deadline),
            last_use=_ns(last),
            idle=_ns(duration),
        )

    # ------------------------------------------------------------ operations

    def find(self, credential: Credential) -> tuple[SessionState, Record | None]:
        """The first live session of a credential, or the state that says most."""
        state, proven = self._candidates(credential)
        ranked = [_RANK[state]]
        for id, verifier in proven:
            record = self.records.get(id)
            if record is None:
                ranked.append(_RANK[SessionState.NOT_FOUND])
            elif record.verifier != verifier:
                ranked.append(5 if self._just_rolled(record) else 3)
            elif self.expired(record):
                ranked.append(4)
            else:
                return SessionState.ACTIVE, record
        return _STATE_OF_RANK[max(ranked)], None

    def _just_rolled(self, record: Record) -> bool:
        """Whether its id was rolled a moment ago."""
        if self.expired(record) or not record.rolls:
            return False
        return record.rolls[-1][1] > self.daemon.now - self.engine.roll_grace.total_seconds()

    def resolve(self, credential: Credential, create: bool, peek: bool) -> Resolved:
        """Resolve."""
        state, record = self.find(credential)
        if record is None:
            if create and not (state is SessionState.SUPERSEDED and self._recently(credential)):
                written = self.create(None)
                record = self.records[written.session.id]
                return Resolved(
                    SessionState.CREATED, self.view(record, data=True), written.set_cookie, written.token
                )
            return Resolved(state)
        moved = self.engine.automatic_touch and not peek and self._slide(record, None)
        cookie = self._set_cookie(record) if moved and self._persistent(record) else ()
        return Resolved(state, self.view(record, data=True), cookie)

    def _recently(self, credential: Credential) -> bool:
        return any(
            record is not None and record.verifier != verifier and self._just_rolled(record)
            for id, verifier in self._candidates(credential)[1]
            for record in (self.records.get(id),)
        )

    def touch(self, credential: Credential, duration: float | None) -> Touched:
        """Touch."""
        state, record = self.find(credential)
        if record is None:
            return Touched(state)
        moved = self._slide(record, duration)
        cookie = self._set_cookie(record) if moved and self._persistent(record) else ()
        return Touched(state, self.view(record, data=False), cookie)

    def create(
        self,
        set: str | None,
        unset: Iterable[str] = (),
        *,
        principal: str = "",
        duration: float | None = None,
        persistent: bool | None = None,
        label: str = "",
    ) -> Written:
        """Write without a credential."""
        members = self._merged({}, set, unset)
        self._refuse_newest(principal)
        now = self.daemon.now
        id, verifier = secrets.token_urlsafe(12), secrets.token_urlsafe(18)
        deadline = self._deadline(now, duration, now)
        record = Record(id, verifier, 1, now, deadline, duration, principal, members, persistent, label)
        self.records[id] = record
        self._end_idlest(record)
        return Written(self.view(record, data=False), self._set_cookie(record), self._token(record))

    def write(
        self,
        credential: Credential,
        set: str | None,
        unset: Iterable[str],
        *,
        replace: bool,
        if_version: int | None,
        roll: bool,
        principal: str | None,
        duration: float | None,
        persistent: bool | None,
        label: str | None,
    ) -> Written:
        """Write of a live session."""
        _, record = self.find(credential)
        if record is None:
            raise failure("SESSION_GONE", "the credential names no live session")
        if if_version is not None and if_version != record.version:
            raise failure("VERSION_MISMATCH", f"the version is {record.version}, not {if_version}")
        changes_hands = principal is not None and principal != record.principal
        drops = replace or (changes_hands and bool(record.principal))
        members = self._merged({} if drops else record.members, set, unset)
        if changes_hands:
            self._refuse_newest(principal or "")
        record.members = members
        record.version += 1
        was_persistent = self._persistent(record)
        rolled = roll or changes_hands
        if rolled:
            record.rolls = [*record.rolls, (record.verifier, self.daemon.now)][-4:]
            record.verifier = secrets.token_urlsafe(18)
        if principal is not None:
            record.principal = principal
        if persistent is not None:
            record.persistent = persistent
        if label is not None:
            record.label = label
        moved = self._slide(record, duration)
        if changes_hands:
            self._end_idlest(record)
        persistence = self._persistent(record)
        tell = rolled or persistence != was_persistent or (moved and persistence)
        return Written(
            self.view(record, data=False),
            self._set_cookie(record) if tell else (),
            self._token(record) if rolled else None,
        )

    def _merged(self, members: dict[str, str], set: str | None, unset: Iterable[str]) -> dict[str, str]:
        merged = dict(members)
        for key in unset:
            merged.pop(key, None)
        if set:
            if len(set.encode()) > max(self.engine.max_data_bytes, 4096):
                raise failure("DATA_TOO_LARGE", "set is too large")
            merged.update(split_object(set))
        if len(merged) > self.daemon.limits.max_keys:
            raise failure("INVALID_DATA", "set: more than 4096 keys")
        if len(_json.encode_members(merged).encode()) > self.engine.max_data_bytes:
            raise failure("DATA_TOO_LARGE", "the data would be too large")
        return merged

    def _of(self, principal: str) -> list[Record]:
        return [r for r in self.records.values() if r.principal == principal and not self.expired(r)]

    def _refuse_newest(self, principal: str) -> None:
        limit = self.engine.max_sessions_per_principal
        if principal and limit and self.engine.on_limit == "refuse_newest" and len(self._of(principal)) >= limit:
            raise failure("TOO_MANY_SESSIONS", "the principal has as many sessions as it may")

    def _end_idlest(self, newest: Record) -> None:
        limit = self.engine.max_sessions_per_principal
        if newest.principal and limit and self.engine.on_limit == "end_idlest":
            others = [record for record in self._of(newest.principal) if record is not newest]
            others.sort(key=lambda record: record.deadline - self._duration(record.duration))
            for record in others[: max(0, len(others) + 1 - limit)]:
                del self.records[record.id]

    def destroy(self, credential: Credential, scope: Scope, ids: list[str] | None) -> Destroyed:
        """Destroy."""
        state, proven = self._candidates(credential)
        own = self.find(credential)[1]
        count = 0
        if ids is not None or scope != "this":
            chosen: list[Record] = []
            if own is not None:
                chosen = self._of(own.principal) if own.principal else [own]
            for record in chosen:
                if record is not own and (ids is None or record.id in ids):
                    del self.records[record.id]
                    count += 1
            goes_on = scope == "others" if ids is None else own is None or own.id not in ids
            if goes_on:
                return Destroyed(count)
        for id, verifier in proven:
            found = self.records.get(id)
            if found is not None and (found.verifier == verifier or self._may_end(found, verifier)):
                count += not self.expired(found)
                del self.records[id]
        return Destroyed(count, self._delete_cookie() if state is not SessionState.NONE else ())

    def _may_end(self, record: Record, verifier: str) -> bool:
        since = self.daemon.now - self.engine.roll_grace.total_seconds()
        return any(former == verifier and at > since for former, at in record.rolls)

    def list(self, credential: Credential) -> SessionList:
        """ListSessions, all pages."""
        state, own = self.find(credential)
        if own is None:
            return SessionList(state)
        records = self._of(own.principal) if own.principal else [own]
        records.sort(key=lambda record: base64.urlsafe_b64decode(record.id))  # the order of their octets
        return SessionList(state, [self.view(record, data=False) for record in records], own.id)


_RANK = {
    SessionState.NONE: 0,
    SessionState.INVALID: 1,
    SessionState.NOT_FOUND: 2,
}
_STATE_OF_RANK = (
    SessionState.NONE,
    SessionState.INVALID,
    SessionState.NOT_FOUND,
    SessionState.SUPERSEDED,
    SessionState.EXPIRED,
    SessionState.SUPERSEDED,
)


def _ns(seconds: float) -> int:
    return round(seconds * 1000) * (NANOSECONDS // 1000)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def split_object(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as the text that it is, as the daemon keeps it."""
    members: dict[str, str] = {}
    try:
        _decoder.decode(text)
        if _depth(text) > MAX_DEPTH:
            raise ValueError("too deep")
        at = _skip(text, 0)
        if text[at] != "{":
            raise ValueError("not an object")
        at = _skip(text, at + 1)
        while text[at] != "}":
            key, at = _decoder.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
            _, end = _decoder.raw_decode(text, at)
            members[key] = text[at:end]
            at = _skip(text, end)
            if text[at] == ",":
                at = _skip(text, at + 1)
    except (ValueError, IndexError, RecursionError):
        raise failure("INVALID_DATA", "set: expected a JSON object, at most 64 levels deep") from None
    return members


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _depth(text: str) -> int:
    """How many levels of arrays and objects a JSON text has."""
    depth = deepest = 0
    for bracket in re.sub(r'"(?:[^"\\]|\\.)*"|[^\[\]{}"]', "", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


__all__ = ["CookieHeader", "FakeDaemon", "FakeEngine", "Record", "error_on_demand", "split_object"]
