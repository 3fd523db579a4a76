"""Notices that were not delivered yet, in the database: whoever serves next delivers them.

Each stands in a setting of its own, for each who is to be told, in the order in which they came.
Samples are not copied into it: they are in the answers of devices already.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.telemetry.notices import Notice, Target

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

#: With what the names of their settings begin.
PREFIX: Final = "notice."


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A notice that waits for one of those who are to be told.

    Attributes:
        name: Of its place; in the order of names they are delivered.
        notice: Without its files if it comes from the database.
    """

    name: str
    notice: Notice


class Outbox:
    """May be used from many threads.

    Args:
        database: Of the fleet.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._last = 0

    def add(self, target: Target, notice: Notice) -> Waiting:
        """Keep a notice.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        from edgekit.fleet.store.settings import write_setting

        with self._lock:
            # What comes later stands later, also where the clock stands still.
            self._last = max(time.time_ns(), self._last + 1)
            name = f"{place_of(target)}{self._last:020d}"
        write_setting(self._database, name, notice.to_document())
        return Waiting(name=name, notice=notice)

    def remove(self, names: Iterable[str]) -> None:
        """Forget notices that were delivered, or never will be.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        from sqlalchemy import delete

        from edgekit.fleet.store.tables import SettingRow

        with self._database.write() as session:
            session.execute(delete(SettingRow).where(SettingRow.name.in_(list(names))))

    def waiting(self, target: Target) -> list[Waiting]:
        """What one has not been told yet, the oldest first.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        return [
            Waiting(name=name, notice=Notice.of_document(value))
            for name, value in self._rows()
            if name.startswith(place_of(target))
        ]

    def drop_others(self, targets: Iterable[Target]) -> int:
        """Forget what waits for those who are to be told nothing any more; how many these were.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        known = tuple(place_of(target) for target in targets)
        names = [name for name, _ in self._rows() if not name.startswith(known)]
        if names:
            self.remove(names)
        return len(names)

    def _rows(self) -> list[tuple[str, Any]]:
        from sqlalchemy import select

        from edgekit.fleet.store.tables import SettingRow as Row

        query = select(Row).where(Row.name.startswith(PREFIX)).order_by(Row.name)
        with self._database.read() as session:
            return [(row.name, row.value) for row in session.scalars(query)]


def place_of(target: Target) -> str:
    """With what the names of all that waits for one begin."""
    # Whom, not of what: that may change while something waits.
    who = (target.url, target.argv, target.experiment, target.tracking_uri)
    digest = hashlib.sha256(json.dumps(who).encode()).hexdigest()[:16]
    return f"{PREFIX}{digest}."
