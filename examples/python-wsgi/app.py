"""A visit counter and a cart, with a login. sessiond owns the sessions. Run it by itself, or with `gunicorn app:app`."""
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
ATTEMPTS = 20  # Each failed attempt means that a parallel request succeeded.
# The Write came second: after another Write, or after a logout.
RACES = {grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND}
# A missing answer says nothing about the session: the user stays logged in.
TRY_LATER = RACES | {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class Superseded(Exception):
    """A login in a parallel request has just changed the id.

    The browser is about to get its cookie, so this response brings none. Sent again, the request has the new one.
    """


def open_session(call, credential):
    """The session of a request, a new one if it has none, and the credential to go on with."""
    found = call(sessiond.Resolve, pb.ResolveRequest(credential=credential, create=True))
    if not found.HasField("session"):
        raise Superseded
    return found.session, pb.Credential(token=found.token.encode()) if found.token else credential


def update(call, credential, change):
    """Reads the session, changes its data, and writes them back: again when a parallel request was faster."""
    for attempts_left in reversed(range(ATTEMPTS)):
        session, credential = open_session(call, credential)
        changed = change(json.loads(session.data))
        # Only on top of what was read. Otherwise one of two parallel changes would be lost.
        write = pb.WriteRequest(credential=credential, set=json.dumps(changed), if_version=session.version)
        try:
            return changed, call(sessiond.Write, write).session
        except grpc.RpcError as error:
            if error.code() not in RACES or not attempts_left:
                raise


def form(environ, name):
    """A field of the form: text of 1 to 256 bytes, or nothing."""
    body = environ["wsgi.input"].read(min(int(environ.get("CONTENT_LENGTH") or 0), 4096))
    text = parse_qs(body.decode(errors="replace")).get(name, [""])[0]
    return text if len(text.encode()) <= 256 else ""


def visit(call, credential, _environ):
    changed, session = update(call, credential, lambda data: {"visits": data.get("visits", 0) + 1})
    return "200 OK", f"visits: {changed['visits']}\nuser: {session.principal or 'nobody'}\n"


def add_to_cart(call, credential, environ):
    item = form(environ, "item")
    if not item:
        return "400 Bad Request", "expected an item of at most 256 bytes\n"
    changed, _ = update(call, credential, lambda data: {"cart": data.get("cart", []) + [item]})
    return "200 OK", f"items: {len(changed['cart'])}\n"


def login(call, credential, environ):
    # A real application checks a password here.
    user = form(environ, "user")
    if not user:
        return "400 Bad Request", "expected a user of at most 256 bytes\n"
    _, credential = open_session(call, credential)
    # A new id: somebody who knows the old one must not be logged in with it.
    call(sessiond.Write, pb.WriteRequest(credential=credential, principal=user, roll=True))
    return "200 OK", f"user: {user}\n"


def logout(call, credential, _environ):
    call(sessiond.Destroy, pb.DestroyRequest(credential=credential))
    return "200 OK", "user: nobody\n"


PAGES = {
    ("GET", "/"): visit,
    ("POST", "/cart"): add_to_cart,
    ("POST", "/login"): login,
    ("POST", "/logout"): logout,
}


def app(environ, start_response):
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
    cookies = []

    def call(method, request):
        answer = method(request, timeout=TIMEOUT_SECONDS)
        # Of several values, the last one counts.
        cookies[:] = answer.set_cookie or cookies
        return answer

    page = PAGES.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
    credential = pb.Credential(cookie_header=environ.get("HTTP_COOKIE", "").encode("latin-1"))
    try:
        status, text = page(call, credential, environ) if page else ("404 Not Found", "")
    except (grpc.RpcError, Superseded) as error:
        if isinstance(error, grpc.RpcError) and error.code() not in TRY_LATER:
            raise
        headers.append(("Retry-After", "1"))
        status, text = "503 Service Unavailable", "try again in a moment\n"
    headers.extend(("Set-Cookie", value) for value in cookies)
    start_response(status, headers)
    return [text.encode()]


if __name__ == "__main__":
    Server = type("Server", (ThreadingMixIn, WSGIServer), {"daemon_threads": True})
    server = make_server("127.0.0.1", int(os.environ.get("PORT", "8000")), app, Server)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
