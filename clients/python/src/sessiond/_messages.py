"""The messages of `proto/sessiond/v1`, encoded and decoded by hand.

A generated codec costs several times as much per message. `tests/test_messages.py` holds
this one to the generated one over random messages. Unknown fields are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from .types import (
    CookieHeader,
    Credential,
    Description,
    Destroyed,
    Engine,
    Limits,
    Resolved,
    Session,
    SessionList,
    SessionState,
    Touched,
    Written,
)

NANOSECONDS = 1_000_000_000


class MalformedMessageError(Exception):
    """Octets that are no message of the expected type."""


class Status(NamedTuple):
    """google.rpc.Status, with the details that sessiond sends."""

    code: int
    message: str = ""
    reason: str = ""
    applied: str = ""
    retry_after: float | None = None
    fields: tuple[tuple[str, str], ...] = ()
    """Of BadRequest: name and description of each field at fault."""


Answer = Resolved | Touched | Written | Destroyed | Status

# ---------------------------------------------------------------- encoding


def varint(value: int) -> bytes:
    """A base-128 varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT = 2048
_VARINTS = tuple(varint(value) for value in range(_SHORT))
"""Of all lengths that are usual."""


def _bytes(tag: bytes, value: bytes) -> bytes:
    length = len(value)
    return tag + (_VARINTS[length] if length < _SHORT else varint(length)) + value


def _text(tag: bytes, value: str) -> bytes:
    return _bytes(tag, value.encode())


def encode_duration(nanoseconds: int) -> bytes:
    """google.protobuf.Duration of a length of at least 0."""
    seconds, nanos = divmod(nanoseconds, NANOSECONDS)
    out = b"\x08" + varint(seconds) if seconds else b""
    return out + b"\x10" + varint(nanos) if nanos else out


def encode_credential(credential: Credential) -> bytes:
    """Field 2 of every request, with its tag. Both kinds are octets on the wire."""
    if isinstance(credential, CookieHeader):
        inner = _bytes(b"\x0a", credential.octets)
    else:
        inner = _text(b"\x12", credential.token)
    return _bytes(b"\x12", inner)


def encode_resolve(engine: bytes, credential: bytes, peek: bool, create: bool) -> bytes:
    """`engine` is field 1 as `encode_engine` makes it, `credential` field 2."""
    out = engine + credential
    if peek:
        out += b"\x18\x01"
    if create:
        out += b"\x20\x01"
    return out


def encode_engine(name: str) -> bytes:
    """Field 1 of every request, with its tag."""
    return _text(b"\x0a", name) if name else b""


def encode_touch(engine: bytes, credential: bytes, duration: int | None) -> bytes:
    """`duration` in nanoseconds."""
    out = engine + credential
    return out if duration is None else out + _bytes(b"\x1a", encode_duration(duration))


def encode_write(
    engine: bytes,
    credential: bytes,
    *,
    set: bytes = b"",
    unset: Iterable[str] = (),
    replace: bool = False,
    if_version: int | None = None,
    roll: bool = False,
    principal: str | None = None,
    duration: int | None = None,
    persistent: bool | None = None,
    label: str | None = None,
) -> bytes:
    """`set` is JSON text; `duration` in nanoseconds."""
    parts = [engine, credential]
    if set:
        parts.append(_bytes(b"\x1a", set))
    for key in unset:
        parts.append(_text(b"\x22", key))
    if replace:
        parts.append(b"\x28\x01")
    if if_version is not None:
        parts.append(b"\x30" + varint(if_version))
    if roll:
        parts.append(b"\x38\x01")
    if principal is not None:
        parts.append(_text(b"\x42", principal))
    if duration is not None:
        parts.append(_bytes(b"\x4a", encode_duration(duration)))
    if persistent is not None:
        parts.append(b"\x50\x01" if persistent else b"\x50\x00")
    if label is not None:
        parts.append(_text(b"\x5a", label))
    return b"".join(parts)


SCOPES = {"this": 1, "others": 2, "all": 3}


def encode_destroy(engine: bytes, credential: bytes, scope: int, session_ids: Iterable[str] = ()) -> bytes:
    """`scope` as in DestroyScope."""
    out = engine + credential
    if scope:
        out += b"\x18" + varint(scope)
    return out + b"".join(_text(b"\x22", id) for id in session_ids)


def encode_list_sessions(engine: bytes, credential: bytes, page_size: int, page_token: str) -> bytes:
    """SessionServiceListSessionsRequest."""
    out = engine + credential
    if page_size:
        out += b"\x18" + varint(page_size)
    return out + _text(b"\x22", page_token) if page_token else out


