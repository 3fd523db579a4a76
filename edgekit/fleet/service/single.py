"""Bring one rollout to its end: by doing the fleet's work meanwhile, or by watching who does."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.rollouts.driving import OnDecision
from edgekit.fleet.rollouts.engine import is_finished
from edgekit.fleet.rollouts.label_cache import Labelling
from edgekit.fleet.rollouts.state import RolloutState
from edgekit.fleet.service.leading import LEASE, FleetService, ServiceSettings
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.leases import Lease
from edgekit.fleet.store.rollouts import RolloutTable, new_decisions
from edgekit_runtime.errors import EnvironmentLackError

_LOOK_SECONDS: Final = 0.2


def drive_rollout(
    fleet: Fleet,
    database: Database,
    rollout: str,
    broker: BrokerAddress,
    *,
    goes_on: Callable[[], bool] = lambda: True,
    on_decision: OnDecision = lambda _plan, _decision: None,
    clock: Callable[[], float] = time.time,
    turn_seconds: float = 1.0,
    labels: Labelling | None = None,
) -> RolloutState:
    """Stay with a rollout until it is finished, or `goes_on` says no; its state then.

    Does all of the fleet's work meanwhile, as `edgekit fleet serve` does. While another process
    does it, that one drives the rollout, and this one takes over if it ends. Killed at any
    instant and called again, it goes on where it was.

    Args:
        fleet: Whose.
        database: Of the fleet.
        rollout: Its id.
        broker: Where the devices are.
        goes_on: Asked several times a second.
        on_decision: Told of every decision from now on, whoever took it.
        clock: Seconds since 1970.
        turn_seconds: How long the rollout waits between two turns.
        labels: The owner's labels of devices; by default those in the database.

    Raises:
        UsageError: If there is no such rollout, or `notices.toml` is invalid.
        EnvironmentLackError: If no broker answers, or the database cannot be used.
        VerificationError: If what is kept is damaged.
    """
    table = RolloutTable(database)
    watched = _Watched(table, rollout, on_decision)
    # A service waits for what is missing; a person at a terminal wants to know.
    with connected_to(broker):
        pass
    settings = ServiceSettings(
        clock=lambda: datetime.fromtimestamp(clock(), tz=UTC),
        labels=labels,
        turn_seconds=turn_seconds,
    )
    service = FleetService(fleet, database, broker, settings=settings)
    service.run(lambda: goes_on() and not watched.is_over())
    return watched.load()


def who_works(database: Database) -> str:
    """Which process does the fleet's work now; empty for none."""
    return Lease(database, LEASE).holder()


class _Watched:
    """A rollout in the database, of which only as much is read as has to be told."""

    def __init__(self, table: RolloutTable, rollout: str, on_decision: OnDecision) -> None:
        self._table = table
        self._rollout = rollout
        self._tell = on_decision
        stored = table.load(rollout)
        self._plan, self._known = stored.plan, stored.state.decisions
        self._revision = 0 if is_finished(stored.state) else stored.revision
        self._looked = float("-inf")
        self._over = False

    def is_over(self) -> bool:
        """Tell of what was decided since the last look; whether nothing more will be."""
        if self._over or time.monotonic() - self._looked < _LOOK_SECONDS:
            return self._over
        self._looked = time.monotonic()
        try:
            revision = self._table.revision(self._rollout)
            if revision == self._revision:
                return False
            decisions = self._table.decisions(self._rollout)
            ended = self._rollout not in self._table.under_way_bundles()
            self._over = ended and is_finished(self.load())
        except EnvironmentLackError:
            # Whoever works waits for the database too.
            return False
        self._revision = revision
        known, self._known = self._known, decisions
        for decision in new_decisions(known, decisions):
            self._tell(self._plan, decision)
        return self._over

    def load(self) -> RolloutState:
        """The state now."""
        return self._table.load(self._rollout).state
