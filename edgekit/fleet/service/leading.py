"""Be the process that does the work, as long as the lease is ours."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.retention import apply_retention
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.folder_changes import record_noted
from edgekit.fleet.rollouts.driving import decision_notice
from edgekit.fleet.rollouts.label_cache import CachedLabels, Labelling
from edgekit.fleet.service.asking import Asking, open_asking
from edgekit.fleet.service.comparing import Comparisons
from edgekit.fleet.service.driving import RolloutDrivers
from edgekit.fleet.service.hearing import Hearing
from edgekit.fleet.service.shadowing import Shadows
from edgekit.fleet.store.alarms import note_alarms
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.leases import LEASE_SECONDS, Lease
from edgekit.fleet.telemetry.desk import open_desk
from edgekit.fleet.telemetry.listener import FleetListener
from edgekit.fleet.telemetry.watching import AlarmWatch
from edgekit_runtime.errors import EnvironmentLackError

_log = logging.getLogger(__name__)

LEASE: Final = "service"
_RENEW_SECONDS: Final = LEASE_SECONDS / 4
_LOOK_SECONDS: Final = 1.0
_RETENTION_SECONDS: Final = 3_600.0
_RETRY_SECONDS: Final = 2.0
# Each time something came, two transactions.
_HEAR_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How a service works.

    Attributes:
        clock: The time; the lease goes by the real one.
        labels: The owner's labels of devices; those in the database where it is None.
        turn_seconds: How long a rollout waits between two turns.
        shares: Whether replicas share measurements and events: see `SharedHearing`.
    """

    clock: Clock = utc_now
    labels: Labelling | None = None
    turn_seconds: float = 1.0
    shares: bool = False


class FleetService:
    """Hears devices, drives rollouts, watches models and forgets what is too old.

    Whoever works for a fleet is one: `edgekit fleet serve`, every replica of it, and `edgekit
    fleet rollout run`. One at a time does the work, so nobody is told anything twice.

    Args:
        fleet: Whose.
        database: That all who work for the fleet share.
        broker: Where the devices are.
        settings: See there.
    """

    def __init__(
        self,
        fleet: Fleet,
        database: Database,
        broker: BrokerAddress,
        *,
        settings: ServiceSettings | None = None,
    ) -> None:
        self._fleet = fleet
        self._database = database
        self._broker = broker
        self._settings = settings or ServiceSettings()
        self._lease = Lease(database, LEASE)
        self.leads = False

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Work until `goes_on` says no; what is missing meanwhile is waited for."""
        while goes_on():
            try:
                self.leads = self._lease.take()
                if self.leads:
                    self._lead(goes_on)
                else:
                    time.sleep(min(_RENEW_SECONDS, 0.5))
            except EnvironmentLackError as error:
                self.leads = False
                _log.warning("%s", error)
                _pause(_RETRY_SECONDS, goes_on)
        self.leads = False
        with contextlib.suppress(EnvironmentLackError):
            self._lease.give_back()

    def _lead(self, goes_on: Callable[[], bool]) -> None:
        clock = self._settings.clock
        with contextlib.ExitStack() as stack:
            desk = stack.enter_context(open_desk(self._fleet, self._database, self._broker))
            name = f"edgekit-serve-{self._fleet.id}"
            everything = not self._settings.shares
            listener = stack.enter_context(
                FleetListener(
                    self._fleet.id,
                    self._broker,
                    name=name,
                    telemetry=everything,
                    events=everything,
                )
            )
            hearing = Hearing(self._database, listener, ledger=desk.ledger, clock=clock)
            inventory = Inventory(self._database, actor="service", clock=clock)
            drivers = RolloutDrivers(
                self._fleet,
                self._database,
                self._broker,
                view=hearing.view,
                ear=listener,
                ledger=desk.ledger,
                labels=self._settings.labels or CachedLabels(inventory.owner_labels),
                on_decision=lambda plan, decision: desk.messenger.tell(
                    decision_notice(self._fleet, plan, decision)
                ),
                clock=clock,
                turn_seconds=self._settings.turn_seconds,
            )
            stack.callback(drivers.stop)
            comparisons = Comparisons(
                self._fleet, self._database, self._broker, ledger=desk.ledger, clock=clock
            )
            shadows = Shadows(self._fleet, self._database, self._broker, clock=clock)
            asking = stack.enter_context(
                open_asking(
                    self._fleet,
                    self._database,
                    self._broker,
                    name=f"{name}-replies",
                    lasting=True,
                    clock=clock,
                )
            )
            experiments = (comparisons.turn, shadows.turn)
            self._work(goes_on, hearing, drivers, experiments, asking, desk.alarms)

    def _work(
        self,
        goes_on: Callable[[], bool],
        hearing: Hearing,
        drivers: RolloutDrivers,
        experiments: Iterable[Callable[[], None]],
        asking: Asking,
        alarms: AlarmWatch,
    ) -> None:
        clock = self._settings.clock
        renewed = time.monotonic()
        looked = forgotten = float("-inf")
        while goes_on():
            now = time.monotonic()
            if now - renewed >= _RENEW_SECONDS:
                if not self._lease.take():
                    return
                renewed = now
            hearing.turn(timeout_s=_HEAR_SECONDS)
            if now - looked >= _LOOK_SECONDS:
                looked = now
                record_noted(self._fleet, self._database)
                drivers.turn()
                for turn in experiments:
                    turn()
                asking.turn()
                alarms.turn(clock().timestamp())
                note_alarms(self._database, alarms.alarms, now=clock().timestamp())
            if now - forgotten >= _RETENTION_SECONDS:
                forgotten = now
                apply_retention(self._database, clock=clock)


def _pause(seconds: float, goes_on: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while goes_on() and time.monotonic() < deadline:
        time.sleep(0.1)
