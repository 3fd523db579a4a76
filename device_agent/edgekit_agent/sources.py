"""Where each piece of a wanted file comes from: fetched chunks, installed files, deltas on those.

Whatever is fetched was proven by its signed hash, and an installed file is proven by its own
before anything is read out of it; the whole file is proven once more when it is put together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.slots import SlotContent, SlotStore
from edgekit_runtime.bundle.delta import apply_delta
from edgekit_runtime.bundle.index import (
    BundleIndex,
    Chunk,
    FileDelta,
    IndexedFile,
    parse_index,
    unpack_chunk,
)
from edgekit_runtime.bundle.manifest import INDEX_FILE
from edgekit_runtime.bundle.packing import require_wire
from edgekit_runtime.errors import InvalidBundleError, VerificationError
from edgekit_runtime.limits import MAX_INDEX_BYTES
from edgekit_runtime.sealing.vault import Vault

# A delta must save at least this share of what it stands for, or the work is not worth it.
_WORTH: Final = 0.95


class ReuseFailedError(VerificationError):
    """A file made with the help of installed ones is not what was signed: fetch all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Bytes of an installed file that has proven itself."""

    path: Path
    offset: int
    size_bytes: int
    vault: Vault

    def read(self) -> bytes:
        """The bytes.

        Raises:
            ReuseFailedError: If the file is not there any more, damaged, or shorter.
            StorageLockedError: If it is encrypted, and the key is missing.
        """
        try:
            data = self.vault.read_at(self.path, self.offset, self.size_bytes)
        except (OSError, VerificationError) as error:
            raise ReuseFailedError(f"it cannot be read: {error}", where=str(self.path)) from error
        if len(data) != self.size_bytes:
            raise ReuseFailedError("it has become shorter", where=str(self.path))
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaOn:
    """A fetched delta and what it starts from."""

    sha256: str
    wire_bytes: int
    base: Stretch


Piece = Chunk | Stretch | DeltaOn


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a file is put together.

    Attributes:
        entry: The file.
        pieces: In order.
        missing: What of it has to be fetched first: SHA-256 to length on the wire.
    """

    entry: IndexedFile
    pieces: tuple[Piece, ...]
    missing: dict[str, int]

    @property
    def reuses(self) -> bool:
        """Whether anything comes out of installed files."""
        return any(not isinstance(piece, Chunk) for piece in self.pieces)

    def assemble(self, chunks: ChunkStore) -> Iterator[bytes]:
        """The file's content piece by piece; the last step proves the whole.

        Raises:
            ChunkLostError: If a fetched chunk is gone or damaged.
            ReuseFailedError: If installed files did not give what was signed.
            VerificationError: If a chunk or the whole file is not what was signed.
        """
        digest = hashlib.sha256()
        for piece in self.pieces:
            data = self._read(piece, chunks)
            digest.update(data)
            yield data
        if digest.hexdigest() != self.entry.sha256:
            kind = ReuseFailedError if self.reuses else VerificationError
            raise kind("the file does not match its signed hash", where=self.entry.path)

    def _read(self, piece: Piece, chunks: ChunkStore) -> bytes:
        match piece:
            case Stretch():
                return piece.read()
            case DeltaOn():
                delta = chunks.read(piece.sha256)
                require_wire(delta, sha256=piece.sha256, wire_bytes=piece.wire_bytes)
                try:
                    return apply_delta(delta, piece.base.read(), where=self.entry.path)
                except VerificationError as error:
                    raise ReuseFailedError(error.what, where=error.where) from error
            case _:
                return unpack_chunk(piece, chunks.read(piece.sha256))


