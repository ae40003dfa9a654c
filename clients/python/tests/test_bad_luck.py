"""Wrong addresses, dead and dumb peers, restarts. Blocking and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon, Make, own_port
from peers import Peer, peer

from sessiond import (
    TLS,
    AsyncClient,
    AuthenticationError,
    ConnectionEvent,
    CookieHeader,
    DataTooLargeError,
    InvalidArgumentError,
    OperationEvent,
    OverloadedError,
    SessiondError,
    SessionState,
    Token,
    UnavailableError,
)


class Proxy(Peer):
    """Passes octets on to a daemon, as long as and as far as the test wants."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.cut_after: int | None = None
        """Cut the connection after so many octets of an answer."""
        self.cut_requests = False
        """Cut the connection when the next request comes, without passing it on."""
        super().__init__(self._pass)

    def _pass(self, connection: socket.socket, number: int) -> None:
        there = socket.socket(socket.AF_UNIX)
        there.connect(self.daemon.address.removeprefix("unix:"))
        with there:
            thread = threading.Thread(target=self._back, args=(there, connection), daemon=True)
            thread.start()
            while data := connection.recv(65536):
                if self.cut_requests:
                    self.cut_requests = False
                    break
                there.sendall(data)
            for end in (connection, there):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            thread.join(10)

    def _back(self, there: socket.socket, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := there.recv(65536):
                if self.cut_after is not None and len(data) > 30:  # an answer, not an acknowledgement
                    connection.sendall(data[: self.cut_after])
                    self.cut_after = None
                    break
                connection.sendall(data)
            connection.shutdown(socket.SHUT_RDWR)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "address", ["", "localhost", "localhost:", ":50051", "a:b", "h:0", "h:70000", "unix:", "http://a:1", "::1:5"]
)
def test_addresses_that_are_none(make: Make, address: str) -> None:
    with pytest.raises(InvalidArgumentError):
        make(address)


def test_options_that_cannot_be(make: Make, tmp_path: Path) -> None:
    for options in (
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_in_flight": 0},
        {"token": "a", "token_file": "b"},
        {"token": "two words"},
        {"token": "line\n"},
        {"tls": TLS(ca="/does/not/exist")},
        {"tls": TLS(ca=b"nonsense")},
        {"tls": TLS(key="k")},
    ):
        with pytest.raises(InvalidArgumentError):
            make("127.0.0.1:1", **options)
    with pytest.raises(InvalidArgumentError):
        make("unix:/x", tls=True)
    assert make("[::1]:50051").address == "[::1]:50051"


def test_arguments_that_cannot_be(make: Make, shared_daemon: Daemon) -> None:
    client = make(shared_daemon.address)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: client.resolve("session=x"),
        lambda: client.resolve(None),
        lambda: client.resolve(Token("\ud800")),
        lambda: client.resolve(Token("x"), timeout=0),
        lambda: client.write(set={"a": float("nan")}),
        lambda: client.write(set={"a": b"x"}),
        lambda: client.write(set={1: 2}),
        lambda: client.write(set="\ud800"),
        lambda: client.write(set={}, unset="key"),
        lambda: client.write(set={}, label="\ud800"),
        lambda: client.destroy(Token("x"), scope="everything"),
        lambda: client.destroy(Token("x"), session_ids="abc"),
        lambda: client.touch(Token("x"), duration="5"),
        lambda: client.touch(Token("x"), duration=True),
    )
    for call in calls:
        with pytest.raises(InvalidArgumentError):
            call()
    assert client.resolve(CookieHeader("")).state is SessionState.NONE


def test_no_secret_is_printed(make: Make, shared_daemon: Daemon) -> None:
    client = make(shared_daemon.address)
    created = client.write(set={"password": "hunter2"})
    credential = Token(created.token)
    found = client.resolve(credential)
    for thing in (created, credential, found, CookieHeader("session=" + created.token)):
        assert created.token not in repr(thing) and "hunter2" not in repr(thing)


# ---------------------------------------------------------------- no daemon


def test_nobody_listens(make: Make, tmp_path: Path) -> None:
    for where in ("127.0.0.1:1", f"unix:{tmp_path}/none.sock", "does-not-exist.invalid:1"):
        client = make(where, timeout=0.3)
        start = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            client.resolve(Token("x"))
        took = time.monotonic() - start
        error = caught.value
        assert (error.reason, error.code, error.applied) == ("CONNECTION_FAILED", "UNAVAILABLE", "no")
        assert error.retryable and error.retry_after == 1.0 and where in str(error)
        assert 0.2 < took < 4, f"it waits for its time, not for {took} s"


