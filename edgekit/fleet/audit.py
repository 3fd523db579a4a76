"""The audit log: who changed what, each entry chained to the one before by its hash.

Whoever changes, inserts or removes an entry has to change every digest after it. What a chain
alone cannot show is that its newest entries were cut off, or that all of it was made anew: keep
its head (`head_of`) where the database's owner cannot write, and give it to `verify_audit`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, rfc3339, utc_now
from edgekit.fleet.device_mentions import mentioned_devices, rename_mentions
from edgekit_runtime.errors import GateFailedError, UsageError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database
    from edgekit.fleet.store.tables import AuditRow

GENESIS: Final = "0" * 64
_MAX_ACTOR: Final = 128
_MAX_SUBJECT: Final = 256
_PAGE: Final = 1_000
# Fields that hold a query of somebody's, or a text that quotes one.
_QUOTING: Final = ("query", "reason")
# Stands for an id of no device there is: it may be one tomorrow.
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change.

    Attributes:
        sequence: Counts from 1 without gaps.
        at: When; RFC 3339, UTC.
        actor: Who: the name of a token, or `cli:<user>`.
        action: What: "version.promoted", "token.revoked", ….
        subject: To what; devices stand here by pseudonym.
        detail: What else belongs to it.
        digest: Of this entry and the digest before it.
    """

    sequence: int
    at: str
    actor: str
    action: str
    subject: str
    detail: dict[str, object]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The newest entry's number and digest: the whole log in one line."""

    sequence: int
    digest: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.digest}"


def record(
    session: Session,
    *,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, object] | None = None,
    clock: Clock = utc_now,
) -> None:
    """Append an entry, in the transaction of the change itself: both are kept, or neither.

    Devices that a query in the detail names by id stand there by pseudonym.

    Call it last in the transaction: from here to its end all other writers of the log wait.
    """
    from edgekit.fleet.store.inserts import write_alone
    from edgekit.fleet.store.tables import AuditRow

    session.flush()
    shown = _pseudonymous(session, dict(detail or {}))
    write_alone(session, AuditRow)
    head = head_of(session)
    entry = AuditRow(
        sequence=head.sequence + 1,
        at=rfc3339(clock()),
        actor=_plain(actor)[:_MAX_ACTOR],
        action=action,
        subject=_plain(subject)[:_MAX_SUBJECT],
        # ASCII, with escapes for all else: the same bytes in every database and encoding.
        detail=json.dumps(shown, sort_keys=True, separators=(",", ":")),
        previous=head.digest,
        digest="",
    )
    entry.digest = _digest(entry)
    session.add(entry)
    session.flush()


