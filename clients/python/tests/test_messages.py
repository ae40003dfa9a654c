"""The codec, held to `proto/` by the protobuf package, over random messages."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from generated import messages

from sessiond import CookieHeader, SessionState, Token, _calls
from sessiond import _messages as ours

ROUNDS = 300


def text(random: random.Random, longest: int = 300) -> str:
    length = random.choice((0, 1, 5, 127, 128, longest))
    return "".join(random.choice("ab\"\\é€\U0001f36a\0\n") for _ in range(length))


def number(random: random.Random, bits: int) -> int:
    return random.getrandbits(random.choice((1, 7, 8, 14, bits, bits)))


def moment(random: random.Random, message: Any) -> None:
    message.seconds = random.choice((0, -1, 1_790_000_000, 2**40, -(2**35)))
    message.nanos = random.choice((0, 1, 999_000_000, 999_999_999))


def total(message: Any) -> int:
    return int(message.seconds) * ours.NANOSECONDS + int(message.nanos)


def unknown(random: random.Random, data: bytes) -> bytes:
    """The message with fields of a later version around it."""
    extra = [b"\xa2\x1f\x05hello", b"\xa0\x1f\x96\x01", b"\xa5\x1f1234", b"\xa1\x1f12345678", b""]
    return random.choice(extra) + data + random.choice(extra)


@pytest.mark.parametrize("seed", range(4))
def test_requests(seed: int) -> None:
    pb, rng = messages(), random.Random(seed)
    for _ in range(ROUNDS):
        engine, name = text(rng, 20), rng.choice(("resolve", "touch", "write", "destroy"))
        octets = rng.randbytes(rng.choice((0, 3, 127, 128, 20_000)))
        credential: Any = rng.choice((CookieHeader(octets), Token(text(rng))))
        expected = pb.PipelineRequest(sequence=number(rng, 63))
        inner = getattr(expected, name)
        inner.SetInParent()
        inner.engine = engine
        if name != "write" or rng.random() < 0.7:
            if isinstance(credential, Token):
                inner.credential.token = credential.token.encode()
            else:
                inner.credential.cookie_header = octets
        else:
            credential = None
        duration = rng.choice((None, timedelta(microseconds=1), timedelta(days=400), timedelta(seconds=1.5)))
        if duration is not None and name in ("touch", "write"):
            inner.duration.FromTimedelta(duration)
        if name == "resolve":
            inner.peek, inner.create = rng.random() < 0.5, rng.random() < 0.5
            operation = _calls.resolve(engine, credential, inner.create, inner.peek)
        elif name == "touch":
            operation = _calls.touch(engine, credential, duration)
        elif name == "write":
            options: dict[str, Any] = {
                "set": rng.choice((None, '{"a":1}', "{" + "x" * 20_000 + "}")),
                "unset": [text(rng, 40) for _ in range(rng.randrange(4))],
                "replace": rng.random() < 0.5,
                "if_version": rng.choice((None, 1, 2**64 - 1)),
                "roll": rng.random() < 0.5,
                "principal": rng.choice((None, "", text(rng))),
                "persistent": rng.choice((None, False, True)),
                "label": rng.choice((None, "", text(rng))),
            }
            for key, value in options.items():
                if value is not None:
                    if key == "unset":
                        inner.unset.extend(value)
                    else:
                        setattr(inner, key, value)
            operation = _calls.write(engine, credential, duration=duration, **options)
        else:
            ids = rng.choice((None, [text(rng, 16) for _ in range(3)]))
            scope = rng.choice(("this", "others", "all"))
            if ids is None:
                inner.scope = ours.SCOPES[scope]
            else:
                inner.session_ids.extend(ids)
            operation = _calls.destroy(engine, credential, scope, ids)  # type: ignore[assignment, arg-type]
        timeout = rng.choice((1, ours.NANOSECONDS, 5_000_000_001))
        expected.timeout.seconds, expected.timeout.nanos = divmod(timeout, ours.NANOSECONDS)
        assert operation is not None
        framed = ours.frame_request(expected.sequence, operation.body, ours.encode_timeout(timeout))
        assert framed[:1] == b"\0" and int.from_bytes(framed[1:5], "big") == len(framed) - 5
        assert pb.PipelineRequest.FromString(framed[5:]) == expected


def test_unary_requests() -> None:
    pb, rng = messages(), random.Random(1)
    for _ in range(ROUNDS):
        expected = pb.SessionServiceListSessionsRequest(engine=text(rng), page_size=1000, page_token=text(rng))
        expected.credential.token = b"abc"
        body = _calls.list_sessions(expected.engine, Token("abc"), expected.page_token).body
        assert pb.SessionServiceListSessionsRequest.FromString(body) == expected
    assert pb.DescribeRequest.FromString(_calls.describe().body) == pb.DescribeRequest()


def fill_session(rng: random.Random, message: Any) -> None:
    message.SetInParent()
    message.id, message.data, message.principal, message.label = (text(rng) for _ in range(4))
    message.version = number(rng, 64)
    for part in ("create_time", "expire_time", "duration", "last_use_time"):
        if rng.random() < 0.8:
            moment(rng, getattr(message, part))


def same_session(found: Any, message: Any) -> None:
    assert (found.id, found.data_json, found.version) == (message.id, message.data, message.version)
    assert (found.principal, found.label) == (message.principal or None, message.label)
    for mine, theirs in (
        ("create", "create_time"),
        ("expire", "expire_time"),
        ("idle", "duration"),
        ("last_use", "last_use_time"),
    ):
        value = getattr(found, mine)
        if isinstance(value, bytes):
            value = ours.decode_nanoseconds(value)
        assert value == total(getattr(message, theirs))


@pytest.mark.parametrize("seed", range(4))
def test_answers(seed: int) -> None:
    pb, rng = messages(), random.Random(seed)
    names = {1: "ACTIVE", 2: "CREATED", 3: "NONE", 4: "INVALID", 5: "NOT_FOUND", 6: "EXPIRED", 7: "SUPERSEDED"}
    for _ in range(ROUNDS):
        name = rng.choice(("resolve", "touch", "write", "destroy", "error"))
        message = pb.PipelineResponse(sequence=number(rng, 64))
        inner = getattr(message, name)
        inner.SetInParent()
        info: Any = None
        bad: Any = None
        if name in ("resolve", "touch"):
            inner.state = rng.randrange(1, 8)
            if inner.state < 3:
                fill_session(rng, inner.session)
        if name == "write":
            fill_session(rng, inner.session)
        if name == "destroy":
            inner.destroyed = number(rng, 32)
        if name in ("resolve", "write"):
            inner.token = text(rng)
        if name == "error":
            inner.code, inner.message = rng.randrange(1, 17), text(rng)
            info = pb.rpc("ErrorInfo")(reason=text(rng), domain=rng.choice(("sessiond", "other")))
            info.metadata.update({"applied": rng.choice(("no", "unknown")), text(rng): text(rng)})
            retry = pb.rpc("RetryInfo")()
            retry.retry_delay.FromMilliseconds(1500)
            bad = pb.rpc("BadRequest")()
            for _ in range(2):
                bad.field_violations.add(field=text(rng), description=text(rng))
            for detail in (info, retry, bad):
                inner.details.add().Pack(detail)
        else:
            inner.set_cookie.extend(text(rng) for _ in range(rng.randrange(3)))
        sequence, found = ours.decode_response(unknown(rng, message.SerializeToString()))
        assert sequence == message.sequence
        if isinstance(found, ours.Status):
            assert (found.code, found.message, found.retry_after) == (inner.code, inner.message, 1.5)
            known = info.domain == "sessiond"
            assert found.reason == (info.reason if known else "")
            assert found.applied == (info.metadata["applied"] if known else "")
            assert list(found.fields) == [(one.field, one.description) for one in bad.field_violations]
            continue
        assert found.set_cookie == tuple(inner.set_cookie)
        if name in ("resolve", "touch"):
            assert found.state.value == names[inner.state]  # type: ignore[union-attr]
        if name != "destroy" and inner.HasField("session"):
            same_session(found.session, inner.session)  # type: ignore[union-attr]
        if name in ("resolve", "write"):
            assert found.token == (inner.token or None)  # type: ignore[union-attr]
        if name == "destroy":
            assert found.destroyed == inner.destroyed  # type: ignore[union-attr]


def test_lists_and_descriptions() -> None:
    pb, rng = messages(), random.Random(2)
    for _ in range(ROUNDS):
        page = pb.SessionServiceListSessionsResponse(
            state=1, current_session_id=text(rng), next_page_token=text(rng)
        )
        for _ in range(rng.randrange(4)):
            fill_session(rng, page.sessions.add())
        found, token = ours.decode_list_sessions(unknown(rng, page.SerializeToString()))
        assert (found.state, found.current_session_id) == (SessionState.ACTIVE, page.current_session_id)
        assert token == page.next_page_token and len(found.sessions) == len(page.sessions)
        for one, other in zip(found.sessions, page.sessions, strict=True):
            same_session(one, other)
        described = pb.DescribeResponse(version=text(rng))
        limits = described.limits
        for field in limits.DESCRIPTOR.fields:
            if field.name != "max_duration":
                setattr(limits, field.name, number(rng, 32))
        limits.max_duration.FromSeconds(rng.randrange(10**8))
        for _ in range(rng.randrange(3)):
            engine = described.engines.add(
                name=text(rng),
                cookie_name=text(rng),
                cookie_format=rng.choice((1, 2)),
                persistent=rng.random() < 0.5,
                automatic_touch=rng.random() < 0.5,
                max_data_bytes=number(rng, 32),
            )
            engine.duration.FromMilliseconds(rng.randrange(10**12))
            engine.touch_granularity.FromMilliseconds(rng.randrange(10**9))
            if rng.random() < 0.5:
                engine.absolute_duration.FromMilliseconds(rng.randrange(10**12))
        mine = ours.decode_description(unknown(rng, described.SerializeToString()))
        assert mine.version == described.version and len(mine.engines) == len(described.engines)
        for field in limits.DESCRIPTOR.fields:
            value = getattr(limits, field.name)
            expected = value.ToTimedelta() if field.name == "max_duration" else value
            assert getattr(mine.limits, field.name) == expected
        for ours_, theirs in zip(mine.engines, described.engines, strict=True):
            absolute = theirs.absolute_duration.ToTimedelta() if theirs.HasField("absolute_duration") else None
            assert (ours_.name, ours_.cookie_name, ours_.persistent, ours_.automatic_touch) == (
                theirs.name,
                theirs.cookie_name,
                theirs.persistent,
                theirs.automatic_touch,
            )
            assert ours_.cookie_format == ("express" if theirs.cookie_format == 2 else "plain")
            assert (ours_.duration, ours_.absolute_duration) == (theirs.duration.ToTimedelta(), absolute)
            assert ours_.touch_granularity == theirs.touch_granularity.ToTimedelta()
            assert ours_.max_data_bytes == theirs.max_data_bytes


def test_every_field_of_the_proto_is_known() -> None:
    """A field that is added to the proto has to be added here, too, or left out on purpose."""
    pb = messages()
    counts = {
        "ResolveRequest": 4, "ResolveResponse": 4, "TouchRequest": 3, "TouchResponse": 3, "WriteRequest": 11,
        "WriteResponse": 3, "DestroyRequest": 4, "DestroyResponse": 2, "Session": 9, "Credential": 2,
        "PipelineRequest": 6, "PipelineResponse": 6, "Limits": 9, "Engine": 9, "DescribeResponse": 3,
        "SessionServiceListSessionsRequest": 4, "SessionServiceListSessionsResponse": 4,
    }  # fmt: skip
    assert {name: len(getattr(pb, name).DESCRIPTOR.fields) for name in counts} == counts


@pytest.mark.parametrize("seed", range(3))
def test_malformed_messages_are_refused_and_nothing_else_happens(seed: int) -> None:
    pb, rng = messages(), random.Random(seed)
    message = pb.PipelineResponse(sequence=300)
    fill_session(rng, message.resolve.session)
    message.resolve.state = 1
    good = message.SerializeToString()
    for length in range(len(good)):
        try:
            ours.decode_response(good[:length])
        except ours.MalformedMessageError:
            pass
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(min(len(bad), 60))] = rng.randrange(256)
        try:
            ours.decode_response(bytes(bad))
        except ours.MalformedMessageError:
            pass
    for nonsense in (b"\x0b", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00\x01", b"\xff" * 11, b"", b"\x08"):
        with pytest.raises(ours.MalformedMessageError):
            ours.decode_response(nonsense)


def test_an_answer_that_says_too_little_is_never_nobody() -> None:
    pb = messages()
    for answer in (
        pb.PipelineResponse(sequence=1, resolve=pb.ResolveResponse()),
        pb.PipelineResponse(sequence=1, resolve=pb.ResolveResponse(state=1)),
        pb.PipelineResponse(sequence=1, resolve=pb.ResolveResponse(state=3, session=pb.Session(id="x"))),
        pb.PipelineResponse(sequence=1, write=pb.WriteResponse()),
        pb.PipelineResponse(sequence=1),
    ):
        with pytest.raises(ours.MalformedMessageError):
            ours.decode_response(answer.SerializeToString())
    later = pb.PipelineResponse(sequence=1)
    later.touch.state = 77
    with pytest.raises(ours.MalformedMessageError, match="update the client"):
        ours.decode_response(later.SerializeToString())
