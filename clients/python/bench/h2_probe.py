"""The same Pipeline over the h2 package: what it would cost. Only what a Resolve needs."""

from __future__ import annotations

import argparse
import asyncio
import socket
from typing import Any

import h2.config
import h2.connection
import h2.events

from sessiond import _calls
from sessiond import _messages as messages

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/sessiond.v1.SessionService/Pipeline"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Pipeline:
    """One stream, with answers by sequence."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(4 << 20)
        self.stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(self.stream, HEADERS)
        self.h2.increment_flow_control_window(4 << 20, self.stream)
        self.sequence = 0
        self.rest = b""
        self.timeout = messages.encode_timeout(5 * messages.NANOSECONDS)

    def request(self, header: Any) -> tuple[int, bytes]:
        self.sequence += 1
        operation = _calls.resolve("", header, False, False)
        return self.sequence, messages.frame_request(self.sequence, operation.body, self.timeout)

    def receive(self, data: bytes) -> list[tuple[int, Any]]:
        answers = []
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, self.stream)
                octets = self.rest + event.data
                while len(octets) >= 5 and len(octets) >= (end := 5 + int.from_bytes(octets[1:5], "big")):
                    answers.append(messages.decode_response(octets[5:end]))
                    octets = octets[end:]
                self.rest = octets
        return answers


class Protocol(asyncio.Protocol):
    """The asyncio side, which coalesces what one turn of the loop sends."""

    def __init__(self) -> None:
        self.pipeline = Pipeline()
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.out: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.pipeline.h2.data_to_send())

    def resolve(self, header: Any) -> asyncio.Future[Any]:
        sequence, message = self.pipeline.request(header)
        loop = asyncio.get_running_loop()
        if not self.out:
            loop.call_soon(self.flush)
        self.out.append(message)
        future = self.waiting[sequence] = loop.create_future()
        return future

    def flush(self) -> None:
        data, self.out = b"".join(self.out), []
        for at in range(0, len(data), 16_384):
            self.pipeline.h2.send_data(self.pipeline.stream, data[at : at + 16_384])
        self.transport.write(self.pipeline.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for sequence, answer in self.pipeline.receive(data):
            self.waiting.pop(sequence).set_result(answer)
        if out := self.pipeline.h2.data_to_send():
            self.transport.write(out)


def run(sides: Any, address: str, options: argparse.Namespace) -> None:
    from client import compare

    path = address.removeprefix("unix:")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    pipeline = Pipeline()
    connection.sendall(pipeline.h2.data_to_send())

    def blocking(count: int) -> None:
        for _ in range(count):
            sequence, message = pipeline.request(sides.header)
            pipeline.h2.send_data(pipeline.stream, message)
            connection.sendall(pipeline.h2.data_to_send())
            while True:
                answers = pipeline.receive(connection.recv(65_536))
                if out := pipeline.h2.data_to_send():
                    connection.sendall(out)
                if answers:
                    assert answers[0][0] == sequence and answers[0][1].session.data
                    break

    _, protocol = sides.loop.run_until_complete(sides.loop.create_unix_connection(Protocol, path))

    def asynchronous(width: int) -> Any:
        async def one(count: int) -> None:
            for _ in range(count):
                found = await protocol.resolve(sides.header)
                assert found.session.data

        return lambda count: sides._gather(one, count, width)

    rows = {
        "blocking, ours": sides.ours,
        "blocking, h2 package": blocking,
        "blocking, redis-py": sides.redis_py,
        "asyncio 1, ours": sides.async_ours(1),
        "asyncio 1, h2 package": asynchronous(1),
        "asyncio 1, redis-py": sides.async_redis_py(1),
        "asyncio 64, ours": sides.async_ours(64),
        "asyncio 64, h2 package": asynchronous(64),
        "asyncio 64, redis-py": sides.async_redis_py(64),
    }
    for label, figure in compare(rows, options.rounds, options.count).items():
        print(f"{label:24} {figure:8.1f} us")
    connection.close()
    protocol.transport.close()
