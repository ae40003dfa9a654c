"""The shop on plain gRPC, without a client package: what the suite is tested with.

It passes all checks. `POST /fault` with `name=...` puts a fault in, one that real shops have, and the
checks must find it (`test_checks.py`). A fault is one `fault("...")` below.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import grpc

# grpcio-tools makes the stubs at start and looks for .proto files in sys.path.
sys.path.append(str(Path(__file__).resolve().parents[3] / "proto"))
pb, services = grpc.protos_and_services("sessiond/v1/session_service.proto")
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 400),
    ("grpc.enable_http_proxy", 0),
    # Over a unix socket gRPC would send the path, escaped, which is no authority for HTTP/2 servers.
    ("grpc.default_authority", "localhost"),
]
channel = grpc.insecure_channel(os.environ["SESSIOND"], OPTIONS)
sessiond = services.SessionServiceStub(channel)

TIMEOUT = 4
ATTEMPTS = 30
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
ACTIVE, SUPERSEDED = pb.SESSION_STATE_ACTIVE, pb.SESSION_STATE_SUPERSEDED
THIS, OTHERS, ALL = pb.DESTROY_SCOPE_THIS, pb.DESTROY_SCOPE_OTHERS, pb.DESTROY_SCOPE_ALL

FAULTS = set()
SEEN = {}  # For the faults that keep something between requests.


def fault(name):
    return name in FAULTS


def patience():
    """How long an operation may take, in seconds."""
    if fault("waits for ever"):
        return None
    return 0.3 if fault("gives up at once") or fault("logs out in an outage") else TIMEOUT


class Conflict(Exception):
    """A change with an id from before a login."""


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status):
        self.status = status


class Names:
    """The engine's cookie name, asked for once for each connection: the daemon may come back with
    another one."""

    def __init__(self):
        self.name = None
        channel.subscribe(self.forget)

    def forget(self, state):
        if state != grpc.ChannelConnectivity.READY and not fault("asks for the name once"):
            self.name = None

    def get(self):
        name = self.name
        if name is None:
            described = sessiond.Describe(pb.DescribeRequest(), timeout=patience(), wait_for_ready=True)
            (engine,) = described.engines
            self.name = name = engine.cookie_name.encode()
        return name


NAMES = Names()


class Session:
    """The session of one request."""

    def __init__(self, header):
        self.header = header
        self.cookies = []
        self.credential = pb.Credential(cookie_header=header)
        self.found = None

    def call(self, method, request, repeat=False):
        end = time.monotonic() + (patience() or 3600)
        while True:
            try:
                answer = method(request, timeout=max(0.01, end - time.monotonic()), wait_for_ready=True)
                break
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    if repeat and time.monotonic() < end - 0.2:
                        time.sleep(0.1)
                        continue
                raise
        self.cookies += answer.set_cookie
        if getattr(answer, "token", "") and not fault("sets all cookies"):
            self.credential = pb.Credential(token=answer.token.encode())
        return answer

    def present(self):
        """Whether the header may hold the session's cookie. The daemon decides."""
        name, pairs = NAMES.get(), [part.strip(b" \t").partition(b"=") for part in self.header.split(b";")]
        if fault("takes the first cookie of the name"):
            values = [value for found, _, value in pairs if found == name]
            self.credential = pb.Credential(token=values[0]) if values else self.credential
        if fault("finds the name in small letters"):
            pairs = [(name if found.lower() == name.lower() else found, "", value) for found, _, value in pairs]
            self.credential = pb.Credential(cookie_header=b"; ".join(n + b"=" + v for n, _, v in pairs))
        return fault("asks for strangers") or name in (found for found, _, _ in pairs)

    def resolve(self):
        """The session as it is now, or None."""
        token = self.credential.WhichOneof("kind") == "token"
        if not token and not self.present() and not fault("creates on reading"):
            self.state, self.found = None, None
            return None
        request = pb.ResolveRequest(credential=self.credential, create=fault("creates on reading"))
        answer = self.call(sessiond.Resolve, request, repeat=True)
        self.state = answer.state
        self.found = answer.session if answer.HasField("session") else None
        if self.found and fault("writes on reading"):
            self.write(credential=self.credential)
        return self.found

    @property
    def superseded(self):
        return self.state == SUPERSEDED and not fault("takes superseded for nobody")

    def data(self):
        found = self.resolve() if not fault("remembers sessions") else self.remembered()
        return json.loads(found.data) if found and found.data else {}

    def remembered(self):
        """A fault: a cache in the process, which other processes do not know of."""
        if self.header not in SEEN or not SEEN[self.header]:
            SEEN[self.header] = self.resolve()
        self.found, self.state = SEEN[self.header], ACTIVE
        return self.found

    def write(self, **fields):
        if fault("asks too often") and "credential" in fields:
            self.call(sessiond.Write, pb.WriteRequest(credential=fields["credential"]))
            fields.pop("if_version", None)
        return self.call(sessiond.Write, pb.WriteRequest(**fields))

    def update(self, change, create=True):
        """Reads, changes and writes the data, again when somebody else was faster. None if there is
        no session and none is to be made: with `create`, that is when it ended meanwhile."""
        for attempt in range(ATTEMPTS):
            data = self.data()
            if self.superseded:
                raise Conflict
            if self.found is None and not create:
                return None
            changed = change(dict(data))
            what = {key: value for key, value in changed.items() if value != data.get(key)}
            gone = [key for key in data if key not in changed]
            if fault("writes all it read"):
                what = changed
            if not what and not gone:
                return changed
            if fault("answers before it writes") and self.found:
                request = pb.WriteRequest(credential=self.credential, set=json.dumps(what).encode())
                threading.Timer(0.05, lambda: sessiond.Write.future(request, timeout=1)).start()
                return changed
            try:
                if self.found is None:
                    self.write(set=json.dumps(what).encode())
                elif fault("loses updates") or fault("writes all it read"):
                    time.sleep(0.003)  # As if the store were further away.
                    self.write(credential=self.credential, set=json.dumps(what).encode(), unset=gone)
                else:
                    version = self.found.version
                    self.write(credential=self.credential, set=json.dumps(what).encode(), unset=gone, if_version=version)
                return changed
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    # It has ended or was rolled since it was read. Never begin a new one in its place.
                    if fault("recreates after a logout"):
                        self.write(set=json.dumps(changed).encode(), principal=self.found.principal)
                        return changed
                    create = False
                elif error.code() != grpc.StatusCode.ABORTED:
                    raise
                time.sleep(random.uniform(0, 0.004 * (attempt + 1)))
        raise Refused(503)

    def set(self, key, value):
        """Writes one key, whatever the others are."""
        if fault("writes all it read"):
            return self.update(lambda data: data | {key: value})
        self.resolve()
        if self.superseded:
            raise Conflict
        credential = self.credential if self.found else None
        try:
            self.write(credential=credential, set=json.dumps({key: value}).encode())
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            self.resolve()
            if self.superseded:
                raise Conflict from None

    def login(self, user):
        self.resolve()
        if self.superseded:
            raise Conflict
        if fault("keeps another user's data") and self.found:
            data = self.found.data
            self.write(credential=self.credential, principal=user, roll=True)
            self.write(credential=self.credential, set=data)
        elif fault("keeps the id at a login") and self.found and not self.found.principal:
            # An id of its own, beside the session.
            SEEN[bytes(self.header)] = user
        elif fault("takes any id") and self.present() and not self.found:
            token = self.header.partition(b"=")[2].decode()
            self.cookies.append(f"{NAMES.get().decode()}={token}; Path=/; Secure; HttpOnly; SameSite=Lax")
            SEEN[bytes(self.header)] = user
        elif self.found is None and fault("sets two cookies"):
            self.write()
            self.write(credential=self.credential, principal=user, roll=True)
        elif self.found is None:
            self.write(principal=user)
        else:
            roll = not fault("keeps the id at a second login")
            try:
                self.write(credential=self.credential, principal=user, roll=roll)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
                raise Conflict from None

    def destroy(self, scope):
        if not self.present():
            return 0
        request = pb.DestroyRequest(credential=self.credential, scope=scope)
        return self.call(sessiond.Destroy, request, repeat=True).destroyed


