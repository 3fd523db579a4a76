"""Run A/B experiments: choose the groups, tell their devices, look until the answer is clear."""

from __future__ import annotations

import logging
import time
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.experiments.ab import Answer, look
from edgekit.fleet.experiments.assignment import assign_arms
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import publish_order
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.experiments import Experiment, ExperimentTable
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.orders import BundleOrder

_log = logging.getLogger(__name__)

# Signing takes a millisecond or two a device: the devices are heard in between.
_TOLD_AT_ONCE: Final = 50


class Comparisons:
    """The experiments of a fleet that are not answered yet.

    The groups are chosen once, from the devices there are. Each device is told once what to run:
    what somebody orders for it afterwards stands, and its measurements of other versions do not
    count. When the answer is there nothing more happens by itself: a rollout is a person's choice.

    Args:
        fleet: Whose.
        database: Where the experiments are.
        broker: Where the devices are.
        ledger: What the devices measure.
        look_seconds: How often to look.
        clock: The time.
    """

    def __init__(
        self,
        fleet: Fleet,
        database: Database,
        broker: BrokerAddress,
        *,
        ledger: Ledger,
        look_seconds: float = 30.0,
        clock: Clock = utc_now,
    ) -> None:
        self._fleet = fleet
        self._broker = broker
        self._ledger = ledger
        self._clock = clock
        self._look_seconds = look_seconds
        self._table = ExperimentTable(database, clock=clock)
        self._inventory = Inventory(database, actor="service", clock=clock)
        self._looked_at: dict[str, float] = {}

    def turn(self) -> None:
        """Bring every experiment forward a little.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        for experiment in self._table.all():
            if experiment.looked.answer is not Answer.UNDECIDED:
                continue
            try:
                self._bring_forward(experiment)
            except EdgekitError as error:
                # One that cannot go on must not keep the others.
                _log.warning("experiment %s: %s", experiment.id, error)

    def _bring_forward(self, experiment: Experiment) -> None:
        if not experiment.arms:
            arms = assign_arms(
                experiment.id,
                self._inventory.labels(),
                parse_query(experiment.query),
                experiment.comparable_by,
            )
            if arms:
                self._table.begin(experiment.id, arms)
        elif experiment.told is None:
            self._tell(experiment)
        elif time.monotonic() - self._looked_at.get(experiment.id, float("-inf")) >= (
            self._look_seconds
        ):
            self._looked_at[experiment.id] = time.monotonic()
            self._look(experiment)

    def _tell(self, experiment: Experiment) -> None:
        waiting = [
            (device, experiment.version_of(arm))
            for device, arm in sorted(experiment.arms.items())
            if not self._is_told(device, experiment.bundle, experiment.version_of(arm))
        ]
        with connected_to(self._broker) as connection:
            for device, version in waiting[:_TOLD_AT_ONCE]:
                order = BundleOrder(bundle=experiment.bundle, version=version)
                order_bundle(self._fleet, device, order, clock=self._clock)
                publish_order(self._fleet, connection, device)
            if len(waiting) <= _TOLD_AT_ONCE:
                # What was signed before a crash may not have been sent.
                for device in experiment.arms:
                    publish_order(self._fleet, connection, device)
                self._table.note_told(experiment.id)

    def _is_told(self, device: str, bundle: str, version: str) -> bool:
        return any(
            (order.bundle, order.version) == (bundle, version)
            for order in device_order(self._fleet, device).bundles
        )

    def _look(self, experiment: Experiment) -> None:
        since = experiment.told or experiment.created
        health = {
            device: found
            for device, arm in experiment.arms.items()
            if (
                found := self._ledger.health(
                    device, experiment.bundle, experiment.version_of(arm), since
                )
            )
        }
        looked = look(
            experiment.question,
            experiment.looked,
            experiment.arms,
            health,
            seconds=self._clock().timestamp() - since,
        )
        self._table.save(experiment.id, looked)
