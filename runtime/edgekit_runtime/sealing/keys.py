"""Keys for what is encrypted at rest: where they are, how they are read, made and replaced.

A key file is text: a key a line, 64 hexadecimal digits each. The first one encrypts; the others
still decrypt, until everything has been written anew with the first. `#` begins a comment.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_runtime.durable import sync_folder, unwritable
from edgekit_runtime.errors import EnvironmentLackError, UsageError

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
_MAX_FILE_BYTES: Final = 1 << 16
_MAX_KEYS: Final = 16
_OTHERS: Final = 0o077
_HEADER: Final = "# Keys of encrypted storage: the first encrypts, all decrypt. Keep a copy.\n"


class StorageLockedError(EnvironmentLackError):
    """What is stored cannot be read or written now: its key is missing or cannot be used."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a key file is; the file itself is looked for when it is needed.

    Attributes:
        kind: "file" (a path), "credential" (of systemd, by name), or "variable" (of the
            environment, that holds a path).
        name: The path or name.
    """

    kind: str
    name: str

    def find(self) -> Path:
        """The path of the key file.

        Raises:
            StorageLockedError: If the environment does not say where it is.
        """
        if self.kind == "file":
            return Path(self.name)
        variable = CREDENTIALS_VARIABLE if self.kind == "credential" else self.name
        found = os.environ.get(variable)
        if not found:
            raise StorageLockedError(
                f"the storage key is not there: {variable} is not set",
                where=f"{self.kind} {self.name}",
                fix="start it through systemd with LoadCredential= for that name"
                if self.kind == "credential"
                else f"set {variable} to the path of the key file",
            )
        return Path(found) / self.name if self.kind == "credential" else Path(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageKey:
    """One key.

    Attributes:
        secret: Its 32 bytes.
        id: Eight bytes that tell keys apart and say nothing about them.
    """

    secret: bytes = field(repr=False)
    id: bytes


def storage_key(secret: bytes) -> StorageKey:
    """The key of a secret of 32 bytes.

    Raises:
        StorageLockedError: If the package `cryptography` is not installed.
    """
    found = derive(secret, salt=b"", info=b"edgekit storage key id", length=KEY_ID_BYTES)
    return StorageKey(secret=secret, id=found)


def derive(secret: bytes, *, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """A key out of another one: HKDF with SHA-256 (RFC 5869).

    Raises:
        StorageLockedError: If the package `cryptography` is not installed.
    """
    try:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise StorageLockedError(
            "encryption needs the Python package 'cryptography', which is not installed",
            fix='pip install "edgekit[agent]"',
        ) from error
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def read_keys(source: KeySource) -> tuple[StorageKey, ...]:
    """The keys of a key file, the one that encrypts first.

    Raises:
        StorageLockedError: If the file is missing, malformed, or may be read by others; the text
            holds nothing of a key.
    """
    path = source.find()
    try:
        with path.open("rb") as file:
            # systemd keeps credentials in a place of its own, with permissions of its own.
            mode = os.fstat(file.fileno()).st_mode if source.kind != "credential" else 0
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise StorageLockedError(
            f"the storage key cannot be read: {error.strerror or error}",
            where=str(path),
            fix="put the key file back; a new one does not open what is encrypted already",
        ) from error
    lines = [line.partition(b"#")[0].strip() for line in data.splitlines()]
    texts = [line for line in lines if line]
    if not texts or len(texts) > _MAX_KEYS or not all(map(_is_key, texts)):
        raise StorageLockedError(
            "this is no key file: it needs one to 16 lines of 64 hexadecimal digits",
            where=str(path),
            fix="put the right file back, or make one: `edgekit-agent storage-key FILE`",
        )
    if mode & _OTHERS and os.name != "nt":
        raise StorageLockedError(
            "others may read the storage key", where=str(path), fix=f"chmod 600 {path}"
        )
    return tuple(storage_key(bytes.fromhex(text.decode())) for text in texts)


def write_new_key(path: Path, *, rotate: bool) -> int:
    """Make a key file, or put a new key before those of one.

    Args:
        path: Of the file; its mode becomes 0600, and its owner stays.
        rotate: Whether there is one already, whose keys are kept below the new one.

    Returns:
        How many keys it holds now.

    Raises:
        UsageError: If there is a file and `rotate` is not set, or none and it is.
        StorageLockedError: If the file to rotate is no key file.
        EnvironmentLackError: If it cannot be written.
    """
    if path.exists() and not rotate:
        raise UsageError(
            "there is a file already",
            where=str(path),
            fix="choose another name; --rotate puts a new key before those of a key file",
        )
    if rotate and not path.is_file():
        raise UsageError("there is no key file", where=str(path), fix="leave --rotate out")
    older = read_keys(KeySource("file", str(path.absolute()))) if rotate else ()
    texts = [os.urandom(KEY_BYTES).hex(), *(key.secret.hex() for key in older)]
    if len(texts) > _MAX_KEYS:
        raise UsageError(
            f"it holds {_MAX_KEYS} keys already",
            where=str(path),
            fix="delete the last lines, once `edgekit-agent check` says that nothing needs them",
        )
    partial = path.with_name(f".{path.name}.new")
    try:
        # What is there keeps its mode, which need not be this one.
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            if rotate and hasattr(os, "fchown"):
                # The agent must be able to read it, whoever rotates.
                before = path.stat()
                os.fchown(descriptor, before.st_uid, before.st_gid)
            file.write(_HEADER + "".join(f"{text}\n" for text in texts))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.absolute().parent)
    except OSError as error:
        raise unwritable(path, error) from error
    return len(texts)


def _is_key(text: bytes) -> bool:
    return re.fullmatch(rb"[0-9a-fA-F]{64}", text) is not None
