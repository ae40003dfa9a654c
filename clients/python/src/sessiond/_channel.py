"""One connection to the daemon: gRPC over HTTP/2, with one Pipeline and a few unary calls.
No input or output, no clock."""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import unquote

from . import _messages as messages
from ._http2 import HEAD, NO_ERROR, REFUSED_STREAM, Headers, Http2Connection, Http2Error, Stream
from ._operations import Operation
from .types import Description

SERVICE = "/sessiond.v1.SessionService/"
MAX_ANSWER = 64 << 20
"""The largest message that is taken. Far above any session; a bound for a peer gone mad."""


class ProtocolError(Exception):
    """The peer speaks gRPC in a way that nobody expects. The connection is over."""


class Owner(Protocol):
    """Who is told what becomes of a channel's operations."""

    def ready(self, channel: Channel, description: Description) -> None:
        """The daemon has said who it is; operations can be sent."""

    def refused(self, channel: Channel, status: messages.Status) -> None:
        """The daemon does not take this client: wrong token, or older than Describe."""

    def answered(self, channel: Channel, operation: Operation, answer: Any) -> None:
        """An answer has come: a result or a `Status`."""

    def undone(self, channel: Channel, operation: Operation, *, applied: bool) -> None:
        """There will be no answer. `applied` is False if nothing was applied for certain."""

    def draining(self, channel: Channel, why: str) -> None:
        """Nothing new is to be sent here; what is under way goes on."""


