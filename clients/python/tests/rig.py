"""A real daemon for tests and scripts: in a folder of its own, ended by its process id."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECRET = "a-secret-for-tests-only-of-40-characters"
START_SECONDS = 20.0

DEFAULTS: dict[str, str] = {
    "listen.admin": "[]",
    "listen.metrics": "",
    "log.level": "error",
    "engine.default.cookie.name": "session",
    "engine.default.cookie.secure": "false",
    "engine.default.cookie.secrets": SECRET,
    "engine.default.touch_granularity": "1s",
}


def binary() -> str:
    """The daemon's program: SESSIOND_BIN, or what this repository has built."""
    named = os.environ.get("SESSIOND_BIN")
    if named:
        return named
    target = Path(__file__).resolve().parents[3] / "target"
    for profile in ("dist", "release", "debug"):
        candidate = target / profile / "sessiond"
        if candidate.exists():
            return str(candidate)
    raise RuntimeError("no daemon found: build it (cargo build --release), or set SESSIOND_BIN")


class Daemon:
    """A daemon on a unix socket in its own folder, with the store on disk unless told otherwise."""

    def __init__(self, settings: Mapping[str, str] | None = None, *, store: str = "memory") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sessiond-"))
        self.socket = self.folder / "grpc.sock"
        self.address = f"unix:{self.socket}"
        self._process: subprocess.Popen[str] | None = None
        self._settings = {
            **DEFAULTS,
            "listen.grpc": self.address,
            "store.backend": store,
            "store.sled.path": str(self.folder / "data"),
            **(settings or {}),
        }

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "the daemon is not running"
        return self._process.pid

    def start(self) -> Self:
        """Starts it and waits until it says that it is ready."""
        command = [binary(), "serve"]
        for key, value in self._settings.items():
            command += ["--set", f"{key}={value}"]
        with open(self.folder / "log", "ab") as log:
            # The daemon takes variables that begin with SESSIOND_ for its configuration.
            environment = {key: value for key, value in os.environ.items() if not key.startswith("SESSIOND")}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        self._process = process
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(START_SECONDS)
        if not ready or not process.stdout.readline():
            self.kill()
            raise RuntimeError(f"the daemon does not start: {(self.folder / 'log').read_text()}")
        return self

    def stop(self) -> None:
        """Asks it to stop, and waits for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def pause(self) -> None:
        """Lets it stand still, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends it and removes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait_until(condition: Any, what: str, seconds: float = 10.0) -> None:
    """Waits for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"expected within {seconds} s: {what}")
        time.sleep(0.01)
