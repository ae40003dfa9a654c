"""Browsers: an HTTP/1.1 client that sends any octets, a cookie jar, and the rules that hold for
every response of every shop.

It is written here because the libraries refuse, repair or hide what the checks are about: odd octets
in a Cookie header, several Set-Cookie lines, the order in which responses come.
"""

import asyncio
import itertools
import json
import re
import time
from urllib.parse import urlencode

# A request that takes longer hangs. Client packages give up after 5 s, and then the shop answers 503.
PATIENCE = 12
# A connection that was idle for longer is not used again: a server may be about to close it.
FRESH = 1.0
FORM = "application/x-www-form-urlencoded"


class Site:
    """A web server, and the connections to it. Browsers share them, as behind a reverse proxy, so
    that a shop that keeps something of a request with its connection is found."""

    def __init__(self, url, name):
        self.url = url
        self.name = name  # Of the shop, for messages.
        self.host, port = re.fullmatch(r"http://([^:/]+):(\d+)/?", url).groups()
        self.port = int(port)
        self._idle = []

    async def exchange(self, head, body):
        """Sends a request, and returns the status, the header lines and the body of the answer."""
        reader, writer, reused = await self._connect()
        try:
            writer.write(head + body)
            answer, goes_on = await _read(reader)
        except (OSError, asyncio.IncompleteReadError) as problem:
            writer.close()
            raise AssertionError(f"expected an answer, but the connection ended ({reused=}): {problem!r}") from None
        except BaseException:
            writer.close()
            raise
        # Servers close a connection after a fault in the application, without saying so before.
        if goes_on and answer[0] < 500:
            self._idle.append((reader, writer, time.monotonic()))
        else:
            writer.close()
        return answer

    def hang_up(self):
        """Closes the connections that are idle."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _connect(self):
        while self._idle:
            reader, writer, since = self._idle.pop()
            if time.monotonic() - since < FRESH and not reader.at_eof():
                return reader, writer, True
            writer.close()
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError as problem:
            raise AssertionError(f"expected the shop to accept a connection: {problem}") from None
        return reader, writer, False


async def _read(reader):
    """One response, and whether the connection can be used again."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        version, status = first.split(b" ", 2)[:2]
        status = int(status)
        if status >= 200:
            break
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.decode("latin-1").lower(), value.strip(b" \t").decode("latin-1")))
    fields = dict(headers)
    if status in (204, 304):
        body, framed = b"", True
    elif "chunked" in fields.get("transfer-encoding", ""):
        body, framed = b"", True
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    elif "content-length" in fields:
        body, framed = await reader.readexactly(int(fields["content-length"])), True
    else:
        body, framed = await reader.read(), False
    goes_on = framed and version == b"HTTP/1.1" and fields.get("connection", "").lower() != "close"
    return (status, headers, body), goes_on


class Response:
    """An answer of a shop, with what was asked, for messages."""

    def __init__(self, request, cookie_name, status, headers, body, seconds):
        self.request = request
        self.cookie_name = cookie_name
        self.status = status
        self.headers = headers
        self.body = body
        self.seconds = seconds

    def header(self, name):
        """The value of a header, or None; the lines of a name that comes several times are joined."""
        lines = [value for found, value in self.headers if found == name]
        return ", ".join(lines) if lines else None

    @property
    def all_cookies(self):
        return [value for name, value in self.headers if name == "set-cookie"]

    @property
    def cookies(self):
        """The Set-Cookie lines of the session's name."""
        return [line for line in self.all_cookies if line.partition("=")[0].strip() == self.cookie_name]

    @property
    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            raise AssertionError(f"expected JSON: {self}") from None

    def __repr__(self):
        lines = "".join(f"\n    {name}: {value}" for name, value in self.headers if name in SHOWN)
        body = self.body[:400].decode(errors="replace")
        return f"\n  {self.request}\n  answered with {self.status} after {self.seconds:.2f} s{lines}\n    {body}"

    # What is expected. Each returns the response, so that expectations can be chained.

    def answers(self, expected):
        """200 and this JSON, to the letter."""
        assert self.status == 200 and self.json == expected, f"expected 200 and {json.dumps(expected)}: {self}"
        return self

    def is_ok(self):
        assert self.status == 200, f"expected 200: {self}"
        return self

    def has_status(self, *allowed):
        assert self.status in allowed, f"expected one of {allowed}: {self}"
        return self

    def sets_no_cookie(self, because):
        assert not self.all_cookies, f"expected no Set-Cookie, because {because}: {self}"
        return self

    def sets_a_cookie(self, because):
        assert len(self.cookies) == 1 and not self.deletes, f"expected the session's cookie, because {because}: {self}"
        return self

    def deletes_the_cookie(self, because):
        assert len(self.cookies) == 1 and self.deletes, f"expected the deletion cookie, because {because}: {self}"
        return self

    def conflicts(self, because):
        """A change with an id from before a login."""
        assert self.status == 409 and self.json == {}, f"expected 409 and {{}}, because {because}: {self}"
        return self.sets_no_cookie(because)

    def is_unavailable(self, because):
        """The daemon or its store is away: come back later. Nobody is logged out."""
        assert self.status == 503, f"expected 503, because {because}: {self}"
        retry = self.header("retry-after") or ""
        assert re.fullmatch(r"\d{1,4}", retry), f"expected Retry-After in seconds, because {because}: {self}"
        return self.sets_no_cookie(because)

    @property
    def deletes(self):
        return bool(self.cookies) and attributes(self.cookies[-1]).get("max-age") == "0"


