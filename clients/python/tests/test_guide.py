"""The Python of docs/guides/testing.md is right: it compiles, and its fixture of a daemon works."""

from __future__ import annotations

import re

from conftest import REPOSITORY, find_daemon

from sessiond import Client, CookieHeader, RequestSession, SessionState
from sessiond.testing import FakeClient


def blocks() -> list[str]:
    text = (REPOSITORY / "docs/guides/testing.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_it_compiles() -> None:
    assert len(blocks()) >= 7
    for block in blocks():
        compile(block, "testing.md", "exec")


def test_a_logout_wins() -> None:
    block = next(block for block in blocks() if "test_logout_wins" in block)
    names: dict[str, object] = {"RequestSession": RequestSession, "CookieHeader": CookieHeader}
    exec(block, names)
    names["test_logout_wins"](FakeClient())  # type: ignore[operator]


def test_the_fixture_of_a_daemon() -> None:
    block = blocks()[-1].replace('"sessiond", "serve"', f'"{find_daemon()}", "serve"')
    block = block.replace("text=True)", "text=True, stderr=subprocess.DEVNULL, env={})")
    block = re.sub(r"^@pytest.*\n", "", block, flags=re.MULTILINE)
    names: dict[str, object] = {}
    exec(block, names)
    running = names["sessions"]()  # type: ignore[operator]
    client: Client = next(running)
    assert client.resolve(CookieHeader("")).state is SessionState.NONE
    assert next(running, None) is None
