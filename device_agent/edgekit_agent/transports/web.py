"""The transport over HTTP(S): a web server, a bucket or a site cache with the same names as MQTT.

The server is not trusted. What it sends is bounded in size and in time, whatever it announces;
redirections are not followed, and nothing of a response but status, ETag and body is used.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from edgekit_agent.settings import Tls
from edgekit_agent.transports.arrivals import Arrival
from edgekit_agent.transports.polling import PollingTransport, UnreachableError
from edgekit_runtime.errors import UsageError
from edgekit_runtime.protocol import Topics

_SILENCE_SECONDS: Final = 10.0
# A chunk over a line of 2 KB/s; slower than that is as good as nothing.
_ANSWER_SECONDS: Final = 60.0
_READ_BYTES: Final = 1 << 14


class TooLargeError(Exception):
    """The body is longer than it may be; no more of it was read."""


class WebClient:
    """Gets bounded bodies below one URL, over one connection that is kept."""

    def __init__(self, base_url: str, *, tls: Tls | None = None) -> None:
        """Prepare; a connection is made when it is needed.

        Args:
            base_url: `http://` or `https://`, host, perhaps a port and a path.
            tls: How the server is proven, and this device; None for the system's authorities.

        Raises:
            UsageError: If the URL is none of that kind.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise UsageError(
                "this is no base URL of a mirror",
                where=base_url,
                fix="write it like https://mirror.example.org/fleet",
            )
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._tls = tls
        self._connection: http.client.HTTPConnection | None = None
        self._tags: dict[str, str] = {}

    def get(self, name: str, *, most: int, changed_only: bool = False) -> tuple[int, bytes]:
        """Status and body of what is at a name below the base.

        Args:
            name: Relative, quoted as in a URL.
            most: How many bytes the body may have.
            changed_only: Send the ETag of the last answer; 304 then says that nothing changed.

        Raises:
            TooLargeError: If the body is longer.
            OSError: If there is no answer, or not in time.
            http.client.HTTPException: If the answer is no HTTP.
        """
        headers = {"Accept-Encoding": "identity"}
        if changed_only and name in self._tags:
            headers["If-None-Match"] = self._tags[name]
        try:
            connection = self._connection or self._connect()
            self._connection = connection
            connection.request("GET", f"{self._path}/{name}", headers=headers)
            response = connection.getresponse()
            body = _read(response, most)
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        tag = response.headers.get("ETag")
        if response.status == http.HTTPStatus.OK and tag:
            self._tags[name] = tag
        return response.status, body

    def close(self) -> None:
        """Let go of the connection; the next request makes a new one."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def forget(self) -> None:
        """Also forget what was seen: everything is new again."""
        self.close()
        self._tags.clear()

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context(cafile=str(self._tls.ca) if self._tls else None)
            if self._tls and self._tls.certificate and self._tls.key:
                context.load_cert_chain(self._tls.certificate, self._tls.key)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_SILENCE_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(
                self._host, self._port, timeout=_SILENCE_SECONDS
            )
        connection.connect()
        if connection.sock is not None:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class WebTransport(PollingTransport):
    """Reads below one base URL."""

    def __init__(
        self,
        base_url: str,
        *,
        tls: Tls | None,
        topics: Topics,
        device: str,
        poll_seconds: float,
        post: Callable[[Arrival], None],
    ) -> None:
        """Prepare; `start` begins.

        Raises:
            UsageError: If the URL cannot be used.
        """
        super().__init__(
            name="web", topics=topics, device=device, poll_seconds=poll_seconds, post=post
        )
        self._client = WebClient(base_url, tls=tls)
        self._base_url = base_url

    def read(self, name: str, *, most: int) -> bytes | None:
        """The body at a name; None for a 4xx status, and for one that is too large."""
        return self._get(name, most, changed_only=False)

    def read_changed(self, name: str, *, most: int) -> bytes | None:
        """As `read`, but None also if its ETag has not changed."""
        return self._get(name, most, changed_only=True)

    def forget(self) -> None:
        """Everything is new after a break."""
        self._client.forget()

    def close(self, last_state: bytes) -> None:
        """End."""
        super().close(last_state)
        self._client.close()

    def _get(self, name: str, most: int, *, changed_only: bool) -> bytes | None:
        try:
            status, body = self._client.get(name, most=most, changed_only=changed_only)
        except TooLargeError:
            return None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise UnreachableError(f"{self._base_url} cannot be read: {reason}") from error
        if status == http.HTTPStatus.OK:
            return body
        if status == http.HTTPStatus.NOT_MODIFIED or (
            http.HTTPStatus.BAD_REQUEST <= status < http.HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            return None
        raise UnreachableError(f"{self._base_url} answers with status {status}")


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    """The body, at most so long, and in bounded time."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    if response.length is not None and response.length > most:
        raise TooLargeError
    body = bytearray()
    while piece := response.read1(min(_READ_BYTES, most + 1 - len(body))):
        body += piece
        if len(body) > most:
            raise TooLargeError
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer took longer than {_ANSWER_SECONDS:g} s")
    # Reading by pieces does not tell the connection that it is free again.
    response.close()
    return bytes(body)
