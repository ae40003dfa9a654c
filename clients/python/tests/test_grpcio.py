"""Our HTTP/2 and gRPC against a server of another make: grpcio, with the fake behind it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Daemon
from generated import messages

from sessiond import AsyncClient, Client, CookieHeader, SessiondError, SessionState, Token, UnavailableError
from sessiond.testing import FakeClient, FakeEngine

grpc = pytest.importorskip("grpc")

STATES = ["", "ACTIVE", "CREATED", "NONE", "INVALID", "NOT_FOUND", "EXPIRED", "SUPERSEDED"]
SERVICE = "sessiond.v1.SessionService"


class Server:
    """A daemon made of grpcio, generated messages and the fake."""

    def __init__(self, **options: Any) -> None:
        self.fake = FakeClient(engines=[FakeEngine(max_data_bytes=1 << 20)])
        self.pb = messages()
        self.hold: threading.Event | None = None
        self.end_after: tuple[int, Any, str] | None = None
        """After so many answers, end the Pipeline with a code and a reason."""
        self.backwards = False
        """Answer in pairs, the second one first."""
        self.nonsense: bytes | None = None
        self.pipelines = 0
        self.server = grpc.server(ThreadPoolExecutor(8), options=list(options.items()))
        pb = self.pb
        handlers = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self.describe, pb.DescribeRequest.FromString, pb.DescribeResponse.SerializeToString
            ),
            "ListSessions": grpc.unary_unary_rpc_method_handler(
                self.list_sessions,
                pb.SessionServiceListSessionsRequest.FromString,
                pb.SessionServiceListSessionsResponse.SerializeToString,
            ),
            "Pipeline": grpc.stream_stream_rpc_method_handler(
                self.pipeline, pb.PipelineRequest.FromString, lambda answer: answer
            ),
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self.server.start()

    def describe(self, request: Any, context: Any) -> Any:
        found = self.pb.DescribeResponse(version="9.9.9")
        found.limits.max_message_bytes = 4 << 20
        engine = found.engines.add(name="default", cookie_name="session", cookie_format=1, max_data_bytes=1 << 20)
        engine.duration.FromSeconds(1800)
        return found

    def credential(self, message: Any) -> Any:
        kind = message.WhichOneof("kind")
        if kind == "cookie_header":
            return CookieHeader(message.cookie_header)
        return Token(message.token.decode())

    def session(self, found: Any, message: Any) -> None:
        message.SetInParent()
        message.id, message.data, message.version = found.id, found.data_json, found.version
        message.principal = found.principal or ""
        message.expire_time.FromDatetime(found.expire_time)

    def list_sessions(self, request: Any, context: Any) -> Any:
        """Two sessions in a page."""
        listed = self.fake.list_sessions(self.credential(request.credential))
        answer = self.pb.SessionServiceListSessionsResponse(
            state=STATES.index(listed.state.value),
            current_session_id=listed.current_session_id,
        )
        start = int(request.page_token or 0)
        for found in listed.sessions[start : start + 2]:
            self.session(found, answer.sessions.add())
        if start + 2 < len(listed.sessions):
            answer.next_page_token = str(start + 2)
        return answer

    def pipeline(self, requests: Iterator[Any], context: Any) -> Iterator[bytes]:
        self.pipelines += 1
        answered = 0
        kept: list[bytes] = []
        for request in requests:
            if self.hold is not None:
                self.hold.wait(20)
            if self.nonsense is not None:
                yield self.nonsense
                continue
            if self.end_after is not None and answered >= self.end_after[0]:
                _, code, reason = self.end_after
                self.end_after = None
                info = self.pb.rpc("ErrorInfo")(reason=reason, domain="sessiond")
                info.metadata["applied"] = "no"
                status = self.pb.rpc("Status")(code=code.value[0], message="the end")
                status.details.add().Pack(info)
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
                context.abort(code, "the end")
            kept.append(self.answer(request))
            if self.backwards and len(kept) < 2:
                continue
            while kept:
                answered += 1
                yield kept.pop()

    def answer(self, request: Any) -> bytes:
        answer = self.pb.PipelineResponse(sequence=request.sequence)
        name = request.WhichOneof("operation")
        body = getattr(request, name)
        inner = getattr(answer, name)
        inner.SetInParent()
        found: Any
        try:
            if name == "resolve":
                found = self.fake.resolve(self.credential(body.credential), create=body.create, peek=body.peek)
                inner.state = STATES.index(found.state.value)
                inner.token = found.token or ""
                if found.session is not None:
                    self.session(found.session, inner.session)
            elif name == "write":
                credential = self.credential(body.credential) if body.HasField("credential") else None
                found = self.fake.write(
                    credential,
                    set=body.set or None,
                    unset=body.unset,
                    if_version=body.if_version if body.HasField("if_version") else None,
                    principal=body.principal if body.HasField("principal") else None,
                )
                inner.token = found.token or ""
                self.session(found.session, inner.session)
            else:
                found = self.fake.destroy(self.credential(body.credential))
                inner.destroyed = found.destroyed
            inner.set_cookie.extend(found.set_cookie)
        except SessiondError as error:
            answer.error.code = ours_code(error.code)
            answer.error.message = "asked for"
            info = self.pb.rpc("ErrorInfo")(reason=error.reason, domain="sessiond")
            info.metadata["applied"] = error.applied
            answer.error.details.add().Pack(info)
        return bytes(answer.SerializeToString())

    def stop(self, grace: float | None = None) -> None:
        if self.hold is not None:
            self.hold.set()
        self.server.stop(grace).wait(10)


def ours_code(name: str) -> int:
    from sessiond._operations import CODES

    return CODES.index(name)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(**options: Any) -> Server:
        made.append(Server(**options))
        return made[-1]

    yield start
    for server in made:
        server.stop()


def test_everything_once(serve: Callable[..., Server]) -> None:
    server = serve()
    with Client(server.address) as client:
        assert client.describe().version == "9.9.9"
        made = client.write(set={"x": "y" * 500_000, "é": "\U0001f36a"})
        found = client.resolve(Token(str(made.token)))
        assert found.session is not None and found.session.data == {"x": "y" * 500_000, "é": "\U0001f36a"}
        assert client.resolve(CookieHeader(b"\xff=\xfe; session=\x80")).state is SessionState.INVALID
        tokens = [str(client.write(principal="ann").token) for _ in range(7)]
        assert len(client.list_sessions(Token(tokens[0])).sessions) == 7, "all pages"
        assert client.destroy(Token(tokens[0])).destroyed == 1
        with pytest.raises(SessiondError) as caught:
            client.write(Token(tokens[0]), set={})
        assert caught.value.reason == "SESSION_GONE"


def test_many_at_a_time(serve: Callable[..., Server]) -> None:
    server = serve()

    async def use() -> None:
        async with AsyncClient(server.address, timeout=30) as client:
            made = await asyncio.gather(*(client.write(set={"n": n, "x": "y" * 3_000}) for n in range(200)))
            found = await asyncio.gather(*(client.resolve(Token(str(one.token))) for one in made))
            assert [one.session and one.session.data["n"] for one in found] == list(range(200))

    asyncio.run(use())


def test_answers_out_of_order(serve: Callable[..., Server]) -> None:
    server = serve()

    async def use() -> None:
        async with AsyncClient(server.address) as client:
            tokens = [Token(str(server.fake.write(set={"n": n}).token)) for n in range(10)]
            server.backwards = True
            found = await asyncio.gather(*(client.resolve(token) for token in tokens))
            assert [one.session and one.session.data for one in found] == [{"n": n} for n in range(10)]
            server.backwards = False

    asyncio.run(use())


def test_a_small_window_and_other_settings(serve: Callable[..., Server]) -> None:
    options = {"grpc.http2.lookahead_bytes": 1024, "grpc.http2.max_frame_size": 32_768, "grpc.http2.bdp_probe": 0}
    server = serve(**options)
    with Client(server.address, timeout=20) as client:
        made = client.write(set={"x": "y" * 900_000})
        assert client.resolve(Token(str(made.token))).session is not None


def test_shutting_down_repeats_everything(serve: Callable[..., Server]) -> None:
    server = serve()
    with Client(server.address) as client:
        client.describe()
        server.end_after = (0, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        made = client.write(set={"n": 1})
        assert made.session.version == 1 and server.pipelines == 2
        assert len(server.fake.sessions()) == 1, "sent again, and applied once"


def test_an_end_of_the_stream_with_another_reason(serve: Callable[..., Server]) -> None:
    server = serve()
    with Client(server.address) as client:
        client.describe()
        server.end_after = (0, grpc.StatusCode.INTERNAL, "SOMETHING")
        with pytest.raises(UnavailableError) as caught:
            client.write(set={"n": 1})
        assert caught.value.applied == "unknown"
        server.end_after = (0, grpc.StatusCode.INTERNAL, "SOMETHING")
        assert client.resolve(Token("x")).state is SessionState.INVALID


def test_a_server_that_stops_gracefully(serve: Callable[..., Server]) -> None:
    server = serve()
    with Client(server.address, timeout=3) as client:
        client.describe()
        stopper = threading.Thread(target=server.stop, args=(0.2,))
        stopper.start()
        stopper.join()
        with pytest.raises(UnavailableError) as caught:
            client.resolve(Token("x"))
        assert caught.value.reason == "CONNECTION_FAILED"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x08\x63\x12\x02\x08\x03",  # a sequence that nobody has
        b"\x08\x01\x2a\x02\x08\x01",  # the answer of a Destroy
        b"\xff\xff\xff",
        b"",
    ],
)
def test_nonsense_from_the_server(serve: Callable[..., Server], nonsense: bytes) -> None:
    server = serve()
    with Client(server.address, timeout=3) as client:
        client.describe()
        server.nonsense = nonsense
        start = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            client.write(set={})
        assert caught.value.applied == "unknown" and time.monotonic() - start < 2
        server.nonsense = None
        assert client.resolve(Token("x")).state is SessionState.INVALID, "it goes on with a new connection"


def test_late_answers_are_dropped(serve: Callable[..., Server]) -> None:
    server = serve()
    with Client(server.address) as client:
        client.describe()
        server.hold = threading.Event()
        with pytest.raises(UnavailableError) as caught:
            client.resolve(Token("x"), timeout=0.1)
        assert caught.value.reason == "TIMEOUT"
        server.hold.set()
        for _ in range(3):
            assert client.resolve(Token("x")).state is SessionState.INVALID
        assert server.pipelines == 1




def test_grpcio_over_a_unix_socket_names_a_host(shared_daemon: Daemon) -> None:
    # docs/writing-a-client.md says so: without the option, it sends the path as the authority.
    def describe(**options: str) -> bytes:
        with grpc.insecure_channel(shared_daemon.address, options=list(options.items())) as channel:
            answer: bytes = channel.unary_unary(f"/{SERVICE}/Describe")(b"", timeout=10)
            return answer

    assert shared_daemon.address.startswith("unix:")
    assert describe(**{"grpc.default_authority": "localhost"})
    with pytest.raises(grpc.RpcError, match="RST_STREAM"):
        describe()