# The pages. Each takes the session and the form or the query.


def show(session, _form):
    data = session.data()
    user = session.found.principal if session.found else ""
    if fault("mixes up browsers"):
        SEEN["user"] = user = SEEN.get("user") or user
    if fault("keeps the id at a login"):
        user = SEEN.get(bytes(session.header), user)
    cart = data.get("cart", [])
    return {"user": user or None, "visits": data.get("visits", 0), "cart": cart, "live": session.found is not None}


def visit(session, _form):
    if fault("drops visits"):
        return {"visits": 1}
    return {"visits": existing(session.update(count))["visits"]}


def existing(changed):
    """What was changed. The change of a session that ended meanwhile is dropped."""
    if changed is None:
        raise Conflict
    return changed


def count(data):
    return data | {"visits": data.get("visits", 0) + 1}


def add(session, form):
    item = form.get("item", "")
    if fault("breaks on empty forms"):
        item = form["item"]
    changed = session.update(lambda data: data | {"cart": [*data.get("cart", []), item]})
    return {"items": len(existing(changed)["cart"])}


def leave_flash(session, form):
    text = form.get("text", "")
    session.set("flash", text if not fault("strips text") else text.strip())
    return {}


def take_flash(session, _form):
    taken = {"flash": None}

    def take(data):
        taken["flash"] = data.get("flash")
        return {key: value for key, value in data.items() if key != "flash"}

    if fault("shows a flash twice"):
        data = session.data()
        if "flash" in data:
            session.write(credential=session.credential, unset=["flash"])
        return {"flash": data.get("flash")}
    try:
        if session.update(take, create=False) is None:
            return {"flash": None}
    except Conflict:
        return {"flash": None}
    return taken


