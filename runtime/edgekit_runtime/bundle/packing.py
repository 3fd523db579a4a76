"""How a chunk's bytes are packed for the wire, and taken out again in bounded memory.

Only zlib: it is in every Python, needs 40 KB to unpack, and on weights it is within a few percent
of what larger compressors reach. Words of several bytes are first laid out in planes, all first
bytes, all second bytes and so on: exponents then lie beside exponents.
"""

from __future__ import annotations

import hashlib
import zlib
from enum import StrEnum
from typing import Final

from edgekit_runtime.errors import VerificationError

# Below this saving the device's work to unpack is not worth it.
_WORTH_COMPRESSING: Final = 0.97


class Compression(StrEnum):
    """How a chunk's bytes are packed on the wire."""

    NONE = "none"
    ZLIB = "zlib"
    ZLIB_PLANES_2 = "zlib-planes-2"
    ZLIB_PLANES_4 = "zlib-planes-4"


_WORDS: Final = {Compression.ZLIB_PLANES_2: 2, Compression.ZLIB_PLANES_4: 4}


def pack(piece: bytes) -> tuple[bytes, Compression]:
    """The shortest form of a piece, and which it is."""
    forms = [(piece, Compression.ZLIB)]
    for compression, word in _WORDS.items():
        if len(piece) % word == 0:
            forms.append((to_planes(piece, word), compression))
    # A quick look tells which form packs best; only that one is packed well.
    layout, compression = min(forms, key=lambda form: len(zlib.compress(form[0], level=1)))
    packed = zlib.compress(layout, level=9)
    if len(packed) < len(piece) * _WORTH_COMPRESSING:
        return packed, compression
    return piece, Compression.NONE


def unpack(wire: bytes, compression: Compression, *, size_bytes: int, where: str) -> bytes:
    """What `pack` was given, and never more than `size_bytes` of it.

    Raises:
        VerificationError: If it does not unpack to exactly that length.
    """
    if compression is Compression.NONE:
        data = wire
    else:
        data = inflate(wire, most=size_bytes, where=where)
        if compression in _WORDS and len(data) % _WORDS[compression] == 0:
            data = from_planes(data, _WORDS[compression])
    if len(data) != size_bytes:
        raise VerificationError(
            f"it does not unpack to the {size_bytes} bytes that were signed", where=where
        )
    return data


def inflate(packed: bytes, *, most: int, where: str) -> bytes:
    """Unpack zlib, at most one byte more than expected, so that too much is seen.

    Raises:
        VerificationError: If it is no whole zlib stream.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, most + 1)
    except zlib.error as error:
        raise VerificationError(f"it does not unpack: {error}", where=where) from error
    if len(data) <= most and (not unpacker.eof or unpacker.unused_data):
        raise VerificationError("it does not unpack: it is cut off, or goes on", where=where)
    return data


def require_wire(wire: bytes, *, sha256: str, wire_bytes: int) -> None:
    """Prove bytes from an untrusted source.

    Raises:
        VerificationError: If they are not what was signed.
    """
    where = f"chunk {sha256[:12]}"
    if len(wire) != wire_bytes:
        raise VerificationError(
            f"it has {len(wire)} bytes, and {wire_bytes} were signed", where=where
        )
    if hashlib.sha256(wire).hexdigest() != sha256:
        raise VerificationError("its content does not match its signed hash", where=where)


def to_planes(data: bytes, word: int) -> bytes:
    """The first byte of every word, then the second of every word, and so on."""
    return b"".join(data[place::word] for place in range(word))


def from_planes(data: bytes, word: int) -> bytes:
    """What `to_planes` was given."""
    size = len(data) // word
    words = bytearray(len(data))
    for place in range(word):
        words[place::word] = data[place * size : (place + 1) * size]
    return bytes(words)
