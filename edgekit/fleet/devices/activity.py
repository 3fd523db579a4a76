"""What happened on devices: events as they told them, alarms, and counts of the whole fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it was received; moments are seconds since 1970."""

    sequence: int
    received: float
    device_time: float
    kind: str
    bundle: str
    version: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that a person should know of; `ended` is None while it lasts."""

    id: int
    began: float
    ended: float | None
    kind: str
    device: str | None
    bundle: str
    version: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCount:
    """How many devices stand where with a bundle.

    Attributes:
        bundle: Its name.
        version: That serves; empty for none.
        phase: Of the newest order for it.
        devices: How many.
    """

    bundle: str
    version: str
    phase: str
    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCounts:
    """The whole fleet in figures, counted by the database."""

    devices: int
    online: int
    versions: tuple[VersionCount, ...]
    open_alarms: Mapping[str, int]


def events_of(database: Database, device: str, *, newest: int = 100) -> tuple[Event, ...]:
    """A device's events, the newest first."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import EventRow

    query = select(EventRow).where(EventRow.device_id == device)
    with database.read() as session:
        return tuple(
            Event(
                sequence=row.sequence,
                received=row.received,
                device_time=row.device_time,
                kind=row.kind,
                bundle=row.bundle,
                version=row.version,
                detail=row.detail,
            )
            for row in session.scalars(query.order_by(EventRow.id.desc()).limit(newest))
        )


def alarms_of(database: Database, *, newest: int = 100) -> tuple[Alarm, ...]:
    """Alarms that last first, then those that are over; the newest of each first."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import AlarmRow

    query = select(AlarmRow).order_by(AlarmRow.ended.is_not(None), AlarmRow.began.desc())
    with database.read() as session:
        return tuple(
            Alarm(
                id=row.id,
                began=row.began,
                ended=row.ended,
                kind=row.kind,
                device=row.device_id,
                bundle=row.bundle,
                version=row.version,
                detail=row.detail,
            )
            for row in session.scalars(query.limit(newest))
        )


def count_fleet(database: Database) -> FleetCounts:
    """The whole fleet in figures."""
    from sqlalchemy import func, select

    from edgekit.fleet.store.tables import AlarmRow, DeviceBundleRow, DeviceRow

    bundle, active, phase = (
        DeviceBundleRow.bundle,
        DeviceBundleRow.active,
        DeviceBundleRow.phase,
    )
    with database.read() as session:
        online = {
            state: int(count)
            for state, count in session.execute(
                select(DeviceRow.online, func.count()).group_by(DeviceRow.online)
            )
        }
        versions = session.execute(
            select(bundle, active, phase, func.count())
            .group_by(bundle, active, phase)
            .order_by(bundle, active, phase)
        ).all()
        alarms = session.execute(
            select(AlarmRow.kind, func.count())
            .where(AlarmRow.ended.is_(None))
            .group_by(AlarmRow.kind)
        ).all()
    return FleetCounts(
        devices=sum(online.values()),
        online=online.get(True, 0),
        versions=tuple(
            VersionCount(bundle=row[0], version=row[1], phase=row[2], devices=row[3])
            for row in versions
        ),
        open_alarms={kind: int(count) for kind, count in alarms},
    )
