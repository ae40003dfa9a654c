"""What one request knows of its session, and what it does next. No input or output: each
step is a generator that yields what to ask and is sent the answer; `session.py` runs them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Generator, Iterable
from datetime import datetime
from typing import Any, NamedTuple, cast

from . import _json
from ._options import invalid
from .errors import SessionGoneError, SupersededError, UnavailableError, VersionMismatchError
from .types import (
    CookieHeader,
    Credential,
    Description,
    Destroyed,
    Device,
    DroppedChangeEvent,
    Duration,
    EventHook,
    Resolved,
    Scope,
    Session,
    SessionList,
    SessionState,
    Token,
    Touched,
    Written,
)

logger = logging.getLogger("sessiond")

ATTEMPTS = 20
"""How often `update` tries. Each attempt that fails means that another request succeeded."""

Data = dict[str, Any]


class Call(NamedTuple):
    """A call of the client."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Sleep(NamedTuple):
    """A pause, in seconds."""

    seconds: float


class Apply(NamedTuple):
    """A function of the application, to be called with its argument (and awaited)."""

    function: Callable[[Data], Any]
    data: Data


Steps = Generator[Call | Sleep | Apply, Any, Any]


def has_cookie(header: bytes, name: bytes) -> bool:
    """Whether a Cookie header has a cookie of this name, as the daemon reads it."""
    if name not in header:
        return False
    if header.startswith(name + b"="):
        return True
    return any(pair.partition(b"=")[0].strip(b" \t") == name for pair in header.split(b";") if b"=" in pair)


