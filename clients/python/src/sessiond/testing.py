"""A client in memory, for the tests of your application: the daemon's behaviour without a daemon.

    from sessiond.testing import FakeClient

    fake = FakeClient()
    app = make_app(sessions=fake)
    cookie = fake.cookie(principal="ann", data={"cart": ["tea"]})  # logged in already
    fake.advance(1801)                                             # her session has expired
    fake.fail("STORE_UNAVAILABLE", times=1)                        # and then the store is away

`AsyncFakeClient` is the same for asyncio. `AsyncFakeClient(sharing=fake)` has the same sessions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from . import _calls, _json
from ._fake import FakeDaemon, FakeEngine, error_on_demand, failure, is_public_id
from ._messages import NANOSECONDS
from ._operations import closed_error
from ._version import VERSION
from .protocols import AsyncSessionClient, SessionClient
from .types import (
    Credential,
    Description,
    Destroyed,
    Duration,
    Engine,
    EventHook,
    Resolved,
    Scope,
    SessionList,
    Touched,
    Written,
)

__all__ = ["AsyncFakeClient", "FakeClient", "FakeEngine", "FakeSession"]

Operation = Literal["resolve", "touch", "write", "destroy", "list_sessions", "describe"]


@dataclass(frozen=True, slots=True)
class FakeSession:
    """A session in the fake, for a test to look at."""

    id: str
    principal: str | None
    version: int
    label: str
    data: dict[str, Any]


@dataclass(slots=True)
class _Fault:
    reason: str
    times: int | None
    operation: str | None


class _Shared:
    """What the fakes of one test have in common."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self.daemon = FakeDaemon(engines)
        self.fault: _Fault | None = None
        self.calls: list[str] = []
        self.lock = threading.RLock()


