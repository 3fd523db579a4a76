"""Measurements in the database: each window counts once, whoever sends it how often."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.store.inserts import insert_new
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.telemetry import ModelCounts, TelemetryBatch, Window, read_window
from edgekit_runtime.versions import VERSION_PATTERN

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

_OLDEST_DAYS: Final = 366
_HOUR: Final = 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyCounts:
    """What all devices together reported of a version within an hour.

    Attributes:
        hour: Hours since 1970, by when it was received.
        requests: Requests that reached the model.
        errors: Those that it did not answer.
        insane: Those whose answer held NaN or infinity.
    """

    hour: int
    requests: int
    errors: int
    insane: int


def store_batches(database: Database, batches: Iterable[TelemetryBatch], *, now: float) -> int:
    """Keep batches; all of them, or none if the database fails.

    What is of a device that is not known, or names no possible bundle, is left out: a device must
    have said its state before it is believed anything else.

    Args:
        database: Where.
        batches: As parsed, each proven to come from the device that it names.
        now: Seconds since 1970.

    Returns:
        How many windows were new.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import DeviceRow, TelemetryRow

    taken = list(batches)
    wanted = sorted({batch.device for batch in taken})
    if not wanted:
        return 0
    with database.write() as session:
        known: set[str] = set()
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            known.update(session.scalars(select(DeviceRow.id).where(DeviceRow.id.in_(part))))
        windows = {
            (batch.device, batch.stream, sequence): window
            for batch in taken
            if batch.device in known
            for sequence, window in batch.records
            if _is_possible(window)
        }
        rows = [_row(*key, window, now) for key, window in windows.items()]
        returning = ["device_id", "stream", "sequence"]
        new = insert_new(session, TelemetryRow, rows, returning=returning)
        _add_up(session, [windows[row.device_id, row.stream, row.sequence] for row in new], now)
    return len(new)


def recent_counts(database: Database, *, since: float) -> dict[tuple[str, str], ModelCounts]:
    """By bundle and version, everything that was received since the hour of a moment."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TelemetryHourRow as Row

    query = select(Row).where(Row.hour >= int(since) // _HOUR).order_by(Row.bundle, Row.version)
    found: dict[tuple[str, str], ModelCounts] = {}
    with database.read() as session:
        for row in session.scalars(query):
            key = (row.bundle, row.version)
            found[key] = found.get(key, ModelCounts()).merge(_counts_of(row.data))
    return found


def hourly_counts(database: Database, *, since: float) -> dict[tuple[str, str], list[HourlyCounts]]:
    """By bundle and version, figures of each hour since a moment, the oldest first."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TelemetryHourRow as Row

    query = (
        select(Row.bundle, Row.version, Row.hour, Row.requests, Row.errors, Row.insane)
        .where(Row.hour >= int(since) // _HOUR)
        .order_by(Row.bundle, Row.version, Row.hour)
    )
    found: dict[tuple[str, str], list[HourlyCounts]] = {}
    with database.read() as session:
        for bundle, version, hour, requests, errors, insane in session.execute(query):
            found.setdefault((bundle, version), []).append(
                HourlyCounts(hour=hour, requests=requests, errors=errors, insane=insane)
            )
    return found


def _add_up(session: Session, windows: Iterable[Window], now: float) -> None:
    from edgekit.fleet.store.tables import TelemetryHourRow

    hour = int(now) // _HOUR
    sums: dict[tuple[str, str], ModelCounts] = {}
    for window in windows:
        if window.model is not None:
            key = (window.bundle, window.version)
            sums[key] = sums[key].merge(window.model) if key in sums else window.model
    # In one order everywhere, so that two writers never wait for each other.
    for (bundle, version), counts in sorted(sums.items(), key=lambda item: item[0]):
        key_values = {"bundle": bundle, "version": version, "hour": hour}
        empty = {"requests": 0, "errors": 0, "insane": 0, "data": {}}
        insert_new(session, TelemetryHourRow, [key_values | empty], returning=["hour"])
        row = session.get_one(
            TelemetryHourRow, (bundle, version, hour), with_for_update=True, populate_existing=True
        )
        total = _counts_of(row.data).merge(counts)
        row.requests, row.errors, row.insane = total.requests, total.errors, total.insane
        row.data = _storable(Window(start=0, end=0, bundle=bundle, version=version, model=total))


def _counts_of(document: Mapping[str, Any]) -> ModelCounts:
    return (window_of(document).model if document else None) or ModelCounts()


def window_of(document: Mapping[str, Any]) -> Window:
    """A window as it was stored."""
    return read_window(FieldReader(document))


def _row(device: str, stream: str, sequence: int, window: Window, now: float) -> dict[str, Any]:
    # A clock that is ahead, or was never set, must not decide what is new and what is old.
    plausible = now - _OLDEST_DAYS * 86_400 < window.start <= window.end <= now
    model = window.model or ModelCounts()
    return {
        "device_id": device,
        "stream": stream,
        "sequence": sequence,
        "bundle": window.bundle,
        "version": window.version,
        "started": window.start if plausible else now,
        "ended": window.end if plausible else now,
        "received": now,
        "requests": model.requests,
        "errors": model.errors,
        "insane": model.insane,
        "data": _storable(window),
    }


def _storable(window: Window) -> Any:
    # Names of features are the device's: PostgreSQL's JSON has no NUL and no lone surrogates.
    text = json.dumps(window.to_json(), ensure_ascii=False).replace("\\u0000", "\\ufffd")
    return json.loads(text.encode("utf-8", "replace"))


def _is_possible(window: Window) -> bool:
    if not window.bundle:
        return window.device is not None
    return bool(
        re.fullmatch(NAME_PATTERN, window.bundle) and re.fullmatch(VERSION_PATTERN, window.version)
    )
