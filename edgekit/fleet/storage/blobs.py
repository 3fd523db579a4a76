"""What is asked of every storage: immutable blobs by name, written whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """Blobs in one flat folder.

    What was written is there for whoever asks next, on whatever machine. A blob is never seen
    half written: names are hashes, and readers check them.
    """

    def where(self, name: str) -> str:
        """A blob's place, for people."""
        ...

    def read(self, names: Collection[str]) -> dict[str, bytes]:
        """The content of those that are there.

        Raises:
            EnvironmentLackError: If the storage does not answer, or lets nobody read.
        """
        ...

    def write(self, blobs: Mapping[str, bytes]) -> None:
        """Keep blobs, durably; those of the same name are replaced.

        Raises:
            EnvironmentLackError: If the storage does not answer, or takes nothing.
        """
        ...

    def sizes(self) -> dict[str, int]:
        """Every blob's length in bytes."""
        ...

    def remove(self, names: Collection[str]) -> None:
        """Delete blobs; those that are not there are no fault."""
        ...

    def put_file(self, name: str, source: Path) -> None:
        """Keep a file's content, of any size; see `write`."""
        ...

    def opened(self, name: str) -> AbstractContextManager[Path]:
        """A blob as a file on this machine, until the `with` statement ends.

        Raises:
            FileNotFoundError: On entering it, if there is none.
            EnvironmentLackError: If the storage does not answer.
        """
        ...
