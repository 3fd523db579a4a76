"""Where a server finds what runs beside its model: a Unix socket in the agent's folder."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_BACKLOG: Final = 4


def shadow_folder(data: Path) -> Path:
    """The folder of all such sockets, within the agent's."""
    return data / "shadow"


def open_place(folder: Path, bundle: str) -> socket.socket:
    """Listen for servers; what an earlier process left behind is replaced.

    Raises:
        OSError: If that cannot be.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    close_place(folder, bundle)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(folder, bundle) as path:
            listener.bind(path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def close_place(folder: Path, bundle: str) -> None:
    """Let no server look there any more."""
    (folder / bundle).unlink(missing_ok=True)


def find_place(folder: Path, bundle: str) -> socket.socket | None:
    """A connection to what runs beside a bundle; None where nothing does."""
    if not (folder / bundle).exists():
        return None
    with contextlib.ExitStack() as undo, contextlib.suppress(OSError):
        # Its process may have ended, or be only just beginning; or no more files can be open now.
        channel = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        with _short(folder, bundle) as path:
            channel.settimeout(0.0)
            channel.connect(path)
        undo.pop_all()
        return channel
    return None


@contextlib.contextmanager
def _short(folder: Path, name: str) -> Iterator[str]:
    """The path of a file, by another way: that of a Unix socket may have 107 letters."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
