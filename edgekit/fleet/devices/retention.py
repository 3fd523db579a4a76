"""How long what devices say is kept, and the deletion of what is older."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

_SETTING: Final = "retention"
_DAY: Final = 86_400.0
_MAX_DAYS: Final = 36_500
_MAX_EVENTS: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long things are kept, in days from when they were received.

    Attributes:
        telemetry_days: Measurements of each device.
        telemetry_hours_days: Their sums over the fleet, by the hour, which name no device.
        events_days: Events.
        alarms_days: Alarms that are over.
        deployments_days: Where a version ran.
        answers_days: What devices were asked for and answered: figures, logs, samples.
        events_per_device: Of one device no more than that, whatever their age: a device that
            floods the fleet with events pushes out its own.
    """

    telemetry_days: int = 2
    telemetry_hours_days: int = 400
    events_days: int = 365
    alarms_days: int = 365
    deployments_days: int = 3_650
    answers_days: int = 30
    events_per_device: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """How many rows were deleted."""

    telemetry: int
    events: int
    alarms: int
    deployments: int
    answers: int


def read_retention(database: Database) -> Retention:
    """What holds now."""
    from edgekit.fleet.store.tables import SettingRow

    with database.read() as session:
        row = session.get(SettingRow, _SETTING)
        return _parse(row.value if row else {})


def change_retention(
    database: Database, changes: dict[str, Any], *, actor: str, clock: Clock = utc_now
) -> Retention:
    """Change some limits; the others stay.

    Raises:
        UsageError: If a name or a value is none; every one is named.
    """
    from edgekit.fleet.store.tables import SettingRow

    with database.write() as session:
        row = session.get(SettingRow, _SETTING, with_for_update=True)
        new = _parse({**(row.value if row else {}), **changes})
        if row is None:
            session.add(SettingRow(name=_SETTING, value=asdict(new)))
        else:
            row.value = asdict(new)
        record(
            session,
            actor=actor,
            action="retention.changed",
            subject="retention",
            detail=changes,
            clock=clock,
        )
    return new


def apply_retention(database: Database, *, clock: Clock = utc_now) -> Expired:
    """Delete what is too old, and each device's events beyond its share."""
    from sqlalchemy import delete, func, select

    from edgekit.fleet.store.tables import (
        AlarmRow,
        DeploymentRow,
        DeviceRequestRow,
        EventRow,
        FeedbackRow,
        ReplyPartRow,
        TelemetryFaultRow,
        TelemetryHourRow,
        TelemetrySlotRow,
        TelemetryStreamRow,
    )
    from edgekit.fleet.telemetry.feedback import REMEMBERED_DAYS

    limits = read_retention(database)
    now = clock().timestamp()
    with database.write() as session:
        oldest = now - limits.telemetry_days * _DAY
        telemetry = _delete(session, delete(TelemetrySlotRow).where(TelemetrySlotRow.slot < oldest))
        _delete(session, delete(TelemetryStreamRow).where(TelemetryStreamRow.seen < oldest))
        _delete(session, delete(TelemetryFaultRow).where(TelemetryFaultRow.last < oldest))
        # For as long as a piece that comes again must not count again.
        oldest = now - REMEMBERED_DAYS * _DAY
        _delete(session, delete(FeedbackRow).where(FeedbackRow.received < oldest))
        events = _delete(
            session, delete(EventRow).where(EventRow.received < now - limits.events_days * _DAY)
        )
        floods = session.execute(
            select(EventRow.device_id)
            .group_by(EventRow.device_id)
            .having(func.count() > limits.events_per_device)
        ).scalars()
        for device in floods.all():
            oldest_kept = session.scalars(
                select(EventRow.id)
                .where(EventRow.device_id == device)
                .order_by(EventRow.id.desc())
                .offset(limits.events_per_device - 1)
                .limit(1)
            ).one()
            events += _delete(
                session,
                delete(EventRow).where(EventRow.device_id == device, EventRow.id < oldest_kept),
            )
        _delete(
            session,
            delete(TelemetryHourRow).where(
                TelemetryHourRow.hour < (now - limits.telemetry_hours_days * _DAY) / 3_600
            ),
        )
        alarms = _delete(
            session, delete(AlarmRow).where(AlarmRow.ended < now - limits.alarms_days * _DAY)
        )
        deployments = _delete(
            session,
            delete(DeploymentRow).where(DeploymentRow.at < now - limits.deployments_days * _DAY),
        )
        oldest = now - limits.answers_days * _DAY
        answers = _delete(session, delete(ReplyPartRow).where(ReplyPartRow.received < oldest))
        asked = delete(DeviceRequestRow).where(
            DeviceRequestRow.created < oldest, DeviceRequestRow.expires < now
        )
        _delete(session, asked)
    return Expired(
        telemetry=telemetry,
        events=events,
        alarms=alarms,
        deployments=deployments,
        answers=answers,
    )


def _delete(session: Session, statement: Any) -> int:
    options = {"synchronize_session": False}
    count: int = session.execute(statement, execution_options=options).rowcount  # type: ignore[attr-defined]
    return count


def _parse(document: object) -> Retention:
    reader = FieldReader(document)
    usual = Retention()
    names = [item.name for item in fields(Retention)]
    for name in sorted(set(reader.names()) - set(names)):
        reader.fault(name, "is unknown")
    values = {
        name: reader.integer(
            name,
            least=1,
            most=_MAX_EVENTS if name == "events_per_device" else _MAX_DAYS,
            default=getattr(usual, name),
        )
        for name in names
    }
    if reader.faults:
        raise UsageError("the retention is invalid: " + "; ".join(reader.faults))
    return Retention(**values)
