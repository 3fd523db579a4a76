"""All rollouts of a fleet: those of the database, and those that a command line keeps as files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.state import RolloutState
from edgekit.fleet.rollouts.store import RolloutFolder, StoredRollout
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.rollouts import RolloutTable, new_decisions
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database


class AllRollouts:
    """A `RolloutStore` over both places; a rollout stays where it was made.

    `edgekit fleet rollout start` keeps a rollout in the fleet's folder and drives it itself; one
    that was made over the API is in the database, and `edgekit fleet serve` drives it. Whoever
    looks or decides need not know which.

    Args:
        database: Of the fleet.
        folder: Where the files are.
        clock: The time.
    """

    def __init__(self, database: Database, folder: Path, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._table = RolloutTable(database, clock=clock)
        self._folder = RolloutFolder(folder)
        self._clock = clock

    def names(self) -> tuple[str, ...]:
        """The ids of all rollouts."""
        return tuple(sorted({*self._table.names(), *self._folder.names()}))

    def create(self, plan: RolloutPlan) -> None:
        """Keep a new rollout in the database; see `RolloutStore.create`."""
        if plan.id in self._folder.names():
            raise UsageError(f"there is a rollout {plan.id!r} already", fix="choose another id")
        self._table.create(plan)

    def load(self, rollout: str) -> StoredRollout:
        """A rollout.

        Raises:
            NotFoundError: If there is none of that id.
            VerificationError: If what is kept is damaged.
        """
        try:
            return self._table.load(rollout)
        except NotFoundError:
            if rollout not in self._folder.names():
                raise
            return self._folder.load(rollout)

    def all(self, *, newest: int = 50) -> tuple[StoredRollout, ...]:
        """The newest rollouts first."""
        files = [self._folder.load(name) for name in self._folder.names()]
        found = [*self._table.all(newest=newest), *files]
        found.sort(key=lambda stored: (-stored.plan.created, stored.plan.id))
        return tuple(found[:newest])

    def phases(self) -> Counter[str]:
        """How many rollouts there are in each phase."""
        counts = self._table.phases()
        counts.update(self._folder.load(name).state.phase.value for name in self._folder.names())
        return counts

    def revision(self, rollout: str) -> int:
        """The present revision.

        Raises:
            NotFoundError: If there is no rollout of that id.
        """
        return self.load(rollout).revision

    def save(self, rollout: str, state: RolloutState, *, revision: int) -> int:
        """Keep a new state; see `RolloutStore.save`. Decisions are audited wherever it is kept."""
        if rollout in self._table.names():
            return self._table.save(rollout, state, revision=revision)
        before = self._folder.load(rollout).state
        saved = self._folder.save(rollout, state, revision=revision)
        with self._database.write() as session:
            for decision in new_decisions(before.decisions, state.decisions):
                record(
                    session,
                    actor=decision.who,
                    action="rollout.decided",
                    subject=f"rollout {rollout}",
                    detail={"decision": decision.what, "reason": decision.reason},
                    clock=self._clock,
                )
        return saved
