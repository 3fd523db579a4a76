"""What a stretch of a file becomes, told by how it differs from a stretch of the same length.

Two kinds, and the encoder takes the shorter:

 * *sparse*: the distances between the bytes that changed, and by how much each did. An int8
   weight matrix of which one value in twenty moved by one costs 4.3 % of its length.
 * *planes*: the difference of every word, in byte planes. Words of four bytes are compared as
   ordered integers, in which neighbouring floats are neighbours, so their high bytes are zero.

On the wire: one byte of kind, then what is described at each kind below. Everything is proven by
its signed hash before it is read; the checks here keep a publisher's mistake from doing harm.
Only encoding needs numpy.
"""

from __future__ import annotations

import array
import struct
import sys
import zlib
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from edgekit_runtime.bundle.packing import from_planes, inflate
from edgekit_runtime.errors import VerificationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The longest stretch that one delta describes: it bounds the memory of decoding.
MAX_DELTA_BYTES: Final = 1 << 20

# Kind 0: changes of one up or down. `<I` count of changes, `<I` length of the packed gaps, the
# gaps, then a bit for each change, the most significant first: 1 for up.
_STEPS: Final = 0
# Kind 1: any changes. The same, but a byte for each change instead of a bit, packed: added
# modulo 256.
_SPARSE: Final = 1
# Kinds 2, 3, 4: words of 1, 2, 4 bytes. The zigzag-coded differences in planes, packed.
_PLANES: Final = {2: 1, 3: 2, 4: 4}
_COUNTS: Final = struct.Struct("<II")
# A gap of this or more is this byte, and the rest.
_LONG_GAP: Final = 255
_TYPE_CODES: Final = {2: "H", 4: "I"}


def apply_delta(delta: bytes, base: bytes, *, where: str) -> bytes:
    """The stretch that a delta describes.

    Args:
        delta: As it was on the wire, proven.
        base: The stretch that it is told by, as long as the result.
        where: What it is about, for the error.

    Raises:
        VerificationError: If it does not fit the base.
    """
    kind = delta[0] if delta else -1
    if len(base) > MAX_DELTA_BYTES:
        raise _unfit(f"is about {len(base)} bytes, and {MAX_DELTA_BYTES} are the most", where)
    if kind in (_STEPS, _SPARSE):
        return _apply_sparse(delta, base, where)
    word = _PLANES.get(kind)
    if word is None or len(base) % word:
        raise _unfit("is of an unknown kind", where)
    planes = inflate(delta[1:], most=len(base), where=where)
    if len(planes) != len(base):
        raise _unfit("has another length than its base", where)
    if word == 1:
        return bytes([(a + (z >> 1 ^ -(z & 1))) & 255 for a, z in zip(base, planes, strict=True)])
    return _apply_words(from_planes(planes, word), base, word)


