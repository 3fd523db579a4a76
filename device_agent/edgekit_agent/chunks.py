"""Fetched chunks on the disk, until the bundle that needs them is installed.

A chunk's name is the hash of its content, and it is checked again when it is used: so a write is
not synced, and what a power cut tears is fetched again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from edgekit_runtime.durable import discard, unwritable
from edgekit_runtime.errors import VerificationError


class ChunkLostError(VerificationError):
    """A chunk that had been fetched is gone or damaged: it has to be fetched again."""


class ChunkStore:
    """A folder of chunks, each in a file named by its SHA-256."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made if it is missing."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, sha256: str, wire_bytes: int) -> bool:
        """Whether the chunk is here, as far as its length tells."""
        try:
            return (self._folder / sha256).stat().st_size == wire_bytes
        except FileNotFoundError:
            return False

    def read(self, sha256: str) -> bytes:
        """The content, proven by its hash; a damaged chunk is deleted.

        Raises:
            ChunkLostError: If it is missing or damaged.
        """
        path = self._folder / sha256
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ChunkLostError("it is not on the disk", where=f"chunk {sha256}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            discard(path)
            raise ChunkLostError("it was damaged on the disk", where=f"chunk {sha256}")
        return data

    def accept(self, sha256: str, wire_bytes: int, data: bytes) -> None:
        """Keep a chunk from an untrusted source, if it is what it says.

        Raises:
            VerificationError: If its length or content is not what was signed.
            EnvironmentLackError: If the disk is full or cannot be written.
        """
        where = f"chunk {sha256[:12]}"
        if len(data) != wire_bytes:
            raise VerificationError(
                f"it has {len(data)} bytes, and {wire_bytes} were signed", where=where
            )
        if hashlib.sha256(data).hexdigest() != sha256:
            raise VerificationError("its content does not match its signed hash", where=where)
        temporary = self._folder / f".{sha256}"
        try:
            temporary.write_bytes(data)
            temporary.replace(self._folder / sha256)
        except OSError as error:
            discard(temporary)
            raise unwritable(self._folder / sha256, error) from error

    def keep_only(self, names: Collection[str]) -> None:
        """Delete every chunk, and every left-over, that is not named."""
        for path in self._folder.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)
