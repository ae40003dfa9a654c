"""The client's side of HTTP/2 (RFC 9113), as much of it as gRPC needs. No input or output:
octets come in by `receive`, and go out by `take_output`.

The `h2` package does all of HTTP/2 and costs a multiple per frame; `bench/client.py --h2`
measures it. Header blocks are the business of the `hpack` package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11

MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
# What the daemon may send before we have taken it: some thousand answers, and a bound on memory.
RECEIVE_WINDOW = 4 << 20
MAX_FRAME = 16_384
MAX_HEADER_BLOCK = 64 << 10

Headers = list[tuple[str, str]]
_HEAD = struct.Struct(">HBBBL")
HEAD = _HEAD.size
"""The length of a frame's head."""


class Http2Error(Exception):
    """The peer broke the protocol; the connection is over. `take_output` has the GOAWAY."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stream:
    """One call. Subclasses say what is done with what arrives."""

    __slots__ = ("data_head", "id", "local_closed", "received", "window")

    def __init__(self) -> None:
        self.id = 0
        self.data_head = b""
        """How frames of DATA without flags begin, behind their length."""
        self.window = 0
        """How many octets the peer takes now."""
        self.received = 0
        """Octets that were taken since the last WINDOW_UPDATE."""
        self.local_closed = False

    def on_headers(self, headers: Headers, end: bool) -> None:
        """A header block: the response's, or its trailers."""

    def on_data(self, data: bytes) -> None:
        """Octets of the body."""

    def on_end(self) -> None:
        """The peer has ended the stream (after headers and data)."""

    def on_reset(self, code: int) -> None:
        """The peer has reset the stream."""

    def on_window(self) -> None:
        """The peer takes more than before."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame with its nine octets of head."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


class Http2Connection:
    """A connection as its client sees it."""

    def __init__(self, *, receive_window: int = RECEIVE_WINDOW) -> None:
        self.streams: dict[int, Stream] = {}
        self.goaway: tuple[int, int] | None = None
        """Of the last GOAWAY: the last stream that the peer takes, and the error."""
        self.window = DEFAULT_WINDOW
        """How many octets of DATA the peer takes on the connection now."""
        self.max_frame = MAX_FRAME
        self.max_streams = MAX_WINDOW
        self.settled = False
        """Whether the peer's first SETTINGS have come."""
        self.pings_answered = 0
        self._half_window = receive_window // 2
        self._received = 0
        self._initial_window = DEFAULT_WINDOW
        self._next_id = 1
        self._rest = b""
        self._block: tuple[int, int, bytearray] | None = None
        self._decoder = Decoder(MAX_HEADER_BLOCK)
        self._encoder = Encoder()
        self._out: list[bytes] = [
            PREFACE,
            frame(
                SETTINGS,
                0,
                0,
                struct.pack(
                    ">HLHLHL",
                    *(0x2, 0),  # ENABLE_PUSH
                    *(0x4, receive_window),  # INITIAL_WINDOW_SIZE
                    *(0x6, MAX_HEADER_BLOCK),  # MAX_HEADER_LIST_SIZE
                ),
            ),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", receive_window - DEFAULT_WINDOW)),
        ]

    # ------------------------------------------------------------ sending

    def take_output(self) -> bytes:
        """What is to be sent; the next call returns only what came after."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        return data

    @property
    def has_output(self) -> bool:
        """Whether there is something to send."""
        return bool(self._out)

    @property
    def can_open(self) -> bool:
        """Whether the peer takes another stream."""
        return self.goaway is None and len(self.streams) < self.max_streams and self._next_id < MAX_WINDOW

    def open(self, stream: Stream, headers: Iterable[tuple[str, str]], *, end: bool = False) -> None:
        """Sends a request's headers and gives the stream its id."""
        stream.id = self._next_id
        stream.data_head = _HEAD.pack(0, 0, DATA, 0, stream.id)[3:]
        self._next_id += 2
        stream.window = self._initial_window
        stream.local_closed = end
        self.streams[stream.id] = stream
        block = self._encoder.encode(headers)
        kind, flags = HEADERS, END_STREAM if end else 0
        while len(block) > self.max_frame:
            self._out.append(frame(kind, flags, stream.id, block[: self.max_frame]))
            block = block[self.max_frame :]
            kind, flags = CONTINUATION, 0
        self._out.append(frame(kind, flags | END_HEADERS, stream.id, block))

    def room(self, stream: Stream) -> int:
        """How many octets of DATA can be sent on the stream now."""
        window = stream.window
        return window if window < self.window else self.window

    def send(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """Sends DATA, at most as much as there is room for."""
        size = len(data)
        stream.window -= size
        self.window -= size
        limit = self.max_frame
        if size <= limit and not end:
            self._out.append(_HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id) + data)
            return
        at = 0
        while size - at > limit:
            self._out.append(frame(DATA, 0, stream.id, data[at : at + limit]))
            at += limit
        if end:
            stream.local_closed = True
        if at:
            data = data[at:]
        self._out.append(frame(DATA, END_STREAM if end else 0, stream.id, data))

    def reset(self, stream: Stream, code: int = CANCEL) -> None:
        """Gives a stream up."""
        if self.streams.pop(stream.id, None) is not None:
            self._out.append(frame(RST_STREAM, 0, stream.id, struct.pack(">L", code)))

    def ping(self) -> None:
        """Asks whether the peer is there; `pings_answered` counts the answers."""
        self._out.append(frame(PING, 0, 0, b"sessiond"))

    def close(self, code: int = NO_ERROR) -> None:
        """Says that the connection ends. The last thing to send."""
        self._out.append(frame(GOAWAY, 0, 0, struct.pack(">LL", 0, code)))

    # ------------------------------------------------------------ receiving

    def takes_as_data(self, data: bytes, stream: Stream) -> bool:
        """Whether what has arrived is one frame of DATA of this stream, and there is nothing to it
        but its payload, which begins at `HEAD`. Then it has been received with that; else it has not."""
        length = len(data) - HEAD
        if (
            data[3:HEAD] != stream.data_head
            or int.from_bytes(data[:3], "big") != length
            or not 0 < length <= MAX_FRAME
            or self._rest
            or self._block is not None
            or self._received + length > self._half_window
            or stream.received + length > self._half_window
            or stream.id not in self.streams
        ):
            return False
        self._received += length
        stream.received += length
        return True

    def receive(self, data: bytes) -> None:
        """Takes what has arrived, and tells the streams."""
        try:
            if self._rest:
                data = self._rest + data
            at = 0
            size = len(data)
            while size - at >= HEAD:
                high, low, kind, flags, id = _HEAD.unpack_from(data, at)
                length = high << 8 | low
                if length > MAX_FRAME:
                    if not self.settled and kind != SETTINGS:
                        self._not_http2()
                    raise Http2Error(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                start = at + HEAD
                stop = start + length
                if stop > size:
                    break
                at = stop
                id &= MAX_WINDOW
                if kind == DATA and self._block is None and self.settled:
                    self._data(flags, id, data[start:stop], length)
                else:
                    self._frame(kind, flags, id, data[start:stop])
            self._rest = data[at:] if at else data
        except Http2Error as error:
            self.close(error.code)
            raise

    def _not_http2(self) -> None:
        raise Http2Error(PROTOCOL_ERROR, "the peer does not speak HTTP/2 as expected; does it use TLS, or not?")

    def _frame(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        if not self.settled and (kind != SETTINGS or flags & ACK):
            self._not_http2()
        if self._block is not None and (kind != CONTINUATION or id != self._block[0]):
            raise Http2Error(PROTOCOL_ERROR, "a header block was interrupted")
        if kind == DATA:
            self._data(flags, id, payload, len(payload))
        elif kind == HEADERS:
            self._headers(flags, id, payload)
        elif kind == RST_STREAM:
            _expect(payload, 4)
            self._known(id)
            stream = self.streams.pop(id, None)
            if stream is not None:
                stream.on_reset(int.from_bytes(payload, "big"))
        elif kind == SETTINGS:
            self._settings(flags, id, payload)
        elif kind == PUSH_PROMISE:
            raise Http2Error(PROTOCOL_ERROR, "a push, which is off")
        elif kind == PING:
            _expect(payload, 8)
            _on_connection(id)
            if flags & ACK:
                self.pings_answered += 1
            else:
                self._out.append(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            _on_connection(id)
            if len(payload) < 8:
                raise Http2Error(FRAME_SIZE_ERROR, "a GOAWAY that is too short")
            last, code = struct.unpack_from(">LL", payload)
            self._goaway(last & MAX_WINDOW, code)
        elif kind == WINDOW_UPDATE:
            self._window_update(id, payload)
        elif kind == CONTINUATION:
            if self._block is None:
                raise Http2Error(PROTOCOL_ERROR, "a CONTINUATION of nothing")
            self._block[2].extend(payload)
            self._end_of_block(flags)
        # PRIORITY and unknown kinds are skipped (section 5.5).

    def _known(self, id: int) -> None:
        """Ends the connection if no stream of this id was ever opened."""
        if id == 0 or id >= self._next_id or id % 2 == 0:
            raise Http2Error(PROTOCOL_ERROR, f"a frame of stream {id}, which is not open")

    def _data(self, flags: int, id: int, payload: bytes, length: int) -> None:
        stream = self.streams.get(id)
        if flags & PADDED:
            payload = _unpad(payload)
        # What has come was taken at once, so a peer cannot send more than the window.
        self._received += length
        if self._received > self._half_window:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", self._received)))
            self._received = 0
        if stream is None:
            self._known(id)  # a stream that we gave up: what comes late is dropped
            return
        end = flags & END_STREAM
        stream.received += length
        if stream.received > self._half_window and not end:
            self._out.append(frame(WINDOW_UPDATE, 0, id, struct.pack(">L", stream.received)))
            stream.received = 0
        if payload:
            stream.on_data(payload)
        if end:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is None:
            return  # given up while its last octets were taken
        if not stream.local_closed:
            # The peer is done before we are: gRPC's way to end a call early.
            self._out.append(frame(RST_STREAM, 0, stream.id, struct.pack(">L", CANCEL)))
        stream.on_end()

    def _headers(self, flags: int, id: int, payload: bytes) -> None:
        self._known(id)
        if flags & PADDED:
            payload = _unpad(payload)
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise Http2Error(FRAME_SIZE_ERROR, "HEADERS without their priority")
            payload = payload[5:]
        self._block = (id, flags & END_STREAM, bytearray(payload))
        self._end_of_block(flags)

    def _end_of_block(self, flags: int) -> None:
        assert self._block is not None
        id, end, block = self._block
        if len(block) > MAX_HEADER_BLOCK:
            raise Http2Error(ENHANCE_YOUR_CALM, "a header block that is too large")
        if not flags & END_HEADERS:
            return
        self._block = None
        # Blocks of streams that were given up count as well: they change the decoder's table.
        try:
            decoded = self._decoder.decode(bytes(block))
        except (HPACKError, UnicodeDecodeError) as error:
            raise Http2Error(COMPRESSION_ERROR, "a header block that cannot be decoded") from error
        stream = self.streams.get(id)
        if stream is None:
            return
        stream.on_headers([(str(name), str(value)) for name, value in decoded], bool(end))
        if end:
            self._end(stream)

    def _settings(self, flags: int, id: int, payload: bytes) -> None:
        _on_connection(id)
        if flags & ACK:
            _expect(payload, 0)
            return
        if len(payload) % 6:
            raise Http2Error(FRAME_SIZE_ERROR, "SETTINGS that are cut off")
        widened = False
        for name, value in struct.iter_unpack(">HL", payload):
            if name == 0x1:
                self._encoder.header_table_size = min(value, 4096)
            elif name == 0x2 and value:
                raise Http2Error(PROTOCOL_ERROR, "a server that wants to push")
            elif name == 0x3:
                self.max_streams = value
            elif name == 0x4:
                if value > MAX_WINDOW:
                    raise Http2Error(FLOW_CONTROL_ERROR, "an initial window that is too large")
                change = value - self._initial_window
                self._initial_window = value
                for stream in self.streams.values():
                    stream.window += change
                    if stream.window > MAX_WINDOW:
                        raise Http2Error(FLOW_CONTROL_ERROR, "a window that is too large")
                widened = widened or change > 0
            elif name == 0x5:
                if not MAX_FRAME <= value <= 2**24 - 1:
                    raise Http2Error(PROTOCOL_ERROR, "a frame size that is not allowed")
                self.max_frame = value
        self.settled = True
        self._out.append(frame(SETTINGS, ACK, 0, b""))
        if widened:
            self._tell_windows()

    def _goaway(self, last: int, code: int) -> None:
        if self.goaway is not None:
            last = min(last, self.goaway[0])
        self.goaway = (last, code)
        for stream in [stream for stream in self.streams.values() if stream.id > last]:
            # Never looked at, so as if refused (section 6.8).
            del self.streams[stream.id]
            stream.on_reset(REFUSED_STREAM)

    def _window_update(self, id: int, payload: bytes) -> None:
        _expect(payload, 4)
        more = int.from_bytes(payload, "big") & MAX_WINDOW
        if id == 0:
            if more == 0:
                raise Http2Error(PROTOCOL_ERROR, "a WINDOW_UPDATE of 0")
            self.window += more
            if self.window > MAX_WINDOW:
                raise Http2Error(FLOW_CONTROL_ERROR, "a window that is too large")
            self._tell_windows()
            return
        self._known(id)
        stream = self.streams.get(id)
        if stream is None:
            return
        stream.window += more
        if more == 0 or stream.window > MAX_WINDOW:
            code = FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR
            self.reset(stream, code)
            stream.on_reset(code)
        else:
            stream.on_window()

    def _tell_windows(self) -> None:
        for stream in list(self.streams.values()):
            stream.on_window()


def _expect(payload: bytes, length: int) -> None:
    if len(payload) != length:
        raise Http2Error(FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes instead of {length}")


def _on_connection(id: int) -> None:
    if id:
        raise Http2Error(PROTOCOL_ERROR, "a frame of the connection on a stream")


def _unpad(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise Http2Error(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
