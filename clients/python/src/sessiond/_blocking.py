"""The blocking front: threads that share one connection, and no thread of its own.

Of the threads that wait for an answer, one leads: it reads the socket and wakes the others
when their answers come. When it has its own, the next one leads. A single thread so pays
for no switch of threads, nothing has to be stopped at exit, and a fork leaves nothing
behind. (A thread that only reads costs more: `bench/client.py --threads`.)
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

from ._channel import Channel, ProtocolError
from ._core import Core, Permanent, hand_over
from ._http2 import Http2Error
from ._messages import MalformedMessageError
from ._operations import Operation, connection_error
from ._options import Options
from .errors import SessiondError

_BROKEN = (Http2Error, ProtocolError, MalformedMessageError)
_READ = 65_536
_IDLE = 0.001
"""Seconds after which a connection is looked at before it is used: nobody reads it meanwhile."""
_SLACK = 0.01
"""How far the socket's timeout may be off; to set it costs a system call."""
_PLAIN = socket.socket.__module__ == "socket" and hasattr(socket, "MSG_DONTWAIT") and sys.maxsize > 2**32
"""Whether sockets are the kernel's: not those of gevent."""


class _Link:
    """The socket of a channel: one thread waits to read it, and any thread writes without waiting.

    A plain socket stays blocking, the kernel keeps the time, and a read is one system call.
    Python's own timeout would be two. Where sockets are not the kernel's (gevent), a second
    object of the same connection, which never waits, does the writing."""

    def __init__(self, connection: socket.socket, tls: _Tls | None) -> None:
        self.reader = connection
        self.tls = tls
        self.rest = b""
        """What the socket did not take yet."""
        self.sending = False
        """Whether a thread is about to send. What there is to send meanwhile is its business."""
        self.timeout = -1.0
        self.down = False
        if _PLAIN:
            connection.settimeout(None)
            self.writer, self._flags = connection, int(socket.MSG_DONTWAIT)
        else:
            self.writer, self._flags = connection.dup(), 0
            self.writer.settimeout(0.0)

    def read(self, timeout: float) -> bytes:
        """Waits for octets. Raises TimeoutError or BlockingIOError; nothing is the end."""
        if not self.timeout - _SLACK <= timeout <= self.timeout + 1.0:
            self.timeout = max(timeout, 0.001)
            if _PLAIN:
                seconds = int(self.timeout)
                value = struct.pack("@ll", seconds, int((self.timeout - seconds) * 1e6))
                self.reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            else:
                self.reader.settimeout(self.timeout)
        return self.reader.recv(_READ)

    def look(self) -> bytes:
        """What is there now. Raises BlockingIOError if that is nothing."""
        return self.writer.recv(_READ, self._flags)

    def prepare(self, data: bytes) -> bytes:
        """What `send` is to be given, for octets of HTTP/2. Under the mutex, as TLS is."""
        if data and self.tls is not None:
            data = self.tls.encrypt(data)
        return self.rest + data if self.rest else data

    def send(self, data: bytes) -> bool:
        """Sends what the socket takes at once; `rest` is what it does not. False if the
        connection is gone, and nothing of it was sent. One thread at a time: see `sending`."""
        try:
            sent = self.writer.send(data, self._flags)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.rest = b""  # the reader finds the end, and what came before it
            return False
        self.rest = data[sent:] if sent < len(data) else b""
        return True

    def shut(self) -> None:
        """Ends the connection, and wakes who reads it."""
        self.down = True
        try:
            self.writer.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Gives the descriptors back; says nothing to the peer that a fork still needs."""
        self.reader.close()
        if self.writer is not self.reader:
            self.writer.close()


class _Tls:
    """TLS without a socket: OpenSSL's state must not be used by two threads at a time."""

    def __init__(self, context: ssl.SSLContext, server_name: str | None) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=server_name)

    def shake_hands(self, connection: socket.socket) -> None:
        """The handshake, within the socket's timeout."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(self._out.read())
                data = connection.recv(_READ)
                if not data:
                    raise ssl.SSLEOFError("the peer closed the connection") from None
                self._in.write(data)
            except ssl.SSLError:
                if self._out.pending:
                    connection.sendall(self._out.read())  # the alert that tells the peer why
                raise
            else:
                connection.sendall(self._out.read())
                return

    def encrypt(self, data: bytes) -> bytes:
        """Octets for the socket."""
        self._tls.write(data)
        return self._out.read()

    def decrypt(self, data: bytes) -> bytes:
        """What octets of the socket mean. Raises ssl.SSLError."""
        self._in.write(data)
        parts: list[bytes] = []
        try:
            while part := self._tls.read(_READ):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(parts)


class Front:
    """Moves the octets of a `Core` on the threads that wait for them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._links: list[_Link] = []
        self._reset()
        _fronts.add(self)

    def _reset(self) -> None:
        self._any_down = False
        self._mutex = threading.Lock()
        self._leading = False
        self._followers: deque[Operation] = deque()
        self._next: Operation | None = None
        self._drained: threading.Event | None = None
        self.core = Core(self.options, wake=_wake, drop=self._drop)

    def after_fork(self) -> None:
        """In the child: the connection is the parent's, and so are the threads that wait."""
        closed = self.core.closing
        links, self._links = self._links, []
        for link in links:
            link.close()
        self._reset()
        self.core.closing = closed

    # ------------------------------------------------------------ callers

    def run(self, operation: Operation, timeout: float) -> Any:
        """Carries an operation out and returns its result."""
        core = self.core
        lead = False
        wait = 0.0
        data = b""
        try:
            with self._mutex:
                now = time.monotonic()
                channel = core.channel
                if (
                    channel is not None
                    and not operation.safe  # a safe one is repeated if the connection proves to be gone
                    and not core.operations
                    and now - channel.last_received > _IDLE
                ):
                    self._look(channel, now)
                core.admit(operation, timeout, now)
                channel = core.flush(now)
                if channel is not None:
                    data = self._to_send(channel)
                if self._leading:
                    operation.waiter = threading.Lock()
                    operation.waiter.acquire()
                    self._followers.append(operation)
                else:
                    lead = True
                    self._leading = True
                    wait = core.wake_at() - now
            if channel is not None and data:
                self._send(channel, data)
            if not lead:
                lead = self._follow(operation)
            elif not (operation.done or channel is None or core.old or channel.transport.rest or wait <= 0):
                # The plain case: what `_step` would come to.
                lead = not self._read(channel, wait, operation)
            while not operation.done:
                self._step(operation)
        except BaseException:
            with self._mutex:
                core.abandon(operation)
            raise
        finally:
            if lead:
                with self._mutex:
                    self._resign()
            if core.events:
                hand_over(core)
            if self._drained is not None and not core.operations:
                self._drained.set()
        if operation.error is not None:
            try:
                raise operation.error
            finally:
                operation.error = None  # or the error's traceback would hold itself
        return operation.result

    def close(self, timeout: float) -> None:
        """See `SessionClient.close`."""
        core = self.core
        with self._mutex:
            core.closing = True
            if core.operations:
                self._drained = threading.Event()
        if self._drained is not None and timeout > 0:
            self._drained.wait(timeout)
        with self._mutex:
            core.fail_all(time.monotonic())
            if not self._leading:
                self._reap()
        hand_over(core)

    # ------------------------------------------------------------ leader and followers

    def _follow(self, operation: Operation) -> bool:
        """Waits until the operation has ended (False) or it is its thread's turn to lead (True)."""
        core = self.core
        try:
            while not operation.done and self._next is not operation:
                self._push()
                left = operation.deadline - time.monotonic()
                if not operation.waiter.acquire(timeout=max(left, 0.0)):
                    with self._mutex:
                        core.tick(time.monotonic())  # the leader may be busy with connecting
                        self._write()
        except BaseException:
            with self._mutex:
                if self._next is operation:
                    self._next = None
                    self._resign()
            raise
        if self._next is not operation:
            return False  # it has ended, and who has ended is not called to lead any more
        with self._mutex:
            self._next = None
            return True

    def _push(self) -> None:
        """Sends what the socket did not take. The leader may wait to read, and not see it."""
        channel = self.core.channel
        while channel is not None and channel.transport.rest and not channel.closed:
            poll = select.poll()
            poll.register(channel.transport.writer.fileno(), select.POLLOUT)
            poll.poll(100)
            with self._mutex:
                self._write_to(channel)

    def _resign(self) -> None:
        """Lets the next one lead."""
        followers = self._followers
        while followers:
            follower = followers.popleft()
            if not follower.done:
                self._next = follower
                follower.waiter.release()
                return
        self._leading = False
        self._reap()

    def _step(self, operation: Operation) -> None:
        """Waits for one thing to happen, and sees to it."""
        core = self.core
        with self._mutex:
            now = time.monotonic()
            wake_at = core.wake_at()
            if now >= wake_at:
                core.tick(now)
                self._write()
                if operation.done:
                    return
                wake_at = core.wake_at()
            self._reap()
            connect_at = core.attempt_at()
            if connect_at is not None and connect_at > now:
                wake_at = min(wake_at, connect_at)
            channels = core.old if core.channel is None else [core.channel, *core.old]
            channels = list(channels)
        if connect_at is not None and connect_at <= now:
            self._connect(operation)
            return
        wait = min(wake_at - now, 60.0)
        if not channels:
            time.sleep(min(max(wait, 0.0), 1.0))
            return
        if len(channels) > 1 or channels[0].transport.rest:
            links: list[_Link] = [channel.transport for channel in channels]
            ready = _wait(links, wait)
            channels = [channel for channel, link in zip(channels, links, strict=True) if link in ready]
            wait = 0.0
            if not channels:
                with self._mutex:
                    self._write()
                return
        for channel in channels:
            self._read(channel, wait)

    def _read(self, channel: Channel, wait: float, own: Operation | None = None) -> bool:
        """Waits for octets of a connection, and takes them. If that ends the thread's own
        operation, lets the next one lead, and returns True."""
        link: _Link = channel.transport
        why = "the daemon closed it"
        data = b""
        try:
            data = link.read(wait)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as error:
            why = error.strerror or type(error).__name__
        if data and self._followers:
            # Before this thread had its turn to run, others have asked. Whoever is answered by
            # now need not be woken to lead, only to find that nothing is left to wait for.
            try:
                data += link.look()
            except OSError:
                pass  # nothing, or an end that the next read finds
        with self._mutex:
            self._take(channel, data, why)
            if own is None or not own.done:
                return False
            self._resign()
            return True

    def _take(self, channel: Channel, data: bytes, why: str) -> None:
        """Octets of a connection; nothing: its end."""
        core = self.core
        now = time.monotonic()
        link: _Link = channel.transport
        if channel.closed:
            return
        if not data:
            core.lost(channel, why, now)
            return
        try:
            if link.tls is not None:
                data = link.tls.decrypt(data)
            core.receive(channel, data, now)
        except _BROKEN as error:
            self._write_to(channel)
            core.lost(channel, str(error), now, _broken(error, self.options))
        except ssl.SSLError as error:
            text = f"TLS: {error}"  # for example: the daemon refuses our certificate
            core.lost(channel, text, now, Permanent(lambda: connection_error(text)))
        if core.old or channel.http2.has_output or core.channel is not channel:
            self._write()

    def _look(self, channel: Channel, now: float) -> None:
        """Reads what came while nobody waited: pings, a GOAWAY, the end."""
        link: _Link = channel.transport
        while not channel.closed:
            try:
                data = link.look()
            except (BlockingIOError, InterruptedError):
                channel.last_received = now  # the next look is due after another pause
                return
            except OSError as error:
                self._take(channel, b"", error.strerror or type(error).__name__)
                return
            self._take(channel, data, "the daemon closed it")

    # ------------------------------------------------------------ sockets

    def _send(self, channel: Channel, data: bytes) -> None:
        """Sends what `_to_send` gave, and what others leave to this thread meanwhile. Without the
        mutex: a thread that sends lets others run, and they would all come to wait for it."""
        link: _Link = channel.transport
        try:
            while data:
                gone = not link.send(data)
                with self._mutex:
                    link.sending = False
                    if gone:
                        channel.not_sent()
                    if gone or link.rest or not channel.http2.has_output:
                        return
                    data = self._to_send(channel)
        except BaseException:
            # Of an interrupted send nobody knows how much has left.
            with self._mutex:
                link.sending = False
                link.shut()
            raise

    # All that follows: under the mutex.

    def _to_send(self, channel: Channel) -> bytes:
        """What the caller has to hand to `_send`; nothing if another thread sees to it."""
        link: _Link = channel.transport
        if link.sending:
            return b""
        data = link.prepare(channel.take_output())
        link.sending = bool(data)
        return data

    def _write(self) -> None:
        core = self.core
        if core.channel is not None:
            self._write_to(core.channel)
        for channel in core.old:
            self._write_to(channel)

    def _write_to(self, channel: Channel) -> None:
        link: _Link = channel.transport
        if not link.sending and (channel.http2.has_output or link.rest):
            data = link.prepare(channel.take_output())
            if not link.send(data):
                channel.not_sent()

    def _drop(self, channel: Channel) -> None:
        link: _Link = channel.transport
        if not link.down:
            self._write_to(channel)
            link.shut()
            self._any_down = True

    def _reap(self) -> None:
        """Closes the sockets that are down. Only while nobody reads: a descriptor could be used again."""
        if self._any_down:
            over = [link for link in self._links if link.down and not link.sending]
            for link in over:
                link.close()
            self._links = [link for link in self._links if link not in over]
            self._any_down = any(link.down for link in self._links)

    # ------------------------------------------------------------ connecting

    def _connect(self, operation: Operation) -> None:
        core = self.core
        options = self.options
        permanent: Permanent | None = None
        link: _Link | None = None
        token: str | None = None
        text = ""
        left = min(operation.deadline - time.monotonic(), options.timeout)
        try:
            token = options.read_token()
            link = _open(options, max(left, 0.001))
        except SessiondError as error:
            text = str(error)
            permanent = Permanent(error.copy)
        except ssl.SSLError as error:
            text = f"TLS: {error}"
            permanent = Permanent(lambda: connection_error(text))
        except TimeoutError:
            text = f"no connection within {left:.1f} s"
        except (OSError, UnicodeError) as error:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        with self._mutex:
            now = time.monotonic()
            if link is None:
                core.connect_failed(text, now, permanent)
            elif core.closing and not core.operations:
                link.close()
            else:
                self._links.append(link)
                core.start(token, now).transport = link
                self._write()


