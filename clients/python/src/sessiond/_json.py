"""Session data as JSON. What JSON cannot hold is an error, not a guess."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Mapping
from typing import Any, cast

from .errors import InvalidArgumentError

Data = dict[str, Any]

# No spaces, and text as it is: what is stored counts towards max_data_bytes.
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_decode = json.JSONDecoder().decode  # what json.loads comes to, after several questions
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


def snapshot(data: Data) -> bytes | None:
    """Octets that are the same only for the same values of the same types in the same order. None:
    there is something in `data` of which they would not tell that. `data` is read as a plain dict.

    A fraction of what `fingerprint` costs: most requests change nothing, and need no more than this."""
    try:
        # Version 2 writes values alone; later ones write which of them are the same object, too.
        return marshal.dumps(Data.copy(data), 2)
    except ValueError:  # of a class that is not Python's own, or nested too deeply
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
    value: Any = _decode(text)
    return cast(Data, value) if isinstance(value, dict) else {}


class Serializer:
    """How the values of a session become JSON text and come back."""

    def __init__(
        self, dumps: Callable[[Any], str] | None = None, loads: Callable[[str], dict[str, Any]] | None = None
    ) -> None:
        """`dumps` is for one top-level value, `loads` for the text of all of the data."""
        self._dumps = dumps
        self.loads = loads or decode_object

    def fingerprint(self, value: Any) -> str | None:
        """Text to compare a value with itself at a later time. None: it cannot be JSON."""
        if self._dumps is None:
            return fingerprint(value)
        try:
            return self._dumps(value)
        except (TypeError, ValueError, RecursionError):  # an InvalidArgumentError is a ValueError
            return None

    def _encode(self, key: str, value: Any) -> str:
        where = f"data[{key!r}]"
        if self._dumps is None:
            return encode(value, where)
        try:
            text = self._dumps(value)
            text.encode()
            return text
        except InvalidArgumentError:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise invalid_data(f"{where}: {type(error).__name__} of the application's serializer") from error

    def difference(self, base: dict[str, str], data: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
        """The keys of `data` whose text is another than in `base`, and the keys that are missing.
        `data` may be of a class that notes who looks at it, so it is read as a plain dict."""
        members: dict[str, str] = {}
        for key, value in Data.items(data):
            key_name(key)
            text = self.fingerprint(value)
            if text is None or text != base.get(key):
                members[key] = self._encode(key, value)
        return members, [key for key in base if not Data.__contains__(data, key)]


PLAIN = Serializer()
"""For JSON, and nothing but JSON."""
