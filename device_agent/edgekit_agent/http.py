"""The little of HTTP/1.1 that local clients need: requests with a length, keep-alive, pipelining.

A connection between two requests holds no bytes of its own beyond `pending`, so that it can be
handed to another process without losing anything.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from edgekit_runtime.errors import UsageError

MAX_HEAD_BYTES: Final = 16 * 1024
# A client that is slower than this in the middle of a request or an answer is let go.
STALL_SECONDS: Final = 20.0
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(r"\d{1,12}")


class RequestError(UsageError):
    """A request that cannot be answered as it was made; carries the HTTP status."""

    def __init__(self, what: str, *, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        method: "GET", "POST".
        path: Without the query.
        headers: Names in lower case.
        body: Empty for none.
        keep_alive: Whether the client wants to go on after it.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer; the length is added when it is sent."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(document: object, *, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """An answer in JSON."""
    return Response(
        status=status,
        body=json.dumps(document, separators=(",", ":")).encode(),
        headers={"Content-Type": "application/json"},
    )


class Connection:
    """A client's connection; one thread uses it at a time."""

    def __init__(self, client: socket.socket, *, max_body_bytes: int) -> None:
        """Take over an accepted socket."""
        self.socket = client
        self.pending = bytearray()
        self._max_body_bytes = max_body_bytes
        client.settimeout(STALL_SECONDS)
        if client.family in (socket.AF_INET, socket.AF_INET6):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> Request | None:
        """Read the next request; None where the client has gone.

        Raises:
            RequestError: If it is malformed, too large, or of a kind that is not supported.
        """
        head = self._read_head()
        if head is None:
            return None
        method, path, version, headers = parse_head(head)
        keep_alive = "close" not in headers.get("connection", "").lower() and (
            version == "HTTP/1.1" or "keep-alive" in headers.get("connection", "").lower()
        )
        if "transfer-encoding" in headers:
            raise RequestError(
                "a request needs a Content-Length", status=HTTPStatus.LENGTH_REQUIRED
            )
        text = headers.get("content-length", "0")
        if not _LENGTH.fullmatch(text):
            raise RequestError("the Content-Length is no number")
        if int(text) > self._max_body_bytes:
            raise RequestError(
                f"a body may have {self._max_body_bytes} bytes",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        if headers.get("expect", "").lower() == "100-continue":
            try:
                self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                return None
        body = self._read_body(int(text))
        if body is None:
            return None
        return Request(
            method=method,
            path=path.split("?", maxsplit=1)[0],
            headers=headers,
            body=body,
            keep_alive=keep_alive,
        )

    def send(self, response: Response, *, keep_alive: bool) -> bool:
        """Send an answer; whether the client took it."""
        lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        lines.append(f"Content-Length: {len(response.body)}")
        lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
        head = "\r\n".join(lines).encode("latin-1") + _HEAD_END
        try:
            self.socket.sendall(head + response.body)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let the client go."""
        self.socket.close()

    def _read_head(self) -> bytes | None:
        while True:
            end = self.pending.find(_HEAD_END)
            if end >= 0:
                head = bytes(self.pending[:end])
                del self.pending[: end + len(_HEAD_END)]
                return head
            if len(self.pending) > MAX_HEAD_BYTES:
                raise RequestError(
                    f"a request's head may have {MAX_HEAD_BYTES} bytes",
                    status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                )
            try:
                data = self.socket.recv(65_536)
            except OSError:
                return None
            if not data:
                return None
            self.pending += data

    def _read_body(self, length: int) -> bytes | None:
        if length <= len(self.pending):
            body = bytes(self.pending[:length])
            del self.pending[:length]
            return body
        buffer = bytearray(length)
        filled = len(self.pending)
        buffer[:filled] = self.pending
        self.pending.clear()
        view = memoryview(buffer)
        while filled < length:
            try:
                count = self.socket.recv_into(view[filled:])
            except OSError:
                return None
            if not count:
                return None
            filled += count
        return bytes(buffer)


def parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    """Read a request's first line and headers.

    Returns:
        Method, target, version, and headers with names in lower case.

    Raises:
        RequestError: If they are malformed.
    """
    lines = head.decode("latin-1").split("\r\n")
    first = lines[0].split(" ")
    if len(first) != 3 or first[2] not in ("HTTP/1.0", "HTTP/1.1"):  # noqa: PLR2004
        raise RequestError("this is no HTTP/1.1 request")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise RequestError("a header is malformed")
        name = name.lower()
        # Two lengths that differ are how requests are smuggled past a proxy.
        if name in headers and name in ("content-length", "inference-header-content-length"):
            raise RequestError(f"{name} is given twice")
        headers[name] = value.strip()
    return first[0], first[1], first[2], headers
