"""Released chunks, by the SHA-256 of their bytes on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from edgekit_runtime.errors import VerificationError

if TYPE_CHECKING:
    from edgekit.fleet.storage.blobs import Storage

# Chunks in memory at once; each is at most 64 KiB.
_AT_ONCE: Final = 256


class ChunkStore:
    """The chunks in a storage, each proven by its name when it is read."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, sha256: str, wire: bytes) -> bool:
        """Keep a chunk, durably; one that is there and whole is not written again.

        Returns:
            Whether it was new.
        """
        return bool(self.put_all({sha256: wire}))

    def put_all(self, chunks: Mapping[str, bytes]) -> list[str]:
        """Keep chunks, durably; those that are there and whole are not written again.

        Returns:
            Those that were new.

        Raises:
            EnvironmentLackError: If the storage does not answer, or takes nothing.
        """
        new: list[str] = []
        for part in _parts(chunks):
            known = self.storage.read(part)
            missing = [n for n in part if n not in known or _digest(known[n]) != n]
            self.storage.write({name: chunks[name] for name in missing})
            new += missing
        return new

    def get(self, sha256: str) -> bytes:
        """A chunk's bytes on the wire.

        Raises:
            VerificationError: If it is missing or damaged.
            EnvironmentLackError: If the storage does not answer.
        """
        return next(self.get_all([sha256]))[1]

    def get_all(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Chunks in the order of their names; some are fetched at once, and few kept.

        Raises:
            VerificationError: If one is missing or damaged.
            EnvironmentLackError: If the storage does not answer.
        """
        fix = "release the bundle again: it writes every chunk that is missing or damaged"
        for part in _parts(names):
            found = self.storage.read(part)
            for name in part:
                where = self.storage.where(name)
                if name not in found:
                    raise VerificationError("a released chunk is missing", where=where, fix=fix)
                wire = found.pop(name)
                if _digest(wire) != name:
                    raise VerificationError("a released chunk is damaged", where=where, fix=fix)
                yield name, wire


def _digest(wire: bytes) -> str:
    return hashlib.sha256(wire).hexdigest()


def _parts(names: Collection[str]) -> Iterator[list[str]]:
    listed = list(names)
    for start in range(0, len(listed), _AT_ONCE):
        yield listed[start : start + _AT_ONCE]