def test_a_daemon_that_starts_late(make: Make, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    daemon.stop()
    client = make(daemon.address, timeout=20)
    timer = threading.Timer(0.3, daemon.start)
    timer.start()
    assert client.resolve(CookieHeader("")).state is SessionState.NONE
    timer.join()


def test_a_dumb_peer(make: Make) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            pass

    with peer(serve) as dumb:
        client = make(dumb.address, timeout=0.3)
        with pytest.raises(UnavailableError) as caught:
            client.write(set={})
        assert caught.value.applied == "no", "it was never sent"
        client.close(0)


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x46" + b"\0" * 9, b"+PONG\r\n" * 3],
)
def test_a_peer_of_another_protocol(make: Make, greeting: bytes) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(greeting)
        while connection.recv(65536):
            pass

    with peer(serve) as other:
        client = make(other.address)
        start = time.monotonic()
        with pytest.raises(SessiondError) as caught:
            client.resolve(Token("x"))
        assert caught.value.reason == "PROTOCOL_ERROR" and other.address in str(caught.value)
        assert time.monotonic() - start < 3, "at once: waiting does not mend it"
        client.close(0)


# ---------------------------------------------------------------- tokens and TLS


def test_tokens(make: Make, start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    good = "a" * 40
    accepted.write_text(good + "\n")
    accepted.chmod(0o600)
    daemon = start_daemon(f'listen.auth.token_file={accepted}')
    assert make(daemon.address, token=good).resolve(CookieHeader("")).state is SessionState.NONE
    for token, reason in ((None, "TOKEN_REQUIRED"), ("c" * 40, "TOKEN_UNKNOWN")):
        client = make(daemon.address, token=token)
        for _ in range(2):
            with pytest.raises(AuthenticationError) as caught:
                client.resolve(CookieHeader(""))
            assert caught.value.reason == reason and caught.value.code == "UNAUTHENTICATED"
            assert "ccc" not in str(caught.value)
    mine = tmp_path / "mine"
    client = make(daemon.address, token_file=mine)
    with pytest.raises(AuthenticationError, match="cannot be read"):
        client.resolve(CookieHeader(""))
    mine.write_text("old" * 10)
    with pytest.raises(AuthenticationError):
        client.resolve(CookieHeader(""))
    mine.write_text(good)
    assert client.resolve(CookieHeader("")).state is SessionState.NONE, "the file is read again"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    trustme = pytest.importorskip("trustme")
    for name in ("server", "client", "stranger"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / f"{name}-ca.pem")
        made = authority.issue_cert("localhost" if name == "server" else f"{name}.example")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
        for part in made.cert_chain_pems:
            part.write_to_path(folder / f"{name}.pem", append=True)
        (folder / f"{name}.key").chmod(0o600)
    return folder


def test_tls(make: Make, start_daemon: Callable[..., Daemon], certificates: Path) -> None:
    daemon = start_daemon(
        f'listen.tls.cert_file={certificates}/server.pem',
        f'listen.tls.key_file={certificates}/server.key',
        f'listen.tls.client_ca_file={certificates}/client-ca.pem',
        listen="127.0.0.1:0",
    )
    address = daemon.address.replace("127.0.0.1", "localhost")
    ca = str(certificates / "server-ca.pem")
    mine = {"cert": str(certificates / "client.pem"), "key": str(certificates / "client.key")}
    client = make(address, tls=TLS(ca=ca, **mine))
    token = Token(client.write(set={"x": "y" * 30_000}).token)
    assert client.resolve(token).session.data == {"x": "y" * 30_000}
    by_octets = make(daemon.address, tls=TLS(ca=Path(ca).read_bytes(), server_name="localhost", **mine))
    assert by_octets.resolve(token).state is SessionState.ACTIVE
    stranger = {"cert": str(certificates / "stranger.pem"), "key": str(certificates / "stranger.key")}
    for wrong in (
        TLS(**mine),  # an authority that the system does not know
        TLS(ca=ca, server_name="other.example", **mine),
        TLS(ca=ca),  # no certificate of the client
        TLS(ca=ca, **stranger),
    ):
        start = time.monotonic()
        with pytest.raises(SessiondError) as caught:
            make(address, tls=wrong, timeout=8).resolve(token)
        assert caught.value.reason == "CONNECTION_FAILED", wrong
        assert time.monotonic() - start < 5, f"{wrong}: at once"
    with pytest.raises(UnavailableError, match="does it want TLS") as caught:
        make(address, timeout=0.5).resolve(token)
    assert caught.value.reason == "CONNECTION_FAILED"


def test_tls_to_a_daemon_without(make: Make, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(listen="127.0.0.1:0")
    with pytest.raises(UnavailableError) as caught:
        make(daemon.address, tls=True, timeout=2).resolve(Token("x"))
    assert caught.value.reason == "CONNECTION_FAILED"


# ---------------------------------------------------------------- cuts, restarts, pauses


@pytest.mark.parametrize("cut", [0, 5, 12, 20], ids=lambda n: f"after {n} octets")
def test_cut_in_the_middle_of_an_answer(make: Make, start_daemon: Callable[..., Daemon], cut: int) -> None:
    proxy = Proxy(start_daemon())
    events: list[Any] = []
    client = make(proxy.address, on_event=events.append)
    token = Token(client.write(set={"n": 1}).token)
    proxy.cut_after = cut
    assert client.resolve(token).session.data == {"n": 1}, "repeated without the caller's knowledge"
    resolves = [event for event in events if isinstance(event, OperationEvent) and event.operation == "resolve"]
    assert [event.attempts for event in resolves] == [2]
    assert [event.kind for event in events if isinstance(event, ConnectionEvent)] == [
        "connected",
        "disconnected",
        "connected",
    ]
    proxy.cut_after = cut
    with pytest.raises(UnavailableError) as caught:
        client.write(token, set={"n": 2})
    assert (caught.value.reason, caught.value.applied) == ("CONNECTION_FAILED", "unknown")
    assert client.resolve(token).session.version == 2, "it was applied, and it was not sent twice"
    proxy.cut_after = cut
    with pytest.raises(SessiondError) as mismatch:
        client.write(token, set={"n": 3}, if_version=2)
    assert (mismatch.value.reason, mismatch.value.applied) == ("VERSION_MISMATCH", "unknown")
    proxy.cut_requests = True
    assert client.write(token, set={"n": 4}, if_version=3).session.version == 4, "repeated, for it was not applied"
    proxy.cut_after = cut
    assert client.destroy(token).destroyed == 0, "repeated: nothing was left to end"
    assert client.resolve(token).state is SessionState.NOT_FOUND
    client.close(0)
    proxy.close()


def test_restarts(make: Make, start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    for listen in (None, f"127.0.0.1:{own_port()}"):
        daemon = start_daemon(**({} if listen is None else {"listen": listen}))
        client = make(daemon.address, timeout=20)
        for number in (signal.SIGTERM, signal.SIGKILL):
            assert client.resolve(CookieHeader("")).state is SessionState.NONE
            daemon.stop(number)
            timer = threading.Timer(0.2, daemon.start)
            timer.start()
            created = client.write(set={"n": 1})  # never sent before: the connection is known to be gone
            timer.join()
            assert client.resolve(Token(created.token)).state is SessionState.ACTIVE


def test_a_restart_under_load(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()

    async def use() -> None:
        async with AsyncClient(daemon.address, timeout=20) as client:
            stopping = asyncio.Event()
            done = 0

            async def work() -> None:
                nonlocal done
                while not stopping.is_set():
                    await client.resolve(CookieHeader("session=x"))
                    done += 1

            tasks = [asyncio.create_task(work()) for _ in range(50)]
            for _ in range(2):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(daemon.stop)
                await asyncio.to_thread(daemon.start)
            before = done
            while done < before + 500:
                await asyncio.sleep(0.01)
            stopping.set()
            await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(use(), 60))


def test_a_paused_daemon(make: Make, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    client = make(daemon.address, timeout=8)
    token = Token(client.write(set={"n": 1}).token)
    daemon.send(signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            client.write(token, set={"n": 2}, timeout=0.5)
        assert caught.value.reason == "TIMEOUT" and caught.value.applied == "unknown"
        with pytest.raises(UnavailableError):
            client.resolve(token, timeout=0.5)
        with pytest.raises(UnavailableError):
            client.resolve(token, timeout=0.05)
        assert time.monotonic() - start < 7, "nobody waits longer than told"
    finally:
        daemon.send(signal.SIGCONT)
    assert client.resolve(token, timeout=10).state is SessionState.ACTIVE


def test_an_older_daemon(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    grpc = pytest.importorskip("grpc")
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        client = make(f"127.0.0.1:{port}")
        for _ in range(2):
            with pytest.raises(SessiondError) as caught:
                client.resolve(Token("x"))
            assert caught.value.reason == "DAEMON_TOO_OLD" and "update the daemon" in str(caught.value)
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1, "said once"
    finally:
        server.stop(0).wait()


# ---------------------------------------------------------------- bounds


def test_in_flight(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()

    async def use() -> None:
        async with AsyncClient(daemon.address, max_in_flight=10, timeout=5) as client:
            await client.describe()
            daemon.send(signal.SIGSTOP)
            tasks = [asyncio.ensure_future(client.resolve(Token("x"))) for _ in range(10)]
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError) as caught:
                await client.resolve(Token("x"))
            assert caught.value.reason == "IN_FLIGHT_LIMIT" and caught.value.applied == "no"
            tasks[0].cancel()
            await asyncio.sleep(0)
            tasks[0] = asyncio.ensure_future(client.resolve(Token("y")))
            await asyncio.sleep(0)
            daemon.send(signal.SIGCONT)
            answers = await asyncio.gather(*tasks)
            assert {answer.state for answer in answers} == {SessionState.INVALID}

    try:
        asyncio.run(use())
    finally:
        daemon.send(signal.SIGCONT)


def test_more_than_the_windows_hold(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()

    async def use() -> None:
        async with AsyncClient(daemon.address, timeout=60) as client:
            data = {"x": "y" * 50_000}
            made = await asyncio.gather(*(client.write(set=data) for _ in range(300)))
            tokens = [Token(one.token or "") for one in made]
            found = await asyncio.gather(*(client.resolve(token) for token in tokens))
            assert all(one.session is not None and one.session.data == data for one in found)
            tasks = [asyncio.ensure_future(client.resolve(token)) for token in tokens]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            for task, one in list(zip(tasks, made, strict=True))[1::2]:
                mine = (await task).session
                assert mine is not None and mine.id == one.session.id, "each gets its own answer"

    asyncio.run(use())


def test_too_large(make: Make, shared_daemon: Daemon) -> None:
    client = make(shared_daemon.address)
    client.describe()
    start = time.monotonic()
    with pytest.raises(DataTooLargeError) as caught:
        client.write(set={"x": "y" * (2 << 20)})
    assert client.describe() is client.describe()
    assert time.monotonic() - start < 2, "found here, at once"
    assert caught.value.reason in ("MESSAGE_TOO_LARGE", "DATA_TOO_LARGE")
    assert client.resolve(CookieHeader("")).state is SessionState.NONE, "the stream goes on for the others"


def test_close(make: Make, shared_daemon: Daemon) -> None:
    client = make(shared_daemon.address)
    assert client.resolve(CookieHeader("")).state is SessionState.NONE
    client.close()
    client.close()
    with pytest.raises(UnavailableError) as caught:
        client.resolve(CookieHeader(""))
    assert caught.value.reason == "CLOSED"


def test_close_drains(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()

    async def use(timeout: float) -> list[Any]:
        client = AsyncClient(daemon.address)
        await client.describe()
        tasks = [asyncio.ensure_future(client.write(set={"n": n})) for n in range(20)]
        await asyncio.sleep(0)
        await client.close(timeout)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(one.session.version == 1 for one in asyncio.run(use(5)))


def test_close_does_not_wait_for_ever(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()

    async def use() -> list[Any]:
        client = AsyncClient(daemon.address)
        await client.describe()
        daemon.send(signal.SIGSTOP)
        tasks = [asyncio.ensure_future(client.write(set={"n": n})) for n in range(3)]
        await asyncio.sleep(0)
        await client.close(0.2)
        return await asyncio.gather(*tasks, return_exceptions=True)

    try:
        errors = asyncio.run(use())
    finally:
        daemon.send(signal.SIGCONT)
    assert [(error.reason, error.applied) for error in errors] == [("CLOSED", "unknown")] * 3


def test_connection_age(make: Make, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("limits.max_connection_age=1s")
    events: list[Any] = []
    client = make(daemon.address, on_event=events.append, timeout=10)
    token = Token(client.write(set={"n": 0}).token)
    end = time.monotonic() + 30
    version = 1
    while sum(isinstance(event, ConnectionEvent) and event.kind == "connected" for event in events) < 3:
        assert time.monotonic() < end, events
        version += 1
        assert client.write(token, set={"n": version}).session.version == version, "no error and nothing twice"


