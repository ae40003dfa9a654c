"""The same as pipelines.js, with grpcio."""

import os
import sys
import threading
from pathlib import Path

import grpc

# grpcio-tools makes the stubs at start and looks for .proto files in sys.path.
sys.path.append(str(Path(__file__).resolve().parents[2] / "proto"))
pb, services = grpc.protos_and_services("sessiond/v1/session_service.proto")

OPERATIONS = 2000
pipelines = int(os.environ["PIPELINES"])
channel = grpc.insecure_channel(os.environ["ADDRESS"])
stub = services.SessionServiceStub(channel)
answered = [0] * pipelines


def run(number):
    requests = [
        pb.PipelineRequest(sequence=n, write=pb.WriteRequest(set="{}"))
        for n in range(OPERATIONS // pipelines)
    ]
    answered[number] = sum(1 for _ in stub.Pipeline(iter(requests)))


threads = [threading.Thread(target=run, args=(n,)) for n in range(pipelines)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{sum(answered)} answered")
