"""What is measured, and how: the applications on one core, wrk and the servers behind them on another."""

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
sys.path.insert(0, str(HERE.parents[1] / "tests" / "shop"))
import go_app  # noqa: E402
import java_app  # noqa: E402
import rust_app  # noqa: E402
from packages import ROOT, call, node_package, python, python_package  # noqa: E402
from stage.daemon import Daemon  # noqa: E402
from stage.process import Process, environment  # noqa: E402

TARGET = ROOT / "target" / "frontends"
VARIANTS = ("bare", "today", "ours")
SESSIONS = 200
# One request in so many changes its session.
CHANGE_EVERY = 20
IN_FLIGHT = (64, 1)
TICKS = os.sysconf("SC_CLK_TCK")


class Framework:
    def __init__(self, name, kind, command, today, **variables):
        self.name, self.kind, self.command, self.today, self.variables = name, kind, command, today, variables


GUNICORN = ["-m", "gunicorn", "--workers=1", "--worker-class=gthread", "--threads=8", "--log-level=error"]
FRAMEWORKS = [
    Framework("Express", "node", ["express.js"], "express-session, connect-redis"),
    Framework("Fastify", "node", ["fastify.js"], "@fastify/session, connect-redis"),
    Framework("FastAPI", "python", ["fastapi_app.py"], "starsessions on redis-py"),
    Framework("Django", "python", [*GUNICORN, "django_app:app"], "cached sessions, django-redis"),
    Framework("Django-idle", "python", [*GUNICORN, "django_app:app"], "the same, saved by each request", EVERY="1"),
    Framework("Flask", "python", [*GUNICORN, "flask_app:app"], "Flask-Session on redis-py"),
    Framework("net/http", "go", [], "scs on redigo"),
    Framework("Spring", "java", ["bench.App"], "Spring Session on Lettuce"),
    Framework("axum", "rust", [], "tower-sessions on fred"),
]


class Cores:
    """Which core is whose."""

    def __init__(self):
        free = sorted(os.sched_getaffinity(0))
        if len(free) < 2:
            sys.exit("expected two cores: one for the application, one for the load")
        self.app, self.load = free[0], free[1]
        # The daemon and Redis share the core of the load, unless there are more.
        self.servers = free[2] if len(free) > 2 else free[1]

    @contextlib.contextmanager
    def on(self, core):
        """What is started meanwhile stays on this core, with all its threads."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def in_words(self):
        where = "shared core 1 with it" if self.servers == self.load else "had core 2"
        return f"Applications ran on core 0, wrk on core 1; the daemon and Redis {where}."


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class App:
    """A running application, with sessions."""

    def __init__(self, framework, variant, interpreter, variables, folder):
        self.framework, self.variant = framework, variant
        self.port = free_port()
        self.cookies = Path(folder) / f"{framework.name}-{variant}".replace("/", "-")
        command = [interpreter, *framework.command]
        if "gunicorn" in command:
            command.insert(-1, f"--bind=127.0.0.1:{self.port}")
        variables = dict(variables, **framework.variables, VARIANT=variant, PORT=str(self.port), PYTHONPATH=str(APPS))
        # It prints nothing; it is ready when it answers.
        self.process = Process(["sh", "-c", 'echo started; exec "$@"', "sh", *command], "started", env=variables, cwd=APPS)
        try:
            self._wait()
            self._begin_sessions()
        except BaseException:
            self.process.kill()
            raise

    @property
    def name(self):
        return f"{self.framework.name}, {self.variant}"

    def ask(self, method, path, cookie=None):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
            response = connection.getresponse()
            body = response.read().decode()
            if response.status != 200:
                raise SystemExit(f"{self.name}: {method} {path} answered {response.status}: {body[:500]}\n{self.process.text()[-3000:]}")
            return json.loads(body), [line.split(";")[0] for line in response.headers.get_all("Set-Cookie") or []]
        finally:
            connection.close()

    def _wait(self):
        end = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > end or not self.process.alive():
                    raise SystemExit(f"{self.name} does not start:\n{self.process.text()[-3000:]}") from None
                time.sleep(0.05)

    def _begin_sessions(self):
        """As many sessions as are asked for, all with the same data."""
        lines = []
        for _ in range(SESSIONS):
            _, cookies = self.ask("POST", "/begin")
            # A bare application has no cookies; it is sent as much.
            lines += cookies or [f"session={'x' * 84}"]
        self.cookies.write_text("".join(line + "\n" for line in lines))
        self.check(0)

    def check(self, least):
        """The sessions are read, and were changed at least so often: else nothing would be measured."""
        lines = self.cookies.read_text().splitlines()
        count = 0
        for cookie in lines[CHANGE_EVERY - 1 :: CHANGE_EVERY]:
            answer, _ = self.ask("GET", "/", cookie)
            if (answer["user"], answer["items"]) != ("ann", 8):
                raise SystemExit(f"{self.name}: expected the session of ann with 8 items, found {answer}")
            count += answer["count"]
        if self.variant != "bare" and count < least:
            raise SystemExit(f"{self.name}: expected at least {least} changes in its sessions, found {count}")

    def cpu_seconds(self):
        return cpu_seconds(self.process)


def cpu_seconds(process):
    """The CPU time of a process and of all that it has started, those that have ended included."""
    total, group = 0, process.child.pid
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += sum(map(int, fields[11:15]))
    return total / TICKS


def busy_seconds():
    """The time that the cores of this machine have worked, or were taken away from it."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


