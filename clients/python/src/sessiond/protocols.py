"""What a client can do: the real one (`sessiond.client`) and the fake (`sessiond.testing`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from .types import (
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

__all__ = ["AsyncSessionClient", "SessionClient"]


class SessionClient(Protocol):
    """The blocking form. Every call takes `engine` (None: the client's) and `timeout` in
    seconds (None: the client's), and raises a `SessiondError` if it fails."""

    @property
    def engine(self) -> str:
        """The engine of calls that name none; empty means `default`."""
        ...

    @property
    def on_event(self) -> EventHook | None:
        """The hook that is told what happens."""
        ...

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
        ...

    def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        """Moves the session's deadline. `duration` becomes its own idle timeout."""
        ...

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
        ...

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
        ...

    def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        """The live sessions of the credential's principal, all pages."""
        ...

    def describe(self, *, timeout: float | None = None) -> Description:
        """What the daemon is. Asked once for each connection, then answered from memory."""
        ...

    def close(self, timeout: float = 5.0) -> None:
        """Takes nothing new, waits up to `timeout` seconds for what is in flight, and
        disconnects. A second call does nothing."""
        ...


class AsyncSessionClient(Protocol):
    """The asyncio form; see `SessionClient` for what the calls do."""

    @property
    def engine(self) -> str:
        """The engine of calls that name none; empty means `default`."""
        ...

    @property
    def on_event(self) -> EventHook | None:
        """The hook that is told what happens."""
        ...

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
        ...

    async def touch(
        self,
        credential: Credential,
        *,
        duration: Duration | None = None,
        engine: str | None = None,
        timeout: float | None = None,
    ) -> Touched:
        """See `SessionClient.touch`."""
        ...

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
        ...

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
        ...

    async def list_sessions(
        self, credential: Credential, *, engine: str | None = None, timeout: float | None = None
    ) -> SessionList:
        """See `SessionClient.list_sessions`."""
        ...

    async def describe(self, *, timeout: float | None = None) -> Description:
        """See `SessionClient.describe`."""
        ...

    async def close(self, timeout: float = 5.0) -> None:
        """See `SessionClient.close`."""
        ...
