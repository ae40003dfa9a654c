"""What a client has under way, over all its connections. No input or output: the fronts
(`_asyncio.py`, `_blocking.py`) own the sockets, the clock and the callers that wait."""

from __future__ import annotations

import heapq
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _messages as messages
from ._channel import Channel
from ._operations import (
    RETRY_AFTER,
    Operation,
    closed_error,
    connection_error,
    error_of,
    timeout_error,
)
from ._options import Options
from ._version import VERSION
from .errors import DataTooLargeError, OverloadedError, SessiondError
from .types import (
    ConnectionEvent,
    Description,
    Event,
    OperationEvent,
    Resolved,
    SessionList,
    SessionState,
    Touched,
)

logger = logging.getLogger("sessiond")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0
SLOW = 1.0
"""Seconds after which an operation is worth a line in the log."""
NEVER = float("inf")
ROOM = 64
"""Octets that a message may have beside its operation."""


@dataclass(frozen=True, slots=True)
class Permanent:
    """Why connecting failed in a way that waiting does not mend. Makes a new error for each caller."""

    make: Callable[[], SessiondError]


class Core:
    """Operations, from admission to their end."""

    def __init__(
        self, options: Options, *, wake: Callable[[Operation], None], drop: Callable[[Channel], None]
    ) -> None:
        """`wake` is called for each operation that has ended, `drop` for each channel whose
        connection is to be closed."""
        self.options = options
        self.operations: dict[int, Operation] = {}
        """Everything that has not ended, by sequence."""
        self.waiting: deque[Operation] = deque()
        """What waits for a connection."""
        self.channel: Channel | None = None
        self.old: list[Channel] = []
        """Connections that drain."""
        self.closing = False
        self.next_deadline = NEVER
        self.events: deque[Event] = deque()
        """For the hook; the fronts hand them over outside of their locks."""
        self._hooked = options.on_event is not None
        self._most = options.max_in_flight
        self._timeout = options.timeout
        self._timeout_field = options.timeout_field(options.timeout)
        self._wake = wake
        self._drop = drop
        self._calls: deque[Operation] = deque()
        self._later: list[tuple[float, int, Operation]] = []
        self._sequence = 0
        self._failures = 0
        self._attempt_at = 0.0
        self._opened_at = 0.0
        self._last_failure = ""
        self._told_too_old = False

    # ------------------------------------------------------------ callers

    def admit(self, operation: Operation, timeout: float, now: float) -> None:
        """Takes an operation, or raises an error at once."""
        if self.closing:
            raise closed_error()
        operations = self.operations
        if len(operations) >= self._most:
            raise OverloadedError(
                f"{self._most} operations are in flight",
                reason="IN_FLIGHT_LIMIT",
                code="RESOURCE_EXHAUSTED",
                retryable=True,
                retry_after=RETRY_AFTER,
            )
        deadline = now + timeout
        channel = self.channel
        if not operations:
            self.next_deadline = deadline
            if channel is not None and not channel.sent:
                self._sequence = 0  # small numbers are short, and nobody has one
        elif deadline < self.next_deadline:
            self.next_deadline = deadline
        self._sequence = sequence = self._sequence + 1
        operation.sequence = sequence
        operation.started = now
        operation.deadline = deadline
        operation.timeout = self._timeout_field if timeout == self._timeout else self.options.timeout_field(timeout)
        operations[sequence] = operation
        if (
            channel is not None
            and operation.path is None
            and (description := channel.description) is not None
            and len(operation.body) + ROOM <= description.limits.max_message_bytes
        ):
            channel.queue.append(operation)
        else:
            self.waiting.append(operation)  # `flush` sees to what is special

    def abandon(self, operation: Operation) -> None:
        """The caller is gone, by a cancellation for example. An answer that still comes is dropped."""
        operation.done = True
        self.operations.pop(operation.sequence, None)

    @property
    def description(self) -> Description | None:
        """What the daemon of this connection has said of itself; None without a connection."""
        channel = self.channel
        return None if channel is None else channel.description

    # ------------------------------------------------------------ connecting

    def attempt_at(self) -> float | None:
        """When to connect, if somebody waits for a connection."""
        if self.channel is None and self.waiting:
            return self._attempt_at
        return None

    def start(self, token: str | None, now: float) -> Channel:
        """Makes the channel for a connection that stands."""
        options = self.options
        channel = Channel(
            self,
            scheme="http" if options.tls is None else "https",
            authority=options.authority,
            token=token,
            agent=f"sessiond-python/{VERSION}",
        )
        channel.last_received = now
        self.channel = channel
        self._opened_at = now
        return channel

    def connect_failed(self, why: str, now: float, permanent: Permanent | None = None) -> None:
        """An attempt did not succeed. Operations wait for the next one, until their time is
        over; if it is `permanent`, they fail."""
        self._back_off(why, now)
        logger.warning("cannot connect to the daemon at %s: %s", self.options.address, why)
        self.emit(ConnectionEvent("failed", self.options.address, why))
        if permanent is not None:
            waiting, self.waiting = self.waiting, deque()
            for operation in waiting:
                if not operation.done:
                    self._end(operation, permanent.make(), now)

    def _back_off(self, why: str, since: float) -> None:
        """The next attempt waits: 50 to 100 ms after the first failure, later 0.5 to 1 s."""
        self._last_failure = why
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 8))
        self._failures += 1
        self._attempt_at = since + pause * random.uniform(0.5, 1.0)

    def _replace(self, channel: Channel, why: str, now: float) -> None:
        """The connection in use takes nothing more. The first attempt after one that worked comes
        at once. One that has answered no operation is an attempt that failed: a server may end
        each stream."""
        if channel.answered:
            self._failures = 0
            self._attempt_at = now
        else:
            # Since it was opened: of one that was idle, threads learn only when they need it again.
            self._back_off(why, self._opened_at)

    def lost(self, channel: Channel, why: str, now: float, permanent: Permanent | None = None) -> None:
        """A connection is gone."""
        if channel.closed:
            return
        was_ready = channel.description is not None
        if was_ready and self.channel is channel:
            self._replace(channel, why, now)
        self._remove(channel)
        self._now = now
        if was_ready:
            logger.log(
                logging.INFO if channel.drains else logging.WARNING,
                "connection to the daemon at %s ended: %s",
                self.options.address,
                why,
            )
            self.emit(ConnectionEvent("disconnected", self.options.address, why))
        channel.lost()
        self._drop(channel)
        if not was_ready:
            if not channel.http2.settled and permanent is None and self.options.tls is None:
                why += " before it said anything (does it want TLS?)"
            self.connect_failed(why, now, permanent)

    def _remove(self, channel: Channel) -> None:
        if self.channel is channel:
            self.channel = None
        elif channel in self.old:
            self.old.remove(channel)

    # ------------------------------------------------------------ working

    def flush(self, now: float) -> Channel | None:
        """Hands what waits to the connection, and turns it into octets. Returns the connection."""
        self._now = now
        channel = self.channel
        if channel is None or channel.description is None:
            return channel
        if self.waiting:
            waiting, self.waiting = self.waiting, deque()
            for operation in waiting:
                if not operation.done:
                    self._submit(channel, channel.description, operation)
        while self._calls and channel.can_call:
            operation = self._calls.popleft()
            if not operation.done:
                channel.call(operation, now)
        channel.pump(now)
        return channel

    def _submit(self, channel: Channel, description: Description, operation: Operation) -> None:
        # One message that is too large would end the Pipeline for all.
        if len(operation.body) + ROOM > description.limits.max_message_bytes:
            error = DataTooLargeError(
                f"the message would be larger than {description.limits.max_message_bytes} bytes",
                reason="MESSAGE_TOO_LARGE",
                code="INVALID_ARGUMENT",
            )
            self._end(operation, error, operation.started)
        elif operation.name == "describe":
            operation.succeed(description)
            self._ended(operation, operation.started)
        elif operation.path is not None:
            self._calls.append(operation)
        else:
            channel.queue.append(operation)

    def receive(self, channel: Channel, data: bytes, now: float) -> None:
        """Octets of a connection. Raises what ends it; then call `lost`."""
        self._now = now
        channel.receive(data, now)
        if self.waiting or self._calls or channel.has_queue:
            self.flush(now)
        if self.old:
            self._retire(now)

    def _retire(self, now: float) -> None:
        """Closes the old connections of which nobody waits for anything."""
        for old in list(self.old):
            if old.idle:
                old.finish()
                self.old.remove(old)
                why = "the daemon asked for a new connection"
                self.emit(ConnectionEvent("disconnected", self.options.address, why))
                self._drop(old)
            elif not old.closed:
                old.pump(now)

    def tick(self, now: float) -> None:
        """Ends what is over time, and repeats what is due."""
        self._now = now
        if now >= self.next_deadline:
            late = [operation for operation in self.operations.values() if operation.deadline <= now]
            for operation in late:
                self._late(operation, now)
            for channel in self._channels():
                channel.forget_done()
            self.next_deadline = min(
                (operation.deadline for operation in self.operations.values()), default=NEVER
            )
            self._look_for_dead(now)
        while self._later and self._later[0][0] <= now:
            operation = heapq.heappop(self._later)[2]
            if not operation.done:
                self.waiting.append(operation)
        self.flush(now)
        if self.old:
            self._retire(now)

    def wake_at(self) -> float:
        """When `tick` or a connection attempt is due next."""
        at = self.next_deadline
        if self._later and self._later[0][0] < at:
            at = self._later[0][0]
        return at

    def _channels(self) -> list[Channel]:
        return self.old if self.channel is None else [self.channel, *self.old]

    def _late(self, operation: Operation, now: float) -> None:
        if operation.sent:
            error = timeout_error("the daemon did not answer in time", "unknown")
        elif self.channel is None or self.channel.description is None:
            why = self._last_failure or "no answer"
            error = connection_error(f"no connection to the daemon at {self.options.address}: {why}")
        else:
            error = timeout_error("the operation could not be sent in time", "no")
        self._end(operation, error, now)

    def _look_for_dead(self, now: float) -> None:
        """A connection on which nothing came for a whole timeout, although something was asked,
        is taken for dead: the peer stands still, or its machine is gone."""
        silence = self.options.timeout * 0.9
        for channel in list(self._channels()):
            if channel.description is None:
                dead = now - self._opened_at >= silence
            else:
                dead = channel.silent_for(now) >= silence
            if dead:
                self.lost(channel, f"nothing came for {silence:.1f} s", now)

    def fail_all(self, now: float) -> None:
        """Ends everything, because the client is closed."""
        for operation in list(self.operations.values()):
            self._end(operation, closed_error("unknown" if operation.sent else "no"), now)
        for channel in list(self._channels()):
            self._remove(channel)
            channel.finish()
            self._drop(channel)

    def emit(self, event: Event) -> None:
        """Keeps an event for the hook, if there is one."""
        if self.options.on_event is not None:
            self.events.append(event)

    # ------------------------------------------------------------ what channels report

    def ready(self, channel: Channel, description: Description) -> None:
        """See `Owner`."""
        self._last_failure = ""
        logger.info(
            "connected to the daemon at %s, version %s", self.options.address, description.version
        )
        self.emit(ConnectionEvent("connected", self.options.address))

    def refused(self, channel: Channel, status: messages.Status) -> None:
        """See `Owner`."""
        permanent: Permanent | None = None
        why = status.message or status.reason
        if status.code == 12 and status.reason != "COMPRESSION_UNSUPPORTED":
            why = (
                f"the daemon at {self.options.address} does not know Describe: it is older than this client "
                f"({VERSION}), or this is an address of listen.admin; "
                "update the daemon, or use an address of listen.grpc"
            )
            permanent = Permanent(
                lambda: SessiondError(why, reason="DAEMON_TOO_OLD", code="UNIMPLEMENTED")
            )
            if not self._told_too_old:
                self._told_too_old = True
                logger.error("%s", why)
        elif status.code == 16:
            if self.options.read_token() != channel.token:
                why = "the token was replaced meanwhile"
            else:
                permanent = Permanent(lambda: error_of(status))
        elif status.code != 14 and status.code != 8:
            permanent = Permanent(lambda: error_of(status))
        self.lost(channel, why, self._now, permanent)

    def answered(self, channel: Channel, operation: Operation, answer: Any) -> None:
        """See `Owner`."""
        if type(answer) is not messages.Status:
            channel.answered = True
            operation.done = True
            operation.result = answer
            if self._hooked or self._now - operation.started >= SLOW:
                self._ended(operation, self._now)
            else:
                self.operations.pop(operation.sequence, None)
                self._wake(operation)
            return
        channel.answered |= answer.reason != "SHUTTING_DOWN"
        pause = operation.repeat_after(answer, self._now)
        if pause is None:
            self._end(operation, error_of(answer), self._now)
            return
        if answer.reason == "SHUTTING_DOWN":
            channel.drain("it shuts down")
            self.waiting.append(operation)
        else:
            heapq.heappush(self._later, (self._now + pause, operation.sequence, operation))

    def undone(self, channel: Channel, operation: Operation, *, applied: bool) -> None:
        """See `Owner`."""
        if operation.repeat_after_cut(applied=applied):
            self.waiting.append(operation)
        else:
            error = connection_error("the connection was cut before the answer came", "unknown")
            self._end(operation, error, self._now)

    def draining(self, channel: Channel, why: str) -> None:
        """See `Owner`."""
        if self.channel is channel:
            self._replace(channel, why, self._now)
            self.channel = None
            self.old.append(channel)
        # What was not sent yet goes to the new connection.
        kept, channel.queue = channel.queue, deque()
        for operation in kept:
            self.undone(channel, operation, applied=False)

    # ------------------------------------------------------------ ends

    def _end(self, operation: Operation, error: SessiondError, now: float) -> None:
        operation.fail(error)
        self._ended(operation, now)

    def _ended(self, operation: Operation, now: float) -> None:
        self.operations.pop(operation.sequence, None)
        error = operation.error
        took = now - operation.started
        if error is not None and error.retryable:
            logger.info("%s failed after %.3f s: %s", operation.name, took, error.reason)
        elif took >= SLOW:
            logger.info("%s took %.3f s", operation.name, took)
        if self.options.on_event is not None:
            result = operation.result
            state: SessionState | None = None
            if isinstance(result, Resolved | Touched | SessionList):
                state = result.state
            reason = None if error is None else error.reason
            self.events.append(
                OperationEvent(operation.name, operation.engine, took, state, reason, operation.attempts)
            )
        self._wake(operation)

    _now = 0.0


def hand_over(core: Core) -> None:
    """Tells the hook what happened. What it raises goes to the log and no further."""
    hook = core.options.on_event
    if hook is None:
        return
    while True:
        try:
            event = core.events.popleft()
        except IndexError:  # several threads may hand over
            return
        try:
            hook(event)
        except Exception:
            logger.exception("the hook on_event failed")
