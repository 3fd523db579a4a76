"""A storage in a folder: each blob replaces a file durably and all at once."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from edgekit_runtime.durable import replacing, unwritable, write_bytes
from edgekit_runtime.errors import EnvironmentLackError


class FolderStorage:
    """See `Storage`; the folder is made by the first blob."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def where(self, name: str) -> str:
        """See `Storage`."""
        return str(self._folder / name)

    def read(self, names: Collection[str]) -> dict[str, bytes]:
        """See `Storage`."""
        found = {}
        for name in names:
            path = self._folder / name
            try:
                found[name] = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise EnvironmentLackError(
                    f"cannot read: {error.strerror or error}",
                    where=str(path),
                    fix="let this user read the fleet's folder",
                ) from error
        return found

    def write(self, blobs: Mapping[str, bytes]) -> None:
        """See `Storage`."""
        self._make_folder()
        for name, data in blobs.items():
            write_bytes(self._folder / name, data)

    def sizes(self) -> dict[str, int]:
        """See `Storage`."""
        if not self._folder.is_dir():
            return {}
        files = ((path.name, path) for path in self._folder.iterdir())
        # A name with a dot before it is a file that is being written.
        return {n: p.stat().st_size for n, p in files if not n.startswith(".") and p.is_file()}

    def remove(self, names: Collection[str]) -> None:
        """See `Storage`."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def put_file(self, name: str, source: Path) -> None:
        """See `Storage`."""
        self._make_folder()
        with replacing(self._folder / name) as target, source.open("rb") as content:
            shutil.copyfileobj(content, target, 1 << 20)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """See `Storage`."""
        path = self._folder / name
        if not path.is_file():
            raise FileNotFoundError(str(path))
        yield path

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._folder, error) from error
