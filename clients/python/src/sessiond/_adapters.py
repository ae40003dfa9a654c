"""What the adapters of all frameworks do alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import SessionGoneError, SupersededError, UnavailableError, VersionMismatchError
from .session import AsyncRequestSession, RequestSession, SessionView
from .types import Credential

ExpectedError = UnavailableError | SupersededError | SessionGoneError | VersionMismatchError

EXPECTED_ERRORS = (UnavailableError, SupersededError, SessionGoneError, VersionMismatchError)
"""What happens in a healthy application. The adapters answer these by themselves; every
other error is a mistake or a fault, and reaches the framework as it is."""

ERROR_BODY = b"{}"
ERROR_TYPE = "application/json"


def error_status(error: ExpectedError) -> int:
    """The status of the answer. 409: the same request, with the cookie that the browser has
    by then, may succeed. 503: it may succeed later."""
    return 409 if isinstance(error, (SupersededError, SessionGoneError)) else 503


def error_headers(error: ExpectedError) -> dict[str, str]:
    """The header lines of the answer, without those of its body."""
    headers = {"Cache-Control": "no-store"}
    if error_status(error) == 503:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    return headers


def cache_control(present: str | None) -> str | None:
    """The Cache-Control of a response with a session cookie, which no shared cache may hand to
    others. None: what the application says is enough."""
    directives = {part.strip().partition("=")[0].lower() for part in (present or "").split(",")}
    return None if directives & {"no-store", "private"} else "no-store"


def same_cookie(line: str, value: str) -> bool:
    """Whether two values of Set-Cookie lines name the same cookie."""
    return line.partition("=")[0].strip() == value.partition("=")[0].strip()


class SessionDict(dict[str, Any]):
    """The session's data, as a dict that knows whether somebody looked at it.

    `clear()` ends the session: what is put in afterwards goes into a new one. To remove
    keys and keep the session, use `pop` or `del`."""

    # No __init__: made empty, and filled by the session that it belongs to.
    accessed: bool = False
    cleared: Credential | None = None
    """The credential of the session that `clear` was called on."""
    _session: SessionView | None = None

    def bind(self, session: SessionView) -> None:
        """Says whose data it is."""
        self._session = session

    def mark_accessed(self) -> None:
        """Called by `request.session` of newer Starlettes."""
        self.accessed = True

    def clear(self) -> None:
        self.accessed = True
        if self._session is not None:
            self.cleared = self._session.credential
        super().clear()

    def __getitem__(self, key: str) -> Any:
        self.accessed = True
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.accessed = True
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.accessed = True
        super().__delitem__(key)

    def __contains__(self, key: object) -> bool:
        self.accessed = True
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self.accessed = True
        return super().__iter__()

    def __len__(self) -> int:
        self.accessed = True
        return super().__len__()

    def get(self, key: str, default: Any = None) -> Any:
        self.accessed = True
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.accessed = True
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        self.accessed = True
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        self.accessed = True
        return super().setdefault(key, default)

    def update(self, *others: Any, **members: Any) -> None:
        self.accessed = True
        super().update(*others, **members)

    def __ior__(self, other: Any) -> SessionDict:  # type: ignore[override,misc]
        self.accessed = True
        super().update(other)
        return self

    def keys(self) -> Any:
        self.accessed = True
        return super().keys()

    def values(self) -> Any:
        self.accessed = True
        return super().values()

    def items(self) -> Any:
        self.accessed = True
        return super().items()

    def copy(self) -> dict[str, Any]:
        self.accessed = True
        return super().copy()


def _was_cleared(session: SessionView, cleared: Credential | None) -> bool:
    # Only if it is the same session still: after a login it goes on under another credential.
    return cleared is not None and session.live and session.credential is cleared


def finish(session: RequestSession, cleared: Credential | None, **options: Any) -> bool:
    """Saves at the end of a request. Returns what `save` returns."""
    if _was_cleared(session, cleared):
        data = dict(session.data)  # what was put in after clear()
        session.logout()
        session.data.update(data)
    return session.save(**options)


async def finish_async(session: AsyncRequestSession, cleared: Credential | None, **options: Any) -> bool:
    """Saves at the end of a request. Returns what `save` returns."""
    if _was_cleared(session, cleared):
        data = dict(session.data)
        await session.logout()
        session.data.update(data)
    return await session.save(**options)


def header_text(environ: Mapping[str, Any]) -> str | None:
    """The Cookie header of a WSGI request: one character for each octet."""
    header: str | None = environ.get("HTTP_COOKIE")
    return header or None
