"""The bundle index: every file of a bundle as a list of content-addressed chunks.

The index is what a fleet signs (it is the TUF target), so a chunk may come from anywhere: its
name is the SHA-256 of the bytes on the wire, checked before anything is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edgekit_runtime.bundle.manifest import MANIFEST_NAME, NAME_PATTERN, is_safe_path
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
FORMAT_VERSION: Final = 1
_HEX_LENGTH: Final = 64
_HEX_DIGITS: Final = frozenset("0123456789abcdef")
# Below this saving the device's work to unpack is not worth it.
_WORTH_COMPRESSING: Final = 0.97
_CHUNK_FIELDS: Final = 4


class Compression(StrEnum):
    """How a chunk's bytes are packed on the wire."""

    NONE = "none"
    ZLIB = "zlib"


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
class IndexedFile:
    """A file of the bundle.

    Attributes:
        path: In the bundle.
        sha256: Of its content.
        size_bytes: Its length.
        chunks: Its pieces, in order.
    """

    path: str
    sha256: str
    size_bytes: int
    chunks: tuple[Chunk, ...]


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


def build_index(
    name: str, version: str, files: Iterable[tuple[str, bytes]]
) -> tuple[BundleIndex, dict[str, bytes]]:
    """Cut files into chunks.

    Args:
        name: Of the bundle.
        version: Of the bundle.
        files: Path and content of each, the manifest among them.

    Returns:
        The index, and each chunk's bytes on the wire by its SHA-256.
    """
    wire: dict[str, bytes] = {}
    entries = []
    for path, data in files:
        chunks = []
        for piece in _pieces(data):
            packed, compression = _pack(piece)
            digest = hashlib.sha256(packed).hexdigest()
            wire[digest] = packed
            chunks.append(
                Chunk(
                    sha256=digest,
                    wire_bytes=len(packed),
                    size_bytes=len(piece),
                    compression=compression,
                )
            )
        entries.append(
            IndexedFile(
                path=path,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                chunks=tuple(chunks),
            )
        )
    return BundleIndex(name=name, version=version, files=tuple(entries)), wire


def unpack_chunk(chunk: Chunk, wire: bytes) -> bytes:
    """Prove and unpack a chunk from an untrusted source, in bounded memory.

    Raises:
        VerificationError: If the bytes are not the chunk that the index names.
    """
    where = f"chunk {chunk.sha256[:12]}"
    if len(wire) != chunk.wire_bytes:
        raise VerificationError(
            f"it has {len(wire)} bytes, and {chunk.wire_bytes} were signed", where=where
        )
    if hashlib.sha256(wire).hexdigest() != chunk.sha256:
        raise VerificationError("its content does not match its signed hash", where=where)
    if chunk.compression is Compression.NONE:
        data = wire
    else:
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(wire, chunk.size_bytes + 1)
        except zlib.error as error:
            raise VerificationError(f"it does not unpack: {error}", where=where) from error
    if len(data) != chunk.size_bytes:
        raise VerificationError(
            f"it does not unpack to the {chunk.size_bytes} bytes that were signed", where=where
        )
    return data


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


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), MAX_CHUNK_WIRE_BYTES):
        yield data[start : start + MAX_CHUNK_WIRE_BYTES]


def _pack(piece: bytes) -> tuple[bytes, Compression]:
    packed = zlib.compress(piece, level=9)
    if len(packed) < len(piece) * _WORTH_COMPRESSING:
        return packed, Compression.ZLIB
    return piece, Compression.NONE


def _read_file(reader: FieldReader) -> IndexedFile:
    path = reader.text("path")
    if not is_safe_path(path):
        reader.fault("path", f"{path[:80]!r} is not a safe relative path")
    size_bytes = reader.integer("size_bytes", most=MAX_FILE_BYTES)
    chunks = []
    for position, item in enumerate(reader.sequence("chunks", most=1 << 20)):
        chunk = _read_chunk(item)
        if chunk is None:
            reader.fault(f"chunks[{position}]", "is not [sha256, wire bytes, size, compression]")
        else:
            chunks.append(chunk)
    if sum(chunk.size_bytes for chunk in chunks) != size_bytes:
        reader.fault("chunks", f"do not add up to {size_bytes} bytes")
    return IndexedFile(
        path=path,
        sha256=reader.text("sha256", pattern=r"[0-9a-f]{64}"),
        size_bytes=size_bytes,
        chunks=tuple(chunks),
    )


def _read_chunk(item: object) -> Chunk | None:
    if not isinstance(item, list) or len(item) != _CHUNK_FIELDS:
        return None
    digest, wire_bytes, size_bytes, compression = item
    if not (isinstance(digest, str) and len(digest) == _HEX_LENGTH and set(digest) <= _HEX_DIGITS):
        return None
    if type(wire_bytes) is not int or not 0 < wire_bytes <= MAX_CHUNK_WIRE_BYTES:
        return None
    # zlib cannot pack better than 1032 to 1: more is a bomb.
    if type(size_bytes) is not int or not 0 < size_bytes <= MAX_CHUNK_WIRE_BYTES * 1032:
        return None
    if not isinstance(compression, str) or compression not in set(Compression):
        return None
    return Chunk(
        sha256=digest,
        wire_bytes=wire_bytes,
        size_bytes=size_bytes,
        compression=Compression(compression),
    )
