"""A visit counter with a login; sessiond owns its sessions. Run it by itself, or with `gunicorn app:app`."""
import json
import os
import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIServer, make_server

import grpc

# grpcio-tools makes the stubs at start and looks for .proto files in sys.path.
sys.path.append(str(Path(__file__).resolve().parents[2] / "proto"))
pb, services = grpc.protos_and_services("sessiond/v1/session_service.proto")
address = os.environ.get("SESSIOND", "127.0.0.1:50051")
# Keep trying to reach it: by default the pauses would grow to two minutes.
channel = grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 1000)])
sessiond = services.SessionServiceStub(channel)

TIMEOUT_SECONDS = 5
ATTEMPTS = 20  # Each failed one means that a parallel request got through.
# A Write came second: after another Write, or after a logout.
RACES = {grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND}
# No answer says nothing about the session: who is logged in stays logged in.
TRY_LATER = RACES | {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def visit(call, credential, _environ):
    for attempts_left in reversed(range(ATTEMPTS)):
        found = call(sessiond.Resolve, pb.ResolveRequest(credential=credential))
        visits, write = 1, pb.WriteRequest()
        if found.HasField("session"):
            visits += json.loads(found.session.data).get("visits", 0)
            # Only on top of what was read, or parallel visits would count as one.
            write = pb.WriteRequest(credential=credential, if_version=found.session.version)
        write.set = json.dumps({"visits": visits})
        try:
            call(sessiond.Write, write)
            return "200 OK", f"visits: {visits}\nuser: {found.session.principal or 'nobody'}\n"
        except grpc.RpcError as error:
            if error.code() not in RACES or not attempts_left:
                raise


def login(call, credential, environ):
    # A real application checks a password here.
    form = environ["wsgi.input"].read(min(int(environ.get("CONTENT_LENGTH") or 0), 4096))
    user = parse_qs(form.decode(errors="replace")).get("user", [""])[0]
    if not 0 < len(user.encode()) <= 256:
        return "400 Bad Request", "expected a user of at most 256 bytes\n"
    # A new id: whoever knows the old one must not be logged in with it.
    write = pb.WriteRequest(principal=user, roll=True)
    if call(sessiond.Resolve, pb.ResolveRequest(credential=credential)).HasField("session"):
        write.credential.CopyFrom(credential)  # Else a new session is created.
    call(sessiond.Write, write)
    return "200 OK", f"user: {user}\n"


def logout(call, credential, _environ):
    call(sessiond.Destroy, pb.DestroyRequest(credential=credential))
    return "200 OK", "user: nobody\n"


PAGES = {("GET", "/"): visit, ("POST", "/login"): login, ("POST", "/logout"): logout}


def app(environ, start_response):
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]

    def call(method, request):
        answer = method(request, timeout=TIMEOUT_SECONDS)
        headers.extend(("Set-Cookie", value) for value in answer.set_cookie)
        return answer

    page = PAGES.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
    credential = pb.Credential(cookie_header=environ.get("HTTP_COOKIE", ""))
    try:
        status, text = page(call, credential, environ) if page else ("404 Not Found", "")
    except grpc.RpcError as error:
        if error.code() not in TRY_LATER:
            raise
        headers.append(("Retry-After", "1"))
        status, text = "503 Service Unavailable", "try again in a moment\n"
    start_response(status, headers)
    return [text.encode()]


if __name__ == "__main__":
    Server = type("Server", (ThreadingMixIn, WSGIServer), {"daemon_threads": True})
    server = make_server("127.0.0.1", int(os.environ.get("PORT", "8000")), app, Server)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
