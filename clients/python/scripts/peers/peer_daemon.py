"""A daemon for the tests of others."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conftest import Daemon


@contextlib.contextmanager
def running(*settings: str, dev: bool = True) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="sessiond-") as folder:
        more = () if dev else ("store.backend=memory", "log.level=error")
        daemon = Daemon(Path(folder), *more, *settings, dev=dev)
        try:
            yield daemon
        finally:
            daemon.stop()
