"""Files that nobody but their owner may read, not even for an instant."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit_runtime.durable import PRIVATE, write_bytes


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file, durably, created with its final mode: 0600.

    Raises:
        OSError: If it exists, or cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_secret(path: Path, data: bytes) -> None:
    """Replace a file's content, durably and all at once; its mode is 0600.

    Raises:
        EnvironmentLackError: If it cannot be written; the old content is still whole.
    """
    write_bytes(path, data, mode=PRIVATE)
