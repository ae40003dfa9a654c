"""sessiond: started with settings, stopped, killed, paused; and what it counts and stores."""

import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

from .process import Process, environment

ROOT = Path(__file__).resolve().parents[3]
# Not the default name: a shop that has a name of its own, in place of asking the daemon, is found.
COOKIE = "__Host-shop"


def program():
    """The daemon's binary: SESSIOND_BIN, or what cargo has built last."""
    named = os.environ.get("SESSIOND_BIN")
    if named:
        return Path(named).resolve()
    built = [ROOT / "target" / profile / "sessiond" for profile in ("dist", "release", "debug")]
    built = [path for path in built if path.exists()]
    if not built:
        raise SystemExit("found no daemon: build one (cargo build --release), or set SESSIOND_BIN")
    return max(built, key=lambda path: path.stat().st_mtime)


def own_port():
    """A free port that nobody else gets while the daemon is away: Linux gives away those from 32768 on."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def stands(thread):
    """Whether a thread has stopped, or ended meanwhile."""
    try:
        return thread.read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Daemon:
    """A daemon on the sled store in `home`, always at the same addresses."""

    def __init__(self, home):
        self.home = Path(home)
        self.process = None
        self.logs = []
        self.ports = {"grpc": own_port(), "admin": own_port()}
        self.secrets = [secrets.token_urlsafe(32)]
        self.unix = f"unix:{self.home}/sessiond.sock"

    def defaults(self):
        return {
            "listen.grpc": f"127.0.0.1:{self.ports['grpc']},{self.unix}",
            "listen.admin": f"127.0.0.1:{self.ports['admin']}",
            "listen.metrics": "127.0.0.1:0",
            "store.sled.path": f"{self.home}/data",
            "engine.default.cookie.name": COOKIE,
            "engine.default.cookie.secret_file": f"{self.home}/secrets",
            # No deadline moves while the checks run. So a browser has something to learn only
            # when its session begins, ends, or gets a new id.
            "engine.default.touch_granularity": "30m",
        }

    def start(self, **settings):
        """Starts it. A setting is named as its key, with two underscores for each dot. None leaves
        a default of `defaults` out."""
        assert self.process is None, "the daemon is running"
        path = self.home / "secrets"
        path.touch(mode=0o600)
        path.write_text("\n".join(self.secrets) + "\n")
        values = self.defaults() | {key.replace("__", "."): value for key, value in settings.items()}
        arguments = [f"--set={key}={value}" for key, value in values.items() if value is not None]
        self.process = Process([program(), "serve", *arguments], self._is_ready, env=environment())
        found = dict(pair.split("=", 1) for pair in self.process.ready_line.split() if "=" in pair)
        for kind, addresses in found.items():
            self.ports[kind] = int(addresses.split(",")[0].rsplit(":", 1)[1])

    @staticmethod
    def _is_ready(line):
        return " ready: " in line

    @property
    def tcp(self):
        return f"127.0.0.1:{self.ports['grpc']}"

    @property
    def admin(self):
        return f"127.0.0.1:{self.ports['admin']}"

    def stop(self):
        """SIGTERM, as at an upgrade."""
        process, self.process = self.process, None
        if process:
            code = process.stop()
            self.logs += process.log
            assert code == 0, f"expected the daemon to stop cleanly, found {code}\n{process.text()}"

    def kill(self):
        """SIGKILL, as when the machine runs out of memory."""
        process, self.process = self.process, None
        if process:
            process.kill()
            self.logs += process.log

    def pause(self):
        self.process.signal(signal.SIGSTOP)
        # Its threads stop one by one, a moment later.
        threads = Path(f"/proc/{self.process.child.pid}/task")
        while not all(map(stands, threads.glob("*/stat"))):
            time.sleep(0.001)

    def resume(self):
        if self.process and self.process.alive():
            self.process.signal(signal.SIGCONT)

    def metrics(self):
        """The page of metrics: names with labels, and their values."""
        url = f"http://127.0.0.1:{self.ports['metrics']}/metrics"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def operations(self):
        """How many of each of the four operations have ended: {"Resolve": 3, ...}."""
        counts = Counter()
        for name, value in self.metrics().items():
            if name.startswith("sessiond_requests_total{"):
                counts[re.search(r'rpc="(\w+)"', name)[1]] += int(value)
        return counts

    def created(self):
        """How many sessions were created since it was started."""
        return int(self.metrics().get('sessiond_sessions_created_total{engine="default"}', 0))

    def sessions(self):
        """All sessions that it stores, by their public id: principal, version, data, ..."""
        command = [program(), "export", "--address", self.admin]
        ran = subprocess.run(command, env=environment(), capture_output=True, timeout=30)
        assert ran.returncode == 0, f"expected an export: {ran.stderr.decode()}"
        records = map(json.loads, ran.stdout.splitlines())
        return {record["id"]: record for record in records if "id" in record}

    def record(self, browser):
        """The session of a browser as the daemon stores it, or None."""
        return self.sessions().get(browser.public_id)
