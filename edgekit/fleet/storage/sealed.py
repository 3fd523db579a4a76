"""A storage whose blobs are encrypted where they lie; see `edgekit_runtime.sealing`.

Blobs of before are read as they are, and a blob is bound to its name: what somebody else put into
its place does not open.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from edgekit.fleet.storage.blobs import Storage
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.sealing.vault import Encryption, UnknownKeyError, Vault

# Names of blobs are bound below it; nothing is read or written there.
_ROOT: Final = Path("/")


class SealedStorage:
    """See `Storage`; sizes are those of what lies there, and so a little larger."""

    def __init__(self, inner: Storage, encryption: Encryption, *, kind: str) -> None:
        """Wrap a storage.

        Args:
            inner: Where the encrypted blobs are.
            encryption: The key, and whether blobs are written encrypted.
            kind: Of the blobs, which their names are bound to as well.
        """
        self._inner = inner
        self._vault = Vault(_ROOT, encryption)
        self._kind = kind

    def where(self, name: str) -> str:
        """See `Storage`."""
        return self._inner.where(name)

    def read(self, names: Collection[str]) -> dict[str, bytes]:
        """See `Storage`; what is damaged comes as it is, for whoever checks it.

        Raises:
            UnknownKeyError: If it was encrypted with a key that is not here.
            EnvironmentLackError: If the storage does not answer, or the key is missing.
        """
        return {name: self._opened(name, data) for name, data in self._inner.read(names).items()}

    def write(self, blobs: Mapping[str, bytes]) -> None:
        """See `Storage`."""
        self._inner.write(
            {name: self._vault.encode_record(self._bound(name), blobs[name]) for name in blobs}
        )

    def sizes(self) -> dict[str, int]:
        """See `Storage`."""
        return self._inner.sizes()

    def remove(self, names: Collection[str]) -> None:
        """See `Storage`."""
        self._inner.remove(names)

    def put_file(self, name: str, source: Path) -> None:
        """See `Storage`."""
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            stored = Path(folder) / name
            with stored.open("wb") as file, source.open("rb") as content:
                pieces = iter(lambda: content.read(1 << 20), b"")
                for piece in self._vault.encode(_ROOT / self._bound(name), pieces):
                    file.write(piece)
            self._inner.put_file(name, stored)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """See `Storage`; the content is in memory, where the system has files there.

        Raises:
            VerificationError: If it is damaged, or was encrypted with a key that is not here.
        """
        with (
            self._inner.opened(name) as stored,
            self._vault.plain_file(stored, name=self._bound(name)) as plain,
        ):
            yield plain

    def convert(self, name: str) -> bool:
        """Write a blob anew if it is not in the form that is wanted now; whether that was needed.

        Raises:
            VerificationError: If it is damaged, or was encrypted with a key that is not here.
        """
        with self._inner.opened(name) as stored:
            if self._vault.is_current(stored):
                return False
            with self._vault.plain_file(stored, name=self._bound(name)) as plain:
                self.put_file(name, plain)
        return True

    def _opened(self, name: str, data: bytes) -> bytes:
        try:
            return self._vault.decode_record(self._bound(name), data)
        except UnknownKeyError:
            raise
        except VerificationError:
            return data

    def _bound(self, name: str) -> str:
        return f"{self._kind}/{name}"
