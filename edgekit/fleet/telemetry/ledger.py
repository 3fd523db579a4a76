"""Takes measurements in from devices that may lie, adds them up, and forgets them in time.

Kept in a SQLite file: counts of each device, bundle and version in slots of an hour, later of the
whole fleet in days. A record is counted once, however often it is delivered. What a device can do
by lying is bounded, and counted under its name:

 * a batch under another device's name, no batch at all, or counts that contradict each other or
   no machine could reach, are refused;
 * its clock is not believed: slots go by when a batch arrives, and a wrong time is only counted;
 * of each device only so many bytes an hour are read, and so many versions and features kept.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit.fleet.telemetry.health import Health, health_of, merge_health
from edgekit.fleet.telemetry.screening import Screen, Screened
from edgekit_runtime.durable import unwritable
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.telemetry import ModelCounts, Window, read_window

SLOT_SECONDS: Final = 3_600.0
_DAY: Final = 86_400.0
_MAX_CACHED: Final = 50_000
_MAX_STREAMS: Final = 8
# Who may publish under any name could make up devices for ever.
_MAX_FAULTY: Final = 10_000
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS streams (
    device TEXT NOT NULL, stream TEXT NOT NULL, last INTEGER NOT NULL, dropped INTEGER NOT NULL,
    seen REAL NOT NULL, PRIMARY KEY (device, stream)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slots (
    device TEXT NOT NULL, bundle TEXT NOT NULL, version TEXT NOT NULL, slot REAL NOT NULL,
    feedback INTEGER NOT NULL, right INTEGER NOT NULL, counts TEXT NOT NULL,
    PRIMARY KEY (device, bundle, version, slot)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS slots_by_version ON slots (bundle, version, slot);
CREATE INDEX IF NOT EXISTS slots_by_time ON slots (slot);
CREATE TABLE IF NOT EXISTS days (
    bundle TEXT NOT NULL, version TEXT NOT NULL, day REAL NOT NULL,
    feedback INTEGER NOT NULL, right INTEGER NOT NULL, counts TEXT NOT NULL,
    PRIMARY KEY (bundle, version, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS faults (
    device TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL, last REAL NOT NULL,
    PRIMARY KEY (device, kind)) WITHOUT ROWID;
"""

Key = tuple[str, str, str, float]


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
class Keeping:
    """How long counts are kept, from when they arrived.

    Attributes:
        device_hours: Of each device; then they are added to those of the fleet.
        fleet_days: Of the fleet.
    """

    device_hours: float = 48.0
    fleet_days: float = 400.0


@dataclass(slots=True)
class _Slot:
    counts: ModelCounts
    feedback: int = 0
    right: int = 0


