"""aiohttp-session's tests of its Redis storage, on a daemon. A plugin for pytest, see scripts/peer-tests."""

import asyncio
import json
import time

import pytest
from aiohttp import web
from peer_daemon import running

from sessiond import Client, Token
from sessiond import aiohttp as ours

DIFFERENT = {
    "test_load_bad_session": "the daemon stores JSON only, so there is no record that cannot be read as JSON",
    "test_change_session": "it wants the cookie again that the browser has; the change itself is in our own tests",
    "test_create_storage_with_custom_key_factory": "ids are the daemon's; an application cannot choose them",
    "test_redis_from_create_pool": "it is about the client of Redis",
    "test_not_redis_provided_to_storage": "it is about the client of Redis",
    "test_no_aioredis_installed": "it is about the client of Redis",
    "test_old_aioredis_version": "it is about the client of Redis",
}
"""Tests that the design makes meaningless."""

NAME = "AIOHTTP_SESSION"


@pytest.fixture(scope="session")
def daemon():
    settings = [f"engine.default.cookie.name={NAME}", "engine.default.touch_granularity=100ms"]
    with running(*settings) as daemon:
        yield daemon


class Store:
    """What the tests ask of their `redis`, asked of the daemon."""

    def __init__(self, address):
        self.address = address
        self.client = Client(address)

    def _session(self, key):
        # A cookie jar may put a value with "/" in quotes.
        return self.client.resolve(Token(key.removeprefix(NAME + "_").strip('"')), peek=True).session

    async def get(self, key):
        session = self._session(key)
        return None if session is None else json.dumps({"session": session.data, "created": time.time()}).encode()

    async def ttl(self, key):
        return self._session(key).duration.total_seconds()

    async def exists(self, key):
        return self._session(key) is not None


@pytest.fixture
def redis(daemon):
    store = Store(daemon.address)
    yield store
    store.client.close()


def create_app(handler, redis, max_age=None, key_factory=None):
    app = web.Application()
    ours.setup(app, redis.address)

    @web.middleware
    async def with_max_age(request, handler):
        if max_age is not None:
            (await ours.get_session(request)).max_age = max_age
        return await handler(request)

    app.middlewares.append(with_max_age)
    app.router.add_route("GET", "/", handler)
    return app


async def make_cookie(client, redis, data):
    token = (await asyncio.to_thread(redis.client.write, set=data)).token
    client.session.cookie_jar.update_cookies({NAME: token})


async def load_cookie(client, redis):
    cookies = client.session.cookie_jar.filter_cookies(client.make_url("/"))
    # Of a session that has ended, nothing is left; theirs leaves an empty record.
    return json.loads(await redis.get(cookies[NAME].value) or b"{}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    modules = {item.module for item in items}
    for module in modules:
        module.create_app, module.make_cookie, module.load_cookie = create_app, make_cookie, load_cookie
        module.Session, module.get_session = ours.Session, ours.get_session
    ours.Session._changed = property(lambda self: self.request_session.changed)
    for item in items:
        reason = DIFFERENT.get(item.name.partition("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
