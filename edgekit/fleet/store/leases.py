"""Which of several replicas does the work: a lease in the database, held while its owner lives."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.clock import Clock, utc_now

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

LEASE_SECONDS: Final = 20.0
_MOST_WHO: Final = 200


class Lease:
    """A right that one process at a time has; it is over by itself when its owner dies.

    Moments are those of the owners' clocks: they must agree within a few seconds. Nothing that
    is decided rests on it: two owners for a moment do the same work twice, to the same end.

    Args:
        database: That all replicas share.
        name: Of the right.
        clock: The time.
    """

    def __init__(self, database: Database, name: str, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._name = f"lease.{name}"
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._place = _place()
        self._who = f"process {os.getpid()} on {socket.gethostname()}"[:_MOST_WHO]

    def take(self) -> bool:
        """Take the lease, or hold it longer; whether it is ours now.

        Raises:
            EnvironmentLackError: If the database cannot be reached: it is not known whose it is.
        """
        from edgekit.fleet.store.inserts import insert_new
        from edgekit.fleet.store.tables import SettingRow

        now = self._clock().timestamp()
        with self._database.write() as session:
            nobody = {"name": self._name, "value": {"owner": "", "until": 0.0}}
            insert_new(session, SettingRow, [nobody], returning=["name"])
            row = session.get_one(
                SettingRow, self._name, with_for_update=True, populate_existing=True
            )
            if self._is_anothers(row.value, now):
                return False
            row.value = {
                "owner": self._owner,
                "until": now + LEASE_SECONDS,
                "who": self._who,
                "place": self._place,
                "pid": os.getpid(),
            }
        return True

    def holder(self) -> str:
        """Who else has it now, for people; empty for nobody, or for us.

        Raises:
            EnvironmentLackError: If the database cannot be reached.
        """
        from edgekit.fleet.store.settings import read_setting

        value = read_setting(self._database, self._name, {"owner": "", "until": 0.0})
        if not self._is_anothers(value, self._clock().timestamp()):
            return ""
        return str(value.get("who", "another process"))

    def _is_anothers(self, value: Mapping[str, Any], now: float) -> bool:
        if value["owner"] in ("", self._owner) or value["until"] <= now:
            return False
        # Killed where we can see it: nobody has to wait until the time is over.
        seen_dead = self._place and value.get("place") == self._place and _is_dead(value["pid"])
        return not seen_dead

    def give_back(self) -> None:
        """Let another replica take it at once; nothing if it is not ours."""
        from edgekit.fleet.store.tables import SettingRow

        with self._database.write() as session:
            row = session.get(SettingRow, self._name, with_for_update=True)
            if row is not None and row.value["owner"] == self._owner:
                row.value = {"owner": "", "until": 0.0}


def _place() -> str:
    """Where process ids mean the same; empty where that is not known."""
    try:
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return f"{socket.gethostname()} {space}"


def _is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
