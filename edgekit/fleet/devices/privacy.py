"""Give out everything that is held on a device, and delete it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import read_audit, record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.device_mentions import mentioned_devices
from edgekit.fleet.devices.certificates import certificates_of, revoke_device
from edgekit.fleet.devices.forgetting import forget_in_rollout, forget_in_setting, renaming
from edgekit.fleet.devices.inventory import require_device
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.folder_changes import record_noted
from edgekit.fleet.order_store import OrderStore
from edgekit.fleet.rollouts.plan import plan_from_json
from edgekit.fleet.rollouts.state import state_from_json
from edgekit.fleet.store.adoption import ASIDE
from edgekit.fleet.telemetry import outbox, retraining, watching
from edgekit_runtime.protocol import Topics

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

_MANY: Final = 1_000_000
# Settings in which devices stand by their ids.
_SETTINGS: Final = (retraining.SETTING, watching.SETTING)


def export_device(database: Database, fleet: Fleet, device: str) -> dict[str, Any]:
    """Everything that is held on a device, as JSON.

    Of the audit log: what was done to it, by its pseudonym. Of rollouts and experiments: that it
    took part. Of groups: those whose query names it.

    Args:
        database: Of the fleet.
        fleet: Whose orders for the device stand in its folder.
        device: Its id or pseudonym.

    Raises:
        UsageError: If there is no such device.
    """
    from sqlalchemy import inspect, select

    from edgekit.fleet.store.tables import ExperimentRow, GroupRow, RolloutRow

    with database.read() as session:
        row = require_device(session, device)
        document: dict[str, Any] = {"device": _columns(row)}
        for table in _tables_of_devices():
            key = table.__mapper__.columns["device_id"]
            order = inspect(table).primary_key
            rows = session.scalars(select(table).where(key == row.id).order_by(*order))
            document[table.__tablename__] = [_columns(item) for item in rows]
        document["rollouts"] = [
            {"id": rollout.id, "progress": _mentions(rollout.state, row.id)}
            for rollout in session.scalars(select(RolloutRow).order_by(RolloutRow.created))
            if _names(rollout.state, row.id)
        ]
        document["experiments"] = [
            {"id": experiment.id, "group": experiment.arms[row.id]}
            for experiment in session.scalars(select(ExperimentRow).order_by(ExperimentRow.created))
            if row.id in experiment.arms
        ]
        document["groups"] = [
            {"name": group.name, "query": group.query}
            for group in session.scalars(select(GroupRow).order_by(GroupRow.name))
            if row.id in mentioned_devices(group.query)
        ]
        entries = read_audit(session, newest=_MANY, subject=f"device {row.pseudonym}")
        document["audit"] = [asdict(entry) for entry in entries]
        name = row.id
    # As the device is told it, with the signatures.
    kept = OrderStore(fleet).get(name)
    document["order"] = (
        {f"{role}.json": json.loads(data) for role, data in asdict(kept[1]).items()} if kept else {}
    )
    return document


def delete_device(
    database: Database, device: str, *, actor: str, clock: Clock = utc_now
) -> tuple[str, str]:
    """Delete everything that the database holds on a device; what others need stays, without it.

    In rollouts, experiments and queries its pseudonym stands in its place, so that counts stay
    right; a rollout under way expects nothing of it any more. In the audit log it stood under its
    pseudonym from the start; what tied the two together is deleted.

    Args:
        database: Where.
        device: Its id or pseudonym.
        actor: Who deletes.
        clock: The time.

    Returns:
        The id that it had, and its pseudonym.

    Raises:
        UsageError: If there is no such device.
    """
    from sqlalchemy import delete

    from edgekit.fleet.store.tables import TelemetryFaultRow

    with database.write() as session:
        row = require_device(session, device, change=True)
        name, pseudonym = row.id, row.pseudonym
        _forget_in_rollouts(session, name, pseudonym, now=clock().timestamp())
        _forget_in_experiments(session, name, pseudonym)
        _forget_elsewhere(session, name, pseudonym)
        session.delete(row)
        # Not tied to the device's row: who sends nonsense need not be a device.
        session.execute(delete(TelemetryFaultRow).where(TelemetryFaultRow.device_id == name))
        record(
            session,
            actor=actor,
            action="device.deleted",
            subject=f"device {pseudonym}",
            clock=clock,
        )
    return name, pseudonym


def erase_device(
    database: Database,
    fleet: Fleet,
    device: str,
    *,
    broker: BrokerAddress | None,
    actor: str,
    clock: Clock = utc_now,
) -> str:
    """Delete a device everywhere: in the fleet's folder, on the broker, in the database.

    Its certificates of this fleet end first: a device that still came to the broker would be
    known again. Interrupted, do it again: the database comes last. In SQLite's files nothing of it
    is left then; PostgreSQL overwrites deleted rows when it vacuums.

    Args:
        database: Of the fleet.
        fleet: Whose orders for the device go.
        device: Its id or pseudonym.
        broker: Where its state and order are kept; None if nothing was published yet.
        actor: Who deletes.
        clock: The time.

    Returns:
        The device's pseudonym, by which the audit log knows it.

    Raises:
        UsageError: If there is no such device.
        EnvironmentLackError: If the broker does not answer; or if the device is deleted, but
            still stands in SQLite's log of writes.
    """
    with database.read() as session:
        row = require_device(session, device)
        name = row.id
    if any(held.revoked is None for held in certificates_of(database, name)):
        revoke_device(database, fleet, name, actor=actor, clock=clock)
    # What was noted of it without the database, after this one was opened.
    record_noted(fleet, database)
    with fleet.locked():
        OrderStore(fleet).remove(name)
        # Files that were taken into the database long ago name devices too.
        shutil.rmtree(fleet.path / ASIDE, ignore_errors=True)
    # Only now: as long as there was an order, somebody may have been sending it.
    if broker is not None:
        topics = Topics(fleet.id)
        with connected_to(broker) as connection:
            connection.publish([(topics.state(name), b""), (topics.order(name), b"")])
    _, pseudonym = delete_device(database, name, actor=actor, clock=clock)
    database.wipe_log()
    return pseudonym


def _forget_in_rollouts(session: Session, name: str, pseudonym: str, *, now: float) -> None:
    from sqlalchemy import select

    from edgekit.fleet.store.tables import RolloutRow

    for row in session.scalars(select(RolloutRow).with_for_update()):
        plan = plan_from_json(row.plan, where=row.id)
        if not (_names(row.state, name) or name in mentioned_devices(plan.query)):
            continue
        state = state_from_json(row.state, where=row.id)
        row.state = forget_in_rollout(plan, state, name, pseudonym, now).to_json()
        row.plan = {**row.plan, "query": renaming(name, pseudonym)(plan.query)}
        row.revision += 1


def _forget_in_experiments(session: Session, name: str, pseudonym: str) -> None:
    from sqlalchemy import select

    from edgekit.fleet.store.tables import ExperimentRow

    for row in session.scalars(select(ExperimentRow).with_for_update()):
        if name in row.arms:
            # While its devices are still being told, nobody is told in its place.
            arms = row.arms if row.told else {k: v for k, v in row.arms.items() if k != name}
            row.arms = {(pseudonym if key == name else key): arm for key, arm in arms.items()}


def _forget_elsewhere(session: Session, name: str, pseudonym: str) -> None:
    """In queries of people, and in what the control plane keeps for itself."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import ExperimentRow, GroupRow, SettingRow, ShadowRunRow

    rename = renaming(name, pseudonym)
    with_queries: tuple[Any, ...] = (ExperimentRow, GroupRow, ShadowRunRow)
    for table in with_queries:
        for row in session.scalars(select(table).with_for_update()):
            row.query = rename(row.query)
    for setting in session.scalars(
        select(SettingRow)
        .where(SettingRow.name.in_(_SETTINGS) | SettingRow.name.startswith(outbox.PREFIX))
        .with_for_update()
    ):
        setting.value = forget_in_setting(setting.value, name, pseudonym)


def _tables_of_devices() -> list[Any]:
    """Every table whose rows belong to a device: one that is added later is not forgotten."""
    from edgekit.fleet.store.tables import Base

    tables = [mapper.class_ for mapper in Base.registry.mappers if "device_id" in mapper.columns]
    return sorted(tables, key=lambda table: str(table.__tablename__))


def _columns(row: Any) -> dict[str, Any]:
    from sqlalchemy import inspect

    return {column.key: getattr(row, column.key) for column in inspect(type(row)).columns}


def _names(document: object, device: str) -> bool:
    return json.dumps(device) in json.dumps(document)


def _mentions(document: object, device: str) -> list[Any]:
    """What stands under the device's id, anywhere in a document."""
    found: list[Any] = []
    if isinstance(document, dict):
        for key, value in document.items():
            found += [value] if key == device else _mentions(value, device)
    elif isinstance(document, list):
        for value in document:
            found += _mentions(value, device)
    return found
