"""What is known of the devices: taken from what they say, asked for by people and rollouts."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.facts import MAX_LABELS, facts_of, require_labels
from edgekit.fleet.rollouts.labels import Labels, parse_query
from edgekit.fleet.store.errors import NotFoundError
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.errors import UsageError
from edgekit_runtime.protocol import require_id

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import DeviceRow
    from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState

_OUTCOMES: Final = {
    "update.active": "active",
    "update.rejected": "rejected",
    "update.rolled_back": "rolled_back",
}
_REPORTED_COLUMNS: Final = (
    "online",
    "agent",
    "order_version",
    "hardware",
    "state",
    "reported_at",
)
_MAX_DETAIL: Final = 4_000
_PSEUDONYM_BYTES: Final = 8
# What a device may choose the length of, and how much of it is kept.
_LENGTHS: Final = {"bundle": 64, "version": 128, "variant": 128, "agent": 64, "kind": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device, as far as it is known.

    Attributes:
        id: Its id.
        pseudonym: Stands for it wherever its id need not be known.
        first_seen: When it became known; seconds since 1970.
        last_seen: When it was heard last; None for never.
        online: Whether it said so last.
        agent: The agent's version.
        order_version: The order that it follows.
        labels: Its owner's.
        hardware: As it reports it.
        bundles: Its report of each bundle, by name.
    """

    id: str
    pseudonym: str
    first_seen: float
    last_seen: float | None
    online: bool
    agent: str
    order_version: int
    labels: dict[str, str]
    hardware: dict[str, Any]
    bundles: dict[str, dict[str, str]]

    def facts(self, now: float) -> Labels:
        """What queries can ask for."""
        return facts_of(
            self.id,
            labels=self.labels,
            hardware=self.hardware,
            agent=self.agent,
            online=self.online,
            order_version=self.order_version,
            silent_seconds=None if self.last_seen is None else max(0.0, now - self.last_seen),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class Inventory:
    """The devices in a database.

    Args:
        database: Where they are.
        actor: Who changes something, for the audit log.
        clock: The time.
    """

    def __init__(self, database: Database, *, actor: str, clock: Clock = utc_now) -> None:
        self.database = database
        self._actor = actor
        self._clock = clock

    def add(self, device: str, labels: Mapping[str, str] | None = None) -> Device:
        """Make a device known before it speaks; one that is known gets the labels.

        Raises:
            UsageError: If the id or a label is none.
        """
        require_id(device, kind="device")
        with self.database.write() as session:
            make_known(session, [device], self._clock().timestamp())
        return self.label(device, dict(labels or {}))

    def hear(self, states: Iterable[DeviceState], events: Iterable[DeviceEvent] = ()) -> None:
        """Take in what devices said, all of it or nothing; taken in twice, it counts once.

        A device that was not known is known from now on: the broker let it in.

        Args:
            states: At most one of a device, the newest.
            events: In the order in which they came.
        """
        now = self._clock().timestamp()
        heard, told = list(states), list(events)
        if not heard and not told:
            # Most of what comes is measurements: whoever has nothing to write does not lock.
            return
        with self.database.write() as session:
            names = {state.device for state in heard} | {event.device for event in told}
            make_known(session, sorted(names), now)
            _write_states(session, heard)
            speaking = {state.device for state in heard if state.online}
            speaking |= {event.device for event in told}
            _note_seen(session, sorted(speaking), now)
            self._take_events(session, told, now)

    def get(self, device: str) -> Device:
        """A device, by id or pseudonym.

        Raises:
            UsageError: If there is none.
        """
        with self.database.read() as session:
            return _device(require_device(session, device))

    def by_pseudonym(self, pseudonym: str) -> Device:
        """A device by its pseudonym, never by its id.

        Raises:
            NotFoundError: If there is none.
        """
        from sqlalchemy import select

        from edgekit.fleet.store.tables import DeviceRow

        with self.database.read() as session:
            row = session.scalar(select(DeviceRow).where(DeviceRow.pseudonym == pseudonym))
            if row is None:
                raise NotFoundError(
                    f"there is no device {pseudonym!r}", fix="name it by its pseudonym"
                )
            return _device(row)

    def pseudonyms(self) -> dict[str, str]:
        """The pseudonym of every device, by id."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import DeviceRow

        with self.database.read() as session:
            rows = session.execute(select(DeviceRow.id, DeviceRow.pseudonym))
            return {row.id: row.pseudonym for row in rows}

    def all(self) -> tuple[Device, ...]:
        """Every device, by id."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import DeviceRow

        with self.database.read() as session:
            return tuple(map(_device, session.scalars(select(DeviceRow).order_by(DeviceRow.id))))

    def owner_labels(self) -> dict[str, Mapping[str, str]]:
        """The owner's labels of every device, by id."""
        return {device.id: device.labels for device in self.all()}

    def page(self, *, offset: int, limit: int, by_pseudonym: bool = False) -> tuple[Device, ...]:
        """Some of the devices, in the order of their ids or of their pseudonyms."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import DeviceRow

        order = DeviceRow.pseudonym if by_pseudonym else DeviceRow.id
        query = select(DeviceRow).order_by(order).offset(offset).limit(limit)
        with self.database.read() as session:
            return tuple(map(_device, session.scalars(query)))

    def find(self, query: str) -> tuple[Device, ...]:
        """The devices that a label query means, by id.

        Raises:
            UsageError: If the query breaks the grammar; says where.
        """
        matches = parse_query(query).matches
        now = self._clock().timestamp()
        return tuple(device for device in self.all() if matches(device.facts(now)))

    def count(self, queries: Iterable[str]) -> list[int]:
        """How many devices each of many queries means: the devices are read once.

        Raises:
            UsageError: If a query breaks the grammar; says where.
        """
        parsed = [parse_query(query) for query in queries]
        facts = list(self.labels().values()) if parsed else []
        return [sum(map(query.matches, facts)) for query in parsed]

    def meant(self, text: str) -> tuple[Device, ...]:
        """The devices that somebody means: one by its id, or those of a label query.

        Raises:
            UsageError: If it is no device's id, and breaks the grammar of queries.
        """
        from edgekit.fleet.store.tables import DeviceRow

        with self.database.read() as session:
            row = session.get(DeviceRow, text)
            named = None if row is None else _device(row)
        return self.find(text) if named is None else (named,)

    def labels(self) -> dict[str, Labels]:
        """What queries can ask of every device, by id: what a rollout chooses from."""
        now = self._clock().timestamp()
        return {device.id: device.facts(now) for device in self.all()}

    def label(self, device: str, labels: Mapping[str, str | None]) -> Device:
        """Set labels of a device; None takes one away.

        Raises:
            UsageError: If there is no such device, or something is no label.
        """
        require_labels(labels)
        with self.database.write() as session:
            row = require_device(session, device, change=True)
            changed = {**row.labels, **labels}
            kept = {name: value for name, value in sorted(changed.items()) if value is not None}
            if len(kept) > MAX_LABELS:
                raise UsageError(f"a device has at most {MAX_LABELS} labels", where=row.id)
            if kept != row.labels:
                row.labels = kept
                record(
                    session,
                    actor=self._actor,
                    action="device.labelled",
                    subject=f"device {row.pseudonym}",
                    detail={"labels": dict(labels)},
                    clock=self._clock,
                )
            return _device(row)

    def _take_events(self, session: Session, events: Sequence[DeviceEvent], now: float) -> None:
        from edgekit.fleet.store.inserts import insert_new
        from edgekit.fleet.store.tables import DeploymentRow, EventRow

        new = insert_new(
            session,
            EventRow,
            [_event_values(event, now) for event in events],
            returning=["device_id", "bundle", "version", "kind", "detail", "sequence"],
        )
        deployments = [
            DeploymentRow(
                device_id=row.device_id,
                bundle=row.bundle,
                version=row.version,
                at=now,
                outcome=_OUTCOMES[row.kind],
                reason=row.detail,
            )
            for row in sorted(new, key=lambda row: (row.device_id, row.sequence))
            if row.kind in _OUTCOMES
        ]
        session.add_all(deployments)


def make_known(session: Session, devices: Iterable[str], now: float) -> None:
    """Write down the devices that are not known yet."""
    from edgekit.fleet.store.inserts import insert_new
    from edgekit.fleet.store.tables import DeviceRow

    rows: list[dict[str, Any]] = [
        {
            "id": device,
            "pseudonym": secrets.token_hex(_PSEUDONYM_BYTES),
            "first_seen": now,
            "last_seen": None,
            "reported_at": None,
            "online": False,
            "agent": "",
            "order_version": 0,
            "labels": {},
            "hardware": {},
            "state": {},
        }
        for device in devices
    ]
    insert_new(session, DeviceRow, rows, returning=["id"])


def _write_states(session: Session, states: Sequence[DeviceState]) -> None:
    from sqlalchemy import bindparam, delete, insert, update

    from edgekit.fleet.store.tables import DeviceBundleRow, DeviceRow

    if not states:
        return
    devices, bundles = DeviceRow.__table__, DeviceBundleRow.__table__
    connection = session.connection()
    # Core statements for many rows: an UPDATE of mapped rows would load each of them first.
    connection.execute(
        update(devices)  # type: ignore[arg-type]
        .where(devices.c.id == bindparam("device"))
        .values({name: bindparam(f"new_{name}") for name in _REPORTED_COLUMNS}),
        [
            {
                "device": state.device,
                "new_online": state.online,
                "new_agent": _cut("agent", state.agent),
                "new_order_version": state.order_version,
                "new_hardware": storable(state.hardware),
                "new_state": {name: storable(asdict(item)) for name, item in _named(state).items()},
                "new_reported_at": state.time,
            }
            for state in states
        ],
    )
    connection.execute(
        delete(bundles).where(bundles.c.device_id == bindparam("device")),  # type: ignore[arg-type]
        [{"device": state.device} for state in states],
    )
    rows = [
        {
            "device_id": state.device,
            "bundle": name,
            "active": _cut("version", bundle.active),
            "variant": _cut("variant", bundle.variant),
            "phase": bundle.phase.value,
            "reason": _plain(bundle.reason)[:_MAX_DETAIL],
        }
        for state in states
        for name, bundle in _named(state).items()
    ]
    if rows:
        connection.execute(insert(bundles), rows)  # type: ignore[arg-type]


def _named(state: DeviceState) -> dict[str, BundleState]:
    return {n: item for n, item in state.bundles.items() if re.fullmatch(NAME_PATTERN, n)}


def _event_values(event: DeviceEvent, now: float) -> dict[str, Any]:
    return {
        "device_id": event.device,
        "sequence": event.sequence,
        "received": now,
        "device_time": event.time,
        "kind": _cut("kind", event.kind),
        "bundle": _cut("bundle", event.bundle),
        "version": _cut("version", event.version),
        "detail": _plain(event.detail)[:_MAX_DETAIL],
    }


def _note_seen(session: Session, devices: Sequence[str], now: float) -> None:
    from sqlalchemy import bindparam, update

    from edgekit.fleet.store.tables import DeviceRow

    if devices:
        table = DeviceRow.__table__
        statement = (
            update(table)  # type: ignore[arg-type]
            .where(table.c.id == bindparam("device"))
            .values(last_seen=now)
        )
        session.connection().execute(statement, [{"device": name} for name in devices])


def require_device(session: Session, device: str, *, change: bool = False) -> DeviceRow:
    """The row of a device, by id or pseudonym; locked where it is to be changed.

    Raises:
        UsageError: If there is none.
    """
    from sqlalchemy import or_, select

    from edgekit.fleet.store.tables import DeviceRow

    query = select(DeviceRow).where(or_(DeviceRow.id == device, DeviceRow.pseudonym == device))
    row = session.scalars(query.with_for_update() if change else query).first()
    if row is None:
        raise NotFoundError(f"there is no device {device!r}", fix="see: edgekit fleet devices list")
    return row


def _device(row: DeviceRow) -> Device:
    return Device(
        id=row.id,
        pseudonym=row.pseudonym,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        online=row.online,
        agent=row.agent,
        order_version=row.order_version,
        labels=row.labels,
        hardware=row.hardware,
        bundles=row.state,
    )


def _cut(field: str, text: str) -> str:
    return _plain(text)[: _LENGTHS[field]]


def _plain(text: str) -> str:
    # PostgreSQL has no NUL in texts, and lone surrogates are in no encoding.
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def storable(document: Mapping[str, Any]) -> Any:
    """What a device said, as both databases can hold it."""
    text = json.dumps(document, ensure_ascii=False).replace("\\u0000", "\\ufffd")
    # JSON in a database has no NaN and no infinity; Python's has.
    return json.loads(_plain(text), parse_constant=str)
