"""Run the application on a port until it is told to stop."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn

from edgekit.fleet.api.app import create_app
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit_runtime.errors import EnvironmentLackError, UsageError


class PageServer:
    """The API and the page on one port.

    Args:
        control_plane: What it works on.
        host: Where to listen.
        port: Where to listen; 0 takes any free one.
        certificate: For TLS; with its key.
        key: Of the certificate.

    Raises:
        EnvironmentLackError: If the port cannot be used.
        UsageError: If only one of certificate and key is given, or they cannot be read.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        *,
        host: str,
        port: int,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        if (certificate is None) != (key is None):
            raise UsageError("TLS needs both a certificate and its key")
        self._socket = _listen(host, port)
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(control_plane),
            log_level="warning",
            access_log=False,
            ssl_certfile=str(certificate) if certificate else None,
            ssl_keyfile=str(key) if key else None,
            # Who asks is known by the token; what a proxy says of its clients is not needed.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        try:
            config.load()
        except OSError as error:
            self._socket.close()
            raise UsageError(
                f"certificate or key cannot be used: {error}", where=str(certificate)
            ) from error
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until `stop`, or until the process is told to end."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Finish what is being answered, and end; may be called from any thread."""
        self._server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise EnvironmentLackError(
            f"port {port} cannot be used: {error.strerror or error}",
            where=f"{host}:{port}",
            fix="stop what listens there, or choose another port (0 takes any free one)",
        ) from error
    return listening
