"""Measurements on the disk until somebody has them: bounded, the oldest made coarser first.

Windows of a minute become windows of an hour and then of a day before anything is lost; what is
lost is counted. Rows that are on their way keep their sequence numbers, so that sending them again
does not count twice. What was measured and what events say is encrypted if that is configured; of
which bundle, version and time it is, and how long it is, can be read all the same.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Final

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.sealing.keys import StorageLockedError
from edgekit_runtime.sealing.vault import Vault
from edgekit_runtime.telemetry import MAX_BATCH_BYTES, MAX_RECORDS, Window, pack_batch, read_window

_log = logging.getLogger(__name__)

HOUR_SECONDS: Final = 3600
DAY_SECONDS: Final = 86_400
# Level to the span that its windows are merged into when room is needed.
_COARSER: Final = (HOUR_SECONDS, DAY_SECONDS)
# After making room there is some for a while.
_ROOM_SHARE: Final = 0.9
_ROW_BYTES: Final = 64
_MAX_EVENTS: Final = 2000
_MAX_UNSTORED: Final = 100
_TABLES: Final = ("rows", "events")
_KEEP_EVENT: Final = "INSERT OR REPLACE INTO events VALUES (?, ?)"
_ENVELOPE_BYTES: Final = 256
_RECORD_BYTES: Final = 40
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  level INTEGER NOT NULL,
  bundle TEXT NOT NULL,
  version TEXT NOT NULL,
  start REAL NOT NULL,
  body BLOB NOT NULL,
  batch INTEGER
);
CREATE INDEX IF NOT EXISTS rows_of_batch ON rows (batch);
CREATE TABLE IF NOT EXISTS events (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A message on its way.

    Attributes:
        number: By which it is acknowledged.
        message: See `edgekit_runtime.telemetry`.
    """

    number: int
    message: bytes


