"""The form of an encrypted file: a header, and frames that each prove themselves.

    header   magic (8 bytes), key id (8), salt (16)
    frame    up to 64 KiB of content, encrypted, and a tag (16); all but the last are full

AES-256-GCM under a key of the file's own: HKDF of the storage key with the header's salt. A frame's
nonce is its number and whether it is the last, as in STREAM (Hoang, Reyhanitabar, Rogaway and
Vizár, 2015): frames cannot change places, be left out, or be cut off unseen. Header and name of
the file are associated data: a file cannot take another one's place. One frame is in memory at a
time, and any can be read alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Final

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.sealing.keys import KEY_ID_BYTES, StorageKey, derive

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# No text, no model and no archive begins like this.
MAGIC: Final = b"\x8bEKseal\x01"
_SALT_BYTES: Final = 16
HEADER_BYTES: Final = len(MAGIC) + KEY_ID_BYTES + _SALT_BYTES
FRAME_BYTES: Final = 1 << 16
TAG_BYTES: Final = 16
_WIRE_FRAME_BYTES: Final = FRAME_BYTES + TAG_BYTES
_INFO: Final = b"edgekit storage file"


def content_bytes(size: int) -> int:
    """How long the content of an encrypted file of `size` bytes is; negative for no such file."""
    body = size - HEADER_BYTES
    frames = -(-body // _WIRE_FRAME_BYTES)
    return body - frames * TAG_BYTES if frames > 0 else -1


def seal(pieces: Iterable[bytes], *, key: StorageKey, name: str) -> Iterator[bytes]:
    """The encrypted file, piece by piece.

    Args:
        pieces: The content, cut anywhere.
        key: To encrypt with.
        name: Of the file, which it must have again when it is opened.
    """
    salt = os.urandom(_SALT_BYTES)
    header = MAGIC + key.id + salt
    cipher, bound = _cipher(key, salt), header + name.encode()
    yield header
    held, number = bytearray(), 0
    for piece in pieces:
        held += piece
        # The last frame is not known before the content ends: one that is full waits for more.
        while len(held) > FRAME_BYTES:
            frame = bytes(held[:FRAME_BYTES])
            del held[:FRAME_BYTES]
            yield cipher.encrypt(_nonce(number, last=False), frame, bound)
            number += 1
    yield cipher.encrypt(_nonce(number, last=True), bytes(held), bound)


def key_id(header: bytes) -> bytes | None:
    """The id of the key that a file was encrypted with, from its first bytes; None if it is not."""
    start = len(MAGIC)
    return header[start : start + KEY_ID_BYTES] if header.startswith(MAGIC) else None


class SealedReader:
    """Reads the content of an encrypted file, wherever it is asked for."""

    def __init__(self, file: IO[bytes], *, size: int, key: StorageKey, name: str) -> None:
        """Read the header.

        Args:
            file: Open and seekable.
            size: Of the encrypted file.
            key: That it was encrypted with.
            name: That it was encrypted under.

        Raises:
            VerificationError: If it is cut off.
        """
        self._file = file
        self._name = name
        file.seek(0)
        header = file.read(HEADER_BYTES)
        self.content_bytes = content_bytes(size)
        if self.content_bytes < 0 or len(header) != HEADER_BYTES:
            raise self._damaged()
        self._cipher = _cipher(key, header[-_SALT_BYTES:])
        self._bound = header + name.encode()
        self._last = max(0, -(-self.content_bytes // FRAME_BYTES) - 1)

    def pieces(self) -> Iterator[bytes]:
        """The content, a frame at a time.

        Raises:
            VerificationError: If it is damaged; what came before it is right all the same.
        """
        for number in range(self._last + 1):
            yield self._frame(number)

    def read_at(self, offset: int, size: int) -> bytes:
        """A stretch of the content; shorter where the content ends.

        Raises:
            VerificationError: If it is damaged.
        """
        end = min(offset + size, self.content_bytes)
        if end <= offset:
            return b""
        first, last = offset // FRAME_BYTES, (end - 1) // FRAME_BYTES
        data = b"".join(self._frame(number) for number in range(first, last + 1))
        start = offset - first * FRAME_BYTES
        return data[start : start + end - offset]

    def _frame(self, number: int) -> bytes:
        from cryptography.exceptions import InvalidTag

        self._file.seek(HEADER_BYTES + number * _WIRE_FRAME_BYTES)
        sealed = self._file.read(_WIRE_FRAME_BYTES)
        if len(sealed) < TAG_BYTES:
            raise self._damaged()
        try:
            nonce = _nonce(number, last=number == self._last)
            return self._cipher.decrypt(nonce, sealed, self._bound)
        except InvalidTag as error:
            raise self._damaged() from error

    def _damaged(self) -> VerificationError:
        return VerificationError(
            "what is stored here is damaged, or was something else's", where=self._name
        )


def _cipher(key: StorageKey, salt: bytes) -> AESGCM:
    secret = derive(key.secret, salt=salt, info=_INFO)
    # After the line above, which says how to install it where it is missing.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(secret)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
