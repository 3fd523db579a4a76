"""What people change in a fleet's folder: noted there at once, until the audit log has taken it.

Releases, orders, storage and certificates are changed by commands that need no database. A note
beside them is durable when the command ends; whoever opens the database next, and the service that
runs, takes it into the log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.audit import last_detail, record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit_runtime.durable import sync_folder, unwritable

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

_FILE: Final = "unrecorded-changes.jsonl"
_LOCK: Final = ".unrecorded-changes.lock"
_WAIT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderChange:
    """Something that was changed without the database.

    Attributes:
        action: What: "release.added", "device.ordered", ….
        subject: To what; empty for a device.
        device: The id of the device that it is about, which the log knows by its pseudonym.
        detail: What else belongs to it, as JSON; no ids of devices.
        once: Whether it is no change if the last such entry of the subject has the same detail.
    """

    action: str
    subject: str = ""
    device: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)
    once: bool = False


def note_change(fleet: Fleet, change: FolderChange, *, actor: str, clock: Clock = utc_now) -> None:
    """Note a change in the fleet's folder; it is on the disk when this returns.

    Raises:
        EnvironmentLackError: If the folder cannot be written.
    """
    note = {
        "at": clock().timestamp(),
        "actor": actor,
        "action": change.action,
        "subject": change.subject,
        "device": change.device,
        "detail": dict(change.detail),
        "once": change.once,
    }
    path = fleet.path / _FILE
    with fleet.locked(_LOCK, wait_s=_WAIT_SECONDS):
        try:
            with path.open("ab") as file:
                # Begun on a line of its own: the last note may have been cut off.
                file.write(b"\n" + json.dumps(note).encode())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(fleet.path)
        except OSError as error:
            raise unwritable(path, error) from error


def record_noted(fleet: Fleet, database: Database) -> None:
    """Take what was noted into the audit log, with its time and by whom it was.

    Killed between the log and the note, it is recorded twice rather than not at all.

    Raises:
        EnvironmentLackError: If the database or the folder cannot be written.
    """
    path = fleet.path / _FILE
    if not path.exists():
        return
    with fleet.locked(_LOCK, wait_s=_WAIT_SECONDS):
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise unwritable(path, error) from error
        with database.write() as session:
            for note in _read(data):
                _record(session, note)
        path.unlink(missing_ok=True)
        sync_folder(fleet.path)


def _read(data: bytes) -> Iterator[dict[str, Any]]:
    for line in filter(None, data.splitlines()):
        try:
            yield json.loads(line)
        except ValueError:
            # Power went while it was written: the change itself was made before.
            yield {"action": "change.unreadable", "subject": "a note that was cut off"}


def _record(session: Session, note: dict[str, Any]) -> None:
    subject, detail = note["subject"] or _device(session, note["device"]), note.get("detail", {})
    if note.get("once") and last_detail(session, note["action"], subject) == detail:
        return
    at = note.get("at")
    record(
        session,
        actor=note.get("actor", "unknown"),
        action=note["action"],
        subject=subject,
        detail=detail,
        clock=utc_now if at is None else lambda: datetime.fromtimestamp(at, UTC),
    )


def _device(session: Session, device: str) -> str:
    from edgekit.fleet.store.tables import DeviceRow

    row = session.get(DeviceRow, device)
    # One that was never heard of has no pseudonym yet, and its id does not stand in the log.
    return "device unknown" if row is None else f"device {row.pseudonym}"
