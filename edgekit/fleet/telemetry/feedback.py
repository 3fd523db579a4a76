"""Feedback from the field: which answers of a device turned out to be right.

It counts beside what the device measures, so that rollouts, experiments and pages see it: from
when it arrives, for the version that answered. Each piece has an id, and counts once, however
often it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.store.inserts import insert_new
from edgekit.fleet.telemetry.ledger import count_feedback
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"
#: Pieces at once.
MAX_ITEMS: Final = 10_000
#: Answers in one piece.
MAX_ANSWERS: Final = 1_000_000
#: How long an id is remembered, and so counts once.
REMEMBERED_DAYS: Final = 30
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What became known of some answers.

    Attributes:
        device: Its id or pseudonym.
        bundle: Which answered.
        version: Of the bundle.
        id: What makes it the same piece when it is sent again; within the device's.
        right: How many were right.
        wrong: How many were not.
    """

    device: str
    bundle: str
    version: str
    id: str
    right: int
    wrong: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What became of some feedback.

    Attributes:
        counted: Pieces that count now.
        known: Pieces that had been counted before.
        refused: What does not count, and why; one sentence each.
    """

    counted: int
    known: int
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFeedback:
    """Feedback of a version from all devices together."""

    right: int
    wrong: int

    @property
    def share(self) -> float:
        """Of right answers; at least one is known."""
        return self.right / (self.right + self.wrong)


def give_feedback(
    database: Database,
    items: Sequence[Feedback],
    *,
    actor: str,
    clock: Clock = utc_now,
) -> Counted:
    """Count feedback, each piece once.

    A piece is refused where no such device is known, or it never said that it runs the version:
    nobody can make a rollout wait for, or a page show, what there is not.

    Args:
        database: Where devices and their measurements are.
        items: At most 10,000.
        actor: Who says so, for the audit log.
        clock: The time.

    Raises:
        UsageError: If there are too many, or numbers are none.
        EnvironmentLackError: If the database cannot be used: send the same again.
    """
    if len(items) > MAX_ITEMS:
        raise UsageError(
            f"{len(items)} pieces of feedback are more than {MAX_ITEMS}", fix="send them in parts"
        )
    for item in items:
        if item.right < 0 or item.wrong < 0 or not 0 < item.right + item.wrong <= MAX_ANSWERS:
            raise UsageError(
                f"{item.right} right and {item.wrong} wrong are no feedback",
                where=f"{item.device}, {item.id}",
                fix=f"give numbers of at least 0, together 1 to {MAX_ANSWERS}",
            )
    now = clock().timestamp()
    with database.write() as session:
        _forget_old(session, now)
        ids, ran = _known(session, items)
        refused = []
        wanted: dict[tuple[str, str], Feedback] = {}
        for item in items:
            device = ids.get(item.device)
            if device is None:
                refused.append(f"{item.id}: there is no device {item.device!r}")
            elif (device, item.bundle, item.version) not in ran:
                refused.append(
                    f"{item.id}: {item.device} never said that it runs {item.bundle} {item.version}"
                )
            else:
                wanted.setdefault((device, item.id), item)
        new = _remember(session, wanted, now)
        # In the same transaction: what is remembered is counted, whenever the power is cut.
        count_feedback(session, _sums(wanted, new), now=now)
        if new:
            counts = {"pieces": len(new), "right": sum(wanted[key].right for key in new)}
            counts["wrong"] = sum(wanted[key].wrong for key in new)
            record(
                session, actor=actor, action="feedback.given", subject="fleet", detail=counts,
                clock=clock,
            )  # fmt: skip
    return Counted(
        counted=len(new), known=len(items) - len(refused) - len(new), refused=tuple(refused)
    )


def recent_feedback(database: Database, *, since: float) -> dict[tuple[str, str], VersionFeedback]:
    """By bundle and version, what was said since a moment, at most 30 days ago."""
    from sqlalchemy import func, select

    from edgekit.fleet.store.tables import FeedbackRow as Row

    query = (
        select(Row.bundle, Row.version, func.sum(Row.right), func.sum(Row.wrong))
        .where(Row.received >= since)
        .group_by(Row.bundle, Row.version)
    )
    with database.read() as session:
        return {
            (bundle, version): VersionFeedback(right=int(right), wrong=int(wrong))
            for bundle, version, right, wrong in session.execute(query)
        }


def _known(
    session: Session, items: Sequence[Feedback]
) -> tuple[dict[str, str], set[tuple[str, str, str]]]:
    """The devices that are named, by what they are named; and what they said that they run."""
    from sqlalchemy import or_, select

    from edgekit.fleet.store.tables import (
        DeploymentRow,
        DeviceBundleRow,
        DeviceRow,
        TelemetrySlotRow,
    )

    names = sorted({item.device for item in items})
    ids: dict[str, str] = {}
    ran: set[tuple[str, str, str]] = set()
    for start in range(0, len(names), 500):
        part = names[start : start + 500]
        query = select(DeviceRow.id, DeviceRow.pseudonym).where(
            or_(DeviceRow.id.in_(part), DeviceRow.pseudonym.in_(part))
        )
        found = session.execute(query).all()
        ids |= {row.pseudonym: row.id for row in found} | {row.id: row.id for row in found}
        devices = [row.id for row in found]
        for table, version in (
            (DeviceBundleRow, DeviceBundleRow.active),
            (DeploymentRow, DeploymentRow.version),
            (TelemetrySlotRow, TelemetrySlotRow.version),
        ):
            said = select(table.device_id, table.bundle, version).distinct()
            rows = session.execute(said.where(table.device_id.in_(devices)))
            ran.update((device, bundle, number) for device, bundle, number in rows)
    return ids, ran


def _remember(
    session: Session, wanted: dict[tuple[str, str], Feedback], now: float
) -> list[tuple[str, str]]:
    from edgekit.fleet.store.tables import FeedbackRow

    rows: list[dict[str, Any]] = [
        {
            "device_id": device,
            "id": identifier,
            "bundle": item.bundle,
            "version": item.version,
            "received": now,
            "right": item.right,
            "wrong": item.wrong,
        }
        # In one order: two who give the same at once wait for each other, not both.
        for (device, identifier), item in sorted(wanted.items(), key=lambda pair: pair[0])
    ]
    found = insert_new(session, FeedbackRow, rows, returning=["device_id", "id"])
    return [(row.device_id, row.id) for row in found]


def _sums(
    wanted: dict[tuple[str, str], Feedback], new: Sequence[tuple[str, str]]
) -> dict[tuple[str, str, str], tuple[int, int]]:
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for key in new:
        item = wanted[key]
        name = (key[0], item.bundle, item.version)
        right, wrong = sums.get(name, (0, 0))
        sums[name] = (right + item.right, wrong + item.wrong)
    return dict(sorted(sums.items()))


def _forget_old(session: Session, now: float) -> None:
    from sqlalchemy import delete

    from edgekit.fleet.store.tables import FeedbackRow as Row

    session.execute(
        delete(Row).where(Row.received < now - REMEMBERED_DAYS * _DAY),
        execution_options={"synchronize_session": False},
    )
