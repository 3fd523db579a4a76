"""Measurements in the database: what each device counted in slots of time, and the fleet's sums."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.store.inserts import insert_new, put_rows
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.telemetry import ModelCounts, Window, read_window

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

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


def lock_devices(session: Session, devices: Collection[str]) -> set[str]:
    """Let nobody else write down what these devices measured meanwhile; those that are known.

    In one order everywhere, so that two writers never wait for each other.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import DeviceRow

    query = select(DeviceRow.id).where(DeviceRow.id.in_(sorted(devices))).order_by(DeviceRow.id)
    # Rows that refer to a device may be added by others meanwhile.
    return set(session.scalars(query.with_for_update(key_share=True)))


def read_streams(session: Session, devices: Collection[str]) -> Iterable[Any]:
    """Device, stream, last number and gaps of every stream of some devices."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TelemetryStreamRow as Row

    columns = (Row.device_id, Row.stream, Row.last, Row.missing)
    return session.execute(select(*columns).where(Row.device_id.in_(sorted(devices))))


def read_revisions(session: Session, devices: Collection[str], *, since: float) -> Iterable[Any]:
    """Device, bundle, version, slot and revision of what some devices have, the oldest first."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TelemetrySlotRow as Row

    columns = (Row.device_id, Row.bundle, Row.version, Row.slot, Row.revision)
    query = select(*columns).where(Row.device_id.in_(sorted(devices)), Row.slot >= since)
    return session.execute(query.order_by(Row.slot))


def read_changes(session: Session, bundle: str, version: str, *, since: float) -> Iterable[Any]:
    """Device, slot, revision and moment of what has changed of a version since a moment.

    Slots in which nothing was counted yet, of revision 0, are left out.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TelemetrySlotRow as Row

    query = select(Row.device_id, Row.slot, Row.revision, Row.updated).where(
        Row.bundle == bundle, Row.version == version, Row.updated >= since, Row.revision > 0
    )
    return session.execute(query)


def read_slots(
    session: Session,
    devices: Collection[str],
    bundle: str | None = None,
    version: str | None = None,
    *,
    since: float,
) -> Iterable[Any]:
    """Everything in the slots of some devices that began since a moment; perhaps of one version."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import TelemetrySlotRow as Row

    query = select(*Row.__table__.columns).where(
        Row.device_id.in_(sorted(devices)), Row.slot >= since
    )
    if bundle is not None:
        query = query.where(Row.bundle == bundle, Row.version == version)
    return session.execute(query)


def add_to_hours(
    session: Session, sums: Mapping[tuple[str, str], ModelCounts], *, now: float
) -> None:
    """Add to the sums of the fleet in the hour of a moment, by bundle and version."""
    from edgekit.fleet.store.tables import TelemetryHourRow

    hour = int(now) // _HOUR
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


def add_faults(session: Session, faults: Mapping[tuple[str, str], int], *, now: float) -> None:
    """Count faults, by device and kind."""
    from edgekit.fleet.store.tables import TelemetryFaultRow

    rows = [
        {"device_id": device, "kind": kind, "count": count, "last": now}
        for (device, kind), count in sorted(faults.items())
    ]
    put_rows(session, TelemetryFaultRow, rows, added={"count"})


def window_text(window: Window | None) -> str:
    """What a slot holds, as JSON text: ASCII, whatever a device calls its features."""
    return json.dumps(window.to_json(), separators=(",", ":")) if window else ""


def read_window_text(text: str) -> Window | None:
    """What `window_text` made."""
    return read_window(FieldReader(json.loads(text))) if text else None


def _counts_of(document: Mapping[str, Any]) -> ModelCounts:
    return (read_window(FieldReader(document)).model if document else None) or ModelCounts()


def _storable(window: Window) -> Any:
    # Names of features are the device's: PostgreSQL's JSON has no NUL and no lone surrogates.
    text = json.dumps(window.to_json(), ensure_ascii=False).replace("\\u0000", "\\ufffd")
    return json.loads(text.encode("utf-8", "replace"))
