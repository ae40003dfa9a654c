"""Session data as JSON. What JSON cannot hold is an error, not a guess."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .errors import InvalidArgumentError

# No spaces, and text as it is: what is stored counts towards max_data_bytes.
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_lenient = json.JSONEncoder(ensure_ascii=False, allow_nan=True, separators=(",", ":"))


def invalid_data(message: str) -> InvalidArgumentError:
    """Data that is not JSON. The text must not contain the data."""
    return InvalidArgumentError(message, reason="INVALID_DATA", code="INVALID_ARGUMENT")


def encode(value: Any, where: str) -> str:
    """JSON text. `where` names the value in the error."""
    try:
        text = _strict.encode(value)
        text.encode()  # lone surrogates are text to Python and to nobody else
        return text
    except UnicodeEncodeError:
        problem = "a text that is not Unicode (a lone surrogate)"
    except RecursionError:
        problem = "nested too deeply"
    except TypeError as error:
        # "Object of type X is not JSON serializable": the type, not the value.
        problem = str(error)
    except ValueError as error:
        cycle = "Circular" in str(error)
        problem = "it contains itself" if cycle else "NaN or infinity, which JSON does not have"
    raise invalid_data(f"{where}: {problem}")


def fingerprint(value: Any) -> str | None:
    """Text to compare a value with itself at a later time. None: it cannot be JSON."""
    try:
        # NaN is taken here: data with 1e999 that nobody changed is no reason to fail.
        return _lenient.encode(value)
    except (TypeError, ValueError, RecursionError):
        return None


def encode_members(members: Mapping[str, str]) -> str:
    """An object of values that are JSON text already."""
    return "{" + ",".join(f"{_strict.encode(key)}:{text}" for key, text in members.items()) + "}"


def key_name(key: object) -> str:
    """Checks a top-level key."""
    if not isinstance(key, str):
        raise invalid_data(f"data: a key is a {type(key).__name__}, not text")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise invalid_data("data: a key that is not Unicode (a lone surrogate)") from None
    return key


def encode_object(data: Mapping[str, Any]) -> bytes:
    """The object for `set`."""
    return encode_members({key_name(key): encode(value, f"data[{key!r}]") for key, value in data.items()}).encode()


def decode_object(text: str) -> dict[str, Any]:
    """The data of a session."""
    if not text:
        return {}
    value = json.loads(text)
    return value if isinstance(value, dict) else {}
