"""The little of HTTP/1.1 that local clients need: requests with a length, keep-alive, pipelining.

A connection between two requests holds no bytes of its own beyond `pending`, so that it can be
handed to another process without losing anything.
"""

from __future__ import annotations

import json
import mmap
import re
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from edgekit_runtime.errors import UsageError

MAX_HEAD_BYTES: Final = 16 * 1024
# A client that is slower than this in the middle of a request or an answer is let go.
STALL_SECONDS: Final = 20
BODY_LENGTH: Final = "content-length"
# Where a body holds JSON and tensors behind it, the length of the JSON.
JSON_LENGTH: Final = "inference-header-content-length"
# Tensors are read where they arrive; engines want them on the boundary of a cache line.
_ALIGNMENT: Final = 64
# A larger buffer is given back after its request.
_KEPT_BUFFER_BYTES: Final = 4 << 20
# Bodies below this size are not counted against the memory for bodies.
SMALL_BODY_BYTES: Final = 64 * 1024
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(r"\d{1,12}")


class RequestError(UsageError):
    """A request that cannot be answered as it was made; carries the HTTP status."""

    def __init__(self, what: str, *, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(what)
        self.status = status


class BodyMemory:
    """How many bytes of large bodies are held at a time, over all connections."""

    def __init__(self, most_bytes: int) -> None:
        """Allow that many."""
        self._free = most_bytes
        self._lock = threading.Lock()

    def take(self, length: int) -> bool:
        """Reserve room for a body; whether there is any."""
        if length <= SMALL_BODY_BYTES:
            return True
        with self._lock:
            if length > self._free:
                return False
            self._free -= length
        return True

    def give_back(self, length: int) -> None:
        """Free what `take` reserved."""
        if length > SMALL_BODY_BYTES:
            with self._lock:
                self._free += length


class BodyBuffer:
    """Where one thread reads bodies into, one after another; a body is gone with the next one."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._kept: mmap.mmap | None = None

    def room(self, length: int, *, aligned_at: int) -> memoryview:
        """Room for a body, such that its byte `aligned_at` lies on a boundary."""
        needed = length + _ALIGNMENT
        kept = self._kept
        if kept is None or len(kept) < needed:
            # Anonymous pages: they start on a boundary, and the system really gets them back.
            kept = mmap.mmap(-1, needed)
            self._kept = kept if needed <= _KEPT_BUFFER_BYTES else None
        start = -aligned_at % _ALIGNMENT
        return memoryview(kept)[start : start + length]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        method: "GET", "POST".
        path: Without the query.
        headers: Names in lower case.
        body: Empty for none; valid until the thread that read it reads the next one.
        keep_alive: Whether the client wants to go on after it.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | bytearray | memoryview
    keep_alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer; the length is added when it is sent.

    Attributes:
        status: Of HTTP.
        body: What is sent, or its beginning.
        tail: What follows the body; not copied.
        headers: Without the length.
    """

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    tail: Sequence[bytes | memoryview] = ()
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return len(self.body) + sum(len(part) for part in self.tail)


def json_response(
    document: object,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
) -> Response:
    """An answer in JSON."""
    return Response(
        status=status,
        body=json.dumps(document, separators=(",", ":")).encode(),
        headers={"Content-Type": "application/json", **(headers or {})},
    )


def busy_response(what: str, *, retry_seconds: int) -> Response:
    """An answer that asks the client to come back a little later."""
    return json_response(
        {"error": what},
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        headers={"Retry-After": str(retry_seconds)},
    )


class Connection:
    """A client's connection; one thread uses it at a time."""

    def __init__(self, client: socket.socket, *, max_body_bytes: int, memory: BodyMemory) -> None:
        """Take over an accepted socket.

        Args:
            client: The socket.
            max_body_bytes: The largest body of one request.
            memory: Of all connections' bodies together.
        """
        self.socket = client
        self.pending = bytearray()
        self._max_body_bytes = max_body_bytes
        self._memory = memory
        self._held = 0
        # The kernel's own timeouts: Python's would cost a system call more for each read.
        client.settimeout(None)
        patience = struct.pack("@ll", STALL_SECONDS, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        if client.family in (socket.AF_INET, socket.AF_INET6):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self, buffer: BodyBuffer) -> Request | None:
        """Read the next request; None where the client has gone.

        Args:
            buffer: Where a body goes that has not come with its head.

        Raises:
            RequestError: If it is malformed, too large, or of a kind that is not supported, or
                there is no memory left for it.
        """
        head = self._read_head()
        if head is None:
            return None
        method, path, version, headers = parse_head(head)
        connection = headers.get("connection", "").lower()
        keep_alive = "close" not in connection and (
            version == "HTTP/1.1" or "keep-alive" in connection
        )
        if "transfer-encoding" in headers:
            raise RequestError(
                "a request needs a Content-Length", status=HTTPStatus.LENGTH_REQUIRED
            )
        length = _whole_number(headers, BODY_LENGTH)
        if length > self._max_body_bytes:
            raise RequestError(
                f"a body may have {self._max_body_bytes} bytes",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        if not self._memory.take(length):
            raise RequestError(
                "busy: too many large requests at a time", status=HTTPStatus.SERVICE_UNAVAILABLE
            )
        self._held = length
        if headers.get("expect", "").lower() == "100-continue":
            try:
                self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                return None
        aligned_at = min(_whole_number(headers, JSON_LENGTH), length)
        body = self._read_body(length, buffer, aligned_at)
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
        lines.append(f"Content-Length: {response.length}")
        lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
        head = "\r\n".join(lines).encode("latin-1") + _HEAD_END + response.body
        try:
            if response.length <= SMALL_BODY_BYTES:
                self.socket.sendall(b"".join((head, *response.tail)))
                return True
            self.socket.sendall(head, socket.MSG_MORE)
            for part in response.tail:
                self.socket.sendall(part)
        except OSError:
            return False
        return True

    def finish_request(self) -> None:
        """Give the memory of the last body back."""
        self._memory.give_back(self._held)
        self._held = 0

    def close(self) -> None:
        """Let the client go."""
        self.finish_request()
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

    def _read_body(
        self, length: int, buffer: BodyBuffer, aligned_at: int
    ) -> bytes | bytearray | memoryview | None:
        if length == 0:
            return b""
        if length <= len(self.pending):
            body = self.pending[:length]
            del self.pending[:length]
            return body
        view = buffer.room(length, aligned_at=aligned_at)
        filled = len(self.pending)
        view[:filled] = self.pending
        self.pending.clear()
        while filled < length:
            try:
                count = self.socket.recv_into(view[filled:], 0, socket.MSG_WAITALL)
            except OSError:
                return None
            if not count:
                return None
            filled += count
        return view


def _whole_number(headers: dict[str, str], name: str) -> int:
    text = headers.get(name, "0")
    if not _LENGTH.fullmatch(text):
        raise RequestError(f"the {name.title()} is no number")
    return int(text)


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
        if name in headers and name in (BODY_LENGTH, JSON_LENGTH):
            raise RequestError(f"{name} is given twice")
        headers[name] = value.strip()
    return first[0], first[1], first[2], headers
