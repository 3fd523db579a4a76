"""Take what earlier versions of edgekit kept as files in the fleet's folder into the database.

Rollouts stood in `rollouts/`, a folder each; measurements in `telemetry.db`, lasting alarms in
`alarms.json`. What was taken in is moved aside, and nothing is deleted. Killed in between, it is
taken in again, to the same end.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.fleet.folder import Fleet
from edgekit.fleet.rollouts.plan import plan_from_json
from edgekit.fleet.rollouts.state import RolloutState, state_from_json
from edgekit.fleet.rollouts.store import StoredRollout
from edgekit_runtime.errors import EnvironmentLackError, VerificationError

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

_ROLLOUTS: Final = "rollouts"
_LEDGER: Final = "telemetry.db"
_ALARMS: Final = "alarms.json"
ASIDE: Final = "before-the-database"


def adopt_files(fleet: Fleet, database: Database) -> None:
    """Take old files in, if there are any.

    Raises:
        EnvironmentLackError: If a process of the earlier version still drives a rollout.
        VerificationError: If a file is damaged.
    """
    present = [name for name in (_ROLLOUTS, _LEDGER, _ALARMS) if (fleet.path / name).exists()]
    if not present:
        return
    with fleet.locked(), contextlib.ExitStack() as stack:
        for plan in sorted((fleet.path / _ROLLOUTS).glob("*/plan.json")):
            stack.enter_context(_nobody_drives(plan.parent))
            _adopt_rollout(database, plan)
        if _LEDGER in present:
            _adopt_ledger(database, fleet.path / _LEDGER)
        if _ALARMS in present:
            from edgekit.fleet.store.settings import write_setting

            write_setting(database, "alarms", _read_json(fleet.path / _ALARMS))
        aside = fleet.path / ASIDE
        aside.mkdir(exist_ok=True)
        for name in present:
            (fleet.path / name).rename(aside / name)


def _adopt_rollout(database: Database, path: Path) -> None:
    from edgekit.fleet.store.rollouts import RolloutTable

    plan = plan_from_json(_read_json(path), where=str(path))
    state, revision = RolloutState(), 1
    place = path.parent / "state.json"
    if place.exists():
        head, _, body = place.read_bytes().partition(b"\n")
        if not head.strip().isdigit():
            raise _damaged(place, "its first line is no revision")
        state, revision = state_from_json(_parse(body, place), where=str(place)), int(head)
    RolloutTable(database).adopt(StoredRollout(plan=plan, state=state, revision=revision))


def _adopt_ledger(database: Database, path: Path) -> None:
    from edgekit.fleet.devices.inventory import make_known
    from edgekit.fleet.store.inserts import insert_new
    from edgekit.fleet.store.tables import TelemetrySlotRow, TelemetryStreamRow

    try:
        with contextlib.closing(sqlite3.connect(path)) as old:
            slots = old.execute(
                "SELECT device, bundle, version, slot, feedback, right, counts FROM slots"
            ).fetchall()
            streams = old.execute("SELECT device, stream, last, dropped, seen FROM streams")
            numbers = streams.fetchall()
    except sqlite3.Error as error:
        raise _damaged(path, str(error)) from error
    with database.write() as session:
        devices = {row[0] for row in (*slots, *numbers)}
        moments = [row[4] for row in numbers]
        make_known(session, sorted(devices), min(moments, default=0.0))
        columns = ("device_id", "bundle", "version", "slot", "feedback", "right", "counts")
        values = [dict(zip(columns, row, strict=True)) for row in slots]
        insert_new(
            session,
            TelemetrySlotRow,
            [row | {"revision": 1, "updated": row["slot"]} for row in values],
            returning=["device_id"],
        )
        of_stream = ("device_id", "stream", "last", "dropped", "seen")
        values = [dict(zip(of_stream, row, strict=True)) for row in numbers]
        insert_new(
            session,
            TelemetryStreamRow,
            [row | {"missing": []} for row in values],
            returning=["device_id"],
        )


@contextlib.contextmanager
def _nobody_drives(rollout: Path) -> Iterator[None]:
    """Hold the lock by which an earlier version's process was the only one to drive."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (rollout / ".driver").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentLackError(
                "a process of an earlier edgekit is driving this rollout",
                where=rollout.name,
                fix="end it with Ctrl-C, then run this again: the rollout goes on where it was",
            ) from error
        yield


def _read_json(path: Path) -> object:
    try:
        return _parse(path.read_bytes(), path)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _parse(data: bytes, path: Path) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON: {error}") from error


def _damaged(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"what an earlier edgekit kept cannot be taken into the database: {why}",
        where=str(path),
        fix="take it from a backup, or move it out of the fleet's folder",
    )
