"""Cut a bundle's files into chunks, and tell what changed by what devices may hold already.

The publisher's side: needs numpy, and for models the parsers of `edgekit_runtime.graph`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from edgekit_runtime.bundle.cutting import Region, cut, find_regions
from edgekit_runtime.bundle.delta import MAX_DELTA_BYTES, apply_delta, encode_delta
from edgekit_runtime.bundle.index import BundleIndex, Chunk, DeltaStep, FileDelta, IndexedFile
from edgekit_runtime.bundle.packing import pack
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES

# A delta's place in the index, which every device fetches.
_STEP_BYTES: Final = 110
# What must remain of the chunks' bytes for a delta to be worth its place and the device's work.
_WORTH_A_DELTA: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """An older version that devices may hold.

    Attributes:
        index: As it was released.
        read: Gives the content of one of its files, proven; a file for which it raises
            `VerificationError` is left out.
    """

    index: BundleIndex
    read: Callable[[IndexedFile], bytes]


def build_index(
    name: str,
    version: str,
    files: Iterable[tuple[str, bytes]],
    *,
    bases: Sequence[Base] = (),
) -> tuple[BundleIndex, dict[str, bytes]]:
    """Cut files into chunks.

    Args:
        name: Of the bundle.
        version: Of the bundle.
        files: Path and content of each, the manifest among them.
        bases: Older versions, for each of which deltas are made where they pay.

    Returns:
        The index, and the bytes on the wire of each chunk and delta by their SHA-256.
    """
    wire: dict[str, bytes] = {}
    entries = []
    for path, data in files:
        older = _older_files(path, data, bases)
        entries.append(_index_file(path, data, older, wire))
    return BundleIndex(name=name, version=version, files=tuple(entries)), wire


@dataclass(frozen=True, slots=True, kw_only=True)
class _OlderFile:
    entry: IndexedFile
    data: bytes

    def packed(self) -> Iterator[tuple[str, Chunk]]:
        """SHA-256 of the content of each chunk, and the chunk."""
        for start, chunk in zip(self.entry.offsets(), self.entry.chunks, strict=False):
            content = self.data[start : start + chunk.size_bytes]
            yield hashlib.sha256(content).hexdigest(), chunk


def _older_files(path: str, data: bytes, bases: Sequence[Base]) -> list[_OlderFile]:
    """For each older version the file that this one most likely came from."""
    found = []
    for base in bases:
        entry = _counterpart(path, len(data), base.index)
        if entry is None:
            continue
        try:
            found.append(_OlderFile(entry=entry, data=base.read(entry)))
        except VerificationError:
            continue
    return found


def _counterpart(path: str, size: int, index: BundleIndex) -> IndexedFile | None:
    """The file of that path; else, of the same kind, the one nearest in length."""
    for entry in index.files:
        if entry.path == path:
            return entry
    kind = PurePosixPath(path).suffix
    alike = [entry for entry in index.files if kind and PurePosixPath(entry.path).suffix == kind]
    return min(alike, key=lambda entry: abs(entry.size_bytes - size), default=None)


def _index_file(
    path: str, data: bytes, older: Sequence[_OlderFile], wire: dict[str, bytes]
) -> IndexedFile:
    regions = find_regions(data)
    # What was released once is not packed anew: another zlib would give it another name.
    released = dict(pair for file in older for pair in file.packed())
    chunks: list[Chunk] = []
    firsts = {}
    for region in regions:
        firsts[region.name] = len(chunks)
        for start, end in cut(region):
            piece = data[start:end]
            chunk = released.get(hashlib.sha256(piece).hexdigest())
            if chunk is None:
                chunk, packed = _chunk(piece)
                wire[chunk.sha256] = packed
            chunks.append(chunk)
    known = {chunk.sha256 for chunk in released.values()}
    deltas = []
    for file in older:
        steps = tuple(_steps(data, regions, firsts, chunks, file, known, wire))
        if steps:
            deltas.append(
                FileDelta(
                    base_sha256=file.entry.sha256, base_bytes=file.entry.size_bytes, steps=steps
                )
            )
    return IndexedFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        chunks=tuple(chunks),
        deltas=tuple(deltas),
    )


def _chunk(piece: bytes) -> tuple[Chunk, bytes]:
    packed, compression = pack(piece)
    digest = hashlib.sha256(packed).hexdigest()
    chunk = Chunk(
        sha256=digest, wire_bytes=len(packed), size_bytes=len(piece), compression=compression
    )
    return chunk, packed


def _steps(
    data: bytes,
    regions: Sequence[Region],
    firsts: Mapping[str, int],
    chunks: Sequence[Chunk],
    file: _OlderFile,
    known: set[str],
    wire: dict[str, bytes],
) -> Iterator[DeltaStep]:
    """Deltas for the regions that both files have, in the same length, with other content."""
    before = {region.name: region for region in find_regions(file.data)}
    for region in regions:
        old = before.get(region.name)
        if old is None or old.size_bytes != region.size_bytes:
            continue
        first = firsts[region.name]
        bounds = list(cut(region))
        place = 0
        while place < len(bounds):
            if chunks[first + place].sha256 in known:
                place += 1
                continue
            start = bounds[place][0]
            offset = old.start + start - region.start
            count, delta = _longest(data, file.data, bounds[place:], offset)
            end = bounds[place + count - 1][1]
            full = {chunk.sha256: chunk.wire_bytes for chunk in chunks[first + place :][:count]}
            if len(delta) + _STEP_BYTES < _WORTH_A_DELTA * sum(full.values()):
                stretch = file.data[offset : offset + end - start]
                # Proven here, so that no device ever finds a delta that gives something else.
                if apply_delta(delta, stretch, where=region.name) == data[start:end]:
                    digest = hashlib.sha256(delta).hexdigest()
                    wire[digest] = delta
                    yield DeltaStep(
                        first=first + place,
                        count=count,
                        base_offset=offset,
                        sha256=digest,
                        wire_bytes=len(delta),
                    )
            place += count


def _longest(
    data: bytes, base: bytes, bounds: Sequence[tuple[int, int]], offset: int
) -> tuple[int, bytes]:
    """The delta of as many pieces, from the first on, as fit into one message."""
    start, end = bounds[0]
    # The kind of the first piece is that of all, and its length tells how many will fit.
    delta = encode_delta(data[start:end], base[offset : offset + end - start])
    if len(delta) >= end - start:
        return 1, delta
    kinds = (delta[0],)
    count = min(MAX_CHUNK_WIRE_BYTES // len(delta), len(bounds))
    while count > 1:
        end = bounds[count - 1][1]
        if end - start <= MAX_DELTA_BYTES:
            longer = encode_delta(data[start:end], base[offset : offset + end - start], kinds=kinds)
            if len(longer) <= MAX_CHUNK_WIRE_BYTES:
                return count, longer
        count = min(count - 1, int(count * 0.9))
    return 1, delta
