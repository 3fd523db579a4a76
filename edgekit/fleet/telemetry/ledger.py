"""Takes measurements in from devices that may lie, adds them up, and keeps them in the database.

Counts of each device, bundle and version stand in slots of an hour, those of the whole fleet in
sums by the hour. A record is counted once, however often it is delivered, in whatever order, and
to whichever replica. What a device can do by lying is bounded, and counted under its name:

 * a batch under another device's name, no batch at all, or counts that contradict each other or
   no machine could reach, are refused;
 * its clock is not believed: slots go by when a batch arrives, and a wrong time is only counted;
 * of each device only so many bytes an hour are read, and so many versions and features kept.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edgekit.fleet.devices.inventory import make_known
from edgekit.fleet.store import telemetry as rows
from edgekit.fleet.store.inserts import insert_new, put_rows
from edgekit.fleet.store.shadows import add_shadows
from edgekit.fleet.telemetry.health import Health
from edgekit.fleet.telemetry.numbers import Numbers, numbers_of
from edgekit.fleet.telemetry.screening import Screen, Screened
from edgekit.fleet.telemetry.version_health import Slot, SlotKey, VersionHealth, slot_of
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.telemetry import ModelCounts, Window
from edgekit_runtime.versions import VERSION_PATTERN

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

SLOT_SECONDS: Final = 3_600.0
# Messages in a transaction: their devices are locked as long as it takes.
_AT_ONCE: Final = 500
_MOST_BEGINS: Final = 2_000
_MAX_CACHED: Final = 50_000
_MAX_STREAMS: Final = 8
# Who may publish under any name could make up devices for ever.
_MAX_FAULTY: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of some messages.

    Attributes:
        records: Records that were counted.
        duplicates: Records that had been counted before.
        refused: Messages that were refused.
    """

    records: int
    duplicates: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A message that was examined, and can be counted any number of times to the same end.

    Attributes:
        device: Whose topic it came on.
        screened: What is left of it.
    """

    device: str
    screened: Screened


class Ledger:
    """Everything that was measured; may be used from several threads and processes at once.

    Args:
        database: Where it is kept.
        screen: What is believed of devices.
        look_seconds: How old what other processes have counted may be.
    """

    def __init__(
        self, database: Database, *, screen: Screen | None = None, look_seconds: float = 2.0
    ) -> None:
        self._database = database
        self._screen = screen or Screen()
        self._lock = threading.Lock()
        self._slots: dict[SlotKey, Slot] = {}
        self._versions = VersionHealth(database, look_seconds=look_seconds)

    def take(self, messages: Iterable[tuple[str, bytes]], *, now: float) -> Taken:
        """Examine and keep; see there.

        Args:
            messages: The device whose topic it came on, and the message.
            now: Seconds since 1970.
        """
        return self.keep(self.examine(messages, now=now), now=now)

    def examine(self, messages: Iterable[tuple[str, bytes]], *, now: float) -> list[Measured]:
        """Decide what is to be believed; once for a message, or a device's allowance is spent."""
        return [
            Measured(device=device, screened=self._screen.examine(device, message, now=now))
            for device, message in messages
        ]

    def keep(self, measured: Sequence[Measured], *, now: float) -> Taken:
        """Keep what was examined, durably; after an error, do it again with the same.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        records = duplicates = 0
        with self._lock:
            for start in range(0, len(measured), _AT_ONCE):
                counted, known = self._keep(measured[start : start + _AT_ONCE], now)
                records += counted
                duplicates += known
        refused = sum(item.screened.batch is None for item in measured)
        return Taken(records=records, duplicates=duplicates, refused=refused)

    def health(self, device: str, bundle: str, version: str, since: float = 0.0) -> Health | None:
        """What a device reports of a version since a moment; None for nothing.

        The moment also becomes the beginning of a slot, so that what comes from then on can be
        told from what came before.
        """
        with self._lock:
            return self._versions.health(device, bundle, version, since)

    def fleet_health(self, bundle: str, version: str, *, since: float) -> dict[str, Health]:
        """By device, what was reported of a version in the slots since a moment."""
        with self._lock:
            return self._versions.fleet_health(bundle, version, since - SLOT_SECONDS)

    def versions(self, *, since: float) -> tuple[tuple[str, str], ...]:
        """Every bundle and version of which something was reported since a moment."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import TelemetrySlotRow as Row

        of_models = (Row.bundle != "", Row.updated >= since)
        query = select(Row.bundle, Row.version).where(*of_models).distinct()
        with self._database.read() as session:
            return tuple(sorted((bundle, version) for bundle, version in session.execute(query)))

    def faults(self) -> dict[str, dict[str, int]]:
        """By device, how often which fault was found."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import TelemetryFaultRow as Row

        found: dict[str, dict[str, int]] = {}
        with self._database.read() as session:
            for row in session.scalars(select(Row).order_by(Row.device_id, Row.kind)):
                found.setdefault(row.device_id, {})[row.kind] = row.count
        return found

    def _keep(self, measured: Sequence[Measured], now: float) -> tuple[int, int]:
        batches = [item.screened.batch for item in measured if item.screened.batch is not None]
        faults = Counter((item.device, kind) for item in measured for kind in item.screened.faults)
        begins = sorted(self._versions.begins)[:_MOST_BEGINS]
        devices = {batch.device for batch in batches} | {key[0] for key in begins}
        with self._database.write() as session:
            _require_known(session, devices, now)
            _begin_slots(session, begins, now)
            entry = _Entry(self._slots, session, devices, now)
            for batch in batches:
                numbers = entry.numbers(batch.device, batch.stream)
                for sequence, window in batch.records:
                    if not numbers.add(sequence):
                        entry.duplicates += 1
                        continue
                    entry.records += 1
                    if _is_possible(window):
                        entry.count(batch.device, window)
                    else:
                        faults[batch.device, "implausible"] += 1
                entry.streams[batch.device, batch.stream] = (numbers, batch.dropped)
            entry.write_streams()
            entry.write_slots()
            rows.add_to_hours(session, entry.sums, now=now)
            if faults:
                rows.add_faults(session, _bounded(session, faults), now=now)
        self._versions.begins.difference_update(begins)
        self._remember(entry.changed, now)
        return entry.records, entry.duplicates

    def _remember(self, changed: dict[SlotKey, Slot], now: float) -> None:
        if len(self._slots) + len(changed) > _MAX_CACHED:
            self._slots.clear()
        self._slots |= changed
        self._versions.note(changed, now=now)


def count_feedback(
    session: Session, answers: Mapping[tuple[str, str, str], tuple[int, int]], *, now: float
) -> None:
    """Count answers of which it became known whether they were right, in a caller's transaction.

    Every ledger of the database sees it with its next look.

    Args:
        session: Of the transaction.
        answers: How many were right and wrong, by device, bundle and version.
        now: Seconds since 1970.
    """
    devices = {device for device, _, _ in answers}
    _require_known(session, devices, now)
    entry = _Entry({}, session, devices, now)
    for name, (right, wrong) in answers.items():
        slot = entry.slot(*name)
        slot.feedback += right + wrong
        slot.right += right
    entry.write_slots()


class _Entry:
    """What one transaction writes down. Only what was committed goes into the memory."""

    def __init__(
        self, known: Mapping[SlotKey, Slot], session: Session, devices: set[str], now: float
    ) -> None:
        self._session = session
        self._now = now
        self.records = self.duplicates = 0
        self.sums: dict[tuple[str, str], ModelCounts] = {}
        self.streams: dict[tuple[str, str], tuple[Numbers, int]] = {}
        self.changed: dict[SlotKey, Slot] = {}
        self._known = {
            (row.device_id, row.stream): numbers_of(row.last, row.missing)
            for row in rows.read_streams(session, devices)
        }
        hour = now // SLOT_SECONDS * SLOT_SECONDS
        self._newest: dict[tuple[str, str, str], SlotKey] = {}
        self._slots: dict[SlotKey, Slot] = {}
        missing = set()
        for device, bundle, version, slot, revision in rows.read_revisions(
            session, devices, since=hour
        ):
            key = (device, bundle, version, slot)
            if slot <= now:
                self._newest[device, bundle, version] = key
            cached = known.get(key)
            if cached is not None and cached.revision == revision:
                self._slots[key] = cached
            else:
                missing.add(device)
        if missing:
            for row in rows.read_slots(session, missing, since=hour):
                self._slots[row.device_id, row.bundle, row.version, row.slot] = slot_of(row)
        self._hour = hour

    def numbers(self, device: str, stream: str) -> Numbers:
        """Which records of a stream were counted."""
        if (device, stream) not in self._known:
            self._known[device, stream] = Numbers()
            # A device begins a new stream when it has lost its store: that is rare.
            _drop_streams(self._session, device, keep=_MAX_STREAMS - 1)
        return self._known[device, stream]

    def slot(self, device: str, bundle: str, version: str) -> Slot:
        """The slot of now, to be changed."""
        key = self._newest.get((device, bundle, version))
        if key is None:
            key = self._newest[device, bundle, version] = (device, bundle, version, self._hour)
        if key not in self.changed:
            known = self._slots.get(key)
            self.changed[key] = replace(known, revision=known.revision + 1) if known else Slot(1)
        return self.changed[key]

    def count(self, device: str, window: Window) -> None:
        """Count what a window holds."""
        if window.shadows:
            add_shadows(self._session, device, window, now=self._now)
            if window.model is None:
                return
            window = replace(window, shadows=())
        slot = self.slot(device, window.bundle, window.version)
        slot.window = slot.window.merge(window) if slot.window else window
        if window.model is not None:
            name = (window.bundle, window.version)
            known = self.sums.get(name)
            self.sums[name] = known.merge(window.model) if known else window.model

    def write_streams(self) -> None:
        """Write which records were counted."""
        from edgekit.fleet.store.tables import TelemetryStreamRow

        put_rows(
            self._session,
            TelemetryStreamRow,
            [
                {
                    "device_id": device,
                    "stream": stream,
                    "last": numbers.last,
                    "missing": numbers.gaps,
                    "dropped": dropped,
                    "seen": self._now,
                }
                for (device, stream), (numbers, dropped) in self.streams.items()
            ],
        )

    def write_slots(self) -> None:
        """Write what was added up."""
        from edgekit.fleet.store.tables import TelemetrySlotRow

        put_rows(
            self._session,
            TelemetrySlotRow,
            [
                _slot_values(key, self._now)
                | {
                    "revision": slot.revision,
                    "feedback": slot.feedback,
                    "right": slot.right,
                    "counts": rows.window_text(slot.window),
                }
                for key, slot in self.changed.items()
            ],
        )


def _is_possible(window: Window) -> bool:
    if not window.bundle:
        return window.device is not None
    return bool(
        re.fullmatch(NAME_PATTERN, window.bundle) and re.fullmatch(VERSION_PATTERN, window.version)
    )


def _slot_values(key: SlotKey, now: float) -> dict[str, object]:
    device, bundle, version, slot = key
    return {
        "device_id": device,
        "bundle": bundle,
        "version": version,
        "slot": slot,
        "updated": now,
    }


def _require_known(session: Session, devices: set[str], now: float) -> None:
    missing = devices - rows.lock_devices(session, devices)
    if missing:
        # The broker let them in; their states may be on the way to another replica.
        make_known(session, sorted(missing), now)
        rows.lock_devices(session, missing)


def _begin_slots(session: Session, begins: Iterable[SlotKey], now: float) -> None:
    from edgekit.fleet.store.tables import TelemetrySlotRow

    empty = {
        "revision": 0,
        "feedback": 0,
        "right": 0,
        "counts": rows.window_text(None),
    }
    values = [_slot_values(key, now) | empty for key in begins]
    insert_new(session, TelemetrySlotRow, values, returning=["device_id"])


def _drop_streams(session: Session, device: str, *, keep: int) -> None:
    from sqlalchemy import delete, select

    from edgekit.fleet.store.tables import TelemetryStreamRow as Row

    newest = select(Row.stream).where(Row.device_id == device).order_by(Row.seen.desc())
    session.execute(
        delete(Row).where(Row.device_id == device, Row.stream.not_in(newest.limit(keep))),
        execution_options={"synchronize_session": False},
    )


def _bounded(session: Session, faults: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """The faults, those of devices beyond a number under an empty name."""
    from sqlalchemy import func, select

    from edgekit.fleet.store.tables import TelemetryFaultRow as Row

    names = {device for device, _ in faults}
    known = set(session.scalars(select(Row.device_id).where(Row.device_id.in_(sorted(names)))))
    count = session.scalar(select(func.count(Row.device_id.distinct()))) or 0
    room = max(0, _MAX_FAULTY - count)
    kept = known.union(sorted(names - known)[:room])
    bounded: Counter[tuple[str, str]] = Counter()
    for (device, kind), number in faults.items():
        bounded[device if device in kept else "", kind] += number
    return bounded
