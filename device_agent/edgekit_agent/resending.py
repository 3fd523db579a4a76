"""When reports go again that came to the broker and no further: soon, then ever more seldom."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

# A control plane may just be coming back.
FIRST_SECONDS: Final = 2.0
_LONGEST_SECONDS: Final = 300.0

Key = TypeVar("Key", bound=Hashable)


class Resending(Generic[Key]):
    """What nobody heard, and since when; times are of a clock that never goes back."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._keys: dict[Key, None] = {}
        self._due: float | None = None
        self._seconds = FIRST_SECONDS

    @property
    def begins(self) -> bool:
        """Whether everything was heard until now."""
        return not self._keys and self._seconds == FIRST_SECONDS

    def note(self, key: Key) -> None:
        """Nobody heard this."""
        self._keys[key] = None

    def on_heard(self) -> None:
        """Somebody hears again: the next pause is a short one."""
        self._seconds = FIRST_SECONDS

    def clear(self) -> None:
        """Forget everything: it goes again anyway."""
        self._keys.clear()

    def due(self, now: float) -> list[Key]:
        """What is to be sent again now, in the order in which it was noted."""
        if not self._keys:
            self._due = None
        elif self._due is None:
            self._due = now + self._seconds
            self._seconds = min(2 * self._seconds, _LONGEST_SECONDS)
        elif now >= self._due:
            self._due = None
            keys = list(self._keys)
            self._keys.clear()
            return keys
        return []