class Ledger:
    """Everything that was measured; may be used from several threads and processes at once.

    Args:
        path: The SQLite file.
        screen: What is believed of devices.
    """

    def __init__(self, path: Path, *, screen: Screen | None = None) -> None:
        self._screen = screen or Screen()
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _opened(path)
        except OSError as error:
            raise unwritable(path, error) from error
        except sqlite3.Error as error:
            raise EnvironmentLackError(
                f"the measurements cannot be kept: {error}",
                where=str(path),
                fix="make room, or take the file from a backup",
            ) from error
        self._version = 0
        self._slots: dict[Key, _Slot] = {}
        self._dirty: set[Key] = set()
        self._last: dict[tuple[str, str], int] = {}
        # Where counts of a version begin anew, because a rollout has told a device to run it.
        self._began: dict[tuple[str, str, str], float] = {}
        self._health: dict[tuple[str, str, str], tuple[float, Health | None]] = {}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def take(self, messages: Iterable[tuple[str, bytes]], *, now: float) -> Taken:
        """Take batches in, all of them durably or none.

        Args:
            messages: The device whose topic it came on, and the message.
            now: Seconds since 1970.
        """
        records = duplicates = refused = 0
        with self._lock, self._transaction():
            for device, message in messages:
                screened = self._screen.examine(device, message, now=now)
                for kind in screened.faults:
                    self._note_fault(device, kind, now)
                if screened.batch is None:
                    refused += 1
                    continue
                counted, known = self._count(device, screened, now)
                records += counted
                duplicates += known
            self._write()
        return Taken(records=records, duplicates=duplicates, refused=refused)

    def add_feedback(
        self, device: str, bundle: str, version: str, *, right: int, wrong: int, now: float
    ) -> None:
        """Count answers of which it became known whether they were right."""
        with self._lock, self._transaction():
            slot = self._slot((device, bundle, version), now)
            slot.feedback += right + wrong
            slot.right += right
            self._write()

    def health(self, device: str, bundle: str, version: str, since: float = 0.0) -> Health | None:
        """What a device reports of a version since a moment; None for nothing.

        The moment also becomes the beginning of a slot, so that what comes from then on can be
        told from what came before.
        """
        name = (device, bundle, version)
        with self._lock:
            self._see_others()
            if since > self._began.get(name, 0.0):
                self._began[name] = since
            cached = self._health.get(name)
            if cached is not None and cached[0] == since:
                return cached[1]
            rows = self._database.execute(
                "SELECT feedback, right, counts FROM slots"
                " WHERE device = ? AND bundle = ? AND version = ? AND slot >= ?",
                (*name, since),
            )
            known = [_health(*row) for row in rows]
            health = merge_health(known) if known else None
            self._health[name] = (since, health)
            return health

    def fleet_health(self, bundle: str, version: str, *, since: float) -> dict[str, Health]:
        """By device, what was reported of a version in the slots since a moment."""
        with self._lock:
            rows = self._database.execute(
                "SELECT device, feedback, right, counts FROM slots"
                " WHERE bundle = ? AND version = ? AND slot >= ?",
                (bundle, version, since - SLOT_SECONDS),
            ).fetchall()
        found: dict[str, list[Health]] = {}
        for device, *row in rows:
            found.setdefault(device, []).append(_health(*row))
        return {device: merge_health(items) for device, items in found.items()}

    def versions(self, *, since: float) -> tuple[tuple[str, str], ...]:
        """Every bundle and version of which something was reported since a moment."""
        with self._lock:
            rows = self._database.execute(
                "SELECT DISTINCT bundle, version FROM slots WHERE slot >= ? ORDER BY 1, 2",
                (since - SLOT_SECONDS,),
            ).fetchall()
        return tuple((bundle, version) for bundle, version in rows)

    def history(self, bundle: str, version: str) -> dict[float, Health]:
        """By day, seconds since 1970, what the whole fleet reported, as far as it is rolled up."""
        with self._lock:
            rows = self._database.execute(
                "SELECT day, feedback, right, counts FROM days"
                " WHERE bundle = ? AND version = ? ORDER BY day",
                (bundle, version),
            ).fetchall()
        return {day: _health(*row) for day, *row in rows}

    def faults(self) -> dict[str, dict[str, int]]:
        """By device, how often which fault was found."""
        found: dict[str, dict[str, int]] = {}
        with self._lock:
            for device, kind, count in self._database.execute(
                "SELECT device, kind, count FROM faults ORDER BY device, kind"
            ):
                found.setdefault(device, {})[kind] = count
        return found

    def expire(self, keeping: Keeping, *, now: float) -> int:
        """Roll up what is too old to be kept of each device, and delete what is too old at all.

        Returns:
            How many slots were rolled up.
        """
        oldest = now - keeping.device_hours * 3_600
        with self._lock, self._transaction():
            old = self._database.execute(
                "SELECT bundle, version, slot, feedback, right, counts FROM slots WHERE slot < ?",
                (oldest,),
            ).fetchall()
            days: dict[tuple[str, str, float], list[tuple[int, int, str]]] = {}
            for bundle, version, slot, *row in old:
                days.setdefault((bundle, version, slot // _DAY * _DAY), []).append(tuple(row))
            for name, rows in days.items():
                known = self._database.execute(
                    "SELECT feedback, right, counts FROM days"
                    " WHERE bundle = ? AND version = ? AND day = ?",
                    name,
                ).fetchall()
                self._write_day(name, [*known, *rows])
            self._database.execute("DELETE FROM slots WHERE slot < ?", (oldest,))
            self._database.execute(
                "DELETE FROM days WHERE day < ?", (now - keeping.fleet_days * _DAY,)
            )
            self._database.execute("DELETE FROM streams WHERE seen < ?", (oldest,))
            self._forget_memory()
        return len(old)

    def forget(self, device: str) -> None:
        """Delete everything that was kept of a device; the fleet's sums stay."""
        with self._lock, self._transaction():
            for table in ("streams", "slots", "faults"):
                self._database.execute(f"DELETE FROM {table} WHERE device = ?", (device,))  # noqa: S608
            self._forget_memory()

    def _count(self, device: str, screened: Screened, now: float) -> tuple[int, int]:
        batch = screened.batch
        if batch is None:
            return 0, 0
        last = self._last_of(device, batch.stream)
        counted = duplicates = 0
        for sequence, window in batch.records:
            if sequence <= last:
                duplicates += 1
                continue
            last = sequence
            counted += 1
            if window.model is not None:
                slot = self._slot((device, window.bundle, window.version), now)
                slot.counts = slot.counts.merge(window.model)
        self._last[device, batch.stream] = last
        self._database.execute(
            "INSERT INTO streams VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " last = excluded.last, dropped = excluded.dropped, seen = excluded.seen",
            (device, batch.stream, last, batch.dropped, now),
        )
        return counted, duplicates

    def _last_of(self, device: str, stream: str) -> int:
        known = self._last.get((device, stream))
        if known is not None:
            return known
        row = self._database.execute(
            "SELECT last FROM streams WHERE device = ? AND stream = ?", (device, stream)
        ).fetchone()
        if row is None:
            # A device begins a new stream when it has lost its store: that is rare.
            self._database.execute(
                "DELETE FROM streams WHERE device = ? AND stream NOT IN (SELECT stream FROM"
                " streams WHERE device = ? ORDER BY seen DESC LIMIT ?)",
                (device, device, _MAX_STREAMS - 1),
            )
        return int(row[0]) if row else 0

    def _slot(self, name: tuple[str, str, str], now: float) -> _Slot:
        start = max(now // SLOT_SECONDS * SLOT_SECONDS, min(self._began.get(name, 0.0), now))
        key = (*name, start)
        slot = self._slots.get(key)
        if slot is None:
            row = self._database.execute(
                "SELECT feedback, right, counts FROM slots"
                " WHERE device = ? AND bundle = ? AND version = ? AND slot = ?",
                key,
            ).fetchone()
            slot = _Slot(_read_counts(row[2]), row[0], row[1]) if row else _Slot(ModelCounts())
            self._slots[key] = slot
        self._dirty.add(key)
        return slot

    def _write(self) -> None:
        self._database.executemany(
            "INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " feedback = excluded.feedback, right = excluded.right, counts = excluded.counts",
            [
                (*key, slot.feedback, slot.right, _counts_json(slot.counts))
                for key in self._dirty
                for slot in (self._slots[key],)
            ],
        )
        for device, bundle, version, _ in self._dirty:
            self._health.pop((device, bundle, version), None)
        self._dirty.clear()
        if len(self._slots) + len(self._last) > _MAX_CACHED:
            self._slots.clear()
            self._last.clear()

    def _write_day(
        self, name: tuple[str, str, float], rows: Iterable[tuple[int, int, str]]
    ) -> None:
        total, feedback, right = ModelCounts(), 0, 0
        for of_row, right_of_row, counts in rows:
            total = total.merge(_read_counts(counts))
            feedback += of_row
            right += right_of_row
        self._database.execute(
            "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?, ?, ?)",
            (*name, feedback, right, _counts_json(total)),
        )

    def _note_fault(self, device: str, kind: str, now: float) -> None:
        known = self._database.execute("SELECT count(*) FROM faults").fetchone()[0]
        name = device if known < _MAX_FAULTY else ""
        self._database.execute(
            "INSERT INTO faults VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET"
            " count = count + 1, last = excluded.last",
            (name, kind, now),
        )

    def _forget_memory(self) -> None:
        self._slots.clear()
        self._dirty.clear()
        self._last.clear()
        self._health.clear()

    def _see_others(self) -> None:
        """Forget what is remembered if another process has written to the file."""
        (version,) = self._database.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._forget_memory()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._see_others()
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            # Memory may be ahead of the file: read it again.
            self._forget_memory()
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise EnvironmentLackError(
                    f"the measurements cannot be kept: {error}",
                    fix="make room on the disk; devices send again what was not taken",
                ) from error
            raise


def _health(feedback: int, right: int, counts: str) -> Health:
    return health_of(_read_counts(counts), feedback=feedback, right=right)


def _counts_json(counts: ModelCounts) -> str:
    window = Window(start=0.0, end=0.0, bundle="-", version="-", model=counts)
    return json.dumps(window.to_json(), separators=(",", ":"))


def _read_counts(text: str) -> ModelCounts:
    document: Mapping[str, object] = json.loads(text)
    return read_window(FieldReader(document)).model or ModelCounts()


def _opened(path: Path) -> sqlite3.Connection:
    """The file with its tables; closed again if it is not one of ours."""
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        # FULL: what was acknowledged to a device is on the disk.
        for line in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=15000"):
            database.execute(f"PRAGMA {line}")
        database.executescript(_TABLES)
    except sqlite3.Error:
        database.close()
        raise
    return database
