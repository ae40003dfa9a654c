"""When the client connects again to a server that ends each stream."""

from __future__ import annotations

import base64
import socket
import struct

import pytest
from conftest import Make
from generated import messages
from hpack import Decoder, Encoder
from peers import peer

from sessiond import Token, UnavailableError, _calls
from sessiond import _http2 as h2
from sessiond._core import Core
from sessiond._messages import frame as message
from sessiond._operations import Operation
from sessiond._options import Options

ENDINGS = ("the stream ends", "the stream is reset", "GOAWAY")
DESCRIBE = 1
"""The stream of Describe: the first one of a client."""


class Ending:
    """A server's side of one connection, as octets: it describes itself, answers so many
    operations, and ends the Pipeline when the next one comes."""

    def __init__(self, ending: str, answers: int = 0) -> None:
        self.ending = ending
        self.answers = answers
        self.ended = False
        self._rest = b""
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._pb = messages()

    def receive(self, data: bytes) -> bytes:
        """What it says to what the client has sent."""
        if not self._rest and data.startswith(h2.PREFACE):
            data = data.removeprefix(h2.PREFACE)
        data = self._rest + data
        said = b""
        while len(data) >= h2.HEAD and len(data) >= (stop := h2.HEAD + int.from_bytes(data[:3], "big")):
            kind, flags, stream, payload = data[3], data[4], int.from_bytes(data[5:9], "big"), data[h2.HEAD : stop]
            data = data[stop:]
            if kind == h2.SETTINGS and not flags & h2.ACK:
                said += h2.frame(h2.SETTINGS, 0, 0, b"")
            elif kind == h2.HEADERS:
                headers = {str(name): str(value) for name, value in self._decoder.decode(payload)}
                said += self._headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
                if headers[":path"].endswith("/Describe"):
                    assert stream == DESCRIBE
                    said += self._describe()
            elif kind == h2.DATA and stream != DESCRIBE and not self.ended:
                said += self._operation(stream, payload)
        self._rest = data
        return said

    def _headers(self, stream: int, headers: list[tuple[str, str]], flags: int = 0) -> bytes:
        return h2.frame(h2.HEADERS, h2.END_HEADERS | flags, stream, self._encoder.encode(headers))

    def _describe(self) -> bytes:
        found = self._pb.DescribeResponse(version="9.9.9")
        found.limits.max_message_bytes = 1 << 20
        answer = h2.frame(h2.DATA, 0, DESCRIBE, message(found.SerializeToString()))
        return answer + self._headers(DESCRIBE, [("grpc-status", "0")], h2.END_STREAM)

    def _operation(self, stream: int, frame: bytes) -> bytes:
        if self.answers:
            self.answers -= 1
            request = self._pb.PipelineRequest.FromString(frame[5:])
            answer = self._pb.PipelineResponse(sequence=request.sequence)
            answer.destroy.destroyed = 1
            return h2.frame(h2.DATA, 0, stream, message(answer.SerializeToString()))
        self.ended = True
        if self.ending == "GOAWAY":
            return h2.frame(h2.GOAWAY, 0, 0, struct.pack(">LL", DESCRIBE, h2.NO_ERROR))
        if self.ending == "the stream is reset":
            return h2.frame(h2.RST_STREAM, 0, stream, struct.pack(">L", h2.REFUSED_STREAM))
        info = self._pb.rpc("ErrorInfo")(reason="SHUTTING_DOWN", domain="sessiond")
        status = self._pb.rpc("Status")(code=14, message="the end")
        status.details.add().Pack(info)
        details = base64.b64encode(status.SerializeToString()).decode()
        return self._headers(stream, [("grpc-status", "14"), ("grpc-status-details-bin", details)], h2.END_STREAM)


class Clock:
    """The core of a client, and the time that it is given."""

    def __init__(self) -> None:
        options = Options(
            "127.0.0.1:1",
            engine="",
            token=None,
            token_file=None,
            tls=None,
            timeout=1000.0,
            max_in_flight=10,
            on_event=None,
        )
        self.now = 5000.0
        self.core = Core(options, wake=lambda operation: None, drop=lambda channel: None)

    def ask(self) -> Operation:
        """Somebody waits for an answer."""
        operation = _calls.destroy("", Token("x"), "this", None)
        assert operation is not None
        self.core.admit(operation, 1000.0, self.now)
        return operation

    def connect(self) -> float:
        """Lets time pass until the client connects, and returns how much."""
        at = self.core.attempt_at()
        assert at is not None, "expected that somebody waits for a connection"
        pause = max(0.0, at - self.now)
        self.now += pause
        self.core.start(None, self.now)
        return pause

    def talk(self, server: Ending) -> None:
        """Passes octets on until neither side has anything to say."""
        channel = self.core.channel
        assert channel is not None, "expected a connection"
        self.core.flush(self.now)
        while said := server.receive(channel.take_output()):
            self.core.receive(channel, said, self.now)


def expect_pause(pause: float, failures: int) -> None:
    """Of an attempt after so many that failed."""
    longest = min(1.0, 0.1 * 2 ** (failures - 1))
    assert longest / 2 - 1e-6 <= pause <= longest + 1e-6, f"the pause after {failures} failures: {pause} s"


@pytest.mark.parametrize("ending", ENDINGS)
def test_pauses_grow_while_nothing_is_answered(ending: str) -> None:
    clock = Clock()
    operation = clock.ask()
    assert clock.connect() == 0
    for failures in range(1, 9):
        clock.talk(Ending(ending))
        expect_pause(clock.connect(), failures)
    clock.talk(Ending(ending, answers=1))
    assert operation.done and operation.error is None, "repeated until it was answered"


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_has_answered_is_replaced_at_once(ending: str) -> None:
    clock = Clock()
    clock.ask()
    clock.connect()
    for _ in range(3):
        clock.talk(Ending(ending))
        clock.connect()
    for _ in range(3):
        server = Ending(ending, answers=1)
        clock.talk(server)
        clock.ask()
        clock.talk(server)
        assert server.ended and clock.connect() == 0, "expected no pause after a connection that worked"
    clock.talk(Ending(ending))
    expect_pause(clock.connect(), 1)


def test_nobody_waits_because_an_idle_connection_ended() -> None:
    clock = Clock()
    clock.core.abandon(clock.ask())
    clock.connect()
    server = Ending("GOAWAY")
    clock.talk(server)
    clock.now += 60
    clock.ask()
    clock.talk(server)
    assert server.ended and clock.connect() == 0, "expected no pause"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_server_that_ends_every_stream(make: Make, ending: str) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        server = Ending(ending)
        while data := connection.recv(65536):
            connection.sendall(server.receive(data))

    with peer(serve) as hostile:
        client = make(hostile.address, timeout=1)
        with pytest.raises(UnavailableError):
            client.write(set={})
        client.close(0)
    # At least 50, 100, 200 and 400 ms lie between them.
    assert 1 <= hostile.connections <= 5, f"expected 1 to 5 streams in a second, not {hostile.connections}"
