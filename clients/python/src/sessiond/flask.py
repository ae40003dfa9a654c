"""Sessions for Flask.

    from flask import Flask, session
    from sessiond.flask import Sessiond, current_session

    app = Flask(__name__)
    Sessiond(app, "127.0.0.1:50051")

`flask.session` behaves as with Flask's own sessions. `current_session` is the same session
with all that it can do: `update`, `login`, `logout`, `devices` and the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from flask import Flask, Request, Response, has_request_context
from flask import session as flask_session
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.local import LocalProxy

from ._adapters import (
    ERROR_BODY,
    ERROR_TYPE,
    EXPECTED_ERRORS,
    ExpectedError,
    cache_control,
    error_headers,
    error_status,
    finish,
    header_text,
    same_cookie,
)
from .client import Client
from .protocols import SessionClient
from .session import RequestSession
from .types import Credential

__all__ = ["Session", "Sessiond", "current_session"]

_TAGS = TaggedJSONSerializer()


class Session(SessionMixin):
    """What `flask.session` is. It is resolved at the first use.

    Changes inside a value are found by themselves, so `modified` need not be set.
    `clear()` ends the session: what is put in afterwards goes into a new one."""

    def __init__(self, request_session: RequestSession) -> None:
        self.request_session = request_session
        """What `current_session` is."""
        self.cleared: Credential | None = None
        self.permanent_wanted: bool | None = None

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether this request has created the session."""
        return self.request_session.is_new

    @property
    def modified(self) -> bool:
        """Whether there is something to save."""
        return self.request_session.changed

    @modified.setter
    def modified(self, value: bool) -> None:
        pass  # what has changed is found out

    @property
    def accessed(self) -> bool:
        """Whether the request has looked at the session."""
        return self.request_session.accessed

    @accessed.setter
    def accessed(self, value: bool) -> None:
        pass  # Flask sets it whenever `session` is named, also if nothing is read

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser. For how long is up to the daemon's engine."""
        if self.permanent_wanted is not None:
            return self.permanent_wanted
        return bool(self.get("_permanent", False))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        if bool(self.get("_permanent", None)) is not bool(value) or "_permanent" not in self:
            self.permanent_wanted = bool(value)
            self["_permanent"] = bool(value)

    def clear(self) -> None:
        """Ends the session. See the class."""
        self.cleared = self.request_session.credential if self.request_session.live else None
        self.request_session.data.clear()

    def __getitem__(self, key: str) -> Any:
        return self.request_session.data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.request_session.data[key] = value

    def __delitem__(self, key: str) -> None:
        del self.request_session.data[key]

    def get(self, key: str, default: Any = None) -> Any:
        # The mapping's own way costs an exception for each key that is not there.
        return self.request_session.data.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self.request_session.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.request_session.data)

    def __len__(self) -> int:
        return len(self.request_session.data)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request_session!r}>"


class SessiondInterface(SessionInterface):
    """Flask's way to the sessions of a daemon."""

    def __init__(
        self, client: SessionClient, engine: str | None = None, tags: TaggedJSONSerializer | None = None
    ) -> None:
        self.client = client
        self.engine = engine
        self.tags = tags

    def _dumps(self, value: Any) -> str:
        assert self.tags is not None
        return json.dumps(self.tags.tag(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def _loads(self, text: str) -> dict[str, Any]:
        assert self.tags is not None
        # The keys of all tags begin with a space. Mostly there are none.
        data: dict[str, Any] = self.tags.loads(text) if '{" ' in text else json.loads(text or "{}")
        return data

    def open_session(self, app: Flask, request: Request) -> Session:
        """A session that asks the daemon at its first use."""
        tagged: dict[str, Any] = {} if self.tags is None else {"dumps": self._dumps, "loads": self._loads}
        return Session(RequestSession(self.client, header_text(request.environ), engine=self.engine, **tagged))

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Saves what changed, and sets the cookie. If that is not possible, the response becomes
        the answer to the error."""
        assert isinstance(session, Session)
        request_session = session.request_session
        if not request_session.accessed and request_session.set_cookie is None:
            return
        try:
            finish(request_session, session.cleared, persistent=session.permanent_wanted)
        except EXPECTED_ERRORS as error:
            _become(response, error)
        response.vary.add("Cookie")
        cookie = request_session.set_cookie
        if cookie is not None:
            lines = response.headers.getlist("Set-Cookie")
            response.headers.setlist("Set-Cookie", [line for line in lines if not same_cookie(line, cookie)])
            response.headers.add("Set-Cookie", cookie)
            needed = cache_control(response.headers.get("Cache-Control"))
            if needed is not None:
                response.headers["Cache-Control"] = needed


class Sessiond:
    """The Flask extension.

    It answers by itself if the daemon or its store is away (503 with Retry-After), and if a
    request changes a session that a login or logout has replaced meanwhile (409). Register
    error handlers of your own, after this, for `UnavailableError`, `SupersededError` and the
    others to answer otherwise where they are raised in a view."""

    def __init__(
        self,
        app: Flask | None = None,
        client: SessionClient | str | None = None,
        *,
        engine: str | None = None,
        tags: TaggedJSONSerializer | None = _TAGS,
    ) -> None:
        """`client`: a `Client`, or the daemon's address; None for the address in
        `app.config["SESSIOND"]`. `engine`: None for the client's. `tags`: how values that JSON does
        not have are stored, such as a datetime or a tuple. As in Flask's own sessions by default;
        None: they are refused."""
        self._client = client
        self._engine = engine
        self._tags = tags
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Makes the sessions of `app` those of the daemon."""
        client = self._client
        if client is None:
            client = cast("SessionClient | str", app.config["SESSIOND"])
        if isinstance(client, str):
            client = Client(client)
        app.session_interface = SessiondInterface(client, self._engine, self._tags)
        app.extensions["sessiond"] = client
        for kind in EXPECTED_ERRORS:
            app.register_error_handler(kind, _answer)


def _answer(error: Exception) -> Response:
    response = Response()
    _become(response, cast(ExpectedError, error))
    return response


def _become(response: Response, error: ExpectedError) -> None:
    response.status_code = error_status(error)
    response.headers.clear()
    response.headers["Content-Type"] = ERROR_TYPE
    response.headers.update(error_headers(error))
    response.set_data(ERROR_BODY)


def _current() -> RequestSession:
    if not has_request_context():
        raise RuntimeError("current_session is used outside of a request")
    session = cast(Any, flask_session)._get_current_object()
    if not isinstance(session, Session):
        raise RuntimeError("Sessiond is not installed: Sessiond(app, ADDRESS)")
    return session.request_session


current_session = cast(RequestSession, LocalProxy(_current))
"""The `RequestSession` of the request."""
