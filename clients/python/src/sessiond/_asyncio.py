"""The asyncio front: one `Driver` for each event loop that uses a client."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import Any, cast

from ._channel import Channel, ProtocolError
from ._core import NEVER, Core, Permanent, hand_over
from ._http2 import Http2Error
from ._messages import MalformedMessageError
from ._operations import Operation, connection_error
from ._options import Options
from .errors import SessiondError

_READ = 65_536
_BUSY = 0.001
"""Seconds within which a connection counts as alive. Later, the loop looks at it before it is used
for what cannot be repeated."""
_BROKEN = (Http2Error, ProtocolError, MalformedMessageError)


class _Transport(asyncio.BufferedProtocol):
    """The socket of a channel.

    With a buffer of its own: for a plain `Protocol` the loop allocates 256 KiB for each read, and
    asks the system for them each time."""

    def __init__(self, driver: Driver, token: str | None) -> None:
        self.driver = driver
        self.token = token
        self.channel: Channel | None = None
        self.transport: asyncio.Transport | None = None
        self.paused = False
        # A view, because the TLS of 3.11 takes slices of it to write to.
        self._buffer = memoryview(bytearray(_READ))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is of no such class
        self.driver.connected(self)  # now: the peer's first octets may come before anybody is woken

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.channel is not None:
            self.driver.receive(self.channel, bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.channel is not None:
            self.driver.lost(self.channel, exc)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.driver.schedule()


class Driver:
    """Moves the octets of a `Core` on one event loop."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.core = Core(options, wake=_wake, drop=self._drop)
        self._options = options
        self._scheduled = False
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._drained: asyncio.Event | None = None

    # ------------------------------------------------------------ callers

    async def run(self, operation: Operation, timeout: float) -> Any:
        """Carries an operation out and returns its result."""
        future = operation.waiter = self.loop.create_future()
        core = self.core
        now = time.monotonic()
        core.admit(operation, timeout, now)
        channel = core.channel
        if (
            len(core.operations) == 1
            and channel is not None
            and (operation.safe or now - channel.last_received < _BUSY)
        ):
            self._flush()  # alone: to wait for company would cost a turn of the loop
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._flush)
        if core.next_deadline < self._timer_at:
            self._arm()
        try:
            await future
        except asyncio.CancelledError:
            core.abandon(operation)
            raise
        if operation.error is not None:
            try:
                raise operation.error
            finally:
                operation.error = None  # or the error's traceback would hold itself
        return operation.result

    async def close(self, timeout: float) -> None:
        """See `SessionClient.close`."""
        core = self.core
        core.closing = True
        if core.operations and timeout > 0:
            self._drained = asyncio.Event()
            self._check_drained()
            try:
                async with asyncio.timeout(timeout):
                    await self._drained.wait()
            except TimeoutError:
                pass
        self._shut()
        await asyncio.sleep(0)  # the transports close with the next turn of the loop

    def _shut(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self.core.fail_all(time.monotonic())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = NEVER
        hand_over(self.core)

    def _check_drained(self) -> None:
        if self._drained is not None and not self.core.operations:
            self._drained.set()

    # ------------------------------------------------------------ the loop

    def schedule(self) -> None:
        """Sends what there is to send in the next turn of the loop: many operations, one write."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        self.core.flush(time.monotonic())
        self._write()

    def _write(self) -> None:
        core = self.core
        channel = core.channel
        if channel is not None and channel.http2.has_output:
            _send(channel)
        if core.old:
            for channel in core.old:
                _send(channel)
        if core.channel is None and core.waiting and self._connecting is None and not self.loop.is_closed():
            self._connecting = self.loop.create_task(self._connect())
        if core.wake_at() < self._timer_at:
            self._arm()
        if core.events:
            hand_over(core)
        if self._drained is not None:
            self._check_drained()

    def receive(self, channel: Channel, data: bytes) -> None:
        """Octets have arrived."""
        core = self.core
        now = time.monotonic()
        try:
            core.receive(channel, data, now)
        except _BROKEN as error:
            _send(channel)
            core.lost(channel, _words(error), now, _broken(error, self._options))
        self._write()

    def lost(self, channel: Channel, error: Exception | None) -> None:
        """A connection has ended."""
        permanent = None
        why = "the daemon closed it" if error is None else _words(error)
        if isinstance(error, ssl.SSLError):
            why = f"TLS: {why}"  # for example: the daemon refuses our certificate
            permanent = Permanent(lambda: connection_error(why))
        self.core.lost(channel, why, time.monotonic(), permanent)
        self._write()

    def _drop(self, channel: Channel) -> None:
        transport: _Transport = channel.transport
        transport.channel = None
        if transport.transport is not None:
            if channel.http2.has_output:
                transport.transport.write(channel.take_output())
            transport.transport.close()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self.core.wake_at()
        self._timer = None
        if self._timer_at != NEVER:
            delay = max(0.0, self._timer_at - time.monotonic())
            self._timer = self.loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = NEVER
        self.core.tick(time.monotonic())
        self._write()
        self._arm()

    # ------------------------------------------------------------ connecting

    async def _connect(self) -> None:
        core = self.core
        try:
            while (at := core.attempt_at()) is not None:
                pause = at - time.monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)
                    continue
                await self._attempt()
        finally:
            self._connecting = None

    async def _attempt(self) -> None:
        core = self.core
        options = self._options
        permanent: Permanent | None = None
        try:
            token = options.read_token()
            async with asyncio.timeout(options.timeout):
                await self._open(token)
            return
        except SessiondError as error:
            text = str(error)
            permanent = Permanent(error.copy)
        except ssl.SSLError as error:
            text = f"TLS: {_words(error)}"
            permanent = Permanent(lambda: connection_error(text))
        except TimeoutError:
            text = f"no connection within {options.timeout:g} s"
        except (OSError, UnicodeError) as error:
            text = _words(error)
        core.connect_failed(text, time.monotonic(), permanent)
        self._write()

    async def _open(self, token: str | None) -> None:
        options = self._options
        if options.path is not None:
            await self.loop.create_unix_connection(
                lambda: _Transport(self, token),
                options.path,
                ssl=options.ssl_context,
                server_hostname=options.server_name,
            )
        else:
            await self.loop.create_connection(
                lambda: _Transport(self, token),
                options.host,
                options.port,
                ssl=options.ssl_context,
                server_hostname=options.server_name,
            )

    def connected(self, transport: _Transport) -> None:
        """A connection stands."""
        assert transport.transport is not None
        if self.core.closing or self.core.channel is not None:
            transport.transport.abort()
            return
        connection = transport.transport.get_extra_info("socket")
        if connection is not None and self._options.path is None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        channel = transport.channel = self.core.start(transport.token, time.monotonic())
        channel.transport = transport
        self._write()


def _wake(operation: Operation) -> None:
    future = operation.waiter
    if not future.done():
        future.set_result(None)


def _send(channel: Channel) -> None:
    transport: _Transport = channel.transport
    if transport.transport is not None and not transport.paused:
        data = channel.take_output()
        if data:
            transport.transport.write(data)
            if transport.transport.is_closing() and not transport.transport.get_write_buffer_size():
                channel.not_sent()


def _words(error: BaseException) -> str:
    """An error in words, without its class where it has words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _broken(error: Exception, options: Options) -> Permanent:
    """For a peer that does not even greet as expected: waiting does not mend that."""
    return Permanent(
        lambda: SessiondError(
            f"{options.address} does not answer as a daemon does: {error}",
            reason="PROTOCOL_ERROR",
            code="INTERNAL",
        )
    )
