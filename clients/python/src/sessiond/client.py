"""Clients of the daemon: `Client` for threads, `AsyncClient` for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from . import _asyncio, _blocking, _calls
from ._operations import Operation, closed_error
from ._options import Options, invalid
from .protocols import AsyncSessionClient, SessionClient
from .types import (
    TLS,
    Credential,
    Description,
    Destroyed,
    Duration,
    EventHook,
    Resolved,
    Scope,
    SessionList,
    SessionState,
    Touched,
    Written,
)

__all__ = ["AsyncClient", "Client"]


class Client(SessionClient):
    """The blocking client: one connection, shared by all threads of the process.

    It connects at the first call, and by itself again when the connection is gone. It works
    with gunicorn's workers: a client that was made before a fork connects anew in each child.
    It works with gevent, if the process is monkey-patched before this package is imported.
    """

    def __init__(
        self,
        address: str,
        *,
        engine: str = "",
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        tls: TLS | bool | None = None,
        timeout: float = 5.0,
        max_in_flight: int = 10_000,
        on_event: EventHook | None = None,
    ) -> None:
        """`address`: `host:port` or `unix:/path`.

        `engine`: of calls that name none. `token`, or `token_file` with a token that may be
        replaced: what `listen.auth.token_file` of the daemon asks for. `tls`: a `TLS`, or
        True for its defaults. `timeout`: seconds for each operation, with everything that
        happens on its way, such as connecting. `max_in_flight`: operations at a time; one
        more is an `OverloadedError`. `on_event`: is told about operations and connections.

        Raises `InvalidArgumentError` for what cannot be right. Nothing is connected yet."""
        self._options = Options(
            address,
            engine=engine,
            token=token,
            token_file=token_file,
            tls=tls,
            timeout=timeout,
            max_in_flight=max_in_flight,
            on_event=on_event,
        )
        self._front = _blocking.Front(self._options)

    @property
    def address(self) -> str:
        """The daemon's address, as it was given."""
        return self._options.address

    @property
    def engine(self) -> str:
        return self._options.engine

    @property
    def on_event(self) -> EventHook | None:
        return self._options.on_event

    def resolve(
        self,
        credential: Credential,
        *,
        create: bool = False,
        peek: bool = False,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Resolved:
        operation = _calls.resolve(self._engine(engine), credential, create, peek)
        result: Resolved = self._run(operation, timeout)
        return result

    def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        operation = _calls.touch(self._engine(engine), credential, duration)
        result: Touched = self._run(operation, timeout)
        return result

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
        operation = _calls.write(
            self._engine(engine),
            credential,
            set=set,
            unset=unset,
            replace=replace,
            if_version=if_version,
            roll=roll,
            principal=principal,
            duration=duration,
            persistent=persistent,
            label=label,
        )
        result: Written = self._run(operation, timeout)
        return result

    def destroy(
        self,
        credential: Credential,
        *,
        scope: Scope = "this",
        session_ids: Iterable[str] | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Destroyed:
        operation = _calls.destroy(self._engine(engine), credential, scope, session_ids)
        if operation is None:
            return Destroyed(0)
        result: Destroyed = self._run(operation, timeout)
        return result

    def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        found: SessionList | None = None
        token = ""
        while True:
            operation = _calls.list_sessions(self._engine(engine), credential, token)
            page: tuple[SessionList, str] = self._run(operation, timeout)
            part, token = page
            if found is None or part.state is not SessionState.ACTIVE:
                found = part  # a session that ended between two pages has no list any more
            else:
                found.sessions += part.sessions
            if not token:
                return found

    def describe(self, *, timeout: float | None = None) -> Description:
        known = self._driver().core.description
        if known is not None:
            return known
        result: Description = self._run(_calls.describe(), timeout)
        return result

    def _engine(self, engine: str | None) -> str:
        return self._options.engine if engine is None else engine

    def _timeout(self, timeout: float) -> float:
        if not 0 < timeout < 86_400:
            raise invalid("timeout: seconds, more than 0 and at most a day")
        return timeout

    def _driver(self) -> _blocking.Front:
        return self._front

    def _run(self, operation: Operation, timeout: float | None) -> Any:
        return self._front.run(operation, self._options.timeout if timeout is None else self._timeout(timeout))

    def close(self, timeout: float = 5.0) -> None:
        self._front.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(AsyncSessionClient):
    """The asyncio client: one connection for each event loop that uses it, shared by its tasks.

    It connects at the first call, and by itself again when the connection is gone. uvloop
    works too.
    """

    def __init__(
        self,
        address: str,
        *,
        engine: str = "",
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        tls: TLS | bool | None = None,
        timeout: float = 5.0,
        max_in_flight: int = 10_000,
        on_event: EventHook | None = None,
    ) -> None:
        """`address`: `host:port` or `unix:/path`.

        `engine`: of calls that name none. `token`, or `token_file` with a token that may be
        replaced: what `listen.auth.token_file` of the daemon asks for. `tls`: a `TLS`, or
        True for its defaults. `timeout`: seconds for each operation, with everything that
        happens on its way, such as connecting. `max_in_flight`: operations at a time; one
        more is an `OverloadedError`. `on_event`: is told about operations and connections.

        Raises `InvalidArgumentError` for what cannot be right. Nothing is connected yet."""
        self._options = Options(
            address,
            engine=engine,
            token=token,
            token_file=token_file,
            tls=tls,
            timeout=timeout,
            max_in_flight=max_in_flight,
            on_event=on_event,
        )
        self._drivers: dict[int, _asyncio.Driver] = {}
        self._last: _asyncio.Driver | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """The daemon's address, as it was given."""
        return self._options.address

    @property
    def engine(self) -> str:
        return self._options.engine

    @property
    def on_event(self) -> EventHook | None:
        return self._options.on_event

    async def resolve(
        self,
        credential: Credential,
        *,
        create: bool = False,
        peek: bool = False,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Resolved:
        operation = _calls.resolve(self._engine(engine), credential, create, peek)
        result: Resolved = await self._run(operation, timeout)
        return result

    async def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        operation = _calls.touch(self._engine(engine), credential, duration)
        result: Touched = await self._run(operation, timeout)
        return result

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
        operation = _calls.write(
            self._engine(engine),
            credential,
            set=set,
            unset=unset,
            replace=replace,
            if_version=if_version,
            roll=roll,
            principal=principal,
            duration=duration,
            persistent=persistent,
            label=label,
        )
        result: Written = await self._run(operation, timeout)
        return result

    async def destroy(
        self,
        credential: Credential,
        *,
        scope: Scope = "this",
        session_ids: Iterable[str] | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Destroyed:
        operation = _calls.destroy(self._engine(engine), credential, scope, session_ids)
        if operation is None:
            return Destroyed(0)
        result: Destroyed = await self._run(operation, timeout)
        return result

    async def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        found: SessionList | None = None
        token = ""
        while True:
            operation = _calls.list_sessions(self._engine(engine), credential, token)
            page: tuple[SessionList, str] = await self._run(operation, timeout)
            part, token = page
            if found is None or part.state is not SessionState.ACTIVE:
                found = part  # a session that ended between two pages has no list any more
            else:
                found.sessions += part.sessions
            if not token:
                return found

    async def describe(self, *, timeout: float | None = None) -> Description:
        known = self._driver().core.description
        if known is not None:
            return known
        result: Description = await self._run(_calls.describe(), timeout)
        return result

    def _engine(self, engine: str | None) -> str:
        return self._options.engine if engine is None else engine

    def _timeout(self, timeout: float) -> float:
        if not 0 < timeout < 86_400:
            raise invalid("timeout: seconds, more than 0 and at most a day")
        return timeout

    def _driver(self) -> _asyncio.Driver:
        loop = asyncio.get_running_loop()
        driver = self._last
        if driver is not None and driver.loop is loop:
            return driver
        if self._closed:
            raise closed_error()
        for key, other in list(self._drivers.items()):
            if other.loop.is_closed():
                del self._drivers[key]
        driver = self._drivers.get(id(loop))
        if driver is None:
            driver = self._drivers[id(loop)] = _asyncio.Driver(self._options, loop)
        self._last = driver
        return driver

    def _run(self, operation: Operation, timeout: float | None) -> Coroutine[Any, Any, Any]:
        return self._driver().run(operation, self._options.timeout if timeout is None else self._timeout(timeout))

    async def close(self, timeout: float = 5.0) -> None:
        """Takes nothing new, waits up to `timeout` seconds for what is in flight, and
        disconnects. A second call does nothing. Call it on the loop that used the client."""
        self._closed = True
        driver = self._drivers.pop(id(asyncio.get_running_loop()), None)
        if driver is not None:
            await driver.close(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
