"""A server that speaks no protocol: it says the same bytes to everyone."""

from __future__ import annotations

import contextlib
import socket
import threading


class Babbler:
    """Answers what comes first over every connection with the same bytes, and hangs up."""

    def __init__(self) -> None:
        self.says = b""
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                with client, contextlib.suppress(OSError):
                    client.settimeout(10)
                    client.recv(4096)
                    client.sendall(self.says)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(4096):
                        continue
