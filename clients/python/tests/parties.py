"""The real client and the fake, blocking and asyncio, all behind one blocking surface, so that
one suite can run against the four of them."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from sessiond import AsyncClient, AsyncRequestSession, Client, RequestSession
from sessiond.testing import AsyncFakeClient, FakeClient


class OnLoop:
    """An asyncio object whose coroutines are run to their end on a loop of its own."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.__dict__.update(target=target, loop=loop)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if not inspect.iscoroutinefunction(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            return self.loop.run_until_complete(value(*arguments, **options))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.target, name, value)


class Party:
    """A client, and how to make requests with it."""

    def __init__(self, name: str, address: str, **fake_options: Any) -> None:
        self.name = name
        self.is_fake = name.startswith("fake")
        self.loop: asyncio.AbstractEventLoop | None = None
        raw: Any
        if name == "real":
            raw = Client(address)
        elif name == "fake":
            raw = FakeClient(**fake_options)
        else:
            self.loop = asyncio.new_event_loop()
            raw = AsyncClient(address) if name == "real-async" else AsyncFakeClient(**fake_options)
        self.raw = raw
        self.client: Any = raw if self.loop is None else OnLoop(raw, self.loop)

    def request(self, cookie: bytes | str | None = None, **options: Any) -> Any:
        """A loaded RequestSession."""
        if self.loop is None:
            session = RequestSession(self.raw, cookie, **options)
            session.load()
            return session
        loaded = OnLoop(AsyncRequestSession(self.raw, cookie, **options), self.loop)
        loaded.load()
        return loaded

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Lets time pass until a condition holds. `seconds`: when it has to at the latest."""
        if self.is_fake:
            self.raw.advance(seconds)
            assert condition(), "the condition does not hold after the time has passed"
            return
        end = time.monotonic() + seconds + 5
        while not condition():
            assert time.monotonic() < end, "the condition does not hold after the time has passed"
            time.sleep(0.02)

    def close(self) -> None:
        """Ends it."""
        self.client.close()
        if self.loop is not None:
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()


NAMES = ("real", "real-async", "fake", "fake-async")


def cookie_of(set_cookie: tuple[str, ...]) -> str:
    """What a browser sends back for a Set-Cookie line."""
    assert len(set_cookie) == 1, f"expected one Set-Cookie line, not {set_cookie}"
    return set_cookie[0].partition(";")[0]
