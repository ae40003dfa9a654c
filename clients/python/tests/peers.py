"""Servers on sockets that do what a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Generator


class Peer:
    """A server that does what a test says with each connection."""

    def __init__(self, serve: Callable[[socket.socket, int], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = 0
        self._serve = serve
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with contextlib.suppress(OSError), connection:
                self._serve(connection, self.connections)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(10)


@contextlib.contextmanager
def peer(serve: Callable[[socket.socket, int], None]) -> Generator[Peer]:
    made = Peer(serve)
    try:
        yield made
    finally:
        made.close()
