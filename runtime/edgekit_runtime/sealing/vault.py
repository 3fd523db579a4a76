"""A folder whose files are written encrypted or plain, as configured, and read whichever they are.

So the setting may change at any time: what is there is read as it is, and `convert` writes it anew.
A file is bound to its path below the folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

from edgekit_runtime.durable import replacing
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.sealing.frames import (
    HEADER_BYTES,
    SealedReader,
    content_bytes,
    key_id,
    seal,
)
from edgekit_runtime.sealing.keys import KeySource, StorageKey, StorageLockedError, read_keys

_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """How files are kept.

    Attributes:
        key: Where the key is; None for none, and then nothing is encrypted.
        enabled: Whether files are written encrypted; if not, the key is there to read older ones.
    """

    key: KeySource | None = None
    enabled: bool = False

    def to_text(self) -> str:
        """For the command line of a process of ours; no secret is in it."""
        if self.key is None:
            return ""
        return f"{'on' if self.enabled else 'off'}:{self.key.kind}:{self.key.name}"


def read_encryption(text: str) -> Encryption:
    """Read what `Encryption.to_text` made."""
    if not text:
        return Encryption()
    state, kind, name = text.split(":", 2)
    return Encryption(key=KeySource(kind, name), enabled=state == "on")


class UnknownKeyError(VerificationError):
    """What is stored was encrypted with a key that is not here: it is as good as lost."""


class Vault:
    """Reads and writes the files of one folder; safe for use by several threads."""

    def __init__(self, folder: Path, encryption: Encryption | None = None) -> None:
        """Keep files below `folder`; the key is not looked for yet."""
        self._folder = folder
        self._encryption = encryption or Encryption()
        self._keys: tuple[StorageKey, ...] = ()
        self._found_sealed = False

    @property
    def seals(self) -> bool:
        """Whether files are written encrypted."""
        return self._encryption.enabled

    def trouble(self, *, fresh: bool = False) -> str:
        """Why files cannot be read or written now, all of them or the encrypted ones.

        Empty while a key is not missed.

        Args:
            fresh: Whether to look for the key file again, though its keys are known.
        """
        if (self._keys and not fresh) or not (self.seals or self._found_sealed):
            return ""
        try:
            self._load(fresh=fresh)
        except StorageLockedError as error:
            return str(error)
        return ""

    def is_current(self, path: Path) -> bool:
        """Whether a file is in the form that it would be written in now, under the same key.

        Raises:
            StorageLockedError: If the key is missing.
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            return self.is_current_record(file.read(HEADER_BYTES))

    def is_current_record(self, data: bytes) -> bool:
        """As `is_current`, of what `encode_record` gave, or of its beginning."""
        return key_id(data) == (self._load()[0].id if self.seals else None)

    def content_bytes(self, path: Path) -> int:
        """How long a file's content is.

        Raises:
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            sealed = key_id(file.read(HEADER_BYTES)) is not None
        return content_bytes(size) if sealed else size

    def pieces(self, path: Path) -> Iterator[bytes]:
        """A file's content, piece by piece, of bounded size.

        Raises:
            OSError: If it cannot be read.
            StorageLockedError: If it is encrypted, and the key is missing.
            VerificationError: If it is damaged, or encrypted with a key that is not here.
        """
        with path.open("rb") as file:
            reader = self._reader(file, path)
            if reader:
                yield from reader.pieces()
                return
            while piece := file.read(_READ_BYTES):
                yield piece

    def read(self, path: Path, *, most: int | None = None) -> bytes:
        """A file's content, or its first `most` bytes; errors as `pieces`."""
        with path.open("rb") as file:
            reader = self._reader(file, path)
            if reader:
                return reader.read_at(0, reader.content_bytes if most is None else most)
            return file.read(-1 if most is None else most)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """A stretch of a file's content, shorter where it ends; errors as `pieces`."""
        with path.open("rb") as file:
            reader = self._reader(file, path)
            if reader:
                return reader.read_at(offset, size)
            file.seek(offset)
            return file.read(size)

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file's content, in lower-case hex; errors as `pieces`."""
        # Here, because it brings OpenSSL; see `edgekit_runtime.files`.
        import hashlib

        digest = hashlib.sha256()
        for piece in self.pieces(path):
            digest.update(piece)
        return digest.hexdigest()

    def encode(self, path: Path, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """What to write to `path` for a content.

        Raises:
            StorageLockedError: If it is to be encrypted, and the key is missing.
        """
        if not self.seals:
            yield from pieces
            return
        yield from seal(pieces, key=self._load()[0], name=self._name(path))

    def encode_record(self, name: str, data: bytes) -> bytes:
        """A value of a database as it is to be stored; errors as `encode`."""
        return b"".join(self.encode(self._folder / name, [data]))

    def decode_record(self, name: str, data: bytes) -> bytes:
        """What `encode_record` was given under the same name; errors as `pieces`."""
        path = self._folder / name
        reader = self._reader(io.BytesIO(data), path, size=len(data))
        return reader.read_at(0, reader.content_bytes) if reader else data

    def convert(self, path: Path) -> bool:
        """Write a file anew in the form that is configured now; whether that was needed.

        Raises:
            OSError: If it cannot be read.
            StorageLockedError: If the key is missing.
            VerificationError: If it is damaged, or encrypted with a key that is not here.
            EnvironmentLackError: If it cannot be written.
        """
        if self.is_current(path):
            return False
        with replacing(path) as file:
            for piece in self.encode(path, self.pieces(path)):
                file.write(piece)
        return True

    @contextlib.contextmanager
    def plain_file(self, path: Path, *, name: str = "") -> Iterator[Path]:
        """A path under which another library reads a file's content, while the block lasts.

        Of an encrypted file that is anonymous memory, which no other process can name and which is
        gone when nobody has it open or mapped: the plain content never reaches a disk, as long as
        swap is encrypted or off. Where a system has no such memory (only Linux has), it is a file
        that nobody else may read, and that is deleted afterwards. Errors as `pieces`.

        Args:
            path: Of the file.
            name: What it is bound to; by default its path below the folder.
        """
        with path.open("rb") as file:
            reader = self._reader(file, path, name=name)
            if reader is None:
                yield path
                return
            if not hasattr(os, "memfd_create"):
                with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
                    plain = Path(folder) / path.name
                    with plain.open("wb") as target:
                        target.writelines(reader.pieces())
                    yield plain
                return
            descriptor = os.memfd_create(path.name[:200])
            with os.fdopen(descriptor, "wb") as memory:
                memory.writelines(reader.pieces())
                memory.flush()
                yield Path(f"/proc/self/fd/{descriptor}")

    def _reader(
        self, file: IO[bytes], path: Path, *, size: int | None = None, name: str = ""
    ) -> SealedReader | None:
        """What reads an encrypted file; None for a plain one, which is at its beginning then."""
        wanted = key_id(file.read(HEADER_BYTES))
        if wanted is None:
            file.seek(0)
            return None
        self._found_sealed = True
        key = self._key(wanted, path)
        length = os.fstat(file.fileno()).st_size if size is None else size
        return SealedReader(file, size=length, key=key, name=name or self._name(path))

    def _key(self, wanted: bytes, path: Path) -> StorageKey:
        for fresh in (False, True):
            # The file may hold a new key since it was read.
            for key in self._load(fresh=fresh):
                if key.id == wanted:
                    return key
        here = ", ".join(key.id.hex() for key in self._keys)
        raise UnknownKeyError(
            f"it is encrypted with the key {wanted.hex()}, and here are: {here}",
            where=str(path),
            fix="put that key back as a further line of the key file, and start again",
        )

    def _load(self, *, fresh: bool = False) -> tuple[StorageKey, ...]:
        if self._encryption.key is None:
            raise StorageLockedError(
                "there are encrypted files, and no key is configured",
                where=str(self._folder),
                fix="configure the key again, if only to have everything written plain",
            )
        # Read once: another thread may find meanwhile that they are gone.
        keys = self._keys
        if fresh or not keys:
            try:
                keys = read_keys(self._encryption.key)
            except StorageLockedError:
                self._keys = ()
                raise
            self._keys = keys
        return keys

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


@lru_cache(maxsize=4)
def open_vault(folder: str, encryption: str) -> Vault:
    """The vault of a folder; the same one each time in a process, so that keys are read once.

    Args:
        folder: Its path.
        encryption: As `Encryption.to_text` gives it.
    """
    return Vault(Path(folder), read_encryption(encryption))