class View:
    """The state of a `RequestSession`, whichever form it has."""

    def __init__(
        self,
        cookie_header: bytes | str | None,
        credential: Credential | None,
        engine: str | None,
        default_engine: str,
        on_event: EventHook | None,
        data: Data | None,
        dumps: Callable[[Any], str] | None = None,
        loads: Callable[[str], Data] | None = None,
    ) -> None:
        """`data`: an empty dict to fill when the session is resolved, which the application holds
        already. It may be of a class that notes who looks at it, so it is read here as a plain
        dict. `dumps` and `loads`: see `_json.Serializer`."""
        if cookie_header is not None and credential is not None:
            raise invalid("cookie_header and credential: give one of them")
        self.header: CookieHeader | None = None
        if cookie_header is not None:
            credential = CookieHeader(cookie_header)
        if isinstance(credential, CookieHeader):
            self.header = credential if isinstance(credential.header, bytes) else CookieHeader(credential.octets)
        self.credential: Credential | None = self.header or credential
        self.loaded = False
        self.accessed = False
        self.state = SessionState.NONE
        self.session: Session | None = None
        self.created = False
        self.set_cookie: str | None = None
        self.token: str | None = None
        self._options: dict[str, Any] = {} if engine is None else {"engine": engine}
        self._engine_name = default_engine if engine is None else engine
        self._on_event = on_event
        self._data: Data = {} if data is None else data
        """The one dict of this request; it is changed in place and never replaced."""
        self._filled = data is not None
        """Whether it holds the data. If nobody looks, nothing is parsed."""
        self._json = ""
        """The data as the daemon has it, as far as this request knows."""
        self._exact = True
        """Whether `_json` is all of the data at `session.version`."""
        self._base: dict[str, str] | None = None
        self._snapshot: bytes | None = None
        """Of the data as `_json` has it, if that is known."""
        self._serializer = _json.PLAIN if dumps is None and loads is None else _json.Serializer(dumps, loads)
        self._for_creation: dict[str, Any] = {}
        """What was set before there was a session: `persistent`, `duration`."""

    # ------------------------------------------------------------ what is known

    @property
    def data(self) -> Data:
        """The application's dict."""
        self.accessed = True
        if not self._filled:
            self._fill()
        return self._data

    def _fill(self) -> None:
        self._filled = True
        Data.update(self._data, self._serializer.loads(self._json))
        self._snapshot = _json.snapshot(self._data)

    def replace_data(self, data: Data) -> None:
        """Other data in the same dict."""
        self.accessed = True
        self._filled = True
        members = dict(data)
        Data.clear(self._data)
        Data.update(self._data, members)

    @property
    def superseded(self) -> bool:
        """Whether the id is from before a login."""
        return self.state is SessionState.SUPERSEDED

    def _base_texts(self) -> dict[str, str]:
        if self._base is None:
            values = self._serializer.loads(self._json)
            self._base = {key: self._serializer.fingerprint(value) or "" for key, value in values.items()}
        return self._base

    def _untouched(self) -> bool:
        """Whether the data is as it was loaded. False: that is to be found out key by key."""
        if not self._filled:
            return True
        snapshot = self._snapshot
        return snapshot is not None and snapshot == _json.snapshot(self._data)

    def changes(self) -> tuple[dict[str, str], list[str]]:
        """What to set (as JSON text) and what to unset. Raises if something is not JSON."""
        return ({}, []) if self._untouched() else self._serializer.difference(self._base_texts(), self._data)

    @property
    def changed(self) -> bool:
        """Whether there is something to save. What cannot be saved counts, too."""
        if self._untouched():
            return False
        base = self._base_texts()
        members = Data.items(self._data)
        return Data.keys(self._data) != base.keys() or any(
            self._serializer.fingerprint(value) != base[key] for key, value in members
        )

    def expires(self) -> datetime | None:
        """When the session ends."""
        return None if self.session is None else self.session.expire_time

    # ------------------------------------------------------------ calls

    def _call(self, method: str, *arguments: Any, **options: Any) -> Call:
        return Call(method, arguments, self._options | options if self._options else options)

    def load(self) -> Steps:
        """Resolves, unless that is done or not needed."""
        if self.loaded:
            return
        if (yield from self._has_credential()):
            resolved: Resolved = yield self._call("resolve", self.credential)
            self._take(resolved)
        self.loaded = True

    def _has_credential(self) -> Steps:
        """Whether the request presents anything. A header without the engine's cookie does not."""
        header = self.header
        if header is None:
            return self.credential is not None
        if self.credential is not header:
            return True
        if not header.header:
            return False
        description: Description = yield Call("describe", (), {})
        engine = description.engine(self._engine_name)
        if engine is None:
            return True  # the daemon says what is wrong with it
        return has_cookie(header.octets, engine.cookie_name.encode())

    def _take(self, resolved: Resolved) -> None:
        self.state = resolved.state
        self.session = resolved.session
        self._set_json("" if resolved.session is None else resolved.session.data_json)
        self._cookies(resolved.set_cookie, resolved.token)

    def _set_json(self, text: str) -> None:
        """The data is this, and nothing is unsaved."""
        self._json = text
        self._base = None
        self._exact = True
        if self._filled:
            Data.clear(self._data)
            self._fill()

    def _cookies(self, set_cookie: tuple[str, ...], token: str | None = None) -> None:
        if set_cookie:
            self.set_cookie = set_cookie[-1]
        if token:
            self.token = token
            self.credential = Token(token)

    def _written(self, written: Written, *, created: bool = False) -> None:
        if created:
            self.created = True
            self.state = SessionState.CREATED
        before = self.session
        if before is None or before.version + 1 != written.session.version:
            self._exact = created  # another request wrote other keys
        self.session = written.session
        self._cookies(written.set_cookie, written.token)

    def _nobody(self, state: SessionState) -> None:
        self.state = state
        self.session = None
        self.loaded = True
        self._set_json("")

    # ------------------------------------------------------------ saving

    def save(self, create: bool, **given: Any) -> Steps:
        """See `RequestSession.save`."""
        options = {name: value for name, value in given.items() if value is not None and value is not False}
        for name in ("persistent", "principal"):
            if given[name] is not None:
                options[name] = given[name]
        session = self.session
        if session is not None and options.get("principal") == (session.principal or "") and not given["roll"]:
            del options["principal"]  # nothing new, and no reason for a Write
        members, unset = self.changes()
        if not (members or unset or options or create):
            return True
        if options or create:
            yield from self.load()
            session = self.session
        if self.superseded:
            raise superseded_error()
        if session is None:
            if members or create:
                options.pop("roll", None)
                yield from self._create(members, **options)
            return True
        if not (members or unset or options):
            return True
        text = _json.encode_members(members) if members else None
        try:
            written: Written = yield self._call("write", self.credential, set=text, unset=unset, **options)
        except SessionGoneError:
            yield from self._gone((*members, *unset))
            return False
        self._written(written)
        self._saved(members, unset)
        if session.principal and options.get("principal", session.principal) != session.principal:
            self._set_json(_json.encode_members(members))  # what was another user's is gone
        return True

    def _create(self, members: dict[str, str], **options: Any) -> Steps:
        text = _json.encode_members(members) if members else None
        written: Written = yield self._call("write", None, set=text, **{**self._for_creation, **options})
        self._written(written, created=True)
        self._saved(members, [])

    def _saved(self, members: dict[str, str], unset: Iterable[str]) -> None:
        base = self._base_texts()
        base.update(members)
        for key in unset:
            base.pop(key, None)
        self._json = _json.encode_members(base)
        self._snapshot = None

    def _gone(self, keys: Iterable[str]) -> Steps:
        """The session of a change is not live any more. To create another one would undo a
        logout, so the change is dropped, unless it was a login that came in between."""
        session = self.session
        resolved: Resolved = yield self._call("resolve", self.credential, peek=True)
        if resolved.state is SessionState.SUPERSEDED:
            self._nobody(resolved.state)
            raise superseded_error()
        id = "" if session is None else session.id
        dropped = tuple(keys)
        logger.warning("session %s ended during a request: its change of %d keys was dropped", id, len(dropped))
        if self._on_event is not None:
            try:
                self._on_event(DroppedChangeEvent(id, dropped))
            except Exception:
                logger.exception("the hook on_event failed")
        self._take(resolved)

    def update(self, change: Callable[[Data], Any]) -> Steps:
        """See `RequestSession.update`."""
        yield from self.load()
        for attempt in range(ATTEMPTS):
            if self.superseded:
                raise superseded_error()
            if self.session is not None and not self._exact:
                yield from self._refresh()
                continue
            base = self._base_texts()
            data = self._serializer.loads(self._json)
            returned = yield Apply(change, data)
            if returned is not None:
                if not isinstance(returned, dict):
                    raise invalid("update: the function returns a dict, or None")
                data = cast(Data, returned)
            members, unset = self._serializer.difference(base, data)
            if self.session is None:
                if members:
                    mine = self._unsaved()
                    yield from self._create(members)
                    self._merge(mine, {*members, *unset})
                return data
            if not members and not unset:
                return data
            text = _json.encode_members(members) if members else None
            version = self.session.version
            try:
                written: Written = yield self._call(
                    "write", self.credential, set=text, unset=unset, if_version=version
                )
            except VersionMismatchError as error:
                if error.applied == "unknown":
                    raise  # an attempt before may be the one that came first: to count it twice is wrong
                yield Sleep(random.uniform(0, 0.002) * min(attempt + 1, 10))
                yield from self._refresh()
                continue
            except SessionGoneError:
                yield from self._gone((*members, *unset))
                raise
            mine = self._unsaved()
            self._written(written)
            self._saved(members, unset)
            self._merge(mine, {*members, *unset})
            return data
        raise UnavailableError(
            f"{ATTEMPTS} parallel requests were faster",
            reason="VERSION_MISMATCH",
            code="ABORTED",
            retryable=True,
            retry_after=1.0,
        )

    def _unsaved(self) -> tuple[Data, list[str]]:
        """The request's own changes: values that are set, and keys that are not any more."""
        if self._untouched():
            return {}, []
        base = self._base_texts()
        data: Data = dict(Data.items(self._data))
        changed = {key: value for key, value in data.items() if self._serializer.fingerprint(value) != base.get(key)}
        return changed, [key for key in base if key not in data]

    def _merge(self, mine: tuple[Data, list[str]], written: set[str]) -> None:
        """The dict that the application holds becomes what is stored, and its own unsaved
        changes of other keys on top."""
        if not self._filled:
            return
        changed, removed = mine
        data = self._serializer.loads(self._json)
        data.update({key: value for key, value in changed.items() if key not in written})
        for key in removed:
            if key not in written:
                data.pop(key, None)
        Data.clear(self._data)
        Data.update(self._data, data)

    def _refresh(self) -> Steps:
        """Resolves again, and keeps the request's own unsaved changes."""
        mine = self._unsaved()
        resolved: Resolved = yield self._call("resolve", self.credential)
        was = self.session
        self._take(resolved)
        if resolved.session is None:
            if resolved.state is SessionState.SUPERSEDED:
                raise superseded_error()
            raise SessionGoneError(
                "the session ended during the request", reason="SESSION_GONE", code="NOT_FOUND"
            )
        if self.created and was is not None:
            self.state = SessionState.CREATED
        self._merge(mine, set())

    # ------------------------------------------------------------ login and logout

    def login(
        self, principal: str, persistent: bool | None, label: str | None, duration: Duration | None
    ) -> Steps:
        """See `RequestSession.login`."""
        if not principal:
            raise invalid("principal: empty; to end a session, use logout")
        yield from self.load()
        if self.superseded:
            raise superseded_error()
        options = {
            key: value
            for key, value in (("persistent", persistent), ("label", label), ("duration", duration))
            if value is not None
        }
        session = self.session
        another = session is not None and session.principal not in (None, principal)
        if another:
            self._set_json(self._json)  # what was changed for another user goes with his data
        members, unset = self.changes()
        if session is not None:
            text = _json.encode_members(members) if members else None
            try:
                written: Written = yield self._call(
                    "write", self.credential, set=text, unset=unset, principal=principal, roll=True, **options
                )
            except SessionGoneError:
                # Ended meanwhile, or rolled. A login does not undo a logout: it begins anew.
                yield from self._gone((*members, *unset))
                members = {}
            else:
                self._written(written)
                self._saved(members, unset)
                if another:
                    self._set_json("")
                return
        if self.session is not None:
            raise SessionGoneError("the session was replaced", reason="SESSION_GONE", code="NOT_FOUND")
        self._for_creation.update(options)
        yield from self._create(members, principal=principal)

    def logout(self, scope: Scope) -> Steps:
        """Destroy: THIS or ALL, with the deletion cookie. Returns how many sessions ended."""
        ended = 0
        cookie: str | None = None
        if (yield from self._has_credential()):
            made_here = self.created
            destroyed: Destroyed = yield self._call("destroy", self.credential, scope=scope)
            ended = destroyed.destroyed
            cookie = destroyed.set_cookie[-1] if destroyed.set_cookie else None
            if made_here:
                # The browser never got this session's cookie. It may have another, dead one.
                self.credential = self.header
                if not (yield from self._has_credential()):
                    cookie = None
        self._ended(cookie)
        return ended

    def _ended(self, cookie: str | None) -> None:
        self.set_cookie = cookie  # also instead of one that was to be set
        self.token = None
        self.credential = self.header
        self.created = False
        self._nobody(SessionState.NONE)

    def others(self) -> Steps:
        """Destroy OTHERS."""
        yield from self.load()
        if self.superseded:
            raise superseded_error()
        if self.session is None:
            return 0
        destroyed: Destroyed = yield self._call("destroy", self.credential, scope="others")
        return destroyed.destroyed

    def end(self, ids: Iterable[str]) -> Steps:
        """See `RequestSession.end`."""
        chosen = list(ids)
        yield from self.load()
        if self.superseded:
            raise superseded_error()
        session = self.session
        if session is None or not chosen:
            return 0
        destroyed: Destroyed = yield self._call("destroy", self.credential, session_ids=chosen)
        if session.id in chosen:
            cookie = destroyed.set_cookie[-1] if destroyed.set_cookie else None
            if cookie is None:
                yield from self.logout("this")
            else:
                self._ended(cookie)
        return destroyed.destroyed

    def devices(self) -> Steps:
        """See `RequestSession.devices`."""
        yield from self.load()
        if self.session is None:
            return []
        found: SessionList = yield self._call("list_sessions", self.credential)
        return [
            Device(
                session.id,
                session.id == found.current_session_id,
                session.label,
                session.create_time,
                session.last_use_time,
                session.expire_time,
            )
            for session in found.sessions
        ]

    # ------------------------------------------------------------ the session itself

    def write(self, **options: Any) -> Steps:
        """A Write that changes no data. Returns False if there is no session."""
        yield from self.load()
        if self.superseded:
            raise superseded_error()
        if self.session is None:
            return False
        try:
            written: Written = yield self._call("write", self.credential, **options)
        except SessionGoneError:
            members, unset = self.changes()
            yield from self._gone((*members, *unset))
            return False
        self._written(written)
        return True

    def persistent(self, persistent: bool) -> Steps:
        """See `RequestSession.set_persistent`."""
        self._for_creation["persistent"] = persistent
        return (yield from self.write(persistent=persistent))

    def touch(self, duration: Duration | None) -> Steps:
        """See `RequestSession.touch`."""
        yield from self.load()
        if self.session is None:
            if duration is not None:
                self._for_creation["duration"] = duration
            return False
        touched: Touched = yield self._call("touch", self.credential, duration=duration)
        if touched.session is None:
            self._nobody(touched.state)
            return False
        if touched.session.version != self.session.version:
            self._exact = False  # another request wrote meanwhile
        self.session = touched.session
        self._cookies(touched.set_cookie)
        return True

    def reload(self) -> Steps:
        """See `RequestSession.reload`."""
        self.loaded = False
        self._set_json("")
        self.session = None
        self.state = SessionState.NONE
        yield from self.load()
        if self.created and self.session is not None:
            self.state = SessionState.CREATED


def superseded_error() -> SupersededError:
    """A change with an id from before a login."""
    return SupersededError(
        "the session's id was replaced by a login; the browser has a newer one",
        reason="SESSION_SUPERSEDED",
        code="FAILED_PRECONDITION",
    )
