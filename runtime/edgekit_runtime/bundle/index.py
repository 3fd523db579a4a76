"""The bundle index: every file of a bundle as a list of content-addressed chunks.

The index is what a fleet signs (it is the TUF target), so a chunk may come from anywhere: its
name is the SHA-256 of the bytes on the wire, checked before anything is unpacked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from edgekit_runtime.bundle.delta import MAX_DELTA_BYTES
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, NAME_PATTERN, is_safe_path
from edgekit_runtime.bundle.packing import Compression, require_wire, unpack
from edgekit_runtime.errors import InvalidBundleError, VerificationError
from edgekit_runtime.fields import FieldReader, open_document
from edgekit_runtime.limits import (
    MAX_BUNDLE_FILES,
    MAX_CHUNK_WIRE_BYTES,
    MAX_FILE_BYTES,
    MAX_INDEX_BYTES,
)
from edgekit_runtime.versions import VERSION_PATTERN

FORMAT: Final = "edgekit-index"
FORMAT_VERSION: Final = 2
_HEX_LENGTH: Final = 64
_HEX_DIGITS: Final = frozenset("0123456789abcdef")
_CHUNK_FIELDS: Final = 4
_DELTA_FIELDS: Final = 3
_STEP_FIELDS: Final = 5
# More versions back than a publisher looks.
_MAX_BASES: Final = 16
_MAX_CHUNKS: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a file, as it travels.

    Attributes:
        sha256: Of the bytes on the wire; its name.
        wire_bytes: Their length, at most `MAX_CHUNK_WIRE_BYTES`.
        size_bytes: The length of what it unpacks to.
        compression: How it is packed.
    """

    sha256: str
    wire_bytes: int
    size_bytes: int
    compression: Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaStep:
    """What consecutive chunks of a file are, told by a stretch of an older file.

    Attributes:
        first: Position of the first of the chunks.
        count: How many they are; at most `MAX_DELTA_BYTES` together.
        base_offset: Where the stretch of the same length begins in the older file.
        sha256: Of the delta's bytes on the wire; its name, like a chunk's.
        wire_bytes: Their length.
    """

    first: int
    count: int
    base_offset: int
    sha256: str
    wire_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDelta:
    """What of a file can be had for less by who holds a certain older file.

    Attributes:
        base_sha256: Of the older file's content.
        base_bytes: Its length.
        steps: In order; no two about the same chunk.
    """

    base_sha256: str
    base_bytes: int
    steps: tuple[DeltaStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFile:
    """A file of the bundle.

    Attributes:
        path: In the bundle.
        sha256: Of its content.
        size_bytes: Its length.
        chunks: Its pieces, in order.
        deltas: Other ways to some of the pieces, for who holds an older version.
    """

    path: str
    sha256: str
    size_bytes: int
    chunks: tuple[Chunk, ...]
    deltas: tuple[FileDelta, ...] = ()

    def offsets(self) -> tuple[int, ...]:
        """Where each chunk begins in the file, and last where the file ends."""
        places = [0]
        for chunk in self.chunks:
            places.append(places[-1] + chunk.size_bytes)
        return tuple(places)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleIndex:
    """All files of one bundle version; the manifest is one of them."""

    name: str
    version: str
    files: tuple[IndexedFile, ...]

    def file(self, path: str) -> IndexedFile:
        """The entry of a file.

        Raises:
            InvalidBundleError: If the index has none of that path.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise InvalidBundleError(
            f"the index has no file {path!r}", where=f"{self.name} {self.version}"
        )

    def wire_sizes(self) -> dict[str, int]:
        """The length on the wire of every chunk and delta, by its name."""
        sizes: dict[str, int] = {}
        for entry in self.files:
            sizes |= {chunk.sha256: chunk.wire_bytes for chunk in entry.chunks}
            for delta in entry.deltas:
                sizes |= {step.sha256: step.wire_bytes for step in delta.steps}
        return sizes

    def base_digests(self) -> frozenset[str]:
        """The content of every older file that a delta starts from."""
        return frozenset(delta.base_sha256 for entry in self.files for delta in entry.deltas)

    def to_json(self) -> bytes:
        """The index as it is signed and sent."""
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "files": [
                {
                    "path": entry.path,
                    "sha256": entry.sha256,
                    "size_bytes": entry.size_bytes,
                    # A list of lists: an index is mostly chunks, and devices fetch all of it.
                    "chunks": [
                        [c.sha256, c.wire_bytes, c.size_bytes, c.compression.value]
                        for c in entry.chunks
                    ],
                    "deltas": [
                        [
                            delta.base_sha256,
                            delta.base_bytes,
                            [
                                [s.first, s.count, s.base_offset, s.sha256, s.wire_bytes]
                                for s in delta.steps
                            ],
                        ]
                        for delta in entry.deltas
                    ],
                }
                for entry in self.files
            ],
        }
        return json.dumps(document, separators=(",", ":")).encode()


def parse_index(data: bytes, *, where: str) -> BundleIndex:
    """Read an index.

    Raises:
        InvalidBundleError: If it breaks the format; every invalid field is named.
    """
    reader = open_document(
        data,
        name="index",
        form=(FORMAT, FORMAT_VERSION),
        most_bytes=MAX_INDEX_BYTES,
        error=InvalidBundleError,
        where=where,
        fix="update edgekit on this side",
    )
    index = BundleIndex(
        name=reader.text("name", pattern=NAME_PATTERN),
        version=reader.text("version", pattern=VERSION_PATTERN),
        files=reader.items("files", _read_file, most=MAX_BUNDLE_FILES + 1),
    )
    paths = [entry.path for entry in index.files]
    if len(set(paths)) != len(paths):
        reader.fault("files", "names a path twice")
    if MANIFEST_NAME not in paths:
        reader.fault("files", f"lacks {MANIFEST_NAME}")
    if reader.faults:
        raise InvalidBundleError("the index is invalid: " + "; ".join(reader.faults), where=where)
    return index


def unpack_chunk(chunk: Chunk, wire: bytes) -> bytes:
    """Prove and unpack a chunk from an untrusted source, in bounded memory.

    Raises:
        VerificationError: If the bytes are not the chunk that the index names.
    """
    require_wire(wire, sha256=chunk.sha256, wire_bytes=chunk.wire_bytes)
    return unpack(
        wire,
        chunk.compression,
        size_bytes=chunk.size_bytes,
        where=f"chunk {chunk.sha256[:12]}",
    )


def assemble(entry: IndexedFile, fetch: Callable[[Chunk], bytes]) -> Iterator[bytes]:
    """The content of a file piece by piece; the last step proves the whole.

    Args:
        entry: The file.
        fetch: Gives a chunk's bytes as they were on the wire.

    Raises:
        VerificationError: If a chunk or the whole file is not what was signed.
    """
    digest = hashlib.sha256()
    for chunk in entry.chunks:
        data = unpack_chunk(chunk, fetch(chunk))
        digest.update(data)
        yield data
    if digest.hexdigest() != entry.sha256:
        raise VerificationError("the file does not match its signed hash", where=entry.path)


def _read_file(reader: FieldReader) -> IndexedFile:
    path = reader.text("path")
    if not is_safe_path(path):
        reader.fault("path", f"{path[:80]!r} is not a safe relative path")
    size_bytes = reader.integer("size_bytes", most=MAX_FILE_BYTES)
    chunks = []
    for position, item in enumerate(reader.sequence("chunks", most=_MAX_CHUNKS)):
        chunk = _read_chunk(item)
        if chunk is None:
            reader.fault(f"chunks[{position}]", "is not [sha256, wire bytes, size, compression]")
        else:
            chunks.append(chunk)
    if sum(chunk.size_bytes for chunk in chunks) != size_bytes:
        reader.fault("chunks", f"do not add up to {size_bytes} bytes")
    entry = IndexedFile(
        path=path,
        sha256=reader.text("sha256", pattern=r"[0-9a-f]{64}"),
        size_bytes=size_bytes,
        chunks=tuple(chunks),
    )
    offsets = entry.offsets()
    deltas = []
    for position, item in enumerate(reader.sequence("deltas", optional=True, most=_MAX_BASES)):
        delta = _read_delta(item, offsets)
        if delta is None:
            reader.fault(f"deltas[{position}]", "is not [base sha256, base bytes, steps]")
        else:
            deltas.append(delta)
    return replace(entry, deltas=tuple(deltas))


def _read_delta(item: object, offsets: tuple[int, ...]) -> FileDelta | None:
    if not isinstance(item, list) or len(item) != _DELTA_FIELDS:
        return None
    base_sha256, base_bytes, steps = item
    if not _is_digest(base_sha256) or not isinstance(steps, list) or len(steps) >= len(offsets):
        return None
    if type(base_bytes) is not int or not 0 < base_bytes <= MAX_FILE_BYTES:
        return None
    found = []
    free = 0
    for entry in steps:
        step = _read_step(entry, offsets, base_bytes)
        if step is None or step.first < free:
            return None
        free = step.first + step.count
        found.append(step)
    return FileDelta(base_sha256=base_sha256, base_bytes=base_bytes, steps=tuple(found))


def _read_step(item: object, offsets: tuple[int, ...], base_bytes: int) -> DeltaStep | None:
    if not isinstance(item, list) or len(item) != _STEP_FIELDS:
        return None
    first, count, base_offset, digest, wire_bytes = item
    if not all(type(number) is int for number in (first, count, base_offset, wire_bytes)):
        return None
    if not (first >= 0 and count > 0 and base_offset >= 0 and first + count < len(offsets)):
        return None
    length = offsets[first + count] - offsets[first]
    if length > MAX_DELTA_BYTES or base_offset + length > base_bytes:
        return None
    if not _is_digest(digest) or not 0 < wire_bytes <= MAX_CHUNK_WIRE_BYTES:
        return None
    return DeltaStep(
        first=first, count=count, base_offset=base_offset, sha256=digest, wire_bytes=wire_bytes
    )


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == _HEX_LENGTH and set(value) <= _HEX_DIGITS


def _read_chunk(item: object) -> Chunk | None:
    if not isinstance(item, list) or len(item) != _CHUNK_FIELDS:
        return None
    digest, wire_bytes, size_bytes, compression = item
    if not _is_digest(digest):
        return None
    if type(wire_bytes) is not int or not 0 < wire_bytes <= MAX_CHUNK_WIRE_BYTES:
        return None
    # Bounds the memory of unpacking: more is a bomb.
    if type(size_bytes) is not int or not 0 < size_bytes <= MAX_DELTA_BYTES:
        return None
    if not isinstance(compression, str) or compression not in set(Compression):
        return None
    return Chunk(
        sha256=digest,
        wire_bytes=wire_bytes,
        size_bytes=size_bytes,
        compression=Compression(compression),
    )
