"""Alarms in the database: which began, which last, which are over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgekit.fleet.telemetry.alarms import Alarm

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import AlarmRow


def note_alarms(database: Database, lasting: Iterable[Alarm], *, now: float) -> int:
    """Write down which alarms last; those that lasted before and do not now are over.

    Returns:
        How many rows were changed.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import AlarmRow, DeviceRow

    wanted = {alarm.key: alarm for alarm in lasting}
    changes = 0
    with database.read() as session:
        query = select(AlarmRow).where(AlarmRow.ended.is_(None))
        rows = {_key(row): row.detail for row in session.scalars(query)}
        # An alarm goes on for a while after its device was deleted: nobody is told of it any more.
        new = {alarm.device for key, alarm in wanted.items() if key not in rows and alarm.device}
        named = select(DeviceRow.id)
        known = {name for name in new if session.scalar(named.where(DeviceRow.id == name))}
    wanted = {k: a for k, a in wanted.items() if k in rows or not a.device or a.device in known}
    if rows == {key: _detail(alarm) for key, alarm in wanted.items()}:
        # Asked every second: a reader is no writer.
        return 0
    with database.write() as session:
        for row in session.scalars(query.with_for_update()):
            alarm = wanted.pop(_key(row), None)
            if alarm is None:
                row.ended = now
                changes += 1
            elif row.detail != _detail(alarm):
                row.detail = _detail(alarm)
                changes += 1
        for alarm in wanted.values():
            if alarm.device and session.get(DeviceRow, alarm.device) is None:
                continue
            changes += 1
            session.add(
                AlarmRow(
                    began=alarm.began,
                    ended=None,
                    kind=alarm.kind.value,
                    device_id=alarm.device or None,
                    bundle=alarm.bundle,
                    version=alarm.version,
                    detail=_detail(alarm),
                )
            )
    return changes


def _key(row: AlarmRow) -> tuple[str, ...]:
    return (row.kind, row.bundle, row.version, row.device_id or "")


def _detail(alarm: Alarm) -> dict[str, object]:
    # Not the devices: they are deleted one by one, and this row is not theirs alone. Nor the one
    # that it is about: the row says which, and who may not know its name is shown the text too.
    text = alarm.text.replace(f" on {alarm.device}:", ":", 1) if alarm.device else alarm.text
    return {"text": text} | {name: round(psi, 3) for name, psi in alarm.features.items()}
