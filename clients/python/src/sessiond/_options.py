"""What a client was told: checked once, when it is made."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from . import _messages as messages
from .errors import AuthenticationError, InvalidArgumentError
from .types import TLS, EventHook


def invalid(message: str) -> InvalidArgumentError:
    """A mistake of the caller, found here."""
    return InvalidArgumentError(message, reason="INVALID_ARGUMENT", code="INVALID_ARGUMENT")


class Options:
    """The options of a client. Raises `InvalidArgumentError` for what cannot be right."""

    def __init__(
        self,
        address: str,
        *,
        engine: str,
        token: str | None,
        token_file: str | os.PathLike[str] | None,
        tls: TLS | bool | None,
        timeout: float,
        max_in_flight: int,
        on_event: EventHook | None,
    ) -> None:
        self.address = address
        self.path: str | None = None
        self.host = ""
        self.port = 0
        self._parse(address)
        if token is not None and token_file is not None:
            raise invalid("token and token_file: give one of them")
        if token is not None:
            _check_token(token)
        if not 0 < timeout < 86_400:
            raise invalid("timeout: seconds, more than 0 and at most a day")
        if max_in_flight < 1:
            raise invalid("max_in_flight: at least 1")
        self.engine = engine
        self.timeout = float(timeout)
        self.max_in_flight = max_in_flight
        self.on_event = on_event
        self._token = token
        self._token_file = None if token_file is None else Path(token_file)
        self.tls: TLS | None = (TLS() if tls else None) if isinstance(tls, bool) else tls
        self.ssl_context = None if self.tls is None else _context(self.tls)
        self.server_name: str | None = None
        if self.tls is not None:
            self.server_name = self.tls.server_name or self.host or None
            if self.server_name is None:
                raise invalid("tls.server_name: needed for a unix socket")
        self._timeout_field = messages.encode_timeout(int(timeout * messages.NANOSECONDS))

    def _parse(self, address: str) -> None:
        if address.startswith("unix:"):
            self.path = address.removeprefix("unix:")
            if self.path.startswith("//"):
                self.path = self.path[2:]  # unix:///path, as gRPC also writes it
            if not self.path:
                raise invalid("address: a path has to follow unix:")
            return
        host, colon, port = address.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host or "/" in host:
            host = ""
        if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise invalid(f"address: {address!r} is neither host:port nor unix:/path")
        self.host, self.port = host, int(port)

    @property
    def authority(self) -> str:
        """The :authority of calls."""
        if self.path is not None:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def timeout_field(self, timeout: float) -> bytes:
        """The `timeout` of a PipelineRequest, encoded."""
        if timeout == self.timeout:
            return self._timeout_field
        return messages.encode_timeout(int(timeout * messages.NANOSECONDS))

    def read_token(self) -> str | None:
        """The bearer token; a file is read each time, so that it can be replaced."""
        if self._token_file is None:
            return self._token
        try:
            token = self._token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AuthenticationError(
                f"token_file {self._token_file}: cannot be read ({type(error).__name__})",
                reason="TOKEN_REQUIRED",
                code="UNAUTHENTICATED",
            ) from None
        _check_token(token)
        return token


def _check_token(token: str) -> None:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise invalid("token: one line of printable ASCII without spaces")


def _context(tls: TLS) -> ssl.SSLContext:
    try:
        if isinstance(tls.ca, bytes):
            context = ssl.create_default_context(cadata=tls.ca.decode("ascii"))
        else:
            context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
        elif tls.key is not None:
            raise invalid("tls.key: needs tls.cert")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(f"tls: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
