"""One request's view of its session: what the adapters are made of.

`RequestSession` is for blocking code, `AsyncRequestSession` for asyncio. Neither is
meant for several threads or tasks at a time: each request has its own.

    session = RequestSession(client, cookie_header)
    session.data["theme"] = "dark"      # resolves at first use
    session.save()                      # before the response head goes out
    if session.set_cookie is not None:  # at most one line
        response.headers.add("Set-Cookie", session.set_cookie)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

from .protocols import AsyncSessionClient, SessionClient
from .types import Credential, Device, Duration, SessionState

__all__ = ["AsyncRequestSession", "RequestSession"]

Data = dict[str, Any]


class SessionView:
    """What both forms have: what is known of the session, without asking anybody."""

    @property
    def loaded(self) -> bool:
        """Whether the session was resolved (or found not to need it)."""
        raise NotImplementedError

    @property
    def accessed(self) -> bool:
        """Whether the application has looked at the session at all."""
        raise NotImplementedError

    @property
    def changed(self) -> bool:
        """Whether `save` would write something."""
        raise NotImplementedError

    @property
    def set_cookie(self) -> str | None:
        """The value of the one Set-Cookie line to send, or None. The last one counts."""
        raise NotImplementedError

    @property
    def token(self) -> str | None:
        """The token, if an answer of this request brought one."""
        raise NotImplementedError

    @property
    def credential(self) -> Credential:
        """What the next call presents: the request's header, or the token that followed it."""
        raise NotImplementedError


class RequestSession(SessionView):
    """The blocking form. It resolves at first use; `load` does so at once."""

    def __init__(
        self,
        client: SessionClient,
        cookie_header: bytes | str | None,
        *,
        engine: str | None = None,
        credential: Credential | None = None,
    ) -> None:
        """`credential`: instead of a header, for those who carry a token elsewhere."""
        raise NotImplementedError

    # What is known of the session. Each of these resolves at first use.

    @property
    def data(self) -> Data:
        """The data: a dict to read and to change. `save` writes what changed."""
        raise NotImplementedError

    @property
    def state(self) -> SessionState:
        """What became of the request's cookie; ACTIVE or CREATED if there is a session."""
        raise NotImplementedError

    @property
    def live(self) -> bool:
        """Whether there is a session."""
        raise NotImplementedError

    @property
    def is_new(self) -> bool:
        """Whether this request created it."""
        raise NotImplementedError

    @property
    def superseded(self) -> bool:
        """Whether the request came with an id from before a login: it is nobody's, and
        cannot create a session."""
        raise NotImplementedError

    @property
    def id(self) -> str | None:
        """Public session id, or None."""
        raise NotImplementedError

    @property
    def principal(self) -> str | None:
        """Whom it belongs to; None for nobody."""
        raise NotImplementedError

    @property
    def version(self) -> int:
        """The version that was last seen, 0 without a session."""
        raise NotImplementedError

    @property
    def expires(self) -> datetime | None:
        """When it ends unless it is touched before."""
        raise NotImplementedError

    def load(self) -> None:
        """Resolves, unless that is done."""
        raise NotImplementedError

    def reload(self) -> None:
        """Resolves again and drops what was changed and not saved."""
        raise NotImplementedError

    def save(self) -> bool:
        """Writes the top-level keys that changed, and nothing if none did. Creates a session
        if there is none and `data` is not empty.

        Returns False if the session ended meanwhile: then the change is dropped, because
        making it would undo a logout. Raises `SupersededError` for an id from before a login."""
        raise NotImplementedError

    def update(self, change: Callable[[Data], Data | None]) -> Data:
        """Reads, changes and writes back, again and again until nobody came in between (at
        most 20 times). `change` gets a copy of the data, and changes it or returns other data.
        It may run several times. Creates the session if there is none. Returns the new data."""
        raise NotImplementedError

    def login(
        self,
        principal: str,
        *,
        persistent: bool | None = None,
        label: str | None = None,
        duration: Duration | None = None,
    ) -> None:
        """Gives the session to a user, under a new id. What is unsaved goes along. Creates one
        if there is none. An anonymous session's data stays, another user's is dropped."""
        raise NotImplementedError

    def logout(self) -> bool:
        """Ends this session and deletes the cookie. Returns whether one was ended."""
        raise NotImplementedError

    def logout_others(self) -> int:
        """Ends the user's other sessions. Returns how many."""
        raise NotImplementedError

    def logout_everywhere(self) -> int:
        """Ends all of the user's sessions, this one too. Returns how many."""
        raise NotImplementedError

    def roll(self) -> bool:
        """A new id for the same session. False if there is none."""
        raise NotImplementedError

    def devices(self) -> list[Device]:
        """The user's live sessions; of an anonymous session that one."""
        raise NotImplementedError

    def end(self, ids: Iterable[str]) -> int:
        """Ends sessions of the same user by public id. Returns how many."""
        raise NotImplementedError

    def touch(self, duration: Duration | None = None) -> bool:
        """Moves the deadline; `duration` becomes the session's own idle timeout. False if
        there is no session."""
        raise NotImplementedError

    def set_persistent(self, persistent: bool) -> bool:
        """Whether the cookie outlives the browser ("remember me"). False if there is no session."""
        raise NotImplementedError


class AsyncRequestSession(SessionView):
    """The asyncio form. `await load()` comes first; what is known is then at hand."""

    def __init__(
        self,
        client: AsyncSessionClient,
        cookie_header: bytes | str | None,
        *,
        engine: str | None = None,
        credential: Credential | None = None,
    ) -> None:
        """`credential`: instead of a header, for those who carry a token elsewhere."""
        raise NotImplementedError

    # The same properties (data, state, live, is_new, superseded, id, principal, version,
    # expires) as above; before load() they raise RuntimeError.

    async def load(self) -> None: ...
    async def reload(self) -> None: ...
    async def save(self) -> bool:
        raise NotImplementedError

    async def update(self, change: Callable[[Data], Data | None | Awaitable[Data | None]]) -> Data:
        raise NotImplementedError

    async def login(
        self,
        principal: str,
        *,
        persistent: bool | None = None,
        label: str | None = None,
        duration: Duration | None = None,
    ) -> None:
        raise NotImplementedError

    async def logout(self) -> bool:
        raise NotImplementedError

    async def logout_others(self) -> int:
        raise NotImplementedError

    async def logout_everywhere(self) -> int:
        raise NotImplementedError

    async def roll(self) -> bool:
        raise NotImplementedError

    async def devices(self) -> list[Device]:
        raise NotImplementedError

    async def end(self, ids: Iterable[str]) -> int:
        raise NotImplementedError

    async def touch(self, duration: Duration | None = None) -> bool:
        raise NotImplementedError

    async def set_persistent(self, persistent: bool) -> bool:
        raise NotImplementedError
