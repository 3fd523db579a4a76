"""Writes that survive a power cut: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from edgekit_runtime.errors import EnvironmentLackError

# Modes of files: what everybody may read, and what only its owner may.
ORDINARY: Final = 0o644
PRIVATE: Final = 0o600


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (a no-op where folders cannot be opened: Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = ORDINARY) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` on success and leaves no trace on failure.

    Args:
        path: The file; its folder exists.
        mode: Who may read it; until it is whole nobody but its owner may.

    Raises:
        EnvironmentLackError: If the folder cannot be written or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read.
        temporary.chmod(mode)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        discard(temporary)
        raise unwritable(path, error) from error
    except BaseException:
        discard(temporary)
        raise


def discard(path: Path) -> None:
    """Delete a file that is of no use, if the disk lets us: what failed before is what counts."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, mode: int = ORDINARY) -> None:
    """Replace a file's content, durably and all at once.

    Args:
        path: The file; its folder exists.
        data: All of its content.
        mode: Who may read it; until it is whole nobody but its owner may.

    Raises:
        EnvironmentLackError: If the folder cannot be written or the disk is full.
    """
    with replacing(path, mode=mode) as file:
        file.write(data)


def unwritable(path: Path, error: OSError) -> EnvironmentLackError:
    """The error to raise for a path that cannot be written."""
    return EnvironmentLackError(
        f"cannot write: {error.strerror or error}",
        where=str(path),
        fix="choose a place that exists, that you may write to and that has room",
    )
