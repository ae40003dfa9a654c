"""The operations of both clients, made of their arguments. What cannot be right is found here."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from . import _messages as messages
from ._json import encode_object, invalid_data
from ._operations import Operation
from ._options import invalid
from .types import CookieHeader, Credential, Duration, Scope, Token

PAGE = 1000
"""Sessions in a page: as many as the daemon gives at most."""


def nanoseconds(name: str, duration: Duration | None) -> int | None:
    """A length of time as the wire has it."""
    if duration is None:
        return None
    if isinstance(duration, timedelta):
        value = (duration.days * 86_400 + duration.seconds) * messages.NANOSECONDS + duration.microseconds * 1000
    elif isinstance(duration, int | float) and not isinstance(duration, bool) and math.isfinite(duration):
        value = round(duration * messages.NANOSECONDS)
    else:
        raise invalid(f"{name}: a timedelta or seconds")
    if not 0 < value < 10**9 * messages.NANOSECONDS:
        raise invalid(f"{name}: more than zero and at most 400 days")
    return value


_engine = functools.lru_cache(64)(messages.encode_engine)


def _credential(credential: Credential) -> bytes:
    if not isinstance(credential, CookieHeader | Token):
        raise invalid("credential: a CookieHeader or a Token")
    try:
        return messages.encode_credential(credential)
    except UnicodeEncodeError:
        raise invalid("credential: it cannot be encoded") from None


def _operation(name: str, engine: str, body: bytes, safe: bool) -> Operation:
    return Operation(name, engine, messages.encode_operation(name, body), safe=safe)


def resolve(engine: str, credential: Credential, create: bool, peek: bool) -> Operation:
    """A Resolve."""
    if not create and not peek and type(credential) is CookieHeader:
        short = messages.encode_resolve_header(_engine(engine), credential.octets)
        return Operation("resolve", engine, short, safe=True)
    body = messages.encode_resolve(_engine(engine), _credential(credential), peek, create)
    return _operation("resolve", engine, body, not create)


def touch(engine: str, credential: Credential, duration: Duration | None) -> Operation:
    """A Touch."""
    length = nanoseconds("duration", duration)
    body = messages.encode_touch(_engine(engine), _credential(credential), length)
    return _operation("touch", engine, body, True)


def write(
    engine: str,
    credential: Credential | None,
    *,
    set: Mapping[str, Any] | str | None,
    unset: Iterable[str],
    replace: bool,
    if_version: int | None,
    roll: bool,
    principal: str | None,
    duration: Duration | None,
    persistent: bool | None,
    label: str | None,
) -> Operation:
    """A Write."""
    if if_version is not None and not 0 < if_version < 1 << 64:
        raise invalid("if_version: at least 1")
    if isinstance(unset, str):
        raise invalid("unset: a list of keys, not one text")
    try:
        if set is None:
            data = b""
        elif isinstance(set, str):
            data = set.encode()
        else:
            data = encode_object(set)
    except UnicodeEncodeError:
        raise invalid_data("set: a text that is not Unicode (a lone surrogate)") from None
    try:
        body = messages.encode_write(
            _engine(engine),
            b"" if credential is None else _credential(credential),
            set=data,
            unset=unset,
            replace=replace,
            if_version=if_version,
            roll=roll,
            principal=principal,
            duration=nanoseconds("duration", duration),
            persistent=persistent,
            label=label,
        )
    except UnicodeEncodeError:
        raise invalid("unset, principal or label: a text that is not Unicode (a lone surrogate)") from None
    return _operation("write", engine, body, if_version is not None)


def destroy(
    engine: str, credential: Credential, scope: Scope, session_ids: Iterable[str] | None
) -> Operation | None:
    """A Destroy; None if there is nothing to end."""
    if isinstance(session_ids, str):
        raise invalid("session_ids: a list of ids, not one text")
    if scope not in messages.SCOPES:
        raise invalid("scope: this, others or all")
    ids = None if session_ids is None else list(session_ids)
    if ids is not None and not ids:
        return None  # an empty list on the wire would mean the scope, and end this session
    number = 0 if ids else messages.SCOPES[scope]
    body = messages.encode_destroy(_engine(engine), _credential(credential), number, ids or ())
    return _operation("destroy", engine, body, True)


def list_sessions(engine: str, credential: Credential, page_token: str) -> Operation:
    """A page of ListSessions."""
    body = messages.encode_list_sessions(_engine(engine), _credential(credential), PAGE, page_token)
    return Operation(
        "list_sessions", engine, body, safe=True, path="ListSessions", decode=messages.decode_list_sessions
    )


def describe() -> Operation:
    """A Describe. It waits for the connection, which begins with one."""
    return Operation("describe", "", b"", safe=True, path="Describe", decode=messages.decode_description)