SHOWN = {"set-cookie", "cache-control", "retry-after", "content-type", "location"}


def attributes(line):
    """The attributes of a Set-Cookie line, their names in small letters."""
    pairs = (part.strip().partition("=") for part in line.split(";")[1:])
    return {name.lower(): value for name, _, value in pairs}


def value(line):
    """The cookie-value of a Set-Cookie line."""
    return line.split(";")[0].partition("=")[2]


def obey_rules(response, secrets):
    """What holds for every response, whatever was asked."""
    r = response
    assert len(r.cookies) <= 1, f"expected at most one Set-Cookie line of the session's name: {r}"
    assert r.all_cookies == r.cookies, f"expected no cookie beside the session's: {r}"
    if r.cookies or r.status == 200:
        stored = (r.header("cache-control") or "").lower()
        assert "no-store" in stored, f"expected Cache-Control: no-store, or a cache hands it to others: {r}"
    if r.status == 200:
        kind = (r.header("content-type") or "").partition(";")[0]
        assert kind == "application/json", f"expected Content-Type: application/json: {r}"
    for line in r.cookies:
        found = attributes(line)
        names = set(found) - {"max-age", "expires"}
        assert names == {"path", "secure", "httponly", "samesite"}, f"expected the daemon's Set-Cookie, unchanged: {r}"
        assert found["path"] == "/" and found["samesite"].lower() == "lax", f"expected the daemon's Set-Cookie, unchanged: {r}"
    for secret in secrets:
        assert secret.encode() not in r.body, f"expected no credential in the body: {r}"


class Browser:
    """A browser with a jar for the session's cookie. Its requests go to the shop's processes in turn,
    as behind a load balancer, unless one is named."""

    def __init__(self, scene, cookie=None):
        self.scene = scene
        self.cookie = cookie  # The cookie-value.
        self._turns = itertools.cycle(scene.sites)

    @property
    def public_id(self):
        return self.cookie[:16] if self.cookie else None

    def twin(self):
        """Another browser with the same cookie: a thief's, or a tab that keeps the cookie of now."""
        return Browser(self.scene, self.cookie)

    async def get(self, path, **options):
        return await self._send("GET", path, b"", **options)

    async def post(self, path, form=None, *, body=None, kind=FORM, **options):
        """Sends a form, or a body as it is."""
        if body is None:
            body = urlencode(form or {}).encode()
        return await self._send("POST", path, body, kind=kind, **options)

    async def _send(self, method, path, body, *, kind=None, site=None, header=None):
        """`header`: octets to send as the Cookie header, in place of the jar's cookie."""
        site = site or next(self._turns)
        if header is None and self.cookie is not None:
            header = f"{self.scene.cookie_name}={self.cookie}".encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {site.host}:{site.port}\r\nAccept: */*\r\n".encode()
        if header is not None:
            head += b"Cookie: " + header + b"\r\n"
        if method == "POST":
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n".encode()
        shown = f"{method} {site.name}{path} {body[:200].decode(errors='replace')}".rstrip()
        if header is not None:
            shown += f", Cookie: {header[:100].decode('latin-1')}"
        begin = time.monotonic()
        try:
            answer = await asyncio.wait_for(site.exchange(head + b"\r\n", body), PATIENCE)
        except TimeoutError:
            raise AssertionError(f"expected an answer within {PATIENCE} s: {shown}") from None
        except AssertionError as problem:
            raise AssertionError(f"{shown}: {problem}") from None
        response = Response(shown, self.scene.cookie_name, *answer, time.monotonic() - begin)
        # In the order in which responses come, as browsers do.
        for line in response.cookies:
            self.cookie = None if attributes(line).get("max-age") == "0" else value(line)
            self.scene.saw(value(line))
        obey_rules(response, self.scene.secrets)
        return response

    # The shop's pages.

    def session(self, **options):
        return self.get("/session", **options)

    def visit(self, **options):
        return self.post("/visit", **options)

    def add(self, item, **options):
        return self.post("/cart", {"item": item}, **options)

    def leave_flash(self, text, **options):
        return self.post("/flash", {"text": text}, **options)

    def take_flash(self, **options):
        return self.get("/flash", **options)

    def login(self, user, **options):
        return self.post("/login", {"user": user}, **options)

    def theme(self, theme, **options):
        return self.post("/theme", {"theme": theme}, **options)

    def logout(self, **options):
        return self.post("/logout", **options)

    def logout_others(self, **options):
        return self.post("/logout-others", **options)

    def logout_everywhere(self, **options):
        return self.post("/logout-everywhere", **options)

    def slow(self, ms, **options):
        return self.get(f"/slow?ms={ms}", **options)

    def devices(self, **options):
        return self.get("/devices", **options)

    # Short forms for what is asked for most.

    async def shows(self, user=None, visits=0, cart=(), live=True):
        """GET /session shows this, to the letter, and teaches the browser nothing."""
        expected = {"user": user, "visits": visits, "cart": list(cart), "live": live}
        return (await self.session()).answers(expected).sets_no_cookie("it only reads")

    async def is_a_stranger(self):
        return await self.shows(live=False)


async def together(*requests):
    """Sends requests at the same time. Their answers, in the order of the requests."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
