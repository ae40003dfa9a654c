"""The messages of `proto/sessiond/v1`, encoded and decoded by hand.

A generated codec costs several times as much per message. `tests/test_messages.py` holds
this one to the generated one over random messages. Unknown fields are skipped.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal, NamedTuple

from ._encode import NANOSECONDS as NANOSECONDS
from ._encode import OPERATION_TAGS as OPERATION_TAGS
from ._encode import SCOPES as SCOPES
from ._encode import encode_credential as encode_credential
from ._encode import encode_destroy as encode_destroy
from ._encode import encode_duration as encode_duration
from ._encode import encode_engine as encode_engine
from ._encode import encode_list_sessions as encode_list_sessions
from ._encode import encode_operation as encode_operation
from ._encode import encode_resolve as encode_resolve
from ._encode import encode_resolve_header as encode_resolve_header
from ._encode import encode_timeout as encode_timeout
from ._encode import encode_touch as encode_touch
from ._encode import encode_write as encode_write
from ._encode import frame as frame
from ._encode import frame_request as frame_request
from ._encode import varint as varint
from .types import (
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

# ---------------------------------------------------------------- decoding


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint of at least two octets at an offset, and where it ends."""
    second = data[at + 1]
    if second < 0x80:
        return data[at] & 0x7F | second << 7, at + 2
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


_LIVE = (1, 2)


def _state(value: int) -> SessionState:
    state = _STATES.get(value)
    if state is None:
        # A later daemon may know more states. To guess would mean to take somebody for nobody.
        raise MalformedMessageError("a state that this client does not know; update the client")
    return state


def decode_session(data: bytes) -> Session:
    """Session. Its times stay as they are until somebody asks for them."""
    session = Session("")
    end = len(data)
    at = 0
    # As every daemon writes it: the fields in their order, texts but the data shorter than 128
    # octets. A look behind the last field is an IndexError, as one behind a field that is cut off.
    try:
        if data[0] == 0x0A:
            at = 2 + (length := data[1])
            if length >= 0x80:
                return _decode_session(data)
            session.id = data[2:at].decode()
        if data[at] == 0x12:
            start = at + 2
            if (length := data[at + 1]) >= 0x80:
                length, start = _varint(data, at + 1)
            at = start + length
            session.data_json = data[start:at].decode()
        if data[at] == 0x18:
            session.version, at = (version, at + 2) if (version := data[at + 1]) < 0x80 else _varint(data, at + 1)
        if data[at] == 0x22:
            start = at + 2
            if (length := data[at + 1]) >= 0x80:
                return _decode_session(data)
            at = start + length
            session.principal = data[start:at].decode() or None
        if data[at] == 0x2A and data[at + 1] < 0x80:
            start, at = at + 2, at + 2 + data[at + 1]
            session.create = data[start:at]
        if data[at] == 0x32 and data[at + 1] < 0x80:
            start, at = at + 2, at + 2 + data[at + 1]
            session.expire = data[start:at]
        if data[at] == 0x3A and data[at + 1] < 0x80:
            start, at = at + 2, at + 2 + data[at + 1]
            session.idle = data[start:at]
        if data[at] == 0x42 and data[at + 1] < 0x80:
            start, at = at + 2, at + 2 + data[at + 1]
            session.last_use = data[start:at]
        if at < end and data[at] == 0x4A and data[at + 1] < 0x80:
            start, at = at + 2, at + 2 + data[at + 1]
            session.label = data[start:at].decode()
    except UnicodeDecodeError:
        raise MalformedMessageError("a text is not UTF-8") from None
    except IndexError:
        pass
    return session if at == end else _decode_session(data)


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
    if len(data) > 4 and data[0] == 0x08 and data[1] in _LIVE and data[2] == 0x12:
        # As most are: the state, then a session, and nothing else.
        length, at = (data[3], 4) if data[3] < 0x80 else _varint(data, 3)
        if at + length == len(data):
            return Resolved(_STATES[data[1]], decode_session(data[at:]))
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
    0x48: "max_session_ids",
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
    try:
        # As every daemon writes it: the sequence, then the result, and nothing else.
        if data[0] == 0x08:
            sequence, at = (data[1], 2) if data[1] < 0x80 else _varint(data, 1)
            key = data[at]
            length, at = (data[at + 1], at + 2) if data[at + 1] < 0x80 else _varint(data, at + 1)
            if at + length == len(data) and key in _RESULTS:
                return sequence, _RESULTS[key](data[at:])
    except IndexError:
        pass
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
