"""Threads, forks, gunicorn, gevent, uvloop, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Daemon

from sessiond import AsyncClient, Client, CookieHeader, SessionState, Token, UnavailableError

SRC = str(Path(__file__).resolve().parents[1] / "src")


def run(program: str, *arguments: str, options: tuple[str, ...] = (), seconds: float = 60) -> str:
    """Runs a program in an interpreter of its own; its errors are ours, and it must end."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", *options, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_threads_share_a_connection(shared_daemon: Daemon) -> None:
    connects: list[object] = []
    with Client(shared_daemon.address, on_event=connects.append, timeout=60) as client:
        tokens = [Token(str(client.write(set={"n": n}).token)) for n in range(16)]
        wrong: list[object] = []

        def work(n: int) -> None:
            try:
                for _ in range(60):
                    found = client.resolve(tokens[n])
                    if found.session is None or found.session.data != {"n": n}:
                        wrong.append(found)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong, wrong[:3]
    assert sum(getattr(event, "kind", "") == "connected" for event in connects) == 1


def test_large_answers_and_many_threads(shared_daemon: Daemon) -> None:
    data = {"x": "y" * 60_000}
    with Client(shared_daemon.address, timeout=60) as client:
        wrong: list[object] = []

        def work() -> None:
            try:
                token = Token(str(client.write(set=data).token))
                for _ in range(10):
                    client.write(token, set=data)
                    found = client.resolve(token)
                    assert found.session is not None and found.session.data == data
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert not wrong, wrong[:3]


