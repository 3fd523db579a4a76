"""Released chunks on the workstation's disk, by the SHA-256 of their bytes on the wire."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import VerificationError


class ChunkStore:
    """A folder of chunks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, sha256: str, wire: bytes) -> bool:
        """Keep a chunk, durably; one that is there and whole is not written again.

        Returns:
            Whether it was new.
        """
        path = self._folder / sha256
        try:
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                return False
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        write_bytes(path, wire)
        return True

    def get(self, sha256: str) -> bytes:
        """A chunk's bytes on the wire.

        Raises:
            VerificationError: If it is missing or damaged.
        """
        path = self._folder / sha256
        fix = "release the bundle again: it writes every chunk that is missing or damaged"
        try:
            wire = path.read_bytes()
        except OSError as error:
            raise VerificationError(
                f"a released chunk cannot be read: {error.strerror or error}",
                where=str(path),
                fix=fix,
            ) from error
        if hashlib.sha256(wire).hexdigest() != sha256:
            raise VerificationError("a released chunk is damaged", where=str(path), fix=fix)
        return wire
