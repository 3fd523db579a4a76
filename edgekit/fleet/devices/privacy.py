"""Give out everything that is held on a device, and delete it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import read_audit, record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.certificates import certificates_of, revoke_device
from edgekit.fleet.devices.inventory import require_device
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.store.adoption import ASIDE
from edgekit_runtime.protocol import Topics

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

_MANY: Final = 1_000_000


def export_device(database: Database, fleet: Fleet, device: str) -> dict[str, Any]:
    """Everything that is held on a device, as JSON.

    Of the audit log: what was done to it, by its pseudonym. Of rollouts: that it took part.

    Args:
        database: Of the fleet.
        fleet: Whose orders for the device stand in its folder.
        device: Its id or pseudonym.

    Raises:
        UsageError: If there is no such device.
    """
    from sqlalchemy import inspect, select

    from edgekit.fleet.store.tables import RolloutRow

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
        entries = read_audit(session, newest=_MANY, subject=f"device {row.pseudonym}")
        document["audit"] = [asdict(entry) for entry in entries]
        name = row.id
    # As the device is told it, with the signatures.
    document["order"] = {
        path.name: json.loads(path.read_bytes())
        for path in sorted((fleet.devices / name).glob("*.json"))
    }
    return document


def delete_device(
    database: Database, device: str, *, actor: str, clock: Clock = utc_now
) -> tuple[str, str]:
    """Delete everything that the database holds on a device; what others need stays, without it.

    In rollouts its pseudonym stands in its place, so that their counts stay right. In the audit
    log it stood under its pseudonym from the start; what tied the two together is deleted.

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
    from sqlalchemy import delete, select

    from edgekit.fleet.store.tables import ExperimentRow, RolloutRow, TelemetryFaultRow

    with database.write() as session:
        row = require_device(session, device, change=True)
        name, pseudonym = row.id, row.pseudonym
        for rollout in session.scalars(select(RolloutRow).with_for_update()):
            if _names(rollout.state, name):
                rollout.state = _renamed(rollout.state, name, pseudonym)
                rollout.revision += 1
        for experiment in session.scalars(select(ExperimentRow).with_for_update()):
            if name in experiment.arms:
                experiment.arms = _renamed(experiment.arms, name, pseudonym)
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
    """Delete a device everywhere: on the broker, in the fleet's folder, in the database.

    Its certificates of this fleet end first: a device that still came to the broker would be
    known again. Interrupted, do it again: the database comes last.

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
        EnvironmentLackError: If the broker does not answer.
    """
    with database.read() as session:
        row = require_device(session, device)
        name = row.id
    if any(held.revoked is None for held in certificates_of(database, name)):
        revoke_device(database, fleet, name, actor=actor, clock=clock)
    if broker is not None:
        topics = Topics(fleet.id)
        with connected_to(broker) as connection:
            connection.publish([(topics.state(name), b""), (topics.order(name), b"")])
    with fleet.locked():
        shutil.rmtree(fleet.devices / name, ignore_errors=True)
        # Files that were taken into the database long ago name devices too.
        shutil.rmtree(fleet.path / ASIDE, ignore_errors=True)
    return delete_device(database, name, actor=actor, clock=clock)[1]


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


def _renamed(document: Any, old: str, new: str) -> Any:
    if isinstance(document, dict):
        return {
            new if key == old else key: _renamed(value, old, new) for key, value in document.items()
        }
    if isinstance(document, list):
        return [_renamed(value, old, new) for value in document]
    return new if document == old else document
