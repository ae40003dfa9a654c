"""The clients of the process, as the settings say."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from ..client import AsyncClient, Client
from ..protocols import AsyncSessionClient, SessionClient

_lock = threading.Lock()
_sync: SessionClient | None = None
_async: AsyncSessionClient | None = None


def _arguments() -> dict[str, Any]:
    value: Any = getattr(settings, "SESSIOND", None)
    if isinstance(value, str):
        return {"address": value}
    if isinstance(value, Mapping):
        arguments = dict(cast("Mapping[str, Any]", value))
        if "address" in arguments or "client" in arguments:
            return arguments
    raise ImproperlyConfigured(
        'SESSIOND: the address of the daemon, such as "127.0.0.1:50051" or "unix:/run/sessiond.sock", or a dict '
        'with "address" and other arguments of sessiond.Client'
    )


def client() -> SessionClient:
    """The blocking client."""
    global _sync
    found = _sync
    if found is None:
        with _lock:
            arguments = _arguments()
            found = _sync = _sync or arguments.get("client") or Client(**arguments)
    return found


def async_client() -> AsyncSessionClient:
    """The asyncio client."""
    global _async
    found = _async
    if found is None:
        with _lock:
            arguments = _arguments()
            if "client" in arguments and "async_client" not in arguments:
                raise ImproperlyConfigured('SESSIOND: "client" needs "async_client" beside it for async views')
            found = _async = _async or arguments.get("async_client") or AsyncClient(**arguments)
    return found


def _forget(*, setting: str, **_: Any) -> None:
    global _sync, _async
    if setting == "SESSIOND":
        if isinstance(_sync, Client):
            _sync.close()
        _sync = _async = None


# Sent by override_settings, in tests.
setting_changed.connect(_forget)