class Bed:
    """Redis, the daemon and all applications."""

    def __init__(self, frameworks, quick=False):
        for program in ("wrk", "redis-server", "node"):
            if not shutil.which(program):
                sys.exit(f"expected {program} to be installed")
        self.cores = Cores()
        self.folder = tempfile.mkdtemp(prefix="frontends-")
        self.apps = []
        self.redis = self.daemon = None
        self.interpreters = {}
        self.class_path = None
        kinds = {framework.kind for framework in frameworks}
        if "node" in kinds:
            self.interpreters["node"] = shutil.which("node")
            self._install_node(node_package())
        if "python" in kinds:
            self.interpreters["python"] = python(TARGET / "venv", APPS / "requirements.txt", python_package())
        if "go" in kinds:
            self.interpreters["go"] = go_app.build(APPS / "go", TARGET / "go")
        if "java" in kinds:
            self.interpreters["java"] = "java"
            self.class_path = java_app.build(APPS / "java", TARGET / "java")
        if "rust" in kinds:
            self.interpreters["rust"] = rust_app.build(APPS / "axum", TARGET / "rust", "dev" if quick else "release")
        try:
            with self.cores.on(self.cores.servers):
                self._start_servers()
            with self.cores.on(self.cores.app):
                for framework in frameworks:
                    for variant in VARIANTS:
                        self.apps.append(self._start_app(framework, variant))
            os.sched_setaffinity(0, {self.cores.load})
        except BaseException:
            self.close()
            raise

    def _install_node(self, package):
        """Into a folder of its own: the packed package beside what it is measured with."""
        home = TARGET / "node"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(APPS / "package.json", home)
        call("npm", "install", "--no-audit", "--no-fund", "--no-save", "--loglevel=error", package, cwd=home)

    def _start_servers(self):
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""]
        self.redis = Process(command, lambda line: "eady to accept connections" in line, env=environment())
        self.daemon = Daemon(self.folder)
        # The daemon's defaults, but for a cookie that needs no HTTPS.
        plain = {"engine.default.touch_granularity": None, "engine.default.cookie.secure": "false", "engine.default.cookie.name": "session"}
        self.daemon.start(**{key.replace(".", "__"): value for key, value in plain.items()})
        self.variables = environment(
            REDIS=f"redis://127.0.0.1:{port}",
            SESSIOND=self.daemon.tcp,
            NODE_ENV="production",
            NODE_PATH=str(TARGET / "node" / "node_modules"),
            CLASSPATH=self.class_path,
        )

    def _start_app(self, framework, variant):
        return App(framework, variant, self.interpreters[framework.kind], self.variables, self.folder)

    def measure(self, app, in_flight, seconds):
        """One run of wrk. Returns what it found, with the CPU time of the application."""
        variables = environment(COOKIES=str(app.cookies), CHANGE_EVERY=str(CHANGE_EVERY))
        command = ["wrk", "-t1", f"-c{in_flight}", f"-d{seconds}s", "--timeout=20s", "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{app.port}"]
        before, own, busy, begin = app.cpu_seconds(), self._own_seconds(app), busy_seconds(), time.monotonic()
        with self.cores.on(self.cores.load):
            ran = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds + 30)
        cpu = app.cpu_seconds() - before
        foreign = busy_seconds() - busy - (self._own_seconds(app) - own)
        foreign = max(0.0, foreign / (time.monotonic() - begin) / os.cpu_count())
        lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT ")]
        if ran.returncode or not lines:
            raise SystemExit(f"{app.name}: wrk failed: {ran.stdout}{ran.stderr}")
        found = json.loads(lines[0].removeprefix("RESULT "))
        if found["faults"]:
            raise SystemExit(f"{app.name}: expected no failed request, found {found['faults']}\n{ran.stdout}\n{app.process.text()[-3000:]}")
        return {
            "rate": found["requests"] / found["seconds"],
            "cpu": cpu / max(1, found["requests"]) * 1e6,
            "p50": found["p50_ms"],
            "p99": found["p99_ms"],
            # The part of the machine that others have had meanwhile.
            "foreign": foreign,
        }

    def _own_seconds(self, app):
        load = resource.getrusage(resource.RUSAGE_CHILDREN)
        servers = cpu_seconds(self.redis) + cpu_seconds(self.daemon.process)
        return app.cpu_seconds() + servers + load.ru_utime + load.ru_stime

    def close(self):
        for app in self.apps:
            app.process.kill()
        if self.daemon:
            self.daemon.kill()
        if self.redis:
            self.redis.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