@dataclass(slots=True, kw_only=True)
class InstalledFiles:
    """What the slots hold, read when it is first asked for; short-lived.

    Attributes:
        slots: Where bundles are installed.
    """

    slots: SlotStore
    _places: dict[str, list[Stretch]] | None = None
    _files: dict[str, list[Path]] = field(default_factory=dict)
    _proven: dict[Path, bool] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)

    def chunk(self, sha256: str) -> Stretch | None:
        """A stretch with the content of a chunk, in a file that matches its hash."""
        for stretch in self._index().get(sha256, ()):
            if self._is_proven(stretch.path):
                return stretch
        return None

    def file(self, sha256: str) -> Path | None:
        """An installed file of that content, proven."""
        self._index()
        for path in self._files.get(sha256, ()):
            if self._is_proven(path):
                return path
        return None

    def _is_proven(self, path: Path) -> bool:
        if path not in self._proven:
            try:
                self._proven[path] = self.slots.vault.sha256(path) == self._digests[path]
            except (OSError, VerificationError):
                self._proven[path] = False
        return self._proven[path]

    def _index(self) -> dict[str, list[Stretch]]:
        if self._places is None:
            self._places = {}
            for content, place in self.slots.holdings():
                index = _index_of(content, place)
                for entry in index.files if index else ():
                    if entry.path in content.files:
                        self._add(place / entry.path, entry)
        return self._places

    def _add(self, path: Path, entry: IndexedFile) -> None:
        places = self._places if self._places is not None else {}
        self._digests[path] = entry.sha256
        self._files.setdefault(entry.sha256, []).append(path)
        for offset, chunk in zip(entry.offsets(), entry.chunks, strict=False):
            stretch = Stretch(
                path=path, offset=offset, size_bytes=chunk.size_bytes, vault=self.slots.vault
            )
            places.setdefault(chunk.sha256, []).append(stretch)


def _index_of(content: SlotContent, place: Path) -> BundleIndex | None:
    """The index of a slot; None if it is not the one that was signed."""
    path = place / INDEX_FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INDEX_BYTES + 1)
        if hashlib.sha256(data).hexdigest() != content.target.digest:
            return None
        return parse_index(data, where=str(path))
    except (OSError, InvalidBundleError):
        return None


def find_recipe(
    entry: IndexedFile, *, chunks: ChunkStore, installed: InstalledFiles | None
) -> Recipe:
    """The way to a file that lets the least travel.

    Args:
        entry: The file.
        chunks: What has been fetched.
        installed: What may be reused; None for nothing.
    """
    pieces: list[Piece] = list(entry.chunks)
    missing = {}
    for place, chunk in enumerate(entry.chunks):
        if chunks.has(chunk.sha256, chunk.wire_bytes):
            continue
        stretch = installed.chunk(chunk.sha256) if installed else None
        if stretch is not None:
            pieces[place] = stretch
        else:
            missing[chunk.sha256] = chunk.wire_bytes
    plain = Recipe(entry=entry, pieces=tuple(pieces), missing=missing)
    told = [
        _told_by(delta, plain, chunks, base=base, vault=installed.slots.vault)
        for delta in entry.deltas
        if missing and installed and (base := installed.file(delta.base_sha256))
    ]
    return min([plain, *told], key=lambda recipe: sum(recipe.missing.values()))


def _told_by(
    delta: FileDelta, plain: Recipe, chunks: ChunkStore, *, base: Path, vault: Vault
) -> Recipe:
    """The recipe with the deltas of one base, each where it pays."""
    entry, offsets = plain.entry, plain.entry.offsets()
    pieces: list[Piece] = []
    missing: dict[str, int] = {}
    place = 0
    for step in (*delta.steps, None):
        end = step.first if step else len(entry.chunks)
        _keep(plain, place, end, pieces, missing)
        if step is None:
            break
        place = step.first + step.count
        whole: dict[str, int] = {}
        _keep(plain, step.first, place, [], whole)
        here = chunks.has(step.sha256, step.wire_bytes)
        if (0 if here else step.wire_bytes) >= _WORTH * sum(whole.values()):
            _keep(plain, step.first, place, pieces, missing)
            continue
        length = offsets[place] - offsets[step.first]
        stretch = Stretch(path=base, offset=step.base_offset, size_bytes=length, vault=vault)
        pieces.append(DeltaOn(sha256=step.sha256, wire_bytes=step.wire_bytes, base=stretch))
        if not here:
            missing[step.sha256] = step.wire_bytes
    return Recipe(entry=entry, pieces=tuple(pieces), missing=missing)


def _keep(
    plain: Recipe, start: int, end: int, pieces: list[Piece], missing: dict[str, int]
) -> None:
    """Take these pieces over as they are."""
    for piece in plain.pieces[start:end]:
        pieces.append(piece)
        if isinstance(piece, Chunk) and piece.sha256 in plain.missing:
            missing[piece.sha256] = piece.wire_bytes
