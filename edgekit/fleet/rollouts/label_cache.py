"""The labels that owners gave their devices, as a rollout asks for them at every turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

OwnerLabels = Mapping[str, Mapping[str, str]]
"""By device."""
Labelling = Callable[[], OwnerLabels]
_SECONDS: Final = 30.0


class CachedLabels:
    """Labels, read again now and then; several threads may ask.

    Args:
        read: Reads them; what it raises is raised, and it is asked again at the next turn.
    """

    def __init__(self, read: Labelling) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._labels: OwnerLabels = {}

    def __call__(self) -> OwnerLabels:
        """The labels as they were at most half a minute ago."""
        with self._lock:
            if time.monotonic() - self._read_at >= _SECONDS:
                self._labels = self._read()
                self._read_at = time.monotonic()
            return self._labels