def head_of(session: Session) -> AuditHead:
    """The newest entry; number 0 of an empty log."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import AuditRow

    row = session.execute(
        select(AuditRow.sequence, AuditRow.digest).order_by(AuditRow.sequence.desc()).limit(1)
    ).first()
    return (
        AuditHead(sequence=row[0], digest=row[1]) if row else AuditHead(sequence=0, digest=GENESIS)
    )


def last_detail(session: Session, action: str, subject: str) -> dict[str, object] | None:
    """The detail of the newest entry of an action and a subject; None if there is none."""
    from sqlalchemy import select

    from edgekit.fleet.store.tables import AuditRow

    query = select(AuditRow.detail).where(AuditRow.action == action, AuditRow.subject == subject)
    text = session.scalar(query.order_by(AuditRow.sequence.desc()).limit(1))
    return None if text is None else _detail(text)


def verify_audit(database: Database, *, expect: AuditHead | None = None) -> AuditHead:
    """Check every entry and every link.

    Args:
        database: Where the log is.
        expect: A head that was noted earlier, and must still be in the log.

    Returns:
        The head: note it where the database's owner cannot write.

    Raises:
        GateFailedError: At the first entry that is not as it was written, is missing, or was not
            there; or if the expected head is not in the log.
    """
    head = AuditHead(sequence=0, digest=GENESIS)
    seen = expect is None or expect == head
    with database.read() as session:
        for row in _rows(session):
            if row.sequence != head.sequence + 1:
                raise _broken(head.sequence + 1, f"is missing; the next there is {row.sequence}")
            if row.previous != head.digest:
                raise _broken(row.sequence, "does not follow from the entry before it")
            if row.digest != _digest(row):
                raise _broken(row.sequence, "is not what was written")
            head = AuditHead(sequence=row.sequence, digest=row.digest)
            seen = seen or head == expect
    if not seen and expect is not None:
        raise GateFailedError(
            f"the audit log does not hold the head that was noted: entry {expect.sequence} "
            + ("is another" if expect.sequence <= head.sequence else "is cut off"),
            where=database.where,
            fix="the log was cut or made anew: compare with a backup",
        )
    return head


def parse_head(text: str) -> AuditHead:
    """Read what `str(AuditHead)` wrote.

    Raises:
        UsageError: If it is no head.
    """
    sequence, colon, digest = text.strip().partition(":")
    if not (colon and sequence.isdecimal() and len(digest) == len(GENESIS)):
        raise UsageError(
            f"{text!r} is no head of an audit log",
            fix="give the line that `edgekit fleet audit verify` printed: NUMBER:DIGEST",
        )
    return AuditHead(sequence=int(sequence), digest=digest)


def read_audit(
    session: Session,
    *,
    newest: int = 100,
    before: int | None = None,
    subject: str | None = None,
) -> tuple[AuditEntry, ...]:
    """The newest entries first.

    Args:
        session: Of the database.
        newest: How many at most.
        before: Only entries with a smaller number: how to read on.
        subject: Only of this subject.
    """
    from sqlalchemy import select

    from edgekit.fleet.store.tables import AuditRow

    query = select(AuditRow).order_by(AuditRow.sequence.desc()).limit(newest)
    if before is not None:
        query = query.where(AuditRow.sequence < before)
    if subject is not None:
        query = query.where(AuditRow.subject == subject)
    return tuple(
        AuditEntry(
            sequence=row.sequence,
            at=row.at,
            actor=row.actor,
            action=row.action,
            subject=row.subject,
            detail=_detail(row.detail),
            digest=row.digest,
        )
        for row in session.scalars(query)
    )


def _pseudonymous(session: Session, detail: dict[str, object]) -> dict[str, object]:
    from sqlalchemy import select

    from edgekit.fleet.store.tables import DeviceRow

    texts = {key: value for key in _QUOTING if isinstance(value := detail.get(key), str)}
    mentioned = {device for text in texts.values() for device in mentioned_devices(text)}
    if not mentioned:
        return detail
    asked = select(DeviceRow.id, DeviceRow.pseudonym).where(DeviceRow.id.in_(mentioned))
    known = {row.id: row.pseudonym for row in session.execute(asked)}
    return detail | {
        key: rename_mentions(text, lambda device: known.get(device, _UNKNOWN))
        for key, text in texts.items()
    }


def _rows(session: Session) -> Iterator[AuditRow]:
    from sqlalchemy import select

    from edgekit.fleet.store.tables import AuditRow

    last = -1
    while True:
        query = select(AuditRow).where(AuditRow.sequence > last).order_by(AuditRow.sequence)
        rows = session.scalars(query.limit(_PAGE)).all()
        yield from rows
        if len(rows) < _PAGE:
            return
        last = rows[-1].sequence
        session.expunge_all()


def _digest(row: AuditRow) -> str:
    fields = [row.sequence, row.at, row.actor, row.action, row.subject, row.detail, row.previous]
    # A JSON list, so that no text can move from one field into the next.
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()


def _detail(text: str) -> dict[str, object]:
    try:
        document = json.loads(text)
    except ValueError:
        # A forged entry can be looked at; `verify_audit` says that it is one.
        return {"damaged": text}
    return document if isinstance(document, dict) else {"damaged": text}


def _plain(text: str) -> str:
    return text.replace("\0", "�")


def _broken(sequence: int, what: str) -> GateFailedError:
    return GateFailedError(
        f"the audit log is broken: entry {sequence} {what}",
        where=f"entry {sequence}",
        fix="somebody changed the log; compare it with a backup",
    )
