"""Django's session store on a daemon."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any, TypeVar

from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.utils import timezone
from django.utils.asyncio import async_unsafe

from ..errors import SessiondError, SupersededError
from ..session import AsyncRequestSession, RequestSession
from ..types import CookieHeader, Credential, Token
from . import _clients

AUTH_KEY = "_auth_user_id"
EXPIRY_KEY = "_session_expiry"

T = TypeVar("T")
# Each thing to do is written once, as a generator of what to ask. A question is a function of the
# store's two sides, which asks the blocking one at once, or the asyncio one with an await.
Ask = Callable[[Any], Any]
Steps = Generator[Ask, Any, T]

_MISSING = object()


class SupersededUpdateError(UpdateError, SupersededError):
    """A change with an id from before a login, for code that expects Django's `UpdateError`."""


class _Side:
    """What a question is asked of: a session and a client, both blocking or both asyncio."""

    def __init__(self, session: Any, client: Any) -> None:
        self.session = session
        self.client = client


class SessionStore(SessionBase):
    """`request.session`. It is resolved at its first use.

    The key of a session is its token. A save writes the top-level keys that changed, deep changes
    too, so that parallel requests lose nothing of each other's. At a login by
    `django.contrib.auth` the session becomes that of the user: the daemon's principal is the
    user's primary key.

    Data must be JSON: `SESSION_SERIALIZER` is not used to store it."""

    _request_session: RequestSession

    def __init__(self, session_key: str | None = None, *, cookie_header: str | None = None) -> None:
        """`cookie_header`: of a request, instead of a key: the daemon finds its cookie there."""
        self._data: dict[str, Any] = {}
        self._header = CookieHeader(cookie_header) if cookie_header else None
        self._async_session: AsyncRequestSession | None = None
        self._roll_of: Credential | None = None
        """The credential that `cycle_key` was called on: the next save rolls it."""
        self._emptied = False
        """Whether it was cleared before it was resolved."""
        self._deleted_key: str | None = None
        self._was_user = False
        self._was_expiry: Any = None
        self.failure: SessiondError | None = None
        """The last error of the daemon, for the middleware."""
        super().__init__(session_key)  # it sets the key, which opens the session
        self._header = None

    def _open(self, credential: Credential | None) -> RequestSession:
        return RequestSession(_clients.client(), credential=credential, data=self._data)

    # ------------------------------------------------------------ both sides

    @property
    def request_session(self) -> RequestSession:
        """What `get_session` returns, whatever is known of it."""
        return self._request_session

    @property
    def async_request_session(self) -> AsyncRequestSession:
        """What `aget_session` returns."""
        session = self._async_session
        if session is None or session.view is not self._request_session.view:
            session = AsyncRequestSession(_clients.async_client(), sharing=self._request_session)
            self._async_session = session
        return session

    @async_unsafe("sessiond: this would block the event loop. Use the async methods of the session, such as aget().")
    def _run(self, steps: Steps[T]) -> T:
        try:
            ask = next(steps)
            while True:
                try:
                    result = ask(_Side(self._request_session, _clients.client()))
                except Exception as error:
                    ask = steps.throw(self._noted(error))
                else:
                    ask = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _arun(self, steps: Steps[T]) -> T:
        try:
            ask = next(steps)
            while True:
                try:
                    result = await ask(_Side(self.async_request_session, _clients.async_client()))
                except Exception as error:
                    ask = steps.throw(self._noted(error))
                else:
                    ask = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    def _noted(self, error: Exception) -> Exception:
        if isinstance(error, SupersededError):
            error = SupersededUpdateError(
                "the session's id was replaced by a login; the browser has a newer one",
                reason=error.reason,
                code=error.code,
            )
        if isinstance(error, SessiondError):
            self.failure = error
        return error

    # ------------------------------------------------------------ the key

    def _get_session_key(self) -> str | None:
        if self._deleted_key is not None:
            return self._deleted_key
        session = self._request_session
        view = session.view
        if self._rolls():
            self._run(self._save_steps())
        credential = view.credential
        if isinstance(credential, Token) and not view.loaded:
            return credential.token
        if credential is None:
            return None
        if not view.loaded:
            self._run(self._fill_steps())
        if view.session is None:
            return None
        if isinstance(view.credential, Token):
            return view.credential.token
        return _token_in(credential, view.session.id)

    def _set_session_key(self, value: str | None) -> None:
        if not _is_key(value):
            value = None
        if value is not None:
            self._data = {}
            self.__dict__.pop("_session_cache", None)
        self._deleted_key = self._roll_of = None
        self._request_session = self._open(self._header if value is None else Token(value))

    session_key = property(_get_session_key)  # pyright: ignore[reportIncompatibleMethodOverride]
    _session_key = property(_get_session_key, _set_session_key)  # pyright: ignore[reportIncompatibleMethodOverride]

    # ------------------------------------------------------------ loading

    def _fill_steps(self) -> Steps[None]:
        """The data is at hand from now on."""
        view = self._request_session.view
        if not view.loaded:
            mine = dict(self._data) if self._emptied else None
            yield lambda side: side.session.load()
            self._remember()
            if view.session is not None and _is_over(self._data.get(EXPIRY_KEY)):
                # A fixed end is Django's; the daemon has moved its deadline meanwhile.
                yield lambda side: side.session.logout()
                self._remember()
            if mine is not None:
                self._data.clear()
                self._data.update(mine)
                self._emptied = False
        self._session_cache = self._data

    def _remember(self) -> None:
        self._was_user = AUTH_KEY in self._data
        self._was_expiry = self._data.get(EXPIRY_KEY)

    def _get_session(self, no_load: bool = False) -> dict[str, Any]:
        self.accessed = True
        if "_session_cache" not in self.__dict__:
            self._run(self._fill_steps())
        return self._session_cache

    async def _aget_session(self, no_load: bool = False) -> dict[str, Any]:
        self.accessed = True
        if "_session_cache" not in self.__dict__:
            await self._arun(self._fill_steps())
        return self._session_cache

    _session = property(_get_session)

    def _load_steps(self) -> Steps[dict[str, Any]]:
        credential = self._request_session.view.credential
        if credential is not None:
            resolved = yield lambda side: side.client.resolve(credential)
            if resolved.session is not None:
                data: dict[str, Any] = resolved.session.data
                if not _is_over(data.get(EXPIRY_KEY)):
                    return data
        self._session_key = None
        return {}

    def load(self) -> dict[str, Any]:
        """The data as the daemon has it now."""
        return self._run(self._load_steps())

    async def aload(self) -> dict[str, Any]:
        """See `load`."""
        return await self._arun(self._load_steps())

    def _exists_steps(self, session_key: str | None) -> Steps[bool]:
        if self._rolls():
            yield from self._save_steps()
        if not session_key:
            return False
        resolved = yield lambda side: side.client.resolve(Token(session_key), peek=True)
        return resolved.session is not None

    def exists(self, session_key: str | None) -> bool:
        """Whether there is a live session with this key."""
        return self._run(self._exists_steps(session_key))

    async def aexists(self, session_key: str | None) -> bool:
        """See `exists`."""
        return await self._arun(self._exists_steps(session_key))

    # ------------------------------------------------------------ saving

    def _rolls(self) -> bool:
        if self._roll_of is None:
            return False
        view = self._request_session.view
        return view.session is not None and view.credential is self._roll_of

    def _options_steps(self) -> Steps[dict[str, Any]]:
        """What goes along with the data: the user, and the expiry if it was set."""
        options: dict[str, Any] = {}
        if AUTH_KEY in self._data:
            options["principal"] = str(self._data[AUTH_KEY])
        elif self._was_user:
            options["principal"] = ""
        expiry = self._data.get(EXPIRY_KEY)
        if expiry != self._was_expiry:
            if expiry:
                options["duration"] = max(self.get_expiry_age(expiry=expiry), 0.001)
                options["persistent"] = True
            elif expiry == 0:
                options["persistent"] = False
            if not expiry:
                description = yield lambda side: side.client.describe()
                engine = description.engine(_clients.client().engine)
                if engine is not None:
                    options["duration"] = engine.duration
                    options.setdefault("persistent", engine.persistent)
        return options

    def _create_steps(self) -> Steps[None]:
        old = self._request_session
        if old.view.credential is not None and not old.view.loaded:
            yield from self._fill_steps()
        if old.view.superseded:
            raise self._noted(_superseded())
        if "_session_cache" not in self.__dict__:
            self._session_cache = self._data
        if old.view.session is not None or self._deleted_key is not None:
            self._session_key = None  # pyright: ignore
        options = yield from self._options_steps()
        yield lambda side: side.session.save(create=True, **options)
        self._remember()
        self.modified = True

    def create(self) -> None:
        """A new session, with the data at hand."""
        self._run(self._create_steps())

    async def acreate(self) -> None:
        """See `create`."""
        await self._arun(self._create_steps())

    def _save_steps(self, must_create: bool = False) -> Steps[None]:
        if self._deleted_key is not None and not must_create:
            raise UpdateError
        yield from self._fill_steps()
        if must_create or self._request_session.view.session is None:
            yield from self._create_steps()
            return
        options = yield from self._options_steps()
        rolls = self._rolls()
        saved = yield lambda side: side.session.save(roll=rolls, **options)
        self._roll_of = None
        if not saved:
            raise UpdateError
        self._remember()

    def save(self, must_create: bool = False) -> None:
        """Writes what changed. Creates a session if there is none, or `must_create` is set.
        Raises `UpdateError` if the session has ended, so that no logout is undone."""
        self._run(self._save_steps(must_create))

    async def asave(self, must_create: bool = False) -> None:
        """See `save`."""
        await self._arun(self._save_steps(must_create))

    def _finish_steps(self) -> Steps[None]:
        view = self._request_session.view
        if view.session is None and not self._data and not self._emptied and self._deleted_key is None:
            return  # flushed, or never filled
        yield from self._save_steps()

    def _is_due(self) -> bool:
        return self.modified or self._rolls() or self._request_session.view.changed

    def finish(self) -> None:
        """For the middleware: saves at the end of a request, if there is something to save."""
        if self._is_due():
            self._run(self._finish_steps())

    async def afinish(self) -> None:
        """See `finish`."""
        if self._is_due():
            await self._arun(self._finish_steps())

    def open(self) -> RequestSession:
        """For `get_session`: what is known of the session is at hand from now on."""
        self._get_session()
        return self._request_session

    async def aopen(self) -> AsyncRequestSession:
        """See `open`."""
        await self._aget_session()
        return self.async_request_session

    # ------------------------------------------------------------ login and logout

    def _cycle_steps(self) -> Steps[None]:
        yield from self._fill_steps()
        self.accessed = True
        view = self._request_session.view
        if view.session is None:
            yield from self._create_steps()
            return
        self._roll_of = view.credential
        self.modified = True

    def cycle_key(self) -> None:
        """A new key for the same session. It is made by the next save, together with what else
        there is to write, or when the key is asked for."""
        self._run(self._cycle_steps())

    async def acycle_key(self) -> None:
        """See `cycle_key`."""
        await self._arun(self._cycle_steps())

    def clear(self) -> None:
        """Removes all data and keeps the session; `flush` ends it."""
        view = self._request_session.view
        self._emptied = view.credential is not None and not view.loaded
        self._data.clear()
        self._session_cache = self._data
        self.accessed = True
        self.modified = True

    def _flush_steps(self) -> Steps[None]:
        self._emptied = False
        self._roll_of = self._deleted_key = None
        yield lambda side: side.session.logout()
        self._data.clear()
        self._session_cache = self._data
        self._remember()
        self.accessed = True
        self.modified = True

    def flush(self) -> None:
        """Ends the session and deletes the cookie."""
        self._run(self._flush_steps())

    async def aflush(self) -> None:
        """See `flush`."""
        await self._arun(self._flush_steps())

    def _delete_steps(self, session_key: str | None) -> Steps[None]:
        view = self._request_session.view
        own = view.credential
        if session_key is None or (isinstance(own, Token) and own.token == session_key):
            if own is None or (view.loaded and view.session is None):
                return
            key = own.token if isinstance(own, Token) else None
            if key is None and view.session is not None:
                key = _token_in(own, view.session.id)
            data = dict(self._data)
            yield lambda side: side.session.logout()
            self._data.update(data)
            self._deleted_key = key
        elif _is_key(session_key):
            yield lambda side: side.client.destroy(Token(session_key))

    def delete(self, session_key: str | None = None) -> None:
        """Ends the session of this key; None: this session."""
        self._run(self._delete_steps(session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """See `delete`."""
        await self._arun(self._delete_steps(session_key))

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing to do: the daemon removes what has expired."""

    @classmethod
    async def aclear_expired(cls) -> None:
        """Nothing to do: the daemon removes what has expired."""


def _is_key(value: str | None) -> bool:
    """Django's rule: a key of less than 8 characters is none."""
    return value is not None and len(value) >= 8


def _is_over(expiry: Any) -> bool:
    """Whether the value of set_expiry is an end in the past."""
    if isinstance(expiry, str):
        try:
            end = datetime.fromisoformat(expiry)
        except ValueError:
            return False
        now = timezone.now()
        if timezone.is_aware(now) != timezone.is_aware(end):
            now = timezone.make_naive(now) if timezone.is_aware(now) else timezone.make_aware(now)
        return end <= now
    return isinstance(expiry, (int, float)) and expiry < 0


def _token_in(credential: Credential, id: str) -> str | None:
    """The token of a session that was found by a Cookie header: it begins with the public id."""
    if isinstance(credential, Token):
        return credential.token
    for pair in credential.octets.decode("latin-1").split(";"):
        value = pair.partition("=")[2].strip(' \t"').removeprefix("s%3A").removeprefix("s:")
        if value.startswith(id) and len(value) > len(id):
            return value
    return None


def _superseded() -> SupersededError:
    return SupersededError("", reason="SESSION_SUPERSEDED", code="FAILED_PRECONDITION")