def login(session, form):
    user = form.get("user", "")
    size = len(user) if fault("counts characters") else len(user.encode())
    if not 1 <= size <= 256:
        raise Refused(400)
    session.login(user)
    return {"user": user}


def set_theme(session, form):
    theme = form.get("theme", "")
    session.set("theme", theme)
    return {"theme": theme}


def logout(session, _form):
    if fault("logs out everywhere"):
        session.destroy(ALL)
    elif fault("ignores late logouts"):
        session.resolve()
        if session.superseded:
            raise Conflict
        session.destroy(THIS)
    else:
        session.destroy(THIS)
    if fault("keeps the cookie at a logout"):
        session.cookies.clear()
    return {}


def logout_others(session, _form):
    session.resolve()
    if session.superseded:
        raise Conflict
    ended = session.destroy(ALL if fault("ends this with the others") else OTHERS)
    return {"ended": ended}


def logout_everywhere(session, _form):
    if fault("creates at a late logout"):
        session.write()
    ended = session.destroy(ALL)
    return {"ended": ended - fault("counts the others only")}


def slow(session, form):
    ms = form.get("ms", "")
    if fault("breaks on odd waits"):
        int(ms)
    wait = min(int(ms), 5000) / 1000 if ms.isascii() and ms.isdigit() else 0
    data = session.data()
    if session.found is None:
        return {"written": False}
    time.sleep(wait)
    if fault("overwrites what came meanwhile"):
        session.set("visits", data.get("visits", 0) + 1)
        return {"written": True}
    try:
        return {"written": session.update(count, create=fault("recreates after a logout")) is not None}
    except Conflict:
        if fault("recreates after a login"):
            session.write(set=json.dumps(count(data)).encode())
        return {"written": False}


