"""How versions do on each device, kept in memory and read again only where it has changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.store.telemetry import read_changes, read_slots, read_window_text
from edgekit.fleet.telemetry.health import Health, health_of, merge_health
from edgekit_runtime.telemetry import ModelCounts, Window

if TYPE_CHECKING:
    from sqlalchemy import Row

    from edgekit.fleet.store.database import Database

SlotKey = tuple[str, str, str, float]
"""Device, bundle, version, and when the slot began."""

# Beyond what was seen last: a replica's clock may be behind, and a transaction takes a while.
_OVERLAP_SECONDS: Final = 15.0
# Then everything is read again: what was deleted meanwhile is forgotten.
_RELOAD_SECONDS: Final = 3_600.0
# Versions that were asked for longest ago are forgotten first.
_MOST_VERSIONS: Final = 32
_READ_AT_ONCE: Final = 1_000


@dataclass(slots=True)
class Slot:
    """What a device counted of a version in a span of time; nothing in one that just began."""

    revision: int
    window: Window | None = None
    feedback: int = 0
    right: int = 0


@dataclass(slots=True)
class _Watched:
    since: float
    loaded: float
    looked: float = float("-inf")
    newest: float = 0.0
    slots: dict[str, dict[float, tuple[int, Health]]] = field(default_factory=dict)


class VersionHealth:
    """What devices report of the versions that are asked for.

    Args:
        database: Where it is kept.
        look_seconds: How old what other processes have written may be.
    """

    def __init__(self, database: Database, *, look_seconds: float) -> None:
        self._database = database
        self._look_seconds = look_seconds
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._began: dict[tuple[str, str, str], float] = {}
        self._merged: dict[tuple[str, str, str], tuple[float, Health | None]] = {}
        # Slots that are to be begun with the next writing.
        self.begins: set[SlotKey] = set()

    def health(self, device: str, bundle: str, version: str, since: float) -> Health | None:
        """What a device reports of a version in the slots that began since a moment."""
        name = (device, bundle, version)
        if since > self._began.get(name, 0.0):
            self._began[name] = since
            self.begins.add((*name, since))
        watched = self._look(bundle, version, since)
        cached = self._merged.get(name)
        if cached is not None and cached[0] == since:
            return cached[1]
        health = _merged(watched, device, since)
        self._merged[name] = (since, health)
        return health

    def fleet_health(self, bundle: str, version: str, since: float) -> dict[str, Health]:
        """By device, what was reported of a version in the slots that began since a moment."""
        watched = self._look(bundle, version, since)
        found = {device: _merged(watched, device, since) for device in sorted(watched.slots)}
        return {device: health for device, health in found.items() if health is not None}

    def note(self, changed: Mapping[SlotKey, Slot], *, now: float) -> None:
        """Take in what this process itself has written."""
        for (device, bundle, version, start), slot in changed.items():
            watched = self._watched.get((bundle, version))
            if watched is not None:
                watched.newest = max(watched.newest, now)
                self._set(watched, (device, bundle, version, start), slot)

    def _look(self, bundle: str, version: str, since: float) -> _Watched:
        moment = time.monotonic()
        watched = self._watched.pop((bundle, version), None)
        if watched is None or since < watched.since or moment - watched.loaded > _RELOAD_SECONDS:
            watched = _Watched(since=since, loaded=moment)
            for name in [name for name in self._merged if name[1:] == (bundle, version)]:
                del self._merged[name]
        self._watched[bundle, version] = watched
        while len(self._watched) > _MOST_VERSIONS:
            del self._watched[next(iter(self._watched))]
        if moment - watched.looked >= self._look_seconds:
            self._read(bundle, version, watched)
            watched.looked = moment
        return watched

    def _read(self, bundle: str, version: str, watched: _Watched) -> None:
        after = max(watched.since, watched.newest - _OVERLAP_SECONDS)
        with self._database.read() as session:
            stale: dict[str, None] = {}
            for device, start, revision, updated in read_changes(
                session, bundle, version, since=after
            ):
                watched.newest = max(watched.newest, updated)
                known = watched.slots.get(device, {}).get(start)
                if known is None or known[0] != revision:
                    stale[device] = None
            names = list(stale)
            for place in range(0, len(names), _READ_AT_ONCE):
                part = names[place : place + _READ_AT_ONCE]
                for row in read_slots(session, part, bundle, version, since=watched.since):
                    self._set(watched, (row.device_id, bundle, version, row.slot), slot_of(row))

    def _set(self, watched: _Watched, key: SlotKey, slot: Slot) -> None:
        device, bundle, version, start = key
        if slot.revision:
            counts = (slot.window.model if slot.window else None) or ModelCounts()
            health = health_of(counts, feedback=slot.feedback, right=slot.right)
            watched.slots.setdefault(device, {})[start] = (slot.revision, health)
            self._merged.pop((device, bundle, version), None)


def slot_of(row: Row[Any]) -> Slot:
    """A slot as it was stored."""
    return Slot(row.revision, read_window_text(row.counts), row.feedback, row.right)


def _merged(watched: _Watched, device: str, since: float) -> Health | None:
    slots = watched.slots.get(device, {})
    known = [health for start, (_, health) in sorted(slots.items()) if start >= since]
    return merge_health(known) if known else None
