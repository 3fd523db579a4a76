"""Be the replica that does the work, as long as the lease is ours."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.retention import apply_retention
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.rollouts.driving import decision_notice
from edgekit.fleet.service.asking import Asking, open_asking
from edgekit.fleet.service.comparing import Comparisons
from edgekit.fleet.service.driving import RolloutDrivers
from edgekit.fleet.service.hearing import Hearing
from edgekit.fleet.store.alarms import note_alarms
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.leases import LEASE_SECONDS, Lease
from edgekit.fleet.telemetry.desk import open_desk
from edgekit.fleet.telemetry.listener import FleetListener
from edgekit.fleet.telemetry.watching import AlarmWatch
from edgekit_runtime.errors import EnvironmentLackError

_log = logging.getLogger(__name__)

_RENEW_SECONDS: Final = LEASE_SECONDS / 4
_LOOK_SECONDS: Final = 1.0
_RETENTION_SECONDS: Final = 3_600.0
_RETRY_SECONDS: Final = 2.0


class FleetService:
    """Hears devices, drives rollouts, watches models and forgets what is too old.

    Args:
        fleet: Whose.
        database: That all replicas share.
        broker: Where the devices are.
        clock: The time.
    """

    def __init__(
        self, fleet: Fleet, database: Database, broker: BrokerAddress, *, clock: Clock = utc_now
    ) -> None:
        self._fleet = fleet
        self._database = database
        self._broker = broker
        self._clock = clock
        self._lease = Lease(database, "service", clock=clock)
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
                time.sleep(_RETRY_SECONDS)
        self.leads = False
        with contextlib.suppress(EnvironmentLackError):
            self._lease.give_back()

    def _lead(self, goes_on: Callable[[], bool]) -> None:
        with contextlib.ExitStack() as stack:
            desk = stack.enter_context(open_desk(self._fleet, self._broker))
            name = f"edgekit-serve-{self._fleet.id}"
            listener = stack.enter_context(FleetListener(self._fleet.id, self._broker, name=name))
            hearing = Hearing(self._database, listener, ledger=desk.ledger, clock=self._clock)
            drivers = RolloutDrivers(
                self._fleet,
                self._database,
                self._broker,
                ledger=desk.ledger,
                on_decision=lambda plan, decision: desk.messenger.tell(
                    decision_notice(self._fleet, plan, decision)
                ),
            )
            stack.callback(drivers.stop)
            comparisons = Comparisons(
                self._fleet, self._database, self._broker, ledger=desk.ledger, clock=self._clock
            )
            asking = stack.enter_context(
                open_asking(
                    self._fleet,
                    self._database,
                    self._broker,
                    name=f"{name}-replies",
                    lasting=True,
                    clock=self._clock,
                )
            )
            self._work(goes_on, hearing, drivers, comparisons, asking, desk.alarms)

    def _work(
        self,
        goes_on: Callable[[], bool],
        hearing: Hearing,
        drivers: RolloutDrivers,
        comparisons: Comparisons,
        asking: Asking,
        alarms: AlarmWatch,
    ) -> None:
        renewed = looked = time.monotonic()
        forgotten = float("-inf")
        while goes_on():
            now = time.monotonic()
            if now - renewed >= _RENEW_SECONDS:
                if not self._lease.take():
                    return
                renewed = now
            hearing.turn(timeout_s=0.25)
            if now - looked >= _LOOK_SECONDS:
                looked = now
                drivers.turn()
                comparisons.turn()
                asking.turn()
                alarms.turn(self._clock().timestamp())
                note_alarms(self._database, alarms.alarms, now=self._clock().timestamp())
            if now - forgotten >= _RETENTION_SECONDS:
                forgotten = now
                apply_retention(self._database, clock=self._clock)
