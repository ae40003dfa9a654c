"""HTTP/2 as a peer may do it: the cases of RFC 9113 that a client can meet."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hpack import Encoder

from sessiond import _http2 as h2
from sessiond._http2 import Headers, Http2Connection, Http2Error, Stream, frame


class Seen(Stream):
    """Notes what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def on_headers(self, headers: Headers, end: bool) -> None:
        self.events.append(("headers", dict(headers), end))

    def on_data(self, data: bytes) -> None:
        self.events.append(("data", data))

    def on_end(self) -> None:
        self.events.append("end")

    def on_reset(self, code: int) -> None:
        self.events.append(("reset", code))

    def on_window(self) -> None:
        self.events.append("window")


class Peer:
    """A connection with one stream, and the frames that it has sent."""

    def __init__(self, settings: bytes = b"", **options: int) -> None:
        self.connection = Http2Connection(**options)
        self.encoder = Encoder()
        self.connection.receive(frame(h2.SETTINGS, 0, 0, settings))
        self.stream = Seen()
        self.connection.open(self.stream, [(":method", "POST"), (":path", "/x")])
        self.sent()

    def give(self, kind: int, flags: int = 0, id: int = 1, payload: bytes = b"") -> None:
        self.connection.receive(frame(kind, flags, id, payload))

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        data = self.connection.take_output().removeprefix(h2.PREFACE)
        frames = []
        while data:
            length = int.from_bytes(data[:3], "big")
            frames.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
            data = data[9 + length :]
        return frames

    def fails(self, code: int, *frame_: Any) -> None:
        """The frame ends the connection with this error, and the peer is told."""
        with pytest.raises(Http2Error) as caught:
            self.give(*frame_)
        assert caught.value.code == code
        kind, _, id, payload = self.sent()[-1]
        assert (kind, id, payload[4:8]) == (h2.GOAWAY, 0, struct.pack(">L", code))


def settings(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(">HL", *pair) for pair in pairs)


def u32(value: int) -> bytes:
    return struct.pack(">L", value)


def test_greeting() -> None:
    connection = Http2Connection()
    data = connection.take_output()
    assert data.startswith(h2.PREFACE) and data[24 + 3] == h2.SETTINGS
    assert struct.pack(">HL", 2, 0) in data, "no pushes"
    connection.receive(frame(h2.SETTINGS, 0, 0, b""))
    assert connection.take_output() == frame(h2.SETTINGS, h2.ACK, 0, b"")


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x46" + b"\0" * 9])
def test_a_peer_of_another_protocol(first: bytes) -> None:
    with pytest.raises(Http2Error, match="does it use TLS, or not"):
        Http2Connection().receive(first)


def test_octet_by_octet() -> None:
    peer = Peer()
    block = peer.encoder.encode([(":status", "200")])
    octets = frame(h2.HEADERS, h2.END_HEADERS, 1, block) + frame(h2.DATA, h2.END_STREAM, 1, b"hello")
    for octet in octets:
        peer.connection.receive(bytes((octet,)))
    assert peer.stream.events == [("headers", {":status": "200"}, False), ("data", b"hello"), "end"]


def test_pings() -> None:
    peer = Peer()
    peer.give(h2.PING, 0, 0, b"12345678")
    assert peer.sent() == [(h2.PING, h2.ACK, 0, b"12345678")]
    peer.give(h2.PING, h2.ACK, 0, b"12345678")
    assert peer.sent() == [], "an answer is not answered"
    peer.fails(h2.FRAME_SIZE_ERROR, h2.PING, 0, 0, b"123")
    Peer().fails(h2.PROTOCOL_ERROR, h2.PING, 0, 1, b"12345678")


def test_settings() -> None:
    peer = Peer()
    peer.give(h2.SETTINGS, 0, 0, settings((5, 20_000), (0xFF, 7), (3, 0)))
    assert peer.sent() == [(h2.SETTINGS, h2.ACK, 0, b"")]
    assert not peer.connection.can_open
    peer.connection.send(peer.stream, b"x" * 25_000)
    assert [len(sent[3]) for sent in peer.sent()] == [20_000, 5_000]
    for code, pairs in (
        (h2.FLOW_CONTROL_ERROR, settings((4, 1 << 31))),
        (h2.PROTOCOL_ERROR, settings((5, 100))),
        (h2.PROTOCOL_ERROR, settings((5, 1 << 24))),
        (h2.PROTOCOL_ERROR, settings((2, 1))),
        (h2.FRAME_SIZE_ERROR, b"12345"),
    ):
        Peer().fails(code, h2.SETTINGS, 0, 0, pairs)
    Peer().fails(h2.PROTOCOL_ERROR, h2.SETTINGS, 0, 1, b"")
    Peer().fails(h2.FRAME_SIZE_ERROR, h2.SETTINGS, h2.ACK, 0, settings((4, 1)))


