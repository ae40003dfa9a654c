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

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

from ._options import invalid
from ._view import Apply, Call, Sleep, Steps, View
from .protocols import AsyncSessionClient, SessionClient
from .types import Credential, Device, Duration, SessionState

__all__ = ["AsyncRequestSession", "RequestSession"]

Data = dict[str, Any]


class SessionView:
    """What both forms know. `RequestSession` resolves at the first use of these;
    `AsyncRequestSession` raises RuntimeError if `load` was not awaited before."""

    _view: View

    @property
    def view(self) -> View:
        """The state of both forms; of use to this package only."""
        return self._view

    def _known(self) -> View:
        raise NotImplementedError

    @property
    def loaded(self) -> bool:
        """Whether the session was resolved (or found not to need it). Asks nobody."""
        return self._view.loaded

    @property
    def accessed(self) -> bool:
        """Whether the application has looked at the session at all. Asks nobody."""
        return self._view.accessed

    @property
    def changed(self) -> bool:
        """Whether `save` would write something. Asks nobody."""
        return self._view.changed

    @property
    def set_cookie(self) -> str | None:
        """The value of the one Set-Cookie line to send, or None. Asks nobody."""
        return self._view.set_cookie

    @property
    def token(self) -> str | None:
        """The token, if an answer of this request brought one. Asks nobody."""
        return self._view.token

    @property
    def credential(self) -> Credential | None:
        """What the next call presents: the request's own, or the token that followed it."""
        return self._view.credential

    @property
    def data(self) -> Data:
        """The data: a dict to read and to change. `save` writes what changed."""
        return self._known().data

    @data.setter
    def data(self, data: Data) -> None:
        self._known().replace_data(data)

    @property
    def state(self) -> SessionState:
        """What became of the request's cookie; ACTIVE or CREATED if there is a session."""
        return self._known().state

    @property
    def live(self) -> bool:
        """Whether there is a session."""
        return self._known().session is not None

    @property
    def is_new(self) -> bool:
        """Whether this request created it."""
        return self._known().created

    @property
    def superseded(self) -> bool:
        """Whether the request came with an id from before a login: it is nobody's, and
        cannot create a session."""
        return self._known().superseded

    @property
    def id(self) -> str | None:
        """Public session id, or None."""
        session = self._known().session
        return None if session is None else session.id

    @property
    def principal(self) -> str | None:
        """Whom it belongs to; None for nobody."""
        session = self._known().session
        return None if session is None else session.principal

    @property
    def version(self) -> int:
        """The version that was last seen, 0 without a session."""
        session = self._known().session
        return 0 if session is None else session.version

    @property
    def expires(self) -> datetime | None:
        """When it ends unless it is touched before."""
        return self._known().expires()

    def __repr__(self) -> str:
        view = self._view
        state = view.state.value if view.loaded else "not loaded"
        return f"{type(self).__name__}({state}{f', id={view.session.id!r}' if view.session else ''})"


