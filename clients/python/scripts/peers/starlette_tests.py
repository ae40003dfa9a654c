"""Starlette's tests of its session middleware, on a daemon. A plugin for pytest, see scripts/peer-tests."""

import pytest
from peer_daemon import running

from sessiond.starlette import SessionMiddleware

DIFFERENT = {
    "test_session_expires": "a session cannot be made with an end in the past",
    "test_session_zero_max_age": "a session cannot be made with an end in the past",
    "test_session_tracks_modification": "it is about Starlette's class; ours compares the data",
}
"""Tests that the design makes meaningless."""

ENGINES = {
    "default": {},
    "browser": {"persistent": "false"},
    "secure": {"secure": "true"},
    "partitioned": {"secure": "true", "partitioned": "true", "same_site": "none"},
    "subpath": {"path": "/second_app"},
    "domain": {"domain": "example.com"},
}


def settings():
    for name, cookie in ENGINES.items():
        # Together the 14 days that the tests expect in Max-Age.
        yield f"engine.{name}.duration={14 * 24 * 3600 - 60}s"
        yield f"engine.{name}.touch_granularity=60s"
        yield f"engine.{name}.cookie.secrets=a-secret-for-tests-only-of-40-characters"
        for key, value in {"name": "session", "secure": "false", **cookie}.items():
            yield f"engine.{name}.cookie.{key}={value}"


@pytest.fixture(scope="session")
def daemon():
    with running(*settings(), dev=False) as daemon:
        yield daemon


def in_lower_case(app):
    """Set-Cookie with the names of attributes as Starlette spells them. They mean the same."""

    async def wrapped(scope, receive, send):
        async def spelled(message):
            lines = [
                (name, spell(value) if name == b"set-cookie" else value) for name, value in message.get("headers", ())
            ]
            await send({**message, "headers": lines} if lines else message)

        await app(scope, receive, spelled)

    return wrapped


def spell(line):
    for theirs in (b"path=", b"partitioned"):
        line = line.replace(b"; " + theirs.capitalize(), b"; " + theirs)
    return line.replace(b"; Domain=", b"; domain=.")


@pytest.fixture(autouse=True)
def on_a_daemon(daemon, monkeypatch, request):
    """Starlette's arguments become an engine of the daemon with the same attributes."""

    def middleware(
        app, secret_key, *, max_age=1, path=None, https_only=False, partitioned=False, domain=None, same_site="lax"
    ):
        engine = "default"
        if max_age is None:
            engine = "browser"
        elif partitioned:
            engine = "partitioned"
        elif https_only:
            engine = "secure"
        elif path is not None:
            engine = "subpath"
        elif domain is not None:
            engine = "domain"
        return in_lower_case(SessionMiddleware(app, daemon.address, engine=engine))

    monkeypatch.setattr(request.module, "SessionMiddleware", middleware)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        reason = DIFFERENT.get(item.name.partition("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
