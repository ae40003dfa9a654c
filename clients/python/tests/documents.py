"""The Python of the documents, to be run by tests."""

from __future__ import annotations

import re
from typing import Any

from conftest import REPOSITORY

GUIDES = ("aiohttp", "django", "fastapi", "flask", "testing")
"""Those with Python in them."""


def blocks(name: str) -> list[str]:
    """The blocks of Python in a document of the repository."""
    text = (REPOSITORY / name).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(block: str, names: dict[str, Any], **replaced: str) -> dict[str, Any]:
    """Runs a block, as the next part of the program whose `names` these are. `replaced`: expressions
    for names of the test, such as that of a fake in place of an address."""
    for name, text in replaced.items():
        assert text in block, f"expected {text!r} in the block: {block}"
        block = block.replace(text, name)
    exec(compile(block, "a document", "exec", dont_inherit=True), names)
    return names


def without_fixtures(block: str) -> str:
    """The same with plain functions in place of fixtures: the test calls them itself."""
    return re.sub(r"^@pytest\.fixture.*\n", "", block, flags=re.MULTILINE)
