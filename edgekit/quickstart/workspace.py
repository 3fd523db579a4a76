"""The folder that the quickstart works in: its own, so it may be thrown away."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_runtime.durable import unwritable
from edgekit_runtime.errors import UsageError

_MARK: Final = ".edgekit-quickstart"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The places below the quickstart's folder."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> Workspace:
        """Make the folder; one that an earlier quickstart left is emptied first.

        Raises:
            UsageError: If something else is there.
            EnvironmentLackError: If it cannot be written.
        """
        path = path.absolute()
        try:
            return cls._make(path)
        except OSError as error:
            raise unwritable(path, error) from error

    @classmethod
    def _make(cls, path: Path) -> Workspace:
        if path.exists() and not (path / _MARK).is_file():
            if not path.is_dir() or any(path.iterdir()):
                raise UsageError(
                    "this is not empty, and the quickstart did not make it",
                    where=str(path),
                    fix="give another place: edgekit quickstart --folder DIR",
                )
        elif path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / _MARK).touch()
        return cls(path)

    def folder(self, name: str) -> Path:
        """A folder below it, made if needed."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove(self) -> None:
        """Throw all of it away."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def fleet(self) -> Path:
        """The fleet's folder: keys, metadata, chunks."""
        return self.path / "fleet"

    @property
    def device(self) -> Path:
        """The device's folder, as if it were another machine."""
        return self.path / "device"

    @property
    def page(self) -> Path:
        """The page with pictures."""
        return self.path / "quickstart.html"

    @property
    def summary(self) -> Path:
        """All figures as JSON."""
        return self.path / "quickstart.json"