def test_a_smaller_header_table() -> None:
    peer = Peer(settings((1, 0)))
    peer.connection.open(Seen(), [("a-name", "a-value")])
    peer.connection.open(Seen(), [("a-name", "a-value")])
    blocks = [sent[3] for sent in peer.sent()]
    assert len(blocks[1]) >= len("a-name") // 2, "nothing is taken from a table that is not there"


def test_windows() -> None:
    peer = Peer(settings((4, 0)))
    assert peer.connection.room(peer.stream) == 0, "a window of 0"
    peer.give(h2.WINDOW_UPDATE, 0, 1, u32(10))
    assert peer.stream.events == ["window"] and peer.connection.room(peer.stream) == 10
    peer.connection.send(peer.stream, b"x" * 10)
    peer.give(h2.SETTINGS, 0, 0, settings((4, 5)))
    assert peer.connection.room(peer.stream) == 5, "a larger initial window widens open streams"
    peer.give(h2.SETTINGS, 0, 0, settings((4, 2)))
    peer.connection.send(peer.stream, b"xx")
    peer.give(h2.SETTINGS, 0, 0, settings((4, 1)))
    assert peer.connection.room(peer.stream) == -1, "it may become negative"
    peer.give(h2.WINDOW_UPDATE, 0, 1, u32(100_000))
    assert peer.connection.room(peer.stream) == h2.DEFAULT_WINDOW - 12, "the connection's window counts, too"
    peer.give(h2.WINDOW_UPDATE, 0, 0, u32(100_000))
    assert peer.connection.room(peer.stream) == 99_999


def test_bad_windows() -> None:
    Peer().fails(h2.PROTOCOL_ERROR, h2.WINDOW_UPDATE, 0, 0, u32(0))
    Peer().fails(h2.FLOW_CONTROL_ERROR, h2.WINDOW_UPDATE, 0, 0, u32(h2.MAX_WINDOW))
    Peer().fails(h2.FRAME_SIZE_ERROR, h2.WINDOW_UPDATE, 0, 0, b"123")
    Peer().fails(h2.PROTOCOL_ERROR, h2.WINDOW_UPDATE, 0, 99, u32(1))
    Peer().fails(h2.FLOW_CONTROL_ERROR, h2.SETTINGS, 0, 0, settings((4, h2.MAX_WINDOW), (4, 0), (4, 1 << 31)))
    for more, code in ((0, h2.PROTOCOL_ERROR), (h2.MAX_WINDOW, h2.FLOW_CONTROL_ERROR)):
        peer = Peer()
        peer.give(h2.WINDOW_UPDATE, 0, 1, u32(more))
        assert peer.stream.events == [("reset", code)]
        assert peer.sent() == [(h2.RST_STREAM, 0, 1, u32(code))], "only the stream ends"


def test_our_windows_are_kept_open() -> None:
    peer = Peer(receive_window=100_000)
    for _ in range(4):
        peer.give(h2.DATA, 0, 1, b"x" * 16_000)
    updates = [sent for sent in peer.sent() if sent[0] == h2.WINDOW_UPDATE]
    assert {sent[2]: int.from_bytes(sent[3], "big") for sent in updates} == {0: 64_000, 1: 64_000}


def test_padding() -> None:
    peer = Peer()
    block = peer.encoder.encode([(":status", "200")])
    priority = b"\0\0\0\0\x10"
    flags = h2.PADDED | h2.PRIORITY_FLAG | h2.END_HEADERS
    peer.give(h2.HEADERS, flags, 1, b"\x03" + priority + block + b"\0\0\0")
    peer.give(h2.DATA, h2.PADDED, 1, b"\x02hi\0\0")
    peer.give(h2.DATA, h2.PADDED, 1, b"\x04\0\0\0\0")
    assert peer.stream.events == [("headers", {":status": "200"}, False), ("data", b"hi")]
    assert peer.stream.received == 10, "padding counts towards the window"
    Peer().fails(h2.PROTOCOL_ERROR, h2.DATA, h2.PADDED, 1, b"\x05abc")
    Peer().fails(h2.PROTOCOL_ERROR, h2.DATA, h2.PADDED, 1, b"")
    Peer().fails(h2.PROTOCOL_ERROR, h2.HEADERS, h2.PADDED | h2.END_HEADERS, 1, b"\x09abc")
    Peer().fails(h2.FRAME_SIZE_ERROR, h2.HEADERS, h2.PRIORITY_FLAG | h2.END_HEADERS, 1, b"ab")


def test_continuation() -> None:
    peer = Peer()
    block = peer.encoder.encode([(":status", "200"), ("x-long", "y" * 50)])
    peer.give(h2.HEADERS, h2.END_STREAM, 1, block[:3])
    peer.give(h2.CONTINUATION, 0, 1, block[3:9])
    peer.give(h2.CONTINUATION, h2.END_HEADERS, 1, block[9:])
    assert peer.stream.events[0][1]["x-long"] == "y" * 50 and peer.stream.events[-1] == "end"
    Peer().fails(h2.PROTOCOL_ERROR, h2.CONTINUATION, h2.END_HEADERS, 1, block)
    for interruption in ((h2.PING, 0, 0, b"12345678"), (h2.DATA, 0, 1, b"x"), (h2.CONTINUATION, 0, 3, b"")):
        peer = Peer()
        peer.give(h2.HEADERS, 0, 1, block[:3])
        peer.fails(h2.PROTOCOL_ERROR, *interruption)
    peer = Peer()
    peer.give(h2.HEADERS, 0, 1, b"")
    with pytest.raises(Http2Error) as caught:
        for _ in range(10):
            peer.give(h2.CONTINUATION, 0, 1, b"\0" * 16_000)
    assert caught.value.code == h2.ENHANCE_YOUR_CALM