OPERATION_TAGS = {"resolve": b"\x12", "touch": b"\x1a", "write": b"\x22", "destroy": b"\x2a"}


def encode_operation(name: str, body: bytes) -> bytes:
    """The operation of a PipelineRequest: everything but its sequence and timeout."""
    return _bytes(OPERATION_TAGS[name], body)


def encode_timeout(nanoseconds: int) -> bytes:
    """Field 6 of a PipelineRequest."""
    return _bytes(b"\x32", encode_duration(max(nanoseconds, 1)))


def frame(message: bytes) -> bytes:
    """A message with gRPC's prefix: not compressed, and its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def frame_request(sequence: int, operation: bytes, timeout: bytes) -> bytes:
    """A PipelineRequest with gRPC's prefix."""
    head = b"\x08" + varint(sequence)
    length = len(head) + len(operation) + len(timeout)
    return b"".join((b"\0", length.to_bytes(4, "big"), head, operation, timeout))


# ---------------------------------------------------------------- decoding


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at an offset, and where it ends."""
    value = shift = 0
    while True:
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise MalformedMessageError("a varint is longer than 10 bytes")


def _fields(data: bytes) -> list[tuple[int, Any]]:
    """All fields of a message: the key (number and wire type, as on the wire) and the value,
    an int or bytes as the wire type says. So a key that matches vouches for its value's type.

    Groups, which proto3 does not have, are refused; so is what is cut off."""
    fields: list[tuple[int, Any]] = []
    at = 0
    end = len(data)
    try:
        while at < end:
            key = data[at]
            at += 1
            if key >= 0x80:
                key, at = _varint(data, at - 1)
            kind = key & 7
            if kind == 2:
                length = data[at]
                at += 1
                if length >= 0x80:
                    more = data[at]
                    if more < 0x80:  # two octets: most of what is longer than 127
                        length += (more - 1) << 7
                        at += 1
                    else:
                        length, at = _varint(data, at - 1)
                stop = at + length
                if stop > end:
                    raise MalformedMessageError("a field is cut off")
                fields.append((key, data[at:stop]))
                at = stop
            elif kind == 0:
                value = data[at]
                at += 1
                if value >= 0x80:
                    value, at = _varint(data, at - 1)
                fields.append((key, value))
            elif kind == 5 or kind == 1:
                at += 4 if kind == 5 else 8
                if at > end:
                    raise MalformedMessageError("a field is cut off")
            else:
                raise MalformedMessageError(f"wire type {kind}")
            if key < 8:
                raise MalformedMessageError("field number 0")
    except IndexError:
        raise MalformedMessageError("a message is cut off") from None
    return fields


def _string(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedMessageError("a text is not UTF-8") from None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def decode_nanoseconds(data: bytes) -> int:
    """google.protobuf.Timestamp and Duration: seconds and nanos, both signed."""
    total = 0
    for key, value in _fields(data):
        if key == 0x08:
            total += _signed(value) * NANOSECONDS
        elif key == 0x10:
            total += _signed(value)
    return total


_STATES = {
    1: SessionState.ACTIVE,
    2: SessionState.CREATED,
    3: SessionState.NONE,
    4: SessionState.INVALID,
    5: SessionState.NOT_FOUND,
    6: SessionState.EXPIRED,
    7: SessionState.SUPERSEDED,
}


def _state(value: int) -> SessionState:
    state = _STATES.get(value)
    if state is None:
        # A later daemon may know more states. To guess would mean to take somebody for nobody.
        raise MalformedMessageError("a state that this client does not know; update the client")
    return state


def decode_session(data: bytes) -> Session:
    """Session. Its times stay as they are until somebody asks for them."""
    session = Session("")
    at = 0
    end = len(data)
    try:
        while at < end:
            key = data[at]
            if key & 7 != 2 or key >= 0x80:  # the version, or a field of a later daemon
                if key != 0x18 or data[at + 1] >= 0x80:
                    return _decode_session(data)
                session.version = data[at + 1]
                at += 2
                continue
            length = data[at + 1]
            at += 2
            if length >= 0x80:
                length, at = _varint(data, at - 1)
            stop = at + length
            value = data[at:stop]
            at = stop
            if key == 0x12:
                session.data_json = value.decode()
            elif key == 0x0A:
                session.id = value.decode()
            elif key == 0x2A:
                session.create = value
            elif key == 0x32:
                session.expire = value
            elif key == 0x3A:
                session.idle = value
            elif key == 0x42:
                session.last_use = value
            elif key == 0x22:
                session.principal = value.decode() or None
            elif key == 0x4A:
                session.label = value.decode()
            elif key < 8:
                return _decode_session(data)
    except UnicodeDecodeError:
        raise MalformedMessageError("a text is not UTF-8") from None
    except IndexError:
        raise MalformedMessageError("a message is cut off") from None
    if at != end:
        raise MalformedMessageError("a field is cut off")
    return session


def _decode_session(data: bytes) -> Session:
    """The same for a message with anything unusual in it."""
    session = Session("")
    for key, value in _fields(data):
        if key == 0x18:
            session.version = value
        elif key in _SESSION_TIMES:
            setattr(session, _SESSION_TIMES[key], value)
        elif key in _SESSION_TEXTS:
            setattr(session, _SESSION_TEXTS[key], _string(value))
    session.principal = session.principal or None
    return session


_SESSION_TEXTS = {0x0A: "id", 0x12: "data_json", 0x22: "principal", 0x4A: "label"}
_SESSION_TIMES = {0x2A: "create", 0x32: "expire", 0x3A: "idle", 0x42: "last_use"}


def decode_resolve(data: bytes) -> Resolved:
    """ResolveResponse."""
    state = None
    answer = Resolved(SessionState.NONE)
    for key, value in _fields(data):
        if key == 0x08:
            state = answer.state = _state(value)
        elif key == 0x12:
            answer.session = decode_session(value)
        elif key == 0x1A:
            answer.set_cookie += (_string(value),)
        elif key == 0x22:
            answer.token = _string(value) or None
    _check(state, answer.session)
    return answer


def decode_touch(data: bytes) -> Touched:
    """TouchResponse."""
    state = None
    answer = Touched(SessionState.NONE)
    for key, value in _fields(data):
        if key == 0x08:
            state = answer.state = _state(value)
        elif key == 0x12:
            answer.session = decode_session(value)
        elif key == 0x1A:
            answer.set_cookie += (_string(value),)
    _check(state, answer.session)
    return answer


def _check(state: SessionState | None, session: Session | None) -> None:
    # An answer that is not what the contract says must never read as "nobody".
    if state is None:
        raise MalformedMessageError("an answer without a state")
    if (state is SessionState.ACTIVE or state is SessionState.CREATED) != (session is not None):
        raise MalformedMessageError("a session that its state does not allow, or none")


def decode_write(data: bytes) -> Written:
    """WriteResponse."""
    session = None
    answer = Written(Session(""))
    for key, value in _fields(data):
        if key == 0x0A:
            session = answer.session = decode_session(value)
        elif key == 0x12:
            answer.set_cookie += (_string(value),)
        elif key == 0x1A:
            answer.token = _string(value) or None
    if session is None:
        raise MalformedMessageError("an answer without a session")
    return answer


def decode_destroy(data: bytes) -> Destroyed:
    """DestroyResponse."""
    answer = Destroyed(0)
    for key, value in _fields(data):
        if key == 0x08:
            answer.destroyed = value & 0xFFFF_FFFF
        elif key == 0x12:
            answer.set_cookie += (_string(value),)
    return answer


def decode_list_sessions(data: bytes) -> tuple[SessionList, str]:
    """SessionServiceListSessionsResponse: a page, and the token of the next one."""
    state = None
    token = ""
    page = SessionList(SessionState.NONE)
    for key, value in _fields(data):
        if key == 0x08:
            state = page.state = _state(value)
        elif key == 0x12:
            page.sessions.append(decode_session(value))
        elif key == 0x1A:
            page.current_session_id = _string(value)
        elif key == 0x22:
            token = _string(value)
    if state is None:
        raise MalformedMessageError("an answer without a state")
    return page, token


def _length(data: bytes) -> timedelta:
    return timedelta(microseconds=decode_nanoseconds(data) // 1000)


def decode_description(data: bytes) -> Description:
    """DescribeResponse."""
    version = ""
    limits = Limits()
    engines: list[Engine] = []
    for key, value in _fields(data):
        if key == 0x0A:
            version = _string(value)
        elif key == 0x12:
            limits = _decode_limits(value)
        elif key == 0x1A:
            engines.append(_decode_engine(value))
    return Description(version, limits, tuple(engines))


_LIMITS = {
    0x08: "max_message_bytes",
    0x10: "pipeline_in_flight",
    0x18: "max_cookie_header_bytes",
    0x20: "max_principal_bytes",
    0x28: "max_label_bytes",
    0x30: "max_keys",
    0x38: "max_unset",
}


def _decode_limits(data: bytes) -> Limits:
    values: dict[str, Any] = dict.fromkeys(_LIMITS.values(), 0)
    for key, value in _fields(data):
        if key in _LIMITS:
            values[_LIMITS[key]] = value & 0xFFFF_FFFF
        elif key == 0x42:
            values["max_duration"] = _length(value)
    return Limits(**values)


def _decode_engine(data: bytes) -> Engine:
    name = cookie_name = ""
    cookie_format: Literal["plain", "express"] = "plain"
    persistent = automatic_touch = False
    duration = touch_granularity = timedelta(0)
    absolute_duration = None
    max_data_bytes = 0
    for key, value in _fields(data):
        if key == 0x0A:
            name = _string(value)
        elif key == 0x12:
            cookie_name = _string(value)
        elif key == 0x18:
            cookie_format = "express" if value == 2 else "plain"
        elif key == 0x20:
            persistent = bool(value)
        elif key == 0x2A:
            duration = _length(value)
        elif key == 0x32:
            absolute_duration = _length(value)
        elif key == 0x3A:
            touch_granularity = _length(value)
        elif key == 0x40:
            automatic_touch = bool(value)
        elif key == 0x48:
            max_data_bytes = value & 0xFFFF_FFFF
    return Engine(
        name,
        cookie_name,
        cookie_format,
        persistent,
        duration,
        absolute_duration,
        touch_granularity,
        automatic_touch,
        max_data_bytes,
    )


def decode_status(data: bytes) -> Status:
    """google.rpc.Status with ErrorInfo, RetryInfo and BadRequest among its details."""
    code = 0
    message = reason = applied = ""
    retry_after = None
    fields: list[tuple[str, str]] = []
    for key, value in _fields(data):
        if key == 0x08:
            code = value
        elif key == 0x12:
            message = _string(value)
        elif key == 0x1A:
            kind, detail = _decode_any(value)
            if kind == "google.rpc.ErrorInfo":
                domain, why, metadata = _decode_error_info(detail)
                if domain == "sessiond":
                    reason = why
                    applied = metadata.get("applied", "")
            elif kind == "google.rpc.RetryInfo":
                for inner, delay in _fields(detail):
                    if inner == 0x0A:
                        retry_after = max(decode_nanoseconds(delay), 0) / NANOSECONDS
            elif kind == "google.rpc.BadRequest":
                fields.extend(_pair(violation) for inner, violation in _fields(detail) if inner == 0x0A)
    return Status(code, message, reason, applied, retry_after, tuple(fields))


def _decode_any(data: bytes) -> tuple[str, bytes]:
    kind = ""
    detail = b""
    for key, value in _fields(data):
        if key == 0x0A:
            kind = _string(value).rpartition("/")[2]
        elif key == 0x12:
            detail = value
    return kind, detail


def _decode_error_info(data: bytes) -> tuple[str, str, dict[str, str]]:
    reason = domain = ""
    metadata: dict[str, str] = {}
    for key, value in _fields(data):
        if key == 0x0A:
            reason = _string(value)
        elif key == 0x12:
            domain = _string(value)
        elif key == 0x1A:
            name, text = _pair(value)
            metadata[name] = text
    return domain, reason, metadata


def _pair(data: bytes) -> tuple[str, str]:
    """An entry of a map of texts; FieldViolation has the same layout."""
    first = second = ""
    for key, value in _fields(data):
        if key == 0x0A:
            first = _string(value)
        elif key == 0x12:
            second = _string(value)
    return first, second


_RESULTS: dict[int, Any] = {
    0x12: decode_resolve,
    0x1A: decode_touch,
    0x22: decode_write,
    0x2A: decode_destroy,
    0x32: decode_status,
}
KIND_OF: dict[type[Any], str] = {Resolved: "resolve", Touched: "touch", Written: "write", Destroyed: "destroy"}
"""The name of the operation that a result belongs to."""


def decode_response(data: bytes) -> tuple[int, Answer]:
    """PipelineResponse: the sequence, and the result or the status of the failure."""
    sequence = 0
    result: Answer | None = None
    for key, value in _fields(data):
        if key == 0x08:
            sequence = value
        elif (decode := _RESULTS.get(key)) is not None:
            result = decode(value)
    if result is None:
        raise MalformedMessageError("an answer without a result")
    return sequence, result
