"""What devices were asked for, and what they answered: kept until it is done, or too late.

A device that is away is asked when it comes back: a request stays open until it is answered,
withdrawn or expired. Of answers only what was asked for is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.inventory import require_device, storable
from edgekit.fleet.store.errors import NotFoundError
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.requests import DeviceReply, DeviceRequest, RequestKind
from edgekit_runtime.versions import VERSION_PATTERN

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import DeviceRequestRow

MAX_HOURS: Final = 24.0 * 90
# Of one device: it holds a few at a time, and whoever floods it shuts it off from others.
MAX_OPEN: Final = 16
_AT_ONCE: Final = 1_000
_READ_AT_ONCE: Final = 500
_SHOWN: Final = 5
_MAX_PARTS: Final = 200
_MAX_LINES: Final = 1_000
_HOUR: Final = 3_600.0
# What people may ask for; certificates come by themselves when one is asked to be renewed.
ASKABLE: Final = (
    RequestKind.BENCH,
    RequestKind.LOGS,
    RequestKind.SAMPLES,
    RequestKind.RESTART,
    RequestKind.RENEW,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request and how it stands; moments are seconds since 1970.

    Attributes:
        device: Who is asked.
        number: Of the request, within the device's.
        kind: What is asked for.
        arguments: As `DeviceRequest` has them.
        created: When somebody asked.
        created_by: Who.
        expires: When it is void.
        sent: When it was published last; None for not yet.
        answered: When the answer was complete; None for not yet.
        withdrawn: When it was taken back, or None.
        ok: Whether it was done; None while there is no answer.
    """

    device: str
    number: int
    kind: RequestKind
    arguments: dict[str, Any]
    created: float
    created_by: str
    expires: float
    sent: float | None
    answered: float | None
    withdrawn: float | None
    ok: bool | None

    def standing(self, now: float) -> str:
        """One of "waiting", "sent", "done", "failed", "withdrawn" and "expired"."""
        if self.answered is not None:
            return "done" if self.ok else "failed"
        if self.withdrawn is not None:
            return "withdrawn"
        if now >= self.expires:
            return "expired"
        return "waiting" if self.sent is None else "sent"

    def request(self) -> DeviceRequest:
        """What is signed and sent."""
        return DeviceRequest(
            device=self.device,
            number=self.number,
            expires=self.expires,
            kind=self.kind,
            arguments=self.arguments,
        )

    def to_json(self, now: float) -> dict[str, Any]:
        """As JSON; of a certificate only that it was sent."""
        document = asdict(self) | {"kind": self.kind.value, "standing": self.standing(now)}
        if self.kind is RequestKind.CERTIFICATE:
            document["arguments"] = {}
        return document