class RequestSession(SessionView):
    """The blocking form. It resolves at first use; `load` does so at once."""

    def __init__(
        self,
        client: SessionClient,
        cookie_header: bytes | str | None = None,
        *,
        engine: str | None = None,
        credential: Credential | None = None,
        data: Data | None = None,
        sharing: SessionView | None = None,
        dumps: Callable[[Any], str] | None = None,
        loads: Callable[[str], Data] | None = None,
    ) -> None:
        """`cookie_header`: the request's, as `CookieHeader` takes it; None if there is none.
        `engine`: None for the client's. `credential`: instead of a header, for those who
        carry a token elsewhere. `data`: an empty dict to use. `sharing`: the other form of the
        same session, for frameworks with both; then nothing else counts but `client`.

        `dumps` and `loads`: for frameworks whose sessions hold more than JSON. `dumps` makes
        JSON text of one top-level value, `loads` the dict of the text of all of the data."""
        self._client = client
        self._view = _view(client, cookie_header, engine, credential, data, sharing, dumps, loads)

    def _known(self) -> View:
        view = self._view
        view.accessed = True
        if not view.loaded:
            self._run(view.load())
        return view

    def _run(self, steps: Steps) -> Any:
        try:
            step = next(steps)
            while True:
                try:
                    result: Any = None
                    if isinstance(step, Call):
                        result = getattr(self._client, step.method)(*step.arguments, **step.options)
                    elif isinstance(step, Sleep):
                        time.sleep(step.seconds)
                    else:
                        result = _apply(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value

    def load(self) -> None:
        """Resolves, unless that is done."""
        self._run(self._view.load())

    def reload(self) -> None:
        """Resolves again and drops what was changed and not saved."""
        self._run(self._view.reload())

    def save(
        self,
        *,
        principal: str | None = None,
        roll: bool = False,
        persistent: bool | None = None,
        duration: Duration | None = None,
        label: str | None = None,
        create: bool = False,
    ) -> bool:
        """Writes the top-level keys that changed, and nothing if none did. Creates a session
        if there is none and `data` is not empty, or `create` is set.

        For adapters: `principal`, `roll`, `persistent`, `duration` and `label` go along in the
        one Write, which is then sent even if no key changed. An empty `principal` makes the
        session anonymous.

        Returns False if the session ended meanwhile: then the change is dropped, because
        making it would undo a logout. Raises `SupersededError` for an id from before a login,
        `InvalidArgumentError` (`INVALID_DATA`) for data that is not JSON."""
        return bool(
            self._run(
                self._view.save(
                    create,
                    principal=principal,
                    roll=roll,
                    persistent=persistent,
                    duration=duration,
                    label=label,
                )
            )
        )

    def update(self, change: Callable[[Data], Data | None]) -> Data:
        """Reads, changes and writes back, again and again until nobody came in between (at
        most 20 times). `change` gets a copy of the data, and changes it or returns other data.
        It may run several times. Creates the session if there is none. Returns the new data.

        Unsaved changes of other keys stay as they are. Raises `SessionGoneError` if the
        session ended meanwhile, `SupersededError` for an id from before a login."""
        data: Data = self._run(self._view.update(change))
        return data

    def login(
        self,
        principal: str,
        *,
        persistent: bool | None = None,
        label: str | None = None,
        duration: Duration | None = None,
    ) -> None:
        """Gives the session to a user, under a new id. What is unsaved goes along. Creates one
        if there is none, also if the one of the request ended meanwhile: the user has just
        proven who it is. An anonymous session's data stays, another user's is dropped.

        `persistent`: whether the cookie outlives the browser. `label`: a text for the user's
        list of devices. `duration`: an idle timeout of its own."""
        self._run(self._view.login(principal, persistent, label, duration))

    def logout(self) -> bool:
        """Ends this session and deletes the cookie. Returns whether one was ended."""
        return bool(self._run(self._view.logout("this")))

    def logout_others(self) -> int:
        """Ends the user's other sessions. Returns how many."""
        return int(self._run(self._view.others()))

    def logout_everywhere(self) -> int:
        """Ends all of the user's sessions, this one too. Returns how many."""
        return int(self._run(self._view.logout("all")))

    def roll(self) -> bool:
        """A new id for the same session. False if there is none."""
        return bool(self._run(self._view.write(roll=True)))

    def devices(self) -> list[Device]:
        """The user's live sessions; of an anonymous session that one. Nobody has none."""
        found: list[Device] = self._run(self._view.devices())
        return found

    def end(self, ids: Iterable[str]) -> int:
        """Ends sessions of the same user by public id. Returns how many."""
        return int(self._run(self._view.end(ids)))

    def touch(self, duration: Duration | None = None) -> bool:
        """Moves the deadline; `duration` becomes the session's own idle timeout. False if there
        is no session; then `duration` is that of the session that this request creates."""
        return bool(self._run(self._view.touch(duration)))

    def set_persistent(self, persistent: bool) -> bool:
        """Whether the cookie outlives the browser ("remember me"). False if there is no session;
        then it is kept for the one that this request creates."""
        return bool(self._run(self._view.persistent(persistent)))


class AsyncRequestSession(SessionView):
    """The asyncio form. Await `load` first; each method that is awaited does so by itself."""

    def __init__(
        self,
        client: AsyncSessionClient,
        cookie_header: bytes | str | None = None,
        *,
        engine: str | None = None,
        credential: Credential | None = None,
        data: Data | None = None,
        sharing: SessionView | None = None,
        dumps: Callable[[Any], str] | None = None,
        loads: Callable[[str], Data] | None = None,
    ) -> None:
        """See `RequestSession`."""
        self._client = client
        self._view = _view(client, cookie_header, engine, credential, data, sharing, dumps, loads)

    def _known(self) -> View:
        view = self._view
        if not view.loaded:
            raise RuntimeError("the session is not loaded yet: await its load() first")
        view.accessed = True
        return view

    async def _run(self, steps: Steps) -> Any:
        try:
            step = next(steps)
            while True:
                try:
                    result: Any = None
                    if isinstance(step, Call):
                        result = await getattr(self._client, step.method)(*step.arguments, **step.options)
                    elif isinstance(step, Sleep):
                        await asyncio.sleep(step.seconds)
                    else:
                        result = step.function(step.data)
                        if inspect.isawaitable(result):
                            result = await result
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value

    async def load(self) -> None:
        """Resolves, unless that is done."""
        await self._run(self._view.load())

    async def reload(self) -> None:
        """See `RequestSession.reload`."""
        await self._run(self._view.reload())

    async def save(
        self,
        *,
        principal: str | None = None,
        roll: bool = False,
        persistent: bool | None = None,
        duration: Duration | None = None,
        label: str | None = None,
        create: bool = False,
    ) -> bool:
        """See `RequestSession.save`."""
        return bool(
            await self._run(
                self._view.save(
                    create,
                    principal=principal,
                    roll=roll,
                    persistent=persistent,
                    duration=duration,
                    label=label,
                )
            )
        )

    async def update(self, change: Callable[[Data], Data | None | Awaitable[Data | None]]) -> Data:
        """See `RequestSession.update`. `change` may be a coroutine function."""
        data: Data = await self._run(self._view.update(change))
        return data

    async def login(
        self,
        principal: str,
        *,
        persistent: bool | None = None,
        label: str | None = None,
        duration: Duration | None = None,
    ) -> None:
        """See `RequestSession.login`."""
        await self._run(self._view.login(principal, persistent, label, duration))

    async def logout(self) -> bool:
        """See `RequestSession.logout`."""
        return bool(await self._run(self._view.logout("this")))

    async def logout_others(self) -> int:
        """See `RequestSession.logout_others`."""
        return int(await self._run(self._view.others()))

    async def logout_everywhere(self) -> int:
        """See `RequestSession.logout_everywhere`."""
        return int(await self._run(self._view.logout("all")))

    async def roll(self) -> bool:
        """See `RequestSession.roll`."""
        return bool(await self._run(self._view.write(roll=True)))

    async def devices(self) -> list[Device]:
        """See `RequestSession.devices`."""
        found: list[Device] = await self._run(self._view.devices())
        return found

    async def end(self, ids: Iterable[str]) -> int:
        """See `RequestSession.end`."""
        return int(await self._run(self._view.end(ids)))

    async def touch(self, duration: Duration | None = None) -> bool:
        """See `RequestSession.touch`."""
        return bool(await self._run(self._view.touch(duration)))

    async def set_persistent(self, persistent: bool) -> bool:
        """See `RequestSession.set_persistent`."""
        return bool(await self._run(self._view.persistent(persistent)))


def _view(
    client: SessionClient | AsyncSessionClient,
    cookie_header: bytes | str | None,
    engine: str | None,
    credential: Credential | None,
    data: Data | None,
    sharing: SessionView | None,
    dumps: Callable[[Any], str] | None,
    loads: Callable[[str], Data] | None,
) -> View:
    if sharing is not None:
        return sharing.view
    return View(cookie_header, credential, engine, client.engine, client.on_event, data, dumps, loads)


def _apply(step: Apply) -> Any:
    result = step.function(step.data)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise invalid("update: a coroutine function; use AsyncRequestSession")
    return result
