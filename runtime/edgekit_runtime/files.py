"""Read files that a user named, or say plainly why not."""

from __future__ import annotations

from pathlib import Path

from edgekit_runtime.errors import UsageError

_BLOCK_BYTES = 1 << 20


def require_file(path: Path, *, kind: str) -> Path:
    """Return `path` if it is a readable, non-empty file.

    Args:
        path: What the user named.
        kind: What it should be, for the error: "a model", "a bundle".

    Raises:
        UsageError: If it is missing, a folder, empty, or may not be read.
    """
    try:
        if not path.exists():
            raise UsageError(
                "no such file", where=str(path), fix=f"give the path of {kind} that exists"
            )
        if path.is_dir():
            raise UsageError("this is a folder", where=str(path), fix=f"give the path of {kind}")
        with path.open("rb") as file:
            if not file.read(1):
                raise UsageError(
                    "the file is empty", where=str(path), fix=f"write or copy {kind} again"
                )
    except OSError as error:
        raise UsageError(
            f"cannot read: {error.strerror or error}",
            where=str(path),
            fix="check the path and its permissions",
        ) from error
    return path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as lower-case hex."""
    # Here, because it brings OpenSSL: 4 MB in the memory of a server that hashes nothing.
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
