"""Daemons for tests: on unix sockets or free ports, in folders of their own, ended by their pid.
And clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parties import OnLoop

from sessiond import AsyncClient, Client

Make = Callable[..., Any]
REPOSITORY = Path(__file__).resolve().parents[3]


def find_daemon() -> Path | None:
    """`SESSIOND_BIN`, or what this repository has built."""
    if path := os.environ.get("SESSIOND_BIN"):
        return Path(path)
    found = (REPOSITORY / "target" / profile / "sessiond" for profile in ("dist", "release", "debug"))
    return next((path for path in found if path.exists()), None)


def own_port() -> int:
    """A free port that nobody else gets while a daemon is away: Linux gives away those from 32768 on."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _stands(task: Path) -> bool:
    """Whether a thread has stopped, or ended meanwhile."""
    try:
        return task.read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Daemon:
    """A daemon of a test."""

    def __init__(self, folder: Path, *settings: str, listen: str | None = None, dev: bool = True) -> None:
        binary = find_daemon()
        assert binary is not None, "no sessiond: set SESSIOND_BIN, or build it with cargo"
        self.folder = folder
        self.listen = listen or f"unix:{folder}/d.sock"
        self._command = [str(binary), "serve", *(["--dev"] if dev else [])]
        for setting in (
            f'listen.grpc=["{self.listen}"]',
            'listen.admin=[]',
            'listen.metrics=',
            *settings,
        ):
            self._command += ["--set", setting]
        self.process: subprocess.Popen[str] | None = None
        self.address = ""
        self.start()

    def start(self) -> None:
        """Starts it and waits until it says that it is ready."""
        if self.listen.startswith("unix:"):
            Path(self.listen.removeprefix("unix:")).unlink(missing_ok=True)
        log = (self.folder / "log").open("a")
        # The daemon takes every SESSIOND_ variable for a key of its configuration.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SESSIOND_")}
        process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        log.close()
        self.process = process
        guard = threading.Timer(30, process.kill)
        guard.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        guard.cancel()
        found = re.search(r"grpc=(\S+)", line)
        if not found:
            self.stop()
        assert found, f"the daemon said {line!r}: {(self.folder / 'log').read_text()}"
        self.address = found[1]
        if not self.listen.startswith("unix:"):
            self.listen = self.address  # the same port after a restart
            self._command = [
                re.sub(r'listen\.grpc=.*', f'listen.grpc=["{self.listen}"]', part) for part in self._command
            ]

    def send(self, number: int) -> None:
        """SIGSTOP, SIGCONT and the like. Comes back when a SIGSTOP has stopped every thread."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            tasks = Path(f"/proc/{self.process.pid}/task")
            while not all(map(_stands, tasks.glob("*/stat"))):
                time.sleep(0.001)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it and waits for that."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons for one test."""
    running: list[Daemon] = []

    def start(*settings: str, **options: Any) -> Daemon:
        daemon = Daemon(tmp_path_factory.mktemp("d"), *settings, **options)
        running.append(daemon)
        return daemon

    yield start
    for daemon in running:
        daemon.stop()


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that do not disturb it."""
    daemon = Daemon(tmp_path_factory.mktemp("shared"))
    yield daemon
    daemon.stop()


@pytest.fixture(params=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes clients with a blocking surface."""
    loop = asyncio.new_event_loop()
    problems: list[Any] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    made: list[Any] = []

    def client(address: str, **options: Any) -> Any:
        one: Any = Client(address, **options)
        if request.param == "asyncio":
            one = OnLoop(AsyncClient(address, **options), loop)
        made.append(one)
        return one

    yield client
    for one in made:
        one.close(0)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    gc.collect()
    assert problems == [], f"nobody looked at {problems}"