def devices(session, _form):
    found = session.resolve()
    if not found or not found.principal and not fault("lists devices of nobody"):
        raise Refused(401)
    devices, token = [], ""
    while True:
        request = pb.SessionServiceListSessionsRequest(credential=session.credential, page_token=token)
        page = sessiond.ListSessions(request, timeout=TIMEOUT)
        devices += [{"id": one.id, "current": one.id == page.current_session_id} for one in page.sessions]
        token = page.next_page_token
        if not token or fault("lists one page"):
            break
    if fault("shows a credential"):
        devices[0]["cookie"] = session.header.decode("latin-1")
    return {"devices": devices}


PAGES = {
    ("GET", "/session"): show,
    ("POST", "/visit"): visit,
    ("POST", "/cart"): add,
    ("POST", "/flash"): leave_flash,
    ("GET", "/flash"): take_flash,
    ("POST", "/login"): login,
    ("POST", "/theme"): set_theme,
    ("POST", "/logout"): logout,
    ("POST", "/logout-others"): logout_others,
    ("POST", "/logout-everywhere"): logout_everywhere,
    ("GET", "/slow"): slow,
    ("GET", "/devices"): devices,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        if fault("logs cookies"):
            print(self.headers.get("Cookie"), flush=True)

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def answer(self, method):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = body.decode(errors="replace") if method == "POST" else url.query
        form = {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
        if url.path == "/fault":
            FAULTS.clear()
            SEEN.clear()
            FAULTS.update(filter(None, [form.get("name")]))
            if fault("leaves faults to others"):
                print("Unhandled rejection: Error: nobody has caught this", file=sys.stderr, flush=True)
            return self.send(200, {}, Session(b""), cached=False)
        header = (self.headers.get("Cookie") or "").encode("latin-1")
        if fault("decodes cookies"):
            header = header.decode().encode()
        session = Session(header)
        status, answer = self.run(PAGES.get((method, url.path)), session, form)
        self.send(status, answer, session)

    def run(self, page, session, form):
        if page is None:
            return 404, {}
        try:
            if fault("comes back late") and SEEN.get("away", 0) > time.monotonic():
                raise Refused(503)
            return 200, page(session, form)
        except Conflict:
            session.cookies.clear()
            if fault("deletes cookies from before a login"):
                session.cookies.append(f"{NAMES.get().decode()}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax")
            return 409, {}
        except Refused as refused:
            return refused.status, {}
        except (KeyError, ValueError):
            return 500, {}
        except grpc.RpcError as error:
            session.cookies.clear()
            SEEN["away"] = time.monotonic() + 5
            if error.code() not in AWAY:
                print(f"{page.__name__}: {error.code().name}: {error.details()}", file=sys.stderr, flush=True)
                if fault("loses the session with what does not fit"):
                    session.destroy(THIS)
                    session.cookies.clear()
                return 500, {}
            if fault("takes an outage for nobody"):
                return 200, {"user": None, "visits": 0, "cart": [], "live": False}
            if fault("logs out in an outage"):
                session.cookies.append("__Host-shop=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax")
            return 503, {}

    def send(self, status, answer, session, cached=True):
        body = json.dumps(answer).encode()
        every = fault("sets two cookies") or fault("sets all cookies")
        lines = session.cookies if every else session.cookies[-1:]
        if fault("always sets the cookie") and session.found and not lines:
            token = session.header.decode("latin-1").partition("=")[2]
            lines = [f"{NAMES.get().decode()}={token}; Path=/; Secure; HttpOnly; SameSite=Lax"]
        if fault("changes the cookie's attributes"):
            lines = [line.replace("; HttpOnly", "") for line in lines]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if not (cached and fault("lets caches keep it")):
            self.send_header("Cache-Control", "no-store")
        if status == 503 and not fault("does not say when"):
            self.send_header("Retry-After", "1")
        for line in lines:
            self.send_header("Set-Cookie", line)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A browser that has hung up is no fault of the shop."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(os.environ.get("PORT", "0"))), Handler)

    def stop(*_):
        if not fault("ignores SIGTERM"):
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
