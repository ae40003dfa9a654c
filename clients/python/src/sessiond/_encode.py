"""The requests of `proto/sessiond/v1` as octets. See `_messages.py`, which also decodes."""

from __future__ import annotations

from collections.abc import Iterable

from .types import CookieHeader, Credential

NANOSECONDS = 1_000_000_000


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


def encode_resolve_header(engine: bytes, octets: bytes) -> bytes:
    """The operation of the usual Resolve: with a Cookie header, and no options."""
    length = len(octets)
    if length + len(engine) >= _SHORT - 16:
        return encode_operation("resolve", engine + _bytes(b"\x12", _bytes(b"\x0a", octets)))
    inner = _VARINTS[length]
    length += 1 + len(inner)
    middle = _VARINTS[length]
    length += 1 + len(middle) + len(engine)
    return b"".join((b"\x12", _VARINTS[length], engine, b"\x12", middle, b"\x0a", inner, octets))


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
    number = _VARINTS[sequence] if sequence < _SHORT else varint(sequence)
    length = 1 + len(number) + len(operation) + len(timeout)
    return b"".join((length.to_bytes(5, "big"), b"\x08", number, operation, timeout))  # the first of 5 is 0
