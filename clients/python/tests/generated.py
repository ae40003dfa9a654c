"""The messages of `proto/` as the protobuf package makes them, for the tests that compare.

No generated modules: theirs would be called `sessiond`, as this package is."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

# The parts of google/rpc/error_details.proto that the daemon sends.
DETAILS = """
syntax = "proto3";
package google.rpc;
import "google/protobuf/duration.proto";
message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
message RetryInfo { google.protobuf.Duration retry_delay = 1; }
message BadRequest {
  message FieldViolation { string field = 1; string description = 2; }
  repeated FieldViolation field_violations = 1;
}
"""


class Messages:
    """Message classes by name: `Messages().ResolveRequest`."""

    def __init__(self) -> None:
        protoc = pytest.importorskip("grpc_tools.protoc")
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "details.proto").write_text(DETAILS)
            out = f"{folder}/set"
            includes = [REPOSITORY / "proto", Path(protoc.__file__).parent / "_proto", Path(folder)]
            status = protoc.main(
                [
                    "protoc",
                    *(f"-I{include}" for include in includes),
                    "--include_imports",
                    f"--descriptor_set_out={out}",
                    "sessiond/v1/session_service.proto",
                    "details.proto",
                ]
            )
            assert status == 0, "protoc failed"
            files = descriptor_pb2.FileDescriptorSet.FromString(Path(out).read_bytes())
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
        self._find: Callable[[str], Any] = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._find(f"sessiond.v1.{name}")

    def rpc(self, name: str) -> Any:
        """A message of google.rpc."""
        return self._find(f"google.rpc.{name}")


@functools.cache
def messages() -> Messages:
    """Made once."""
    return Messages()
