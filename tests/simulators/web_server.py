"""A web server on the loopback interface that serves a dictionary, well or badly."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

Misbehave = Callable[[BaseHTTPRequestHandler, bytes], None]


class WebServer:
    """Serves `content` by path without its leading slash; use it in a `with` statement."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content
        self.requests: list[tuple[str, int]] = []
        self.misbehave: Misbehave | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.lstrip("/")
        data = self.content.get(name)
        if self.misbehave is not None:
            self.misbehave(request, data or b"")
            return
        tag = f'"{hashlib.sha256(data or b"").hexdigest()[:16]}"'
        status = 404 if data is None else 200
        if data is not None and request.headers.get("If-None-Match") == tag:
            status = 304
        self.requests.append((name, status))
        request.send_response(status)
        body = data if status == 200 and data is not None else b""
        if status == 200:
            request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        with contextlib.suppress(OSError):
            request.wfile.write(body)
