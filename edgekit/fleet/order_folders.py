"""Take in the orders that earlier versions of edgekit kept as a folder for each device."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgekit.fleet.folder import Fleet
from edgekit_runtime.durable import sync_folder
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.protocol import ID_PATTERN


class OrderFolders:
    """Folders with a device's targets, snapshot and timestamp; nothing makes them any more.

    Args:
        fleet: Whose.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._path = fleet.director_metadata.parent / "devices"
        self._taken_in = self._path.with_name("devices.taken-in")

    def exist(self) -> bool:
        """Whether there are any, or what a crash has left of them."""
        return self._path.is_dir() or self._taken_in.is_dir()

    def read(self) -> Iterator[tuple[str, tuple[bytes, bytes, bytes]]]:
        """Device, and its published targets, snapshot and timestamp; nothing is proven.

        Raises:
            VerificationError: If a file is missing or damaged.
        """
        folders = sorted(self._path.iterdir()) if self._path.is_dir() else []
        for folder in folders:
            # What was never published was seen by nobody.
            if re.fullmatch(ID_PATTERN, folder.name) and (folder / "timestamp.json").is_file():
                yield folder.name, _published(folder)

    def remove(self) -> None:
        """Delete them all; nobody may read them meanwhile.

        Raises:
            OSError: If they cannot be renamed.
        """
        shutil.rmtree(self._taken_in, ignore_errors=True)
        if self._path.is_dir():
            # Cut off halfway, what is left must not be taken for orders.
            self._path.rename(self._taken_in)
            sync_folder(self._path.parent)
            shutil.rmtree(self._taken_in, ignore_errors=True)


def is_newer(timestamp: bytes, than: bytes) -> bool:
    """Whether a timestamp has a higher version; than one that is damaged, any has."""
    return _own_version(timestamp) > _own_version(than)


def _published(folder: Path) -> tuple[bytes, bytes, bytes]:
    path = folder / "timestamp.json"
    try:
        timestamp = path.read_bytes()
        path = folder / f"{_version(timestamp, 'snapshot.json')}.snapshot.json"
        snapshot = path.read_bytes()
        path = folder / f"{_version(snapshot, 'targets.json')}.targets.json"
        return path.read_bytes(), snapshot, timestamp
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(
            f"what an earlier edgekit ordered cannot be read: {error!r}",
            where=str(path),
            fix="take the folder from a backup, or move it away and order anew for the device",
        ) from error


def _own_version(data: bytes) -> int:
    try:
        return int(json.loads(data)["signed"]["version"])
    except (ValueError, KeyError, TypeError):
        return 0


def _version(data: bytes, name: str) -> int:
    return int(json.loads(data)["signed"]["meta"][name]["version"])
