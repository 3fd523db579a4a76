"""The sockets on which applications reach the models: TCP, and Unix sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from pathlib import Path
from typing import Final

from edgekit_runtime.errors import EnvironmentLackError

_BACKLOG: Final = 512
# The server of an agent that was killed needs a moment to notice, and to let go of the port.
_BIND_SECONDS: Final = 3.0
# Whoever is in the group of the agent's user may connect.
_SOCKET_MODE: Final = 0o660


def open_listener(
    host: str, port: int, *, patience_seconds: float = _BIND_SECONDS
) -> socket.socket:
    """A listening TCP socket that does not block.

    Raises:
        EnvironmentLackError: If the port is in use, or the address is not of this machine.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise EnvironmentLackError(
                f"cannot listen on port {port}: {error.strerror or error}",
                where=f"{host}:{port}",
                fix="choose another port in agent.toml, [http], or end the program that uses it",
            ) from error
        listener.settimeout(0.0)
        return listener


def open_unix_listener(path: Path) -> socket.socket:
    """A listening Unix socket that does not block; one that nobody answers on is replaced.

    Raises:
        EnvironmentLackError: If something else is at that path, or it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        before = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise EnvironmentLackError(
            f"cannot listen on this Unix socket: {error.strerror or error}",
            where=str(path),
            fix="choose another path of at most 100 letters in agent.toml, [http] socket",
        ) from error
    listener.settimeout(0.0)
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is something else")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