def test_header_blocks() -> None:
    Peer().fails(h2.COMPRESSION_ERROR, h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff")
    huge = Encoder().encode([("a", "b" * 70_000)], huffman=False)
    peer = Peer()
    peer.give(h2.HEADERS, 0, 1, huge[:16_000])
    with pytest.raises(Http2Error):
        for at in range(16_000, len(huge), 16_000):
            peer.give(h2.CONTINUATION, h2.END_HEADERS if at + 16_000 >= len(huge) else 0, 1, huge[at : at + 16_000])
    # The decoder's table also learns from blocks of streams that were given up.
    peer = Peer()
    second = Seen()
    peer.connection.open(second, [(":path", "/")])
    peer.connection.reset(peer.stream)
    peer.give(h2.HEADERS, h2.END_HEADERS, 1, peer.encoder.encode([("x-new", "value")]))
    peer.give(h2.HEADERS, h2.END_HEADERS, 3, peer.encoder.encode([("x-new", "value")]))
    assert peer.stream.events == [] and second.events == [("headers", {"x-new": "value"}, False)]


def test_resets() -> None:
    peer = Peer()
    peer.give(h2.RST_STREAM, 0, 1, u32(h2.REFUSED_STREAM))
    assert peer.stream.events == [("reset", h2.REFUSED_STREAM)]
    peer.give(h2.RST_STREAM, 0, 1, u32(1))
    peer.give(h2.DATA, 0, 1, b"late")
    peer.give(h2.WINDOW_UPDATE, 0, 1, u32(1))
    assert len(peer.stream.events) == 1, "what comes late is dropped"
    Peer().fails(h2.FRAME_SIZE_ERROR, h2.RST_STREAM, 0, 1, b"123")
    for id in (0, 2, 3):
        Peer().fails(h2.PROTOCOL_ERROR, h2.RST_STREAM, 0, id, u32(1))
        Peer().fails(h2.PROTOCOL_ERROR, h2.DATA, 0, id, b"x")
        Peer().fails(h2.PROTOCOL_ERROR, h2.HEADERS, h2.END_HEADERS, id, b"")


def test_an_early_end_resets_what_we_still_send() -> None:
    peer = Peer()
    peer.give(h2.DATA, h2.END_STREAM, 1, b"x")
    assert peer.stream.events == [("data", b"x"), "end"]
    assert peer.sent() == [(h2.RST_STREAM, 0, 1, u32(h2.CANCEL))]


def test_goaway() -> None:
    peer = Peer()
    second = Seen()
    peer.connection.open(second, [(":path", "/")])
    peer.give(h2.GOAWAY, 0, 0, u32(h2.MAX_WINDOW) + u32(0))
    assert not peer.connection.can_open and peer.stream.events == second.events == []
    peer.give(h2.GOAWAY, 0, 0, u32(1) + u32(0) + b"why")
    assert second.events == [("reset", h2.REFUSED_STREAM)] and peer.stream.events == []
    peer.give(h2.DATA, 0, 1, b"goes on")
    assert peer.stream.events == [("data", b"goes on")]
    Peer().fails(h2.FRAME_SIZE_ERROR, h2.GOAWAY, 0, 0, b"short")
    Peer().fails(h2.PROTOCOL_ERROR, h2.GOAWAY, 0, 1, u32(1) + u32(0))


def test_frames_that_are_skipped_and_frames_that_are_not() -> None:
    peer = Peer()
    peer.give(0x42, 0xFF, 1, b"unknown")
    peer.give(h2.PRIORITY, 0, 1, b"\0\0\0\0\x10")
    peer.give(h2.DATA, 0, 1, b"")
    assert peer.sent() == [] and peer.stream.events == []
    peer.fails(h2.PROTOCOL_ERROR, h2.PUSH_PROMISE, h2.END_HEADERS, 1, u32(2))
    Peer().fails(h2.FRAME_SIZE_ERROR, h2.DATA, 0, 1, b"x" * 16_385)


def test_long_headers_of_ours_are_continued() -> None:
    peer = Peer()
    peer.connection.open(Seen(), [("authorization", "".join(chr(33 + n % 90) for n in range(40_000)))])
    sent = peer.sent()
    assert [part[0] for part in sent] == [h2.HEADERS] + [h2.CONTINUATION] * (len(sent) - 1) and len(sent) > 2
    assert sent[-1][1] & h2.END_HEADERS and not sent[0][1] & h2.END_HEADERS
