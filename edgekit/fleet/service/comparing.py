"""Run A/B experiments: choose the groups, tell their devices, look until the answer is clear."""

from __future__ import annotations

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.experiments.ab import look
from edgekit.fleet.experiments.assignment import assign_arms
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import publish_order
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.service.looking import TOLD_AT_ONCE, Looks, bring_forward
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.experiments import Experiment, ExperimentTable
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.orders import BundleOrder, order_of


class Comparisons:
    """The experiments of a fleet that are not answered yet.

    The groups are chosen once, from the devices there are and that take part in no other
    experiment of the bundle. Each device is told once what to run:
    what somebody orders for it afterwards stands, and its measurements of other versions do not
    count. When the answer is there nothing more happens by itself: a rollout is a person's choice.

    Args:
        fleet: Whose.
        database: Where the experiments are.
        broker: Where the devices are.
        ledger: What the devices measure.
        look_seconds: How often to look, for devices too.
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
        self._looks = Looks(look_seconds)
        # The last device that was told, of each experiment whose devices are being told.
        self._told: dict[str, str] = {}
        self._table = ExperimentTable(database, clock=clock)
        self._inventory = Inventory(database, actor="service", clock=clock)

    def turn(self) -> None:
        """Bring every experiment forward a little.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        bring_forward("experiment", self._table.open(), self._bring_forward)

    def _bring_forward(self, experiment: Experiment) -> None:
        if not experiment.arms:
            self._looks.take(f"{experiment.id} devices", lambda: self._choose(experiment))
        elif experiment.told is None:
            self._tell(experiment)
        else:
            self._looks.take(experiment.id, lambda: self._look(experiment))

    def _choose(self, experiment: Experiment) -> None:
        busy = self._table.taking_part(experiment.bundle)
        free = {
            device: labels
            for device, labels in self._inventory.labels().items()
            if device not in busy
        }
        arms = assign_arms(
            experiment.id,
            free,
            parse_query(experiment.query),
            experiment.comparable_by,
        )
        if arms:
            self._table.begin(experiment.id, arms)

    def _tell(self, experiment: Experiment) -> None:
        last = self._told.get(experiment.id, "")
        left = sorted(device for device in experiment.arms if device > last)
        part = left[:TOLD_AT_ONCE]
        with connected_to(self._broker) as connection:
            for device in part:
                version = experiment.version_of(experiment.arms[device])
                if not self._is_told(device, experiment.bundle, version):
                    order = BundleOrder(bundle=experiment.bundle, version=version)
                    order_bundle(self._fleet, device, order, clock=self._clock)
                # What was signed before a crash may not have been sent.
                publish_order(self._fleet, connection, device)
        if part != left:
            self._told[experiment.id] = part[-1]
            return
        self._table.note_told(experiment.id)
        self._told.pop(experiment.id, None)

    def _is_told(self, device: str, bundle: str, version: str) -> bool:
        order = order_of(device_order(self._fleet, device).bundles, bundle)
        return order is not None and order.version == version

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