def _open(options: Options, timeout: float) -> _Link:
    if options.path is not None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        connection = socket.create_connection((options.host, options.port), timeout)
    try:
        connection.settimeout(timeout)
        if options.path is not None:
            connection.connect(options.path)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tls = None
        if options.ssl_context is not None:
            tls = _Tls(options.ssl_context, options.server_name)
            tls.shake_hands(connection)
        return _Link(connection, tls)
    except BaseException:
        connection.close()
        raise


def _wait(links: Iterable[_Link], timeout: float) -> set[_Link]:
    """Waits until one of them can be read, or written if it has something to write.
    Returns those to read."""
    by_fd = {link.reader.fileno(): link for link in links if not link.down}
    poll = select.poll()
    for fd, link in by_fd.items():
        poll.register(fd, select.POLLIN | (select.POLLOUT if link.rest else 0))
    ready = poll.poll(max(0.0, timeout) * 1000)
    return {by_fd[fd] for fd, event in ready if event & ~select.POLLOUT}


def _wake(operation: Operation) -> None:
    if operation.waiter is not None:
        try:
            operation.waiter.release()
        except RuntimeError:
            pass  # its thread was called to lead, and has not come yet


def _broken(error: Exception, options: Options) -> Permanent:
    """For a peer that does not even greet as expected: waiting does not mend that."""
    return Permanent(
        lambda: SessiondError(
            f"{options.address} does not answer as a daemon does: {error}",
            reason="PROTOCOL_ERROR",
            code="INTERNAL",
        )
    )


_fronts: weakref.WeakSet[Front] = weakref.WeakSet()


def _after_fork() -> None:
    for front in list(_fronts):
        front.after_fork()


def _at_exit() -> None:
    for front in list(_fronts):
        front.close(0.0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
