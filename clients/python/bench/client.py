"""What a Resolve costs the client, beside redis-py.

    python bench/client.py                # the table
    python bench/client.py --threads      # the blocking client with 1 to 64 threads, and with a reader thread
    python bench/client.py --h2           # HTTP/2 by the h2 package, beside our own

A session of 400 bytes is resolved and its data parsed; redis-py with hiredis does GETEX of the
same data, which a session library does beside parsing cookies and signatures. Rounds are
interleaved; the figures are medians of the CPU of this process per operation, in microseconds.
Everything runs on one core, as one worker and its sidecar do: on two, waking the other core
costs whoever waits for an answer more than the answer does.
Needs a daemon (SESSIOND_BIN or target/) and redis-server, and runs both on unix sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("src", "tests", "bench")]

import redis  # noqa: E402
import redis.asyncio  # noqa: E402
from conftest import Daemon  # noqa: E402
from redis.utils import HIREDIS_AVAILABLE  # noqa: E402

from sessiond import AsyncClient, Client, CookieHeader, _blocking  # noqa: E402

DATA = {"user": "ann", "cart": ["tea", "coffee", "a book"], "theme": "dark", "note": "x" * 320}
Measure = Callable[[int], float]


def measured(run: Callable[[int], None], count: int) -> float:
    start = time.process_time()
    run(count)
    return (time.process_time() - start) / count * 1e6


class Sides:
    """The clients that are compared."""

    def __init__(self, address: str, redis_socket: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = Client(address)
        self.async_client = AsyncClient(address)
        made = self.client.write(set=DATA)
        assert made.token
        self.header = CookieHeader(("session=" + made.token).encode())
        self.redis = redis.Redis(unix_socket_path=redis_socket)
        self.async_redis = redis.asyncio.Redis(
            connection_pool=redis.asyncio.ConnectionPool(
                connection_class=redis.asyncio.UnixDomainSocketConnection, path=redis_socket, max_connections=64
            )
        )
        self.redis.set("session", json.dumps(DATA))

    def ours(self, count: int) -> None:
        client, header = self.client, self.header
        for _ in range(count):
            found = client.resolve(header)
            assert found.session is not None and found.session.data

    def redis_py(self, count: int) -> None:
        for _ in range(count):
            text: Any = self.redis.getex("session", ex=1800)
            assert json.loads(text)

    def _gather(self, one: Callable[[int], Any], count: int, width: int) -> None:
        async def run() -> None:
            await asyncio.gather(*(one(count // width) for _ in range(width)))

        self.loop.run_until_complete(run())

    def async_ours(self, width: int) -> Callable[[int], None]:
        async def one(count: int) -> None:
            for _ in range(count):
                found = await self.async_client.resolve(self.header)
                assert found.session is not None and found.session.data

        return lambda count: self._gather(one, count, width)

    def async_redis_py(self, width: int) -> Callable[[int], None]:
        async def one(count: int) -> None:
            for _ in range(count):
                text: Any = await self.async_redis.getex("session", ex=1800)
                assert json.loads(text)

        return lambda count: self._gather(one, count, width)

    def threads(self, run: Callable[[int], None], width: int) -> Callable[[int], None]:
        def all_of_them(count: int) -> None:
            workers = [threading.Thread(target=run, args=(count // width,)) for _ in range(width)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        return all_of_them


class ReaderFront(_blocking.Front):
    """The other scheme: a thread that only reads, for comparison."""

    def _reset(self) -> None:
        super()._reset()
        self._leading = True
        self._reader = threading.Thread(target=self._read_for_all, daemon=True)
        self._reader.start()

    def _read_for_all(self) -> None:
        class Never:
            done = False
            deadline = float("inf")

        operation: Any = Never()
        while True:
            if self.core.channel is None and not self.core.operations:
                time.sleep(0.001)
            else:
                self._step(operation)


def compare(rows: dict[str, Callable[[int], None]], rounds: int, count: int) -> dict[str, float]:
    for run in rows.values():
        run(max(count // 4, 64))
    figures: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, run in rows.items():
            figures[name].append(measured(run, count))
    return {name: statistics.median(values) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=6400)
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--h2", action="store_true")
    options = parser.parse_args()
    assert HIREDIS_AVAILABLE, "install hiredis"
    server = shutil.which("redis-server")
    assert server, "install redis-server"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the servers inherit it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        redis_socket = f"{folder}/r.sock"
        command = [server, "--port", "0", "--unixsocket", redis_socket, "--save", "", "--dir", name]
        redis_process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        daemon = Daemon(folder)
        try:
            while not os.path.exists(redis_socket):
                time.sleep(0.01)
            run(Sides(daemon.address, redis_socket), daemon.address, options)
        finally:
            daemon.stop()
            redis_process.send_signal(signal.SIGTERM)
            redis_process.wait(10)


def run(sides: Sides, address: str, options: argparse.Namespace) -> None:
    rows: dict[str, Callable[[int], None]]
    if options.threads:
        other = Sides.__new__(Sides)
        other.client, other.header = Client(address), sides.header
        other.client._front = ReaderFront(other.client._options)
        rows = {}
        for width in (1, 4, 16, 64):
            rows[f"leader and followers, {width} threads"] = sides.threads(sides.ours, width)
            rows[f"reader thread, {width} threads"] = sides.threads(other.ours, width)
            rows[f"redis-py, {width} threads"] = sides.threads(sides.redis_py, width)
        for label, figure in compare(rows, options.rounds, options.count).items():
            print(f"{label:36} {figure:8.1f} us")
        return
    if options.h2:
        import h2_probe

        h2_probe.run(sides, address, options)
        return
    rows = {
        "blocking": sides.ours,
        "blocking redis-py": sides.redis_py,
        "asyncio, 1": sides.async_ours(1),
        "asyncio redis-py, 1": sides.async_redis_py(1),
        "asyncio, 64": sides.async_ours(64),
        "asyncio redis-py, 64": sides.async_redis_py(64),
    }
    figures = compare(rows, options.rounds, options.count)
    bars = {"blocking": ("blocking redis-py", 0.7), "asyncio, 1": ("asyncio redis-py, 1", 0.4),
            "asyncio, 64": ("asyncio redis-py, 64", 0.4)}
    for label, (against, bar) in bars.items():
        ratio = figures[label] / figures[against]
        print(f"{label:12} {figures[label]:7.1f} us   redis-py {figures[against]:7.1f} us"
              f"   ratio {ratio:.2f} (at most {bar}) {'ok' if ratio <= bar else 'MISSED'}")


if __name__ == "__main__":
    main()
