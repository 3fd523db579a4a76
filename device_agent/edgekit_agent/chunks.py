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
from edgekit_runtime.sealing.vault import Vault


class ChunkLostError(VerificationError):
    """A chunk that had been fetched is gone or damaged: it has to be fetched again."""


class ChunkStore:
    """A folder of chunks, each in a file named by its SHA-256."""

    def __init__(self, folder: Path, vault: Vault | None = None) -> None:
        """Use `folder`, which is made if it is missing.

        Args:
            folder: Where chunks are.
            vault: Of the agent's folder, around it; None for one that keeps files plain.
        """
        self._folder = folder
        self._vault = vault or Vault(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, sha256: str, wire_bytes: int) -> bool:
        """Whether the chunk is here, as far as its length tells."""
        try:
            return self._vault.content_bytes(self._folder / sha256) == wire_bytes
        except OSError:
            return False

    def read(self, sha256: str) -> bytes:
        """The content, proven by its hash; a damaged chunk is deleted.

        Raises:
            ChunkLostError: If it is missing or damaged.
            StorageLockedError: If it is encrypted, and the key is missing.
        """
        path = self._folder / sha256
        try:
            data = self._vault.read(path)
        except OSError as error:
            raise ChunkLostError("it is not on the disk", where=f"chunk {sha256}") from error
        except VerificationError as error:
            discard(path)
            raise ChunkLostError(error.what, where=f"chunk {sha256}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            discard(path)
            raise ChunkLostError("it was damaged on the disk", where=f"chunk {sha256}")
        return data

    def accept(self, sha256: str, wire_bytes: int, data: bytes) -> None:
        """Keep a chunk from an untrusted source, if it is what it says.

        Raises:
            VerificationError: If its length or content is not what was signed.
            EnvironmentLackError: If the disk is full or cannot be written.
            StorageLockedError: If it is to be encrypted, and the key is missing.
        """
        where = f"chunk {sha256[:12]}"
        if len(data) != wire_bytes:
            raise VerificationError(
                f"it has {len(data)} bytes, and {wire_bytes} were signed", where=where
            )
        if hashlib.sha256(data).hexdigest() != sha256:
            raise VerificationError("its content does not match its signed hash", where=where)
        path, temporary = self._folder / sha256, self._folder / f".{sha256}"
        stored = b"".join(self._vault.encode(path, [data]))
        try:
            temporary.write_bytes(stored)
            temporary.replace(path)
        except OSError as error:
            discard(temporary)
            raise unwritable(path, error) from error

    def keep_only(self, names: Collection[str]) -> None:
        """Delete every chunk, and every left-over, that is not named."""
        for path in self._folder.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def drop_outdated(self) -> None:
        """Delete what is not kept in the form that is configured now: it is fetched again."""
        for path in self._folder.iterdir():
            try:
                current = self._vault.is_current(path)
            except OSError:
                continue
            if not current:
                path.unlink(missing_ok=True)