class Channel:
    """A connection on its way from greeting to end."""

    def __init__(self, owner: Owner, *, scheme: str, authority: str, token: str | None, agent: str) -> None:
        self.owner = owner
        self.http2 = Http2Connection()
        self.description: Description | None = None
        self.drains = False
        """Whether nothing new may be sent."""
        self.answered = False
        """Whether an operation was answered, with anything but SHUTTING_DOWN."""
        self.closed = False
        self.sent: dict[int, Operation] = {}
        """What the Pipeline has to answer, by sequence."""
        self.queue: deque[Operation] = deque()
        """What the Pipeline does not take yet."""
        self._pumped: list[Operation] = []
        """What has become octets since the last `take_output`."""
        self._taken: list[Operation] = []
        """What the last `take_output` handed out."""
        self.calls: dict[int, Operation] = {}
        """Unary calls under way, by stream."""
        self.last_received = 0.0
        self.asked_at = -1.0
        """When something was sent for the first time after the last receipt; earlier than that: nothing was."""
        self.token = token
        self.transport: Any = None
        """The front's own."""
        self._partial = b""
        self._pipeline = _Pipeline(self)
        self._headers = [
            (":method", "POST"),
            (":scheme", scheme),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", agent),
        ]
        if token is not None:
            self._headers.append(("authorization", f"Bearer {token}"))
        self._open(_Greeting(self), "Describe")

    def _open(self, stream: Stream, method: str) -> None:
        self.http2.open(stream, [*self._headers[:2], (":path", SERVICE + method), *self._headers[2:]])
        if not isinstance(stream, _Pipeline):
            self._send_call(stream)

    def _send_call(self, stream: Stream) -> None:
        request = stream.request if isinstance(stream, _Call) else b""
        data = messages.frame(request)
        if self.http2.room(stream) < len(data):
            # A request of a unary call is small. A peer with such a window is no daemon.
            raise ProtocolError("the peer's window is too small for a call")
        self.http2.send(stream, data, end=True)

    # ------------------------------------------------------------ sending

    def call(self, operation: Operation, now: float) -> None:
        """Makes a unary call. Only if `can_call`."""
        assert operation.path is not None
        call = _Call(self, operation)
        operation.attempts += 1
        operation.sent = True
        self._asked(now)
        self._open(call, operation.path)
        self.calls[call.id] = operation

    @property
    def has_queue(self) -> bool:
        """Whether something waits for the peer's window."""
        return bool(self.queue or self._partial)

    @property
    def can_call(self) -> bool:
        """Whether another unary call can be made now."""
        return self.http2.can_open

    def pump(self, now: float) -> None:
        """Turns as much of the queue into frames as the peer takes."""
        queue = self.queue
        pipeline = self._pipeline
        if not (queue or self._partial) or not pipeline.id:
            return
        http2 = self.http2
        room = http2.room(pipeline)
        if room <= 0:
            return
        sent = self.sent
        if len(queue) == 1 and not self._partial:
            operation = queue.popleft()
            if operation.done:
                return
            data = operation.message(now)
            sent[operation.sequence] = operation
            self._pumped.append(operation)
            if self.asked_at <= self.last_received:
                self.asked_at = now
            if len(data) > room:
                self._partial = data[room:]
                data = data[:room]
            http2.send(pipeline, data)
            return
        pumped = self._pumped
        parts = [self._partial]
        size = len(self._partial)
        while queue and size < room:
            operation = queue.popleft()
            if operation.done:
                continue
            message = operation.message(now)
            sent[operation.sequence] = operation
            pumped.append(operation)
            parts.append(message)
            size += len(message)
        data = b"".join(parts)
        if size > room:
            self._partial = data[room:]
            data = data[:room]
        else:
            self._partial = b""
        if data:
            self._asked(now)
            http2.send(pipeline, data)

    def take_output(self) -> bytes:
        """What is to be sent now."""
        self._taken = self._pumped
        self._pumped = []
        return self.http2.take_output()

    def not_sent(self) -> None:
        """What `take_output` gave last did not leave: the connection was gone already."""
        for operation in self._taken:
            if operation.sequence in self.sent:  # else it is on its way elsewhere by now
                operation.sent = False

    def _asked(self, now: float) -> None:
        if self.asked_at <= self.last_received:
            self.asked_at = now

    def silent_for(self, now: float) -> float:
        """For how many seconds something was asked and nothing at all came."""
        return now - self.asked_at if self.asked_at > self.last_received else 0.0

    def forget_done(self) -> None:
        """Drops what ended before it was sent."""
        self.queue = deque(operation for operation in self.queue if not operation.done)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything of this connection."""
        return not self.queue and not self.calls and all(operation.done for operation in self.sent.values())

    def finish(self) -> None:
        """Says goodbye. The output that is left is all there is to send."""
        if not self.closed:
            self.closed = True
            self.http2.close(NO_ERROR)

    # ------------------------------------------------------------ receiving

    def receive(self, data: bytes, now: float) -> None:
        """Takes what has arrived. Raises `Http2Error` or `ProtocolError` if that ends the connection."""
        self.last_received = now
        http2 = self.http2
        pipeline = self._pipeline
        if http2.takes_as_data(data, pipeline):
            data = data[HEAD:]
            if data[:5] == (len(data) - 5).to_bytes(5, "big", signed=True) and pipeline.between:
                self.answer(data[5:])  # one message, whole and not compressed
            else:
                pipeline.on_data(data)
            return
        http2.receive(data)
        if http2.goaway is not None and not self.drains:
            self.drain("it asked for a new connection")

    def drain(self, why: str) -> None:
        """From now on nothing new is sent here."""
        if not self.drains:
            self.drains = True
            self.owner.draining(self, why)

    def lost(self) -> None:
        """The connection is gone: whatever was under way has no answer."""
        self.closed = True
        self._abandon(self._operations(), applied=True)

    def _operations(self) -> Iterator[Operation]:
        yield from self.sent.values()
        yield from self.calls.values()
        yield from self.queue

    def _abandon(self, operations: Iterator[Operation], *, applied: bool) -> None:
        undone = [operation for operation in operations if not operation.done]
        self.sent, self.calls, self.queue, self._partial = {}, {}, deque(), b""
        for operation in undone:
            self.owner.undone(self, operation, applied=applied)

    # What the streams report.

    def greeted(self, status: messages.Status, answer: bytes) -> None:
        """Describe was answered."""
        if status.code:
            self.owner.refused(self, status)
            return
        self.description = messages.decode_description(answer)
        self._open(self._pipeline, "Pipeline")
        self.owner.ready(self, self.description)

    def answer(self, message: bytes) -> None:
        """A message of the Pipeline."""
        sequence, answer = messages.decode_response(message)
        operation = self.sent.pop(sequence, None)
        if operation is None:
            raise ProtocolError("an answer that nobody asked for")
        if operation.done:
            return  # late: its caller has been told that its time is over
        if messages.KIND_OF.get(type(answer), operation.name) != operation.name:
            self.sent[sequence] = operation  # it is undone with the connection
            raise ProtocolError("the answer of another operation")
        self.owner.answered(self, operation, answer)

    def pipeline_ended(self, status: messages.Status) -> None:
        """The Pipeline is over, and this connection with it."""
        self.drain(f"it ended the stream with {status.message or status.reason or 'OK'}")
        if status.code == 16:
            self.owner.refused(self, status)
        pending = list(self.sent.values()) + list(self.queue)
        self.sent, self.queue, self._partial = {}, deque(), b""
        applied = status.reason != "SHUTTING_DOWN"
        for operation in pending:
            if not operation.done:
                self.owner.undone(self, operation, applied=applied)

    def called(self, call: _Call, status: messages.Status, answer: bytes) -> None:
        """A unary call was answered."""
        operation = self.calls.pop(call.id, None)
        if operation is None or operation.done:
            return
        if status.code:
            self.owner.answered(self, operation, status)
        else:
            assert operation.decode is not None
            self.owner.answered(self, operation, operation.decode(answer))


class _GrpcStream(Stream):
    """A call: cuts its body into messages and reads its status."""

    __slots__ = ("_buffer", "_status", "channel")

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        self._buffer = b""
        self._status: messages.Status | None = None

    @property
    def between(self) -> bool:
        """Whether what comes next begins a message."""
        return not self._buffer

    def on_message(self, message: bytes) -> None:
        raise NotImplementedError

    def on_status(self, status: messages.Status) -> None:
        raise NotImplementedError

    def on_headers(self, headers: Headers, end: bool) -> None:
        if not end:
            found = dict(headers)
            if found.get(":status", "200").startswith("1"):
                return
            if ":status" in found and (
                found[":status"] != "200" or not found.get("content-type", "").startswith("application/grpc")
            ):
                raise ProtocolError(f"the peer answers HTTP {found[':status']}, not gRPC")
            return
        self._status = status_of(headers)

    def on_data(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        at = 0
        size = len(data)
        while size - at >= 5:
            length = int.from_bytes(data[at + 1 : at + 5], "big")
            if data[at] != 0:
                raise ProtocolError("a compressed answer")
            if length > MAX_ANSWER:
                raise ProtocolError(f"an answer of {length} bytes")
            stop = at + 5 + length
            if stop > size:
                break
            self.on_message(data[at + 5 : stop])
            at = stop
        self._buffer = data[at:] if at else data

    def on_end(self) -> None:
        if self._buffer:
            raise ProtocolError("a call that ends within a message")
        self.on_status(self._status or messages.Status(2, "the call ended without a status"))

    def on_reset(self, code: int) -> None:
        if code == REFUSED_STREAM:
            status = messages.Status(14, "the peer refused the call", "SHUTTING_DOWN", "no")
        else:
            status = messages.Status(14, f"the peer reset the call (HTTP/2 error {code})")
        self.on_status(status)


class _Pipeline(_GrpcStream):
    __slots__ = ()

    def on_message(self, message: bytes) -> None:
        self.channel.answer(message)

    def on_status(self, status: messages.Status) -> None:
        self.channel.pipeline_ended(status)


class _Call(_GrpcStream):
    __slots__ = ("_answer", "request")

    def __init__(self, channel: Channel, operation: Operation | None) -> None:
        super().__init__(channel)
        self.request = operation.body if operation is not None else b""
        self._answer: bytes | None = None

    def on_message(self, message: bytes) -> None:
        self._answer = message

    def on_status(self, status: messages.Status) -> None:
        if status.code == 0 and self._answer is None:
            raise ProtocolError("a call that was answered with nothing")
        self.done(status, self._answer or b"")

    def done(self, status: messages.Status, answer: bytes) -> None:
        self.channel.called(self, status, answer)


class _Greeting(_Call):
    __slots__ = ()

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel, None)

    def done(self, status: messages.Status, answer: bytes) -> None:
        self.channel.greeted(status, answer)


def status_of(headers: Headers) -> messages.Status:
    """The status in the trailers of a call."""
    found = dict(headers)
    if found.get(":status", "200") != "200":
        raise ProtocolError(f"the peer answers HTTP {found[':status']}, not gRPC")
    code = found.get("grpc-status", "")
    if not code.isascii() or not code.isdigit():
        raise ProtocolError("a call without a status")
    details = found.get("grpc-status-details-bin")
    if details:
        try:
            return messages.decode_status(base64.b64decode(details + "=" * (-len(details) % 4), validate=True))
        except (binascii.Error, messages.MalformedMessageError):
            pass  # the code and the text will do
    return messages.Status(int(code), unquote(found.get("grpc-message", "")))


__all__ = ["SERVICE", "Channel", "Http2Error", "Owner", "ProtocolError", "status_of"]
