"""The transport out of a folder: a USB stick with the same names as MQTT, for devices offline.

A stick is not trusted either: only ordinary files of a bounded size are read, no link, no device.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from edgekit_agent.transports.arrivals import Arrival
from edgekit_agent.transports.polling import PollingTransport, UnreachableError
from edgekit_runtime.protocol import Topics


class FolderTransport(PollingTransport):
    """Reads below one folder, whenever it is there."""

    def __init__(
        self,
        folder: Path,
        *,
        topics: Topics,
        device: str,
        poll_seconds: float,
        post: Callable[[Arrival], None],
    ) -> None:
        """Prepare; `start` begins.

        Args:
            folder: Where the stick is mounted; it may come and go.
            topics: Of the fleet.
            device: This device's id.
            poll_seconds: How often it is looked at.
            post: Takes arrivals.
        """
        super().__init__(
            name="stick", topics=topics, device=device, poll_seconds=poll_seconds, post=post
        )
        self._folder = folder
        self._base = topics.base
        self._seen: dict[str, tuple[int, int, int]] = {}

    def read(self, name: str, *, most: int) -> bytes | None:
        """The content of an ordinary file; None if there is none, or it is too large."""
        return self._read(name, most, changed_only=False)

    def read_changed(self, name: str, *, most: int) -> bytes | None:
        """As `read`, but None also if it was not written since."""
        return self._read(name, most, changed_only=True)

    def forget(self) -> None:
        """Another stick is another content."""
        self._seen.clear()

    def _read(self, name: str, most: int, *, changed_only: bool) -> bytes | None:
        if not (self._folder / self._base).is_dir():
            raise UnreachableError(f"there is no {self._base} in {self._folder}")
        try:
            # Opened without waiting, and looked at before it is read: it may be a pipe.
            handle = os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > most:
                return None
            mark = (about.st_ino, about.st_size, about.st_mtime_ns)
            if changed_only and self._seen.get(name) == mark:
                return None
            with os.fdopen(os.dup(handle), "rb") as file:
                data = file.read(most + 1)
        except OSError as error:
            raise UnreachableError(f"{self._folder} cannot be read: {error}") from error
        finally:
            os.close(handle)
        self._seen[name] = mark
        return data if len(data) <= most else None