def read_arguments(kind: RequestKind, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a request, with what is usual where nothing is said.

    Raises:
        UsageError: If one is missing, unknown or none; every one is named.
    """
    reader = FieldReader(dict(given))
    found: dict[str, Any] = {}
    match kind:
        case RequestKind.BENCH:
            found["bundle"] = reader.text("bundle", pattern=NAME_PATTERN)
            if "version" in given:
                found["version"] = reader.text("version", pattern=VERSION_PATTERN)
        case RequestKind.LOGS:
            found["lines"] = reader.integer("lines", least=1, most=_MAX_LINES, default=200)
        case RequestKind.SAMPLES:
            found["most"] = reader.integer("most", least=1, most=_MAX_LINES, default=10)
        case RequestKind.RESTART:
            found["what"] = reader.text("what", pattern="server|agent", default="server")
    for name in sorted(set(given) - set(found)):
        reader.fault(name, f"is no argument of {kind.value}")
    if kind not in ASKABLE:
        reader.fault("kind", "is sent by the control plane itself")
    if reader.faults:
        raise UsageError(f"the request is invalid: {'; '.join(reader.faults)}")
    return found


class RequestBook:
    """The requests in a database.

    Args:
        database: Where they are.
        actor: Who asks, for the audit log.
        clock: The time.
    """

    def __init__(self, database: Database, *, actor: str, clock: Clock = utc_now) -> None:
        self.database = database
        self._actor = actor
        self._clock = clock

    def ask(
        self,
        device: str,
        kind: RequestKind,
        arguments: Mapping[str, Any] | None = None,
        *,
        hours: float = 24.0,
    ) -> Asked:
        """Write a request down; whoever runs the control plane sends it when the device is there.

        Args:
            device: Its id or pseudonym.
            kind: What is asked for.
            arguments: By kind; see `read_arguments`.
            hours: After how many it is void.

        Raises:
            UsageError: If there is no such device, something makes no sense, or too much is open.
        """
        wanted = read_arguments(kind, arguments or {})
        if not 0 < hours <= MAX_HOURS:
            raise UsageError(
                f"a request cannot be good for {hours:g} hours",
                fix=f"give more than 0, at most {MAX_HOURS:g}",
            )
        return self._write(device, kind, wanted, hours)

    def ask_all(
        self,
        devices: Collection[str],
        kind: RequestKind,
        arguments: Mapping[str, Any] | None = None,
        *,
        hours: float = 24.0,
    ) -> list[Asked]:
        """Ask many devices for the same; see `ask`.

        Args:
            devices: Their ids.
            kind: What is asked for.
            arguments: By kind; see `read_arguments`.
            hours: After how many it is void.

        Raises:
            UsageError: If something makes no sense, or too much is open of any: nobody is asked
                then, so that the same can be done again.
        """
        from sqlalchemy import func

        from edgekit.fleet.store.tables import DeviceRequestRow as Row

        full = (
            _open(self._now)
            .with_only_columns(Row.device_id)
            .group_by(Row.device_id)
            .having(func.count() >= MAX_OPEN)
        )
        with self.database.read() as session:
            blocked = sorted(set(session.scalars(full)) & set(devices))
        if blocked:
            raise _too_much_open(blocked)
        return [self.ask(device, kind, arguments, hours=hours) for device in devices]

    def add_certificate(
        self, session: Session, device: str, certificate: str, authorities: str
    ) -> None:
        """Write down that a device is to get a certificate that it asked for.

        However much else it is asked for: without one it is shut out in the end.

        Args:
            session: Of the transaction in which the certificate is written down; ends it.
            device: Its id.
            certificate: In PEM.
            authorities: What it must trust, in PEM.
        """
        arguments = {"certificate": certificate, "authorities": authorities}
        require_device(session, device, change=True)
        self._add(session, device, RequestKind.CERTIFICATE, arguments, 24.0)

    def of(self, device: str, *, newest: int = 50) -> tuple[Asked, ...]:
        """What a device was asked for, the newest first.

        Raises:
            NotFoundError: If there is no such device.
        """
        from sqlalchemy import select

        from edgekit.fleet.store.tables import DeviceRequestRow as Row

        with self.database.read() as session:
            name = require_device(session, device).id
            query = select(Row).where(Row.device_id == name)
            return _read(session, query.order_by(Row.number.desc()).limit(newest))

    def open(
        self, *, most: int = 1_000, devices: Collection[str] | None = None
    ) -> tuple[Asked, ...]:
        """What waits for a device or its answer, the oldest first.

        Args:
            most: How many at most.
            devices: Only of these, by id; None for all.
        """
        from edgekit.fleet.store.tables import DeviceRequestRow as Row

        query = _open(self._now).order_by(Row.created, Row.device_id, Row.number).limit(most)
        with self.database.read() as session:
            found = _read_of(session, query, devices)
        return tuple(sorted(found, key=lambda a: (a.created, a.device, a.number))[:most])

    def to_send(self, devices: Collection[str] | None, *, again: float) -> tuple[Asked, ...]:
        """All open requests of devices to which something may be due, by device and number.

        Args:
            devices: Those that are there; None for those that the database knows to be.
            again: What was sent before this moment may be due again.
        """
        from sqlalchemy import or_, select

        from edgekit.fleet.store.tables import DeviceRequestRow as Row
        from edgekit.fleet.store.tables import DeviceRow

        there = select(DeviceRow.id).where(DeviceRow.online)
        waiting = _open(self._now).where(
            or_(Row.sent.is_(None), Row.sent <= again),
            Row.device_id.in_(there if devices is None else sorted(devices)),
        )
        # Whoever has waited longest comes first, whatever others there are; what a device is at
        # stays open for long, and would keep those away that were never asked.
        order = (Row.sent.is_not(None), Row.created)
        oldest = waiting.with_only_columns(Row.device_id).order_by(*order).limit(_AT_ONCE)
        with self.database.read() as session:
            names = sorted(set(session.scalars(oldest)))
            query = _open(self._now).where(Row.device_id.in_(names))
            return _read(session, query.order_by(Row.device_id, Row.number)) if names else ()

    def newest(
        self, *, most: int = 100, devices: Collection[str] | None = None
    ) -> tuple[Asked, ...]:
        """What was asked lately, the newest first.

        Args:
            most: How many at most.
            devices: Only of these, by id; None for all.
        """
        from sqlalchemy import select

        from edgekit.fleet.store.tables import DeviceRequestRow as Row

        order = (Row.created.desc(), Row.device_id, Row.number.desc())
        with self.database.read() as session:
            found = _read_of(session, select(Row).order_by(*order).limit(most), devices)
        return tuple(sorted(found, key=lambda a: (-a.created, a.device, -a.number))[:most])

    def get(self, device: str, number: int) -> Asked:
        """One request.

        Raises:
            NotFoundError: If there is none.
        """
        with self.database.read() as session:
            return _asked(_require(session, require_device(session, device).id, number))

    def look_again(self, asked: Sequence[Asked]) -> tuple[Asked, ...]:
        """How these requests stand now, in the same order; those that are gone as they were."""
        from sqlalchemy import select, tuple_

        from edgekit.fleet.store.tables import DeviceRequestRow as Row

        now: dict[tuple[str, int], Asked] = {}
        with self.database.read() as session:
            for start in range(0, len(asked), _READ_AT_ONCE):
                names = [(a.device, a.number) for a in asked[start : start + _READ_AT_ONCE]]
                query = select(Row).where(tuple_(Row.device_id, Row.number).in_(names))
                now |= {(item.device, item.number): item for item in _read(session, query)}
        return tuple(now.get((item.device, item.number), item) for item in asked)

    def answer(self, device: str, number: int) -> tuple[dict[str, Any], ...]:
        """The parts of the answer that are there, in their order."""
        from sqlalchemy import select

        from edgekit.fleet.store.tables import ReplyPartRow as Part

        with self.database.read() as session:
            name = require_device(session, device).id
            _require(session, name, number)
            query = select(Part.result).where(Part.device_id == name, Part.number == number)
            return tuple(session.scalars(query.order_by(Part.part)))

    def withdraw(self, device: str, number: int) -> Asked:
        """Take a request back; one that the device has is carried out, and its answer dropped.

        Raises:
            NotFoundError: If there is none.
            UsageError: If it is answered, or over.
        """
        with self.database.write() as session:
            row = _require(session, require_device(session, device).id, number, change=True)
            standing = _asked(row).standing(self._now)
            if standing not in ("waiting", "sent"):
                raise UsageError(f"request {number} of {device} is {standing} already")
            row.withdrawn = self._now
            self._record(session, "request.withdrawn", row, {"kind": row.kind})
            return _asked(row)

    def note_sent(self, sent: Iterable[Asked]) -> None:
        """Remember that these were published now; those of a device that was deleted are gone."""
        with self.database.write() as session:
            for item in sent:
                row = _find(session, item.device, item.number, change=True)
                if row is not None:
                    row.sent = self._now

    def take(self, replies: Iterable[DeviceReply]) -> list[Asked]:
        """Take in what devices answered; taken in twice, it counts once.

        Each must be proven to come from the device that it names. What answers no request, or one
        that was withdrawn, is dropped: nothing is kept that nobody asked for.

        Returns:
            The requests whose answers are complete by that.
        """
        from edgekit.fleet.store.inserts import insert_new
        from edgekit.fleet.store.tables import ReplyPartRow

        done: list[Asked] = []
        answers = tuple(replies)
        if not answers:
            # Asked every second: whoever has nothing to write does not lock.
            return done
        with self.database.write() as session:
            for reply in answers:
                row = _find(session, reply.device, reply.number, change=True)
                # One that is expired was asked for all the same: its answer comes from far.
                if row is None or row.answered is not None or row.withdrawn is not None:
                    continue
                if not 0 <= reply.part < reply.parts <= _MAX_PARTS or row.parts not in (
                    0,
                    reply.parts,
                ):
                    continue
                row.parts = reply.parts
                row.ok = reply.ok and row.ok is not False
                part = {
                    "device_id": reply.device,
                    "number": reply.number,
                    "part": reply.part,
                    "received": self._now,
                    "result": storable(reply.result),
                }
                insert_new(session, ReplyPartRow, [part], returning=["part"])
                if _count_parts(session, row) == row.parts:
                    row.answered = self._now
                    done.append(_asked(row))
        return done

    @property
    def _now(self) -> float:
        return self._clock().timestamp()

    def _write(
        self, device: str, kind: RequestKind, arguments: dict[str, Any], hours: float
    ) -> Asked:
        from sqlalchemy import func, select

        from edgekit.fleet.store.tables import DeviceRequestRow as Row

        with self.database.write() as session:
            name = require_device(session, device, change=True).id
            mine = _open(self._now).where(Row.device_id == name).subquery()
            waiting = session.scalar(select(func.count()).select_from(mine))
            if (waiting or 0) >= MAX_OPEN:
                raise _too_much_open([device])
            return self._add(session, name, kind, arguments, hours)

    def _add(
        self,
        session: Session,
        device: str,
        kind: RequestKind,
        arguments: dict[str, Any],
        hours: float,
    ) -> Asked:
        from sqlalchemy import func, select

        from edgekit.fleet.store.tables import DeviceRequestRow as Row

        now = self._now
        last = session.scalar(select(func.max(Row.number)).where(Row.device_id == device))
        row = Row(
            device_id=device,
            # By the clock, so that a database that was lost never counts from the start again:
            # a device follows no number twice.
            number=max((last or 0) + 1, int(now * 1_000)),
            kind=kind.value,
            arguments=arguments,
            created=now,
            created_by=self._actor,
            expires=now + hours * _HOUR,
            sent=None,
            answered=None,
            withdrawn=None,
            ok=None,
            parts=0,
        )
        session.add(row)
        session.flush()
        shown = {} if kind is RequestKind.CERTIFICATE else arguments
        self._record(session, "request.made", row, {"kind": kind.value} | shown)
        return _asked(row)

    def _record(
        self, session: Session, action: str, row: DeviceRequestRow, detail: dict[str, Any]
    ) -> None:
        record(
            session,
            actor=self._actor,
            action=action,
            subject=f"device {require_device(session, row.device_id).pseudonym}",
            detail={"number": row.number} | detail,
            clock=self._clock,
        )


def samples_in(parts: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The files of a `samples` answer, by name; those with a piece missing are left out."""
    import base64
    import binascii
    import re

    pieces: dict[str, dict[int, bytes]] = {}
    wanted: dict[str, int] = {}
    for part in parts:
        match part:
            case {
                "sample": str(name),
                "piece": int(piece),
                "pieces": int(count),
                "data": str(data),
            } if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
                try:
                    pieces.setdefault(name, {})[piece] = base64.b64decode(data, validate=True)
                except binascii.Error:
                    continue
                wanted[name] = count
    return {
        name: b"".join(found[place] for place in range(wanted[name]))
        for name, found in pieces.items()
        if set(found) == set(range(wanted[name]))
    }


def _too_much_open(devices: Sequence[str]) -> UsageError:
    more = f" and {len(devices) - _SHOWN} more" if len(devices) > _SHOWN else ""
    return UsageError(
        f"too much is open already, {MAX_OPEN} requests each: "
        + ", ".join(devices[:_SHOWN])
        + more,
        fix="wait for the answers, or withdraw some: edgekit fleet request list",
    )


def _open(now: float) -> Select[Any]:
    from sqlalchemy import select

    from edgekit.fleet.store.tables import DeviceRequestRow as Row

    return select(Row).where(Row.answered.is_(None), Row.withdrawn.is_(None), Row.expires > now)


def _read(session: Session, query: Any) -> tuple[Asked, ...]:
    return tuple(map(_asked, session.scalars(query)))


def _read_of(
    session: Session, query: Select[Any], devices: Collection[str] | None
) -> tuple[Asked, ...]:
    """The first rows of a query that has an order and a limit, of each part of the devices."""
    from edgekit.fleet.store.tables import DeviceRequestRow as Row

    if devices is None:
        return _read(session, query)
    names = sorted(devices)
    # No database takes any number of names at once.
    parts = (names[start : start + _READ_AT_ONCE] for start in range(0, len(names), _READ_AT_ONCE))
    return tuple(a for part in parts for a in _read(session, query.where(Row.device_id.in_(part))))


def _find(
    session: Session, device: str, number: int, *, change: bool = False
) -> DeviceRequestRow | None:
    from edgekit.fleet.store.tables import DeviceRequestRow

    return session.get(DeviceRequestRow, (device, number), with_for_update=change or None)


def _require(
    session: Session, device: str, number: int, *, change: bool = False
) -> DeviceRequestRow:
    row = _find(session, device, number, change=change)
    if row is None:
        raise NotFoundError(
            f"there is no request {number} of {device}", fix="see: edgekit fleet request list"
        )
    return row


def _count_parts(session: Session, row: DeviceRequestRow) -> int:
    from sqlalchemy import func, select

    from edgekit.fleet.store.tables import ReplyPartRow as Part

    same = (Part.device_id == row.device_id, Part.number == row.number)
    return session.scalar(select(func.count()).select_from(Part).where(*same)) or 0


def _asked(row: DeviceRequestRow) -> Asked:
    return Asked(
        device=row.device_id,
        number=row.number,
        kind=RequestKind(row.kind),
        arguments=row.arguments,
        created=row.created,
        created_by=row.created_by,
        expires=row.expires,
        sent=row.sent,
        answered=row.answered,
        withdrawn=row.withdrawn,
        ok=row.ok,
    )