class _Fake:
    """The parts of both fakes that are the same."""

    def __init__(
        self,
        *,
        engines: Iterable[Engine] = (FakeEngine(),),
        engine: str = "",
        on_event: EventHook | None = None,
        sharing: _Fake | None = None,
    ) -> None:
        """`engines`: `FakeEngine`s, or what `describe` of a daemon answered; by default one called
        `default` with a cookie called `session`. `engine`: of calls that name none.
        `sharing`: another fake, whose sessions, clock and faults this one has, too."""
        self._shared: _Shared = _Shared(engines) if sharing is None else sharing._shared
        self._engine = engine
        self._on_event = on_event
        self._closed = False

    @property
    def engine(self) -> str:
        """The engine of calls that name none; empty means `default`."""
        return self._engine

    @property
    def on_event(self) -> EventHook | None:
        """The hook that is told what happens; the fake itself tells it nothing."""
        return self._on_event

    # ------------------------------------------------------------ for the test

    @property
    def calls(self) -> list[str]:
        """The names of the operations that were called, in order. Clear it as you like."""
        return self._shared.calls

    @property
    def now(self) -> float:
        """The fake's time, in seconds since 1970. It runs with the real one."""
        return self._shared.daemon.now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward: sessions expire, grace periods end."""
        self._shared.daemon.offset += seconds

    def fail(self, reason: str | None, *, times: int | None = None, operation: Operation | None = None) -> None:
        """From now on operations fail with this reason, such as `STORE_UNAVAILABLE`, and change
        nothing. `times`: so many of them; None: all, until `fail(None)`. `operation`: only these."""
        self._shared.fault = None if reason is None else _Fault(reason, times, operation)

    def cookie(
        self, *, principal: str = "", data: Mapping[str, Any] | None = None, engine: str | None = None
    ) -> str:
        """Makes a session, and returns the Cookie header that a browser would send for it."""
        sessions = self._shared.daemon.engine(self._engine if engine is None else engine)
        with self._shared.lock:
            text = _json.encode_object(data).decode() if data else None
            return sessions.create(text, principal=principal).set_cookie[0].partition(";")[0]

    def sessions(self, engine: str | None = None) -> list[FakeSession]:
        """The live sessions of an engine, oldest first."""
        sessions = self._shared.daemon.engine(self._engine if engine is None else engine)
        return [
            FakeSession(
                record.id,
                record.principal or None,
                record.version,
                record.label,
                _json.decode_object(_json.encode_members(record.members)),
            )
            for record in sessions.records.values()
            if not sessions.expired(record)
        ]

    # ------------------------------------------------------------ operations

    def _begin(self, operation: str) -> None:
        if self._closed:
            raise closed_error()
        shared = self._shared
        shared.calls.append(operation)
        fault = shared.fault
        if fault is None or fault.operation not in (None, operation):
            return
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                shared.fault = None
        raise error_on_demand(fault.reason)

    def _name(self, engine: str | None) -> str:
        return self._engine if engine is None else engine

    def _do_resolve(self, credential: Credential, create: bool, peek: bool, engine: str | None) -> Resolved:
        name = self._name(engine)
        _calls.resolve(name, credential, create, peek)  # finds what cannot be right
        with self._shared.lock:
            self._begin("resolve")
            return self._shared.daemon.engine(name).resolve(credential, create, peek)

    def _do_touch(self, credential: Credential, duration: Duration | None, engine: str | None) -> Touched:
        name = self._name(engine)
        _calls.touch(name, credential, duration)
        with self._shared.lock:
            self._begin("touch")
            return self._shared.daemon.engine(name).touch(credential, _length(duration))

    def _do_write(self, credential: Credential | None, engine: str | None, **options: Any) -> Written:
        name = self._name(engine)
        _calls.write(name, credential, **options)
        data = options.pop("set")
        text = data if data is None or isinstance(data, str) else _json.encode_object(data).decode()
        unset: list[str] = options.pop("unset")
        options["duration"] = _length(options["duration"])
        with self._shared.lock:
            self._begin("write")
            sessions = self._shared.daemon.engine(name)
            _check(options["principal"], "principal")
            _check(options["label"], "label")
            if len(unset) > self._shared.daemon.limits.max_unset:
                raise failure("INVALID_ARGUMENT", "unset: at most 1000 keys")
            if credential is not None:
                return sessions.write(credential, text, unset, **options)
            if options["if_version"] is not None:
                raise failure("INVALID_ARGUMENT", "if_version: a new session has no version yet")
            return sessions.create(
                text,
                unset,
                principal=options["principal"] or "",
                duration=options["duration"],
                persistent=options["persistent"],
                label=options["label"] or "",
            )

    def _do_destroy(
        self, credential: Credential, scope: Scope, session_ids: Iterable[str] | None, engine: str | None
    ) -> Destroyed:
        name = self._name(engine)
        ids = session_ids if session_ids is None or isinstance(session_ids, str) else list(session_ids)
        if _calls.destroy(name, credential, scope, ids) is None:
            return Destroyed(0)
        with self._shared.lock:
            self._begin("destroy")
            if ids is not None and len(ids) > 1000:
                raise failure("INVALID_ARGUMENT", "session_ids: at most 1000 ids")
            if ids is not None and not all(is_public_id(id) for id in ids):
                raise failure("INVALID_ARGUMENT", "session_ids: expected public ids of sessions")
            return self._shared.daemon.engine(name).destroy(credential, scope, None if ids is None else list(ids))

    def _do_list(self, credential: Credential, engine: str | None) -> SessionList:
        name = self._name(engine)
        _calls.list_sessions(name, credential, "")
        with self._shared.lock:
            self._begin("list_sessions")
            return self._shared.daemon.engine(name).list(credential)

    def _do_describe(self) -> Description:
        with self._shared.lock:
            self._begin("describe")
            daemon = self._shared.daemon
            engines = sorted((sessions.engine for sessions in daemon.engines.values()), key=lambda e: e.name)
            return Description(VERSION, daemon.limits, tuple(engines))


def _length(duration: Duration | None) -> float | None:
    """Seconds, rounded up to milliseconds as the daemon does."""
    value = _calls.nanoseconds("duration", duration)
    if value is None:
        return None
    if value > 400 * 86_400 * NANOSECONDS:
        raise failure("INVALID_ARGUMENT", "duration: more than zero and at most 400 days")
    return -(-value // 1_000_000) / 1000


def _check(text: str | None, name: str) -> None:
    if text is not None and len(text.encode()) > 256:
        raise failure("INVALID_ARGUMENT", f"{name}: at most 256 bytes")


class FakeClient(_Fake, SessionClient):
    """The fake of a `Client`."""

    def resolve(
        self,
        credential: Credential,
        *,
        create: bool = False,
        peek: bool = False,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Resolved:
        return self._do_resolve(credential, create, peek, engine)

    def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        return self._do_touch(credential, duration, engine)

    def write(
        self,
        credential: Credential | None = None,
        *,
        set: Mapping[str, Any] | str | None = None,
        unset: Iterable[str] = (),
        replace: bool = False,
        if_version: int | None = None,
        roll: bool = False,
        principal: str | None = None,
        duration: Duration | None = None,
        persistent: bool | None = None,
        label: str | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        return self._do_write(
            credential,
            engine,
            set=set,
            unset=list(unset),
            replace=replace,
            if_version=if_version,
            roll=roll,
            principal=principal,
            duration=duration,
            persistent=persistent,
            label=label,
        )

    def destroy(
        self,
        credential: Credential,
        *,
        scope: Scope = "this",
        session_ids: Iterable[str] | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Destroyed:
        return self._do_destroy(credential, scope, session_ids, engine)

    def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        return self._do_list(credential, engine)

    def describe(self, *, timeout: float | None = None) -> Description:
        return self._do_describe()

    def close(self, timeout: float = 5.0) -> None:
        """Everything after it fails, as with the real client."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncFakeClient(_Fake, AsyncSessionClient):
    """The fake of an `AsyncClient`."""

    async def resolve(
        self,
        credential: Credential,
        *,
        create: bool = False,
        peek: bool = False,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Resolved:
        return self._do_resolve(credential, create, peek, engine)

    async def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        return self._do_touch(credential, duration, engine)

    async def write(
        self,
        credential: Credential | None = None,
        *,
        set: Mapping[str, Any] | str | None = None,
        unset: Iterable[str] = (),
        replace: bool = False,
        if_version: int | None = None,
        roll: bool = False,
        principal: str | None = None,
        duration: Duration | None = None,
        persistent: bool | None = None,
        label: str | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        return self._do_write(
            credential,
            engine,
            set=set,
            unset=list(unset),
            replace=replace,
            if_version=if_version,
            roll=roll,
            principal=principal,
            duration=duration,
            persistent=persistent,
            label=label,
        )

    async def destroy(
        self,
        credential: Credential,
        *,
        scope: Scope = "this",
        session_ids: Iterable[str] | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Destroyed:
        return self._do_destroy(credential, scope, session_ids, engine)

    async def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        return self._do_list(credential, engine)

    async def describe(self, *, timeout: float | None = None) -> Description:
        return self._do_describe()

    async def close(self, timeout: float = 5.0) -> None:
        """Everything after it fails, as with the real client."""
        self._closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
