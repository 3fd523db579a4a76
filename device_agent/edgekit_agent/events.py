"""What has happened lately: numbered events, the last ones kept, refusals not repeated."""

from __future__ import annotations

from collections import deque
from typing import Final

from edgekit_runtime.reports import DeviceEvent

KEPT_EVENTS: Final = 100
# Who may send anything can be refused for ever: the same is said once in this time, and no more
# than so many different things.
REFUSAL_SECONDS: Final = 600.0
MAX_REFUSALS: Final = 32
_MAX_DETAIL: Final = 2000


class EventLog:
    """Numbers events and keeps the last of them."""

    def __init__(self, *, device: str, sequence: int) -> None:
        """Go on after `sequence`."""
        self._device = device
        self.sequence = sequence
        self._kept: deque[DeviceEvent] = deque(maxlen=KEPT_EVENTS)
        self._refusals: dict[str, float] = {}

    @property
    def kept(self) -> tuple[DeviceEvent, ...]:
        """The last events, oldest first."""
        return tuple(self._kept)

    def note(
        self, kind: str, *, time: float, bundle: str = "", version: str = "", detail: str = ""
    ) -> DeviceEvent:
        """Make an event of something.

        Args:
            kind: See `DeviceEvent`.
            time: Seconds since 1970.
            bundle: The bundle concerned, or empty.
            version: Its version, or empty.
            detail: For people.
        """
        self.sequence += 1
        event = DeviceEvent(
            device=self._device,
            sequence=self.sequence,
            time=time,
            kind=kind,
            bundle=bundle,
            version=version,
            detail=detail[:_MAX_DETAIL],
        )
        self._kept.append(event)
        return event

    def is_new_refusal(self, reason: str, *, now: float) -> bool:
        """Whether to tell of a refusal, or whether that has been done.

        Args:
            reason: What would be said.
            now: Seconds on a clock that never goes back.
        """
        self._refusals = {
            text: time for text, time in self._refusals.items() if now - time < REFUSAL_SECONDS
        }
        if reason in self._refusals or len(self._refusals) >= MAX_REFUSALS:
            return False
        self._refusals[reason] = now
        return True
