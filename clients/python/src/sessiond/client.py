"""Clients of the daemon: `Client` for threads, `AsyncClient` for asyncio."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

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
    Touched,
    Written,
)

__all__ = ["AsyncClient", "Client"]


class Client:
    """The blocking client."""

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
        raise NotImplementedError

    @property
    def engine(self) -> str:
        """The engine of calls that name none; empty means `default`."""
        raise NotImplementedError

    @property
    def on_event(self) -> EventHook | None:
        """The hook that is told what happens."""
        raise NotImplementedError

    def resolve(
        self,
        credential: Credential,
        *,
        create: bool = False,
        peek: bool = False,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Resolved:
        """Finds the session of a request, and moves its deadline unless `peek` is set.
        With `create` a session is created if the credential is not live."""
        raise NotImplementedError

    def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        """Moves the session's deadline. `duration` becomes its own idle timeout."""
        raise NotImplementedError

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
        """Creates a session (no credential) or changes a live one.

        `replace` drops all data first, then `unset` removes top-level keys, then `set`
        replaces them; other keys stay as they are. `set` is a mapping of JSON values, or
        JSON text. `if_version`: only at this version, else `VersionMismatchError`.
        `roll`: a new id for the same session. `principal`: whom it belongs to, an empty
        text makes it anonymous. `persistent`: whether its cookie has Max-Age. `label`: a
        text for the user's list of devices.

        Raises `SessionGoneError` if the credential is not live."""
        raise NotImplementedError

    def destroy(
        self,
        credential: Credential,
        *,
        scope: Scope = "this",
        session_ids: Iterable[str] | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Destroyed:
        """Ends sessions. `session_ids`: public ids of the same principal's sessions,
        instead of a scope."""
        raise NotImplementedError

    def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        """The live sessions of the credential's principal, all pages."""
        raise NotImplementedError

    def describe(self, *, timeout: float | None = None) -> Description:
        """What the daemon is. Asked once for each connection, then answered from memory."""
        raise NotImplementedError

    def close(self, timeout: float = 5.0) -> None:
        """Takes nothing new, waits up to `timeout` seconds for what is in flight, and
        disconnects. A second call does nothing."""
        raise NotImplementedError


    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The asyncio client."""

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
        raise NotImplementedError

    @property
    def engine(self) -> str:
        """The engine of calls that name none; empty means `default`."""
        raise NotImplementedError

    @property
    def on_event(self) -> EventHook | None:
        """The hook that is told what happens."""
        raise NotImplementedError

    async def resolve(
        self,
        credential: Credential,
        *,
        create: bool = False,
        peek: bool = False,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Resolved:
        """See `SessionClient.resolve`."""
        raise NotImplementedError

    async def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        """See `SessionClient.touch`."""
        raise NotImplementedError

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
        """See `SessionClient.write`."""
        raise NotImplementedError

    async def destroy(
        self,
        credential: Credential,
        *,
        scope: Scope = "this",
        session_ids: Iterable[str] | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Destroyed:
        """See `SessionClient.destroy`."""
        raise NotImplementedError

    async def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        """See `SessionClient.list_sessions`."""
        raise NotImplementedError

    async def describe(self, *, timeout: float | None = None) -> Description:
        """See `SessionClient.describe`."""
        raise NotImplementedError

    async def close(self, timeout: float = 5.0) -> None:
        """See `SessionClient.close`."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
