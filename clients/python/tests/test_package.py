"""What is in the package agrees with what is around it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPOSITORY

import sessiond
from sessiond import _messages, _operations, client, testing
from sessiond._version import VERSION
from sessiond.protocols import AsyncSessionClient, SessionClient

HERE = Path(__file__).resolve().parents[1]


def test_the_version_is_the_daemons() -> None:
    ours = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["version"]
    daemons = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]["version"]
    assert ours == VERSION == daemons == sessiond.__version__


def test_every_reason_of_the_proto_has_an_error() -> None:
    proto = (REPOSITORY / "proto/sessiond/v1/session_service.proto").read_text()
    service = proto[: proto.index("service SessionService")]
    reasons = set(re.findall(r"^//     ([A-Z_]{4,})", service, re.MULTILINE))
    plain = {"MALFORMED_MESSAGE", "COMPRESSION_UNSUPPORTED"}  # faults of this package itself
    assert reasons - plain == set(_operations.KINDS)


def test_every_state_of_the_proto_is_known() -> None:
    proto = (REPOSITORY / "proto/sessiond/v1/session_service.proto").read_text()
    states = {name: int(number) for name, number in re.findall(r"SESSION_STATE_(\w+) = (\d+);", proto)}
    del states["UNSPECIFIED"]
    assert {state.value: number for number, state in _messages._STATES.items()} == states


def test_clients_and_fakes_have_the_same_surface() -> None:
    blocking: list[SessionClient] = [client.Client("unix:/nowhere"), testing.FakeClient()]
    asynchronous: list[AsyncSessionClient] = [client.AsyncClient("unix:/nowhere"), testing.AsyncFakeClient()]
    assert [one.engine for one in blocking] == [one.engine for one in asynchronous] == ["", ""]


@pytest.mark.parametrize("kind", [client.Client, client.AsyncClient, testing.FakeClient, testing.AsyncFakeClient])
def test_protocols_py_is_the_text_of_all_clients(kind: type) -> None:
    # A type checker lets an implementation take more than its protocol says, or name it otherwise.
    is_async = AsyncSessionClient in kind.__mro__
    protocol = AsyncSessionClient if is_async else SessionClient
    calls = [name for name, value in vars(SessionClient).items() if not name.startswith("_") and callable(value)]
    assert calls == ["resolve", "touch", "write", "destroy", "list_sessions", "describe", "close"]
    for name in calls:
        method, wanted = getattr(kind, name), getattr(protocol, name)
        assert inspect.signature(method) == inspect.signature(wanted) == inspect.signature(getattr(SessionClient, name))
        assert inspect.iscoroutinefunction(method) is is_async
        if name != "close":
            assert method.__doc__ is None and inspect.getdoc(method) == inspect.getdoc(wanted)


def test_everything_public_is_documented() -> None:
    missing = [
        f"{name}.{member}"
        for name in sessiond.__all__
        if isinstance(thing := getattr(sessiond, name), type)
        for member, value in vars(thing).items()
        if not member.startswith("_") and callable(value) and not inspect.getdoc(getattr(thing, member))
    ]
    assert missing == []


def test_files_are_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in HERE.rglob("src/**/*.py")}
    assert {name: length for name, length in lengths.items() if length > 600} == {}


@pytest.mark.parametrize("module", ["sessiond", "sessiond.testing"])
def test_importing_needs_nothing_but_hpack(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                         env={"PYTHONPATH": str(HERE / "src")})  # fmt: skip
    installed = {"starlette", "django", "flask", "aiohttp", "grpc", "google", "h2", "redis"}
    assert installed.isdisjoint(out.stdout.split())