class TelemetryStore:
    """Windows that nobody has acknowledged yet; for use by one thread at a time."""

    def __init__(
        self, path: Path, *, device: str, most_bytes: int, vault: Vault | None = None
    ) -> None:
        """Open the store, or begin a new one where it is missing or damaged.

        Args:
            path: Of the database.
            device: Who measures.
            most_bytes: What all windows may take.
            vault: Of the folder around it; None for one that keeps everything plain.
        """
        self._path = path
        self._vault = vault or Vault(path.parent)
        # Events of a time in which they can neither be written nor be left unsaid.
        self._unstored: dict[int, bytes] = {}
        self._device = device
        self._most_bytes = most_bytes
        self._most_batch_bytes = MAX_BATCH_BYTES
        self.was_damaged = False
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            _log.warning("the telemetry store is damaged and begun anew: %s", error)
            self.was_damaged = True
            self._database.close()
            for suffix in ("", "-wal", "-shm", "-journal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._open()

    @property
    def dropped(self) -> int:
        """How many windows and events were lost for want of room, in this stream."""
        return int(self._meta("dropped", lambda: "0"))

    @property
    def last_event(self) -> int:
        """The largest number of an event that was ever kept here; 0 for none."""
        return int(self._meta("last_event", lambda: "0"))

    @property
    def waiting(self) -> int:
        """How many windows wait."""
        return int(self._database.execute("SELECT count(*) FROM rows").fetchone()[0])

    def add(self, *windows: Window) -> None:
        """Keep windows, and make room for them if need be.

        Raises:
            sqlite3.Error: If the disk is full or failing; nothing was kept then.
            StorageLockedError: If they are to be encrypted, and the key is missing; they are
                counted as dropped then.
        """
        try:
            with self._database:
                for window in windows:
                    self._insert(window, level=0)
                self._make_room()
        except StorageLockedError:
            with self._database:
                self._count_dropped(len(windows))
            raise

    def next_batch(self) -> StoredBatch | None:
        """The oldest windows as one message; those of a batch that was not acknowledged first.

        Raises:
            sqlite3.Error: If the disk is full or failing.
            StorageLockedError: If they are encrypted, and the key is missing.
        """
        rows: list[tuple[int, bytes]] = []
        while not rows:
            found = self._database.execute("SELECT min(batch) FROM rows").fetchone()[0]
            if found is None:
                found = self._mark_batch()
            if found is None:
                return None
            rows = self._database.execute(
                "SELECT sequence, body FROM rows WHERE batch = ? ORDER BY sequence", (found,)
            ).fetchall()
            with self._database:
                rows = self._opened("rows", rows)
        stream = self._meta("stream", lambda: os.urandom(8).hex())
        message = pack_batch(self._device, stream, self.dropped, rows)
        return StoredBatch(number=found, message=message)

    def acknowledge(self, number: int) -> None:
        """Forget a batch that has arrived.

        Raises:
            sqlite3.Error: If the disk is full or failing.
        """
        with self._database:
            self._database.execute("DELETE FROM rows WHERE batch = ?", (number,))

    def make_smaller(self, number: int, most_bytes: int) -> None:
        """Take a batch apart that is too large to be sent; a window that is so alone is dropped.

        Raises:
            sqlite3.Error: If the disk is full or failing.
        """
        # Estimates may be somewhat low: smaller each time, until it fits.
        self._most_batch_bytes = min(most_bytes, self._most_batch_bytes * 3 // 4)
        rows = self._database.execute(
            "SELECT sequence, body FROM rows WHERE batch = ?", (number,)
        ).fetchall()
        with self._database:
            if len(rows) > 1:
                self._database.execute("UPDATE rows SET batch = NULL WHERE batch = ?", (number,))
            elif rows:
                lost = sum(_read(body).windows for _, body in self._opened("rows", rows))
                self._database.execute("DELETE FROM rows WHERE batch = ?", (number,))
                self._count_dropped(lost)

    def drop_event(self, sequence: int) -> None:
        """Give up an event that can never be sent, and count it.

        Raises:
            sqlite3.Error: If the disk is full or failing.
        """
        self.forget_event(sequence)
        with self._database:
            self._count_dropped(1)

    def add_event(self, sequence: int, body: bytes) -> None:
        """Keep an event until it has arrived; the oldest are dropped, and counted, for room.

        Raises:
            sqlite3.Error: If the disk is full or failing.
            StorageLockedError: If it is to be encrypted, and the key is missing; it is kept in
                memory then.
        """
        try:
            stored = self._vault.encode_record(_name("events", sequence), body)
        except StorageLockedError:
            self._unstored[sequence] = body
            for surplus in list(self._unstored)[:-_MAX_UNSTORED]:
                del self._unstored[surplus]
            with self._database:
                self._set_meta("last_event", str(sequence))
            raise
        with self._database:
            self._database.execute(_KEEP_EVENT, (sequence, stored))
            self._set_meta("last_event", str(sequence))
            lost = self._database.execute(
                "DELETE FROM events WHERE sequence NOT IN"
                " (SELECT sequence FROM events ORDER BY sequence DESC LIMIT ?)",
                (_MAX_EVENTS,),
            ).rowcount
            if lost:
                self._count_dropped(lost)

    def events(self, *, without: Collection[int], most: int) -> list[tuple[int, bytes]]:
        """The oldest events that are kept, but for some; while the key is missing, newer ones."""
        kept: list[tuple[int, bytes]] = []
        if not self._vault.trouble():
            found = self._database.execute(
                "SELECT sequence, body FROM events ORDER BY sequence LIMIT ?",
                (most + len(without),),
            ).fetchall()
            with self._database:
                kept = self._opened("events", found)
        return [row for row in (*kept, *self._unstored.items()) if row[0] not in without][:most]

    def forget_event(self, sequence: int) -> None:
        """Forget an event that has arrived.

        Raises:
            sqlite3.Error: If the disk is full or failing.
        """
        self._unstored.pop(sequence, None)
        with self._database:
            self._database.execute("DELETE FROM events WHERE sequence = ?", (sequence,))

    def convert(self) -> None:
        """Write everything anew in the form that is configured now, and leave no trace of before.

        Events that could not be written until now are, too.

        Raises:
            sqlite3.Error: If the disk is full or failing.
            StorageLockedError: If the key is missing.
        """
        changed = False
        with self._database:
            for sequence, body in self._unstored.items():
                stored = self._vault.encode_record(_name("events", sequence), body)
                self._database.execute(_KEEP_EVENT, (sequence, stored))
            for table in _TABLES:
                rows = self._database.execute(f"SELECT sequence, body FROM {table}").fetchall()  # noqa: S608 - a name of ours
                old = [row for row in rows if not self._vault.is_current_record(row[1])]
                changed = changed or bool(old)
                self._database.executemany(
                    f"UPDATE {table} SET body = ? WHERE sequence = ?",  # noqa: S608
                    [
                        (self._vault.encode_record(_name(table, sequence), body), sequence)
                        for sequence, body in self._opened(table, old)
                    ],
                )
        self._unstored.clear()
        if changed:
            # Else what was there before would stay in free pages, and in the journal of writes.
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
        execute = self._database.execute
        # One small page cache; a commit is on the disk when it returns.
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "cache_size = -128",
            "journal_size_limit = 262144",
            "wal_autocheckpoint = 64",
            "secure_delete = ON",
        ):
            execute(f"PRAGMA {pragma}")
        if execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its pages are damaged")
        self._database.executescript(_SCHEMA)
        self._meta("stream", lambda: os.urandom(8).hex())

    def _meta(self, name: str, make: Callable[[], str]) -> str:
        found = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if found:
            return str(found[0])
        value = make()
        with self._database:
            self._set_meta(name, value)
        return value

    def _set_meta(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _insert(self, window: Window, *, level: int) -> None:
        body = json.dumps(window.to_json(), separators=(",", ":")).encode()
        sequence = self._database.execute(
            "INSERT INTO rows (level, bundle, version, start, body) VALUES (?, ?, ?, ?, '')",
            (level, window.bundle, window.version, window.start),
        ).lastrowid
        stored = self._vault.encode_record(_name("rows", int(sequence or 0)), body)
        self._database.execute("UPDATE rows SET body = ? WHERE sequence = ?", (stored, sequence))

    def _opened(self, table: str, rows: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Rows as they were before they were encrypted; those that are lost are dropped."""
        opened = []
        for sequence, body in rows:
            try:
                plain = self._vault.decode_record(_name(table, sequence), body)
            except VerificationError as error:
                _log.warning("something stored is lost: %s", error)
                self._database.execute(f"DELETE FROM {table} WHERE sequence = ?", (sequence,))  # noqa: S608
                self._count_dropped(1)
            else:
                opened.append((sequence, plain))
        return opened

    def _count_dropped(self, count: int) -> None:
        self._set_meta("dropped", str(self.dropped + count))

    def _mark_batch(self) -> int | None:
        """Choose the rows of the next batch, and write down which they are before it is sent."""
        chosen: list[int] = []
        size = _ENVELOPE_BYTES
        rows = self._database.execute(
            "SELECT sequence, length(body) FROM rows ORDER BY sequence LIMIT ?", (MAX_RECORDS,)
        )
        for sequence, length in rows:
            size += length + _RECORD_BYTES
            if chosen and size > self._most_batch_bytes:
                break
            chosen.append(sequence)
        if not chosen:
            return None
        number = int(self._meta("batches", lambda: "0")) + 1
        with self._database:
            self._set_meta("batches", str(number))
            self._database.execute(
                "UPDATE rows SET batch = ? WHERE sequence <= ?", (number, chosen[-1])
            )
        return number

    def _size(self) -> int:
        total = self._database.execute(
            "SELECT coalesce(sum(length(body)), 0) + count(*) * ? FROM rows", (_ROW_BYTES,)
        ).fetchone()[0]
        return int(total)

    def _make_room(self) -> None:
        if self._size() <= self._most_bytes:
            return
        goal = _ROOM_SHARE * self._most_bytes
        for level, span in enumerate(_COARSER):
            while self._size() > goal and self._merge_oldest(level, span):
                continue
        while self._size() > goal:
            # A batch on its way counts as the oldest: it may not arrive at all.
            row = self._database.execute(
                "SELECT sequence, body FROM rows ORDER BY start, sequence LIMIT 1"
            ).fetchone()
            if row is None:
                return
            for sequence, body in self._opened("rows", [row]):
                self._database.execute("DELETE FROM rows WHERE sequence = ?", (sequence,))
                self._count_dropped(_read(body).windows)

    def _merge_oldest(self, level: int, span: int) -> bool:
        """Merge the oldest windows of a level that lie in one span; whether there were any."""
        oldest = self._database.execute(
            "SELECT bundle, version, cast(start / ? AS INTEGER) FROM rows"
            " WHERE level = ? AND batch IS NULL ORDER BY start, sequence LIMIT 1",
            (span, level),
        ).fetchone()
        if oldest is None:
            return False
        rows = self._database.execute(
            "SELECT sequence, body FROM rows WHERE level = ? AND batch IS NULL"
            " AND bundle = ? AND version = ? AND cast(start / ? AS INTEGER) = ?",
            (level, *oldest[:2], span, oldest[2]),
        ).fetchall()
        windows = [_read(body) for _, body in self._opened("rows", rows)]
        if not windows:
            return True
        merged = reduce(Window.merge, windows)
        self._database.executemany(
            "DELETE FROM rows WHERE sequence = ?", [(sequence,) for sequence, _ in rows]
        )
        self._insert(merged, level=level + 1)
        return True


def _name(table: str, sequence: int) -> str:
    """What a stored body is bound to."""
    return f"telemetry.db/{table}/{sequence}"


def _read(body: bytes) -> Window:
    return read_window(FieldReader(json.loads(body)))
