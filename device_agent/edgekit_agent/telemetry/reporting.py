"""What the supervisor knows and reports of how it goes: recorded, stored, sent when connected."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_agent.live_stats import LiveStats
from edgekit_agent.plans import ModelPlan
from edgekit_agent.resending import Resending
from edgekit_agent.telemetry.gauges import DeviceProbe
from edgekit_agent.telemetry.recorder import DriftChange, Recorder, ShadowTotals, Totals
from edgekit_agent.telemetry.spool import take_counted
from edgekit_agent.telemetry.store import TelemetryStore
from edgekit_agent.telemetry.watching import Drift
from edgekit_agent.transports.arrivals import ReportKind
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.reports import DeviceEvent
from edgekit_runtime.sealing.vault import Vault
from edgekit_runtime.telemetry import FeatureCounts

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
# Events and batches that are on their way at a time.
_EVENT_WINDOW: Final = 20
_BATCH_WINDOW: Final = 1
_MAX_ELSEWHERE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySummary:
    """How reporting goes.

    Attributes:
        waiting: Windows that nobody has yet.
        dropped: Windows and events that were lost for want of room.
        trouble: What is wrong with the store; empty for nothing.
        drift: By bundle and feature, as last judged.
    """

    waiting: int
    dropped: int
    trouble: str
    drift: dict[str, dict[str, Drift]]


Send = Callable[[ReportKind, int, bytes], None]


class Reporting:
    """Events and windows, from when they come about until somebody has them; for one thread."""

    def __init__(
        self,
        data: Path,
        *,
        device: str,
        window_seconds: float,
        store_bytes: int,
        wall_clock: Callable[[], float],
        send: Send,
        vault: Vault | None = None,
    ) -> None:
        """Open the store.

        Args:
            data: The agent's folder.
            device: Who reports.
            window_seconds: How long a window of measurements is.
            store_bytes: What stored windows may take on the disk.
            wall_clock: Seconds since 1970, as well as is known.
            send: The transport's `publish_report`.
            vault: Of the agent's folder; None for one that keeps files plain.
        """
        self._store = TelemetryStore(
            data / "telemetry.db", device=device, most_bytes=store_bytes, vault=vault
        )
        self._recorder = Recorder(DeviceProbe(data), now=wall_clock())
        self._data = data
        # What programs with a model of their own did, by digest; only ever rises.
        self._elsewhere: dict[str, tuple[ModelPlan, LiveStats]] = {}
        self._window_seconds = window_seconds
        self._wall_clock = wall_clock
        self._send = send
        self._next_look = 0.0
        self._window_end: float | None = None
        self._connected = False
        self._under_way: dict[ReportKind, set[int]] = {kind: set() for kind in ReportKind}
        # Of what is under way, what came to the broker and no further.
        self._unheard = Resending[tuple[ReportKind, int]]()
        self.trouble = ""
        # Gives what versions did beside those that serve; another one once there are any.
        self.shadows: Callable[[], ShadowTotals] = dict

    @property
    def was_damaged(self) -> bool:
        """Whether the store had to be begun anew."""
        return self._store.was_damaged

    @property
    def last_event(self) -> int:
        """The number of the last event that was kept here."""
        return self._store.last_event

    def features_of(self, plan: ModelPlan, stats: LiveStats) -> Mapping[str, FeatureCounts]:
        """Counters of a version, in the bins of its reference."""
        return self._recorder.features_of(plan, stats)

    def summary(self) -> TelemetrySummary:
        """How it goes, for whoever asks on the device."""
        waiting, dropped = 0, 0
        with contextlib.suppress(sqlite3.Error):
            waiting, dropped = self._store.waiting, self._store.dropped
        return TelemetrySummary(
            waiting=waiting, dropped=dropped, trouble=self.trouble, drift=self._recorder.drift
        )

    def convert(self) -> None:
        """Write what is stored anew in the form that is configured now."""
        self._guarded(self._store.convert)

    def note_event(self, event: DeviceEvent) -> None:
        """Keep an event, and send it if connected."""
        self._guarded(lambda: self._store.add_event(event.sequence, event.to_json()))
        self._flush()

    def on_connected(self) -> None:
        """Send what waits; what was under way when the connection broke goes again."""
        self._connected = True
        self._unheard.clear()
        for keys in self._under_way.values():
            keys.clear()
        self._flush()

    def on_disconnected(self) -> None:
        """Keep everything from now on."""
        self._connected = False

    def on_taken(self, kind: ReportKind, key: int) -> None:
        """Forget what has arrived, and send what comes next."""
        self._under_way[kind].discard(key)
        self._unheard.on_heard()
        if kind is ReportKind.EVENTS:
            self._guarded(lambda: self._store.forget_event(key))
        elif kind is ReportKind.TELEMETRY:
            self._guarded(lambda: self._store.acknowledge(key))
        self._flush()

    def on_unheard(self, kind: ReportKind, key: int, reason: str) -> None:
        """Keep what nobody hears, and try again after a while."""
        if self._unheard.begins:
            _log.warning("the broker has nobody to give %s to: %s", kind, reason)
        self._unheard.note((kind, key))

    def on_too_large(self, kind: ReportKind, key: int, most_bytes: int) -> None:
        """Make smaller what the broker would not take, and send that."""
        self._under_way[kind].discard(key)
        if kind is ReportKind.EVENTS:
            _log.warning("event %d is larger than the %d bytes that may be sent", key, most_bytes)
            self._guarded(lambda: self._store.drop_event(key))
        elif kind is ReportKind.TELEMETRY:
            self._guarded(lambda: self._store.make_smaller(key, most_bytes))
        self._flush()

    def tick(
        self, totals: Callable[[], Totals], agent_rss_bytes: Callable[[], int], now: float
    ) -> tuple[DriftChange, ...]:
        """Measure, and close the window when its time is over; whose drift has changed.

        Args:
            totals: What each version has done so far.
            agent_rss_bytes: What supervisor and server take now.
            now: Seconds on a clock that never goes back.
        """
        self._retry(now)
        if now >= self._next_look:
            self._next_look = now + min(LOOK_SECONDS, self._window_seconds)
            self._recorder.look(agent_rss_bytes=agent_rss_bytes())
        if self._window_end is None:
            self._window_end = now + self._window_seconds
        if now < self._window_end:
            return ()
        self._window_end = now + self._window_seconds
        return self._close_window(totals())

    def close(self, totals: Totals) -> None:
        """Keep the window at hand, and close the store."""
        self._close_window(totals)
        self._store.close()

    def _close_window(self, totals: Totals) -> tuple[DriftChange, ...]:
        everywhere = self._with_elsewhere(totals)
        windows, changes = self._recorder.close_window(
            everywhere, now=self._wall_clock(), shadows=self.shadows()
        )
        self._guarded(lambda: self._store.add(*windows))
        self._flush()
        return changes

    def _with_elsewhere(self, totals: Totals) -> Totals:
        """What the servers did, and what other programs left in their files."""
        for plan, stats in take_counted(self._data):
            if len(self._elsewhere) < _MAX_ELSEWHERE or plan.digest in self._elsewhere:
                known = self._elsewhere.setdefault(plan.digest, (plan, LiveStats()))
                known[1].merge(stats)
        everywhere: dict[str, tuple[ModelPlan, LiveStats]] = {}
        for plan, stats in (*totals.values(), *self._elsewhere.values()):
            everywhere.setdefault(plan.digest, (plan, LiveStats()))[1].merge(stats)
        return everywhere

    def _retry(self, now: float) -> None:
        """Send again what nobody heard, when its time has come."""
        again = self._unheard.due(now)
        for kind, key in again:
            self._under_way[kind].discard(key)
        if again:
            self._flush()

    def _flush(self) -> None:
        if self._connected:
            self._guarded(self._send_more)

    def _send_more(self) -> None:
        events = self._under_way[ReportKind.EVENTS]
        room = _EVENT_WINDOW - len(events)
        if room > 0:
            for sequence, body in self._store.events(without=events, most=room):
                events.add(sequence)
                self._send(ReportKind.EVENTS, sequence, body)
        batches = self._under_way[ReportKind.TELEMETRY]
        if len(batches) < _BATCH_WINDOW:
            batch = self._store.next_batch()
            if batch is not None:
                batches.add(batch.number)
                self._send(ReportKind.TELEMETRY, batch.number, batch.message)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do something with the store; a full or failing disk is a state, and stops nothing."""
        try:
            work()
        except (sqlite3.Error, EdgekitError) as error:
            if not self.trouble:
                _log.error("telemetry cannot be stored: %s", error)
            self.trouble = f"telemetry cannot be stored: {error}"
        else:
            self.trouble = ""
