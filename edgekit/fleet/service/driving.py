"""Drive the rollouts of the database, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.rollouts.fleet_view import FleetView
from edgekit.fleet.rollouts.label_cache import Labelling
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.runner import Ear, RolloutRunner, RunnerSettings
from edgekit.fleet.rollouts.state import Decision
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.errors import EdgekitError

_log = logging.getLogger(__name__)

OnDecision = Callable[[RolloutPlan, Decision], None]
_JOIN_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Driver:
    thread: threading.Thread
    stopping: threading.Event


class RolloutDrivers:
    """Starts a driver for every rollout that is under way, and ends them all together.

    Args:
        fleet: Whose.
        database: Where the rollouts are.
        broker: Where the devices are.
        view: What the devices say.
        ear: Hears them.
        ledger: What the devices measure.
        labels: The owner's labels of devices.
        on_decision: Told of every decision of the engine, after it was written down.
        clock: The time.
        turn_seconds: How long a rollout waits between two turns.
    """

    def __init__(
        self,
        fleet: Fleet,
        database: Database,
        broker: BrokerAddress,
        *,
        view: FleetView,
        ear: Ear,
        ledger: Ledger,
        labels: Labelling,
        on_decision: OnDecision,
        clock: Clock = utc_now,
        turn_seconds: float = 1.0,
    ) -> None:
        self._fleet = fleet
        self._broker = broker
        self._view = view
        self._ear = ear
        self._settings = RunnerSettings(
            labels=labels,
            health=ledger.health,
            on_decision=on_decision,
            clock=lambda: clock().timestamp(),
            turn_seconds=turn_seconds,
        )
        self._table = RolloutTable(database)
        self._drivers: dict[str, _Driver] = {}

    def turn(self) -> None:
        """See which rollouts are under way, and drive those that are not driven.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        for name in [n for n, driver in self._drivers.items() if not driver.thread.is_alive()]:
            del self._drivers[name]
        for rollout in self._table.under_way_bundles():
            if rollout not in self._drivers:
                self._start(rollout)

    def stop(self) -> None:
        """End all drivers in good order; the rollouts stay as they are."""
        for driver in self._drivers.values():
            driver.stopping.set()
        for driver in self._drivers.values():
            driver.thread.join(_JOIN_SECONDS)
        self._drivers.clear()

    def _start(self, rollout: str) -> None:
        stopping = threading.Event()
        thread = threading.Thread(
            target=self._drive, args=(rollout, stopping), name=f"rollout {rollout}", daemon=True
        )
        self._drivers[rollout] = _Driver(thread, stopping)
        thread.start()

    def _drive(self, rollout: str, stopping: threading.Event) -> None:
        try:
            runner = RolloutRunner(
                self._fleet,
                self._table,
                rollout,
                view=self._view,
                ear=self._ear,
                broker=self._broker,
                settings=replace(self._settings, wait=stopping.wait),
            )
            runner.run(goes_on=lambda: not stopping.is_set())
        except EdgekitError as error:
            # The next turn starts another driver: what is wrong may be over by then.
            _log.error("rollout %s is not driven: %s", rollout, error)
            stopping.wait(5.0)