def test_threads_and_a_daemon_that_stands_still(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    with Client(daemon.address, timeout=5) as client:
        token = Token(str(client.write(set={}).token))
        daemon.send(signal.SIGSTOP)
        took: list[float] = []

        def work(timeout: float) -> None:
            start = time.monotonic()
            with pytest.raises(UnavailableError):
                client.resolve(token, timeout=timeout)
            took.append(time.monotonic() - start - timeout)

        threads = [threading.Thread(target=work, args=(0.1 * n,)) for n in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        daemon.send(signal.SIGCONT)
        assert len(took) == 8 and max(took) < 4 and min(took) > -0.02, f"each has its own time, not 5 s: {took}"
        assert client.resolve(token).state is SessionState.ACTIVE


def test_a_close_wakes_who_waits(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    client = Client(daemon.address, timeout=30)
    client.describe()
    daemon.send(signal.SIGSTOP)
    errors: list[str] = []

    def work() -> None:
        try:
            client.resolve(Token("x"))
        except UnavailableError as error:
            errors.append(error.reason)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(client._front.core.operations) < 3:
        time.sleep(0.005)
    start = time.monotonic()
    client.close(0.1)
    for thread in threads:
        thread.join(10)
    daemon.send(signal.SIGCONT)
    assert errors == ["CLOSED"] * 3 and time.monotonic() - start < 5


def test_an_interrupted_leader_hands_on(start_daemon: Callable[..., Daemon]) -> None:
    """A signal ends the call of the thread that reads for all."""
    program = """
import signal, sys, threading, time
from sessiond import Client, CookieHeader
client = Client(sys.argv[1], timeout=20)
client.describe()
import os
os.kill(int(sys.argv[2]), signal.SIGSTOP)
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
answers = []
def follow(): answers.append(client.resolve(CookieHeader("")).state)
followers = [threading.Thread(target=follow) for _ in range(3)]
def later():
    while not client._front._leading: time.sleep(0.005)
    for follower in followers: follower.start()
    while len(client._front.core.operations) < 4: time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGALRM)
threading.Thread(target=later).start()
try: client.resolve(CookieHeader(""))
except Stop: print("stopped")
os.kill(int(sys.argv[2]), signal.SIGCONT)
for follower in followers: follower.join(15)
print(len(answers), len(client._front.core.operations))
client.close()
"""
    daemon = start_daemon()
    assert daemon.process is not None
    try:
        assert run(program, daemon.address, str(daemon.process.pid)) == "stopped\n3 0\n"
    finally:
        daemon.send(signal.SIGCONT)


def test_a_fork(shared_daemon: Daemon) -> None:
    program = """
import os, sys, threading
from sessiond import Client, CookieHeader, Token
client = Client(sys.argv[1], timeout=10)
token = Token(client.write(set={"n": 1}).token)
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        for _ in range(50):
            assert client.resolve(token).session.data == {"n": 1}
        client.close()
        os._exit(0)
    for _ in range(50):
        assert client.resolve(token).session.data == {"n": 1}
    assert os.waitpid(pid, 0)[1] == 0
# A fork while another thread is in the middle of a call.
stop = threading.Event()
def busy():
    while not stop.is_set(): client.resolve(token)
thread = threading.Thread(target=busy); thread.start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        assert client.resolve(token).session.data == {"n": 1}
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set(); thread.join()
print("fine")
"""
    options = ("-W", "ignore::DeprecationWarning")  # 3.12: a fork beside threads, which is the point here
    assert run(program, shared_daemon.address, options=options) == "fine\n"


def test_the_end_of_the_interpreter(shared_daemon: Daemon) -> None:
    """Not closed, and with a thread in a call: nothing hangs, nothing warns."""
    program = """
import sys, threading
from sessiond import Client, CookieHeader
client = Client(sys.argv[1])
client.resolve(CookieHeader(""))
thread = threading.Thread(target=lambda: [client.resolve(CookieHeader("")) for _ in range(5)])
thread.start()
print("over")
"""
    start = time.monotonic()
    assert run(program, shared_daemon.address) == "over\n"
    assert time.monotonic() - start < 20


def test_gevent(shared_daemon: Daemon) -> None:
    pytest.importorskip("gevent")
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, os, sys, time
from sessiond import Client, Token, UnavailableError
client = Client(sys.argv[1], timeout=10)
tokens = [Token(client.write(set={"n": n}).token) for n in range(50)]
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)
ticker = gevent.spawn(tick)
def work(n):
    for _ in range(20):
        assert client.resolve(tokens[n]).session.data == {"n": n}
    return n
jobs = [gevent.spawn(work, n) for n in range(50)]
gevent.joinall(jobs, timeout=60)
assert [job.value for job in jobs] == list(range(50)), [job.exception for job in jobs]
assert ticks > 5, "the others run meanwhile"
# One that is killed while it reads for all.
jobs = [gevent.spawn(work, n) for n in range(10)]
gevent.sleep(0.001); jobs[0].kill(); gevent.joinall(jobs[1:], timeout=60)
assert [job.value for job in jobs[1:]] == list(range(1, 10)), [job.exception for job in jobs]
pid = os.fork()
if pid == 0:
    assert client.resolve(tokens[0]).session.data == {"n": 0}
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
ticker.kill()
client.close()
print("fine")
"""
    options = ("-W", "ignore::DeprecationWarning", "-W", "ignore::ResourceWarning")  # gevent's own
    assert run(program, shared_daemon.address, options=options, seconds=120) == "fine\n"


def test_gunicorn(shared_daemon: Daemon, tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(f"""
import os
from sessiond import Client, CookieHeader
client = Client({shared_daemon.address!r}, timeout=10)
client.resolve(CookieHeader(""))  # connects before the fork: --preload
def app(environ, start_response):
    state = client.resolve(CookieHeader(environ.get("HTTP_COOKIE", ""))).state
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{{state}} {{os.getpid()}}".encode()]
""")
    workers_of = ["--preload", "-w", "2", "--threads", "2", "-b", "127.0.0.1:0"]
    command = [sys.executable, "-m", "gunicorn", *workers_of, "app:app"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": SRC}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        address = ""
        for line in process.stderr:
            if "Listening at:" in line:
                address = line.split("Listening at: ")[1].split(" ")[0]
            if "Booting worker" in line:
                break
        workers: set[str] = set()
        end = time.monotonic() + 30
        while len(workers) < 2 and time.monotonic() < end:
            with urllib.request.urlopen(address, timeout=10) as answer:
                state, pid = answer.read().decode().split()
            assert state == "NONE"
            workers.add(pid)
        assert len(workers) == 2, f"expected two workers to answer, not {workers}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_uvloop(shared_daemon: Daemon) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def use() -> None:
        async with AsyncClient(shared_daemon.address, timeout=30) as client:
            made = await asyncio.gather(*(client.write(set={"n": n}) for n in range(100)))
            found = await asyncio.gather(*(client.resolve(Token(str(one.token))) for one in made))
            assert [one.session and one.session.data for one in found] == [{"n": n} for n in range(100)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await client.resolve(CookieHeader(""))
            assert (await client.resolve(CookieHeader(""))).state is SessionState.NONE

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


def test_one_client_on_several_loops(shared_daemon: Daemon) -> None:
    client = AsyncClient(shared_daemon.address)

    async def use() -> SessionState:
        return (await client.resolve(CookieHeader(""))).state

    async def use_and_close() -> SessionState:
        state = await use()
        await client.close()
        return state

    with asyncio.Runner() as one, asyncio.Runner() as two:
        assert one.run(use()) is two.run(use()) is one.run(use()) is SessionState.NONE
        assert two.run(use_and_close()) is SessionState.NONE
        with pytest.raises(UnavailableError, match="closed"):
            two.run(use())
        one.run(client.close())