def _apply_sparse(delta: bytes, base: bytes, where: str) -> bytes:
    if len(delta) < 1 + _COUNTS.size:
        raise _unfit("is cut off", where)
    count, length = _COUNTS.unpack_from(delta, 1)
    begin = 1 + _COUNTS.size
    # As many changes as bytes at most, and a long gap for every 255 bytes without one.
    if count > len(base) or begin + length > len(delta):
        raise _unfit("holds more than its base", where)
    gaps = inflate(delta[begin : begin + length], most=count + len(base) // _LONG_GAP, where=where)
    rest = delta[begin + length :]
    if delta[0] == _STEPS:
        bits = int.from_bytes(rest)
        width = 8 * len(rest)
        if width != (count + 7) // 8 * 8:
            raise _unfit("has not a step for each change", where)
        text = bin(bits | 1 << width)[3:]
        changes = bytes(1 if bit == "1" else 255 for bit in text[:count])
    else:
        changes = inflate(rest, most=count, where=where)
    result = bytearray(base)
    places = _places(gaps)
    if len(places) != count or len(changes) != count or (places and places[-1] >= len(base)):
        raise _unfit("has changes that do not fit its base", where)
    for place, change in zip(places, changes, strict=True):
        result[place] = (result[place] + change) & 255
    return bytes(result)


def _places(gaps: bytes) -> list[int]:
    """Where changes are: each a gap behind the one before."""
    steps = [gap if gap == _LONG_GAP else gap + 1 for gap in gaps]
    return [
        place - 1 for place, gap in zip(accumulate(steps), gaps, strict=True) if gap != _LONG_GAP
    ]


def _apply_words(zigzags: bytes, base: bytes, word: int) -> bytes:
    top = 1 << (8 * word - 1)
    mask = 2 * top - 1
    before, changes = array.array(_TYPE_CODES[word]), array.array(_TYPE_CODES[word])
    before.frombytes(base)
    changes.frombytes(zigzags)
    if sys.byteorder == "big":
        before.byteswap()
        changes.byteswap()
    result = array.array(_TYPE_CODES[word])
    append = result.append
    for old, zigzag in zip(before, changes, strict=True):
        if not zigzag:
            append(old)
            continue
        key = old ^ mask if old & top else old | top
        key = key + (zigzag >> 1 ^ -(zigzag & 1)) & mask
        append(key ^ top if key & top else key ^ mask)
    if sys.byteorder == "big":
        result.byteswap()
    return result.tobytes()


def encode_delta(data: bytes, base: bytes, *, kinds: tuple[int, ...] = ()) -> bytes:
    """The shortest delta that makes `data` out of `base`.

    Args:
        data: What is to come out.
        base: As long, and at most `MAX_DELTA_BYTES`.
        kinds: Only these kinds, by their first byte; empty for all.

    Raises:
        ValueError: If the lengths do not fit.
    """
    import numpy as np

    if len(data) != len(base) or len(data) > MAX_DELTA_BYTES:
        raise ValueError(f"no delta of {len(data)} bytes from {len(base)}")
    new, old = (np.frombuffer(part, dtype=np.uint8) for part in (data, base))
    forms = []
    if not kinds or _STEPS in kinds or _SPARSE in kinds:
        forms.append(_encode_sparse(new, old))
    for kind, word in _PLANES.items():
        if (not kinds or kind in kinds) and len(data) % word == 0:
            forms.append(bytes([kind]) + _encode_words(new, old, word))
    return min(forms, key=len)


def _encode_sparse(new: NDArray[np.uint8], old: NDArray[np.uint8]) -> bytes:
    import numpy as np

    difference = new - old
    places = np.flatnonzero(difference)
    gaps = np.diff(places, prepend=-1) - 1
    longs, shorts = np.divmod(gaps, _LONG_GAP)
    stream = np.full(len(places) + int(longs.sum()), _LONG_GAP, dtype=np.uint8)
    stream[np.cumsum(longs + 1) - 1] = shorts.astype(np.uint8)
    # Gaps of random changes have nothing to repeat: Huffman alone is shorter.
    packed = min((_deflate(stream.tobytes(), strategy) for strategy in _STRATEGIES), key=len)
    counts = _COUNTS.pack(len(places), len(packed))
    changes = difference[places]
    if bool(np.isin(changes, (1, 255)).all()):
        return bytes([_STEPS]) + counts + packed + np.packbits(changes == 1).tobytes()
    values = min((_deflate(changes.tobytes(), strategy) for strategy in _STRATEGIES), key=len)
    return bytes([_SPARSE]) + counts + packed + values


def _encode_words(new: NDArray[np.uint8], old: NDArray[np.uint8], word: int) -> bytes:
    import numpy as np

    unsigned, signed = np.dtype(f"<u{word}"), np.dtype(f"<i{word}")
    if word == 1:
        difference = (new - old).view(signed)
    else:
        difference = (_ordered(new.view(unsigned)) - _ordered(old.view(unsigned))).view(signed)
    bits = 8 * word - 1
    zigzag = ((difference << 1) ^ (difference >> bits)).astype(signed)
    planes = zigzag.view(np.uint8).reshape(-1, word).T.tobytes()
    return min((_deflate(planes, strategy) for strategy in _STRATEGIES), key=len)


def _ordered(words: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Floats' bits as integers in the order of the floats."""
    import numpy as np

    top = words.dtype.type(1 << (8 * words.dtype.itemsize - 1))
    return np.where(words & top, ~words, words | top).astype(words.dtype)


_STRATEGIES: Final = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)


def _deflate(data: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
    return packer.compress(data) + packer.flush()


def _unfit(text: str, where: str) -> VerificationError:
    return VerificationError(f"a delta {text}", where=where)
