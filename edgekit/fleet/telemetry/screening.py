"""What is believed of a device's measurements: before they are counted, and without I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.telemetry import ModelCounts, TelemetryBatch, Window, parse_batch

_HOUR: Final = 3_600.0
# More devices are forgotten, oldest first: their budgets begin anew.
_MAX_WATCHED: Final = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one device may send.

    Attributes:
        bytes_per_hour: More is not even parsed.
        versions_per_hour: Different bundles and versions.
        requests_per_second: No board answers more.
        longest_window_s: An agent merges what waits into windows of a day at most. A longer one
            (its clock was set, or it slept) holds no more than one of a day, and is counted.
        clock_ahead_s: How far a device's clock may be ahead before that is counted.
        clock_behind_s: How old measurements may be before that is counted.
    """

    bytes_per_hour: int = 8 << 20
    versions_per_hour: int = 16
    requests_per_second: float = 20_000.0
    longest_window_s: float = 86_400.0
    clock_ahead_s: float = 3_600.0
    clock_behind_s: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What is left of a message.

    Attributes:
        batch: What is to be counted; None if the message is refused.
        faults: What was found, each kind once: "flood", "no batch", "wrong device",
            "wrong time", "contradiction", "implausible", "too many versions".
    """

    batch: TelemetryBatch | None
    faults: tuple[str, ...] = ()


@dataclass(slots=True)
class _Watched:
    began: float
    spent_bytes: int
    versions: set[tuple[str, str]]


class Screen:
    """Examines messages, and remembers how much each device has sent in the present hour.

    Args:
        allowance: Of each device.
    """

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance or Allowance()
        self._watched: dict[str, _Watched] = {}

    def examine(self, device: str, message: bytes, *, now: float) -> Screened:
        """Examine a message that came on a device's topic.

        Args:
            device: Whose topic it was: the broker vouches for that.
            message: What came.
            now: Seconds since 1970.
        """
        watched = self._watch(device, now)
        watched.spent_bytes += len(message)
        if watched.spent_bytes > self._allowance.bytes_per_hour:
            return Screened(batch=None, faults=("flood",))
        try:
            batch = parse_batch(message, where=f"telemetry of {device}")
        except VerificationError:
            return Screened(batch=None, faults=("no batch",))
        if batch.device != device:
            return Screened(batch=None, faults=("wrong device",))
        faults: dict[str, None] = {}
        kept = []
        for sequence, window in batch.records:
            fault = self._fault_of(window, watched)
            if fault:
                faults[fault] = None
                continue
            if self._is_wrong_time(window, now):
                faults["wrong time"] = None
            kept.append((sequence, window))
        return Screened(batch=replace(batch, records=tuple(kept)), faults=tuple(faults))

    def _fault_of(self, window: Window, watched: _Watched) -> str:
        if window.model is None:
            return ""
        name = (window.bundle, window.version)
        if name not in watched.versions:
            if len(watched.versions) >= self._allowance.versions_per_hour:
                return "too many versions"
            watched.versions.add(name)
        if _contradicts_itself(window.model):
            return "contradiction"
        # A window of no time at all may hold what was answered in a second. What a device says of
        # its time is not believed: one that claims years may not outweigh the fleet.
        seconds = min(max(window.end - window.start, 1.0), self._allowance.longest_window_s)
        many = window.model.requests > self._allowance.requests_per_second * seconds
        return "implausible" if many else ""

    def _is_wrong_time(self, window: Window, now: float) -> bool:
        return (
            window.end > now + self._allowance.clock_ahead_s
            or window.start < now - self._allowance.clock_behind_s
            # A window that belongs to a day by its beginning may reach into the next one.
            or window.end - window.start > self._allowance.longest_window_s + _HOUR
        )

    def _watch(self, device: str, now: float) -> _Watched:
        watched = self._watched.get(device)
        if watched is None or not 0 <= now - watched.began < _HOUR:
            if watched is None and len(self._watched) >= _MAX_WATCHED:
                del self._watched[next(iter(self._watched))]
            watched = self._watched[device] = _Watched(now, 0, set())
        return watched


def _contradicts_itself(model: ModelCounts) -> bool:
    return (
        model.errors > model.requests
        or model.insane > model.requests
        or sum(model.latency.values()) > model.requests
    )
