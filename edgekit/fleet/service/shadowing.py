"""Run versions beside those that serve: choose the devices, tell them, look, and end it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import publish_order
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.service.looking import TOLD_AT_ONCE, Looks, bring_forward
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.store.shadows import ShadowRun, ShadowTable
from edgekit_runtime.orders import BundleOrder, order_of
from edgekit_runtime.reports import Phase


class Shadows:
    """The shadow runs of a fleet that some order may still name.

    Who takes part is chosen once: the devices that are meant and that serve another version of the
    bundle, with no update of it under way or refused. Each is told once; an order that somebody, or
    a rollout, makes for the bundle afterwards stands, and ends the run there. While a rollout of
    the bundle is under way nobody is told anything: it goes first.

    Args:
        fleet: Whose.
        database: Where the runs are.
        broker: Where the devices are.
        look_seconds: How often to look, for devices too.
        clock: The time.
    """

    def __init__(
        self,
        fleet: Fleet,
        database: Database,
        broker: BrokerAddress,
        *,
        look_seconds: float = 30.0,
        clock: Clock = utc_now,
    ) -> None:
        self._fleet = fleet
        self._broker = broker
        self._clock = clock
        self._looks = Looks(look_seconds)
        self._table = ShadowTable(database, clock=clock)
        self._rollouts = RolloutTable(database, clock=clock)
        self._inventory = Inventory(database, actor="service", clock=clock)

    def turn(self) -> None:
        """Bring every run forward a little.

        Raises:
            EnvironmentLackError: If the database cannot be used.
        """
        runs = self._table.open()
        if runs:
            busy = frozenset(self._rollouts.under_way_bundles().values())
            bring_forward("shadow run", runs, partial(self._bring_forward, busy=busy))

    def _bring_forward(self, run: ShadowRun, *, busy: frozenset[str]) -> None:
        if run.chosen is None and run.stopped is None:
            self._looks.take(f"{run.id} devices", lambda: self._choose(run))
            return
        if run.bundle not in busy:
            if run.stopped is None:
                self._tell(run)
            else:
                self._take_back(run)
        self._looks.take(run.id, lambda: self._table.look(run.id))

    def _choose(self, run: ShadowRun) -> None:
        chosen = self._meant(run)
        if chosen:
            self._table.choose(run.id, chosen)

    def _meant(self, run: ShadowRun) -> list[str]:
        """The devices that are meant, and serve another version by their own account.

        One that has refused what it was told is left alone: a new order would make it try again.
        """
        query = parse_query(run.query)
        labels = self._inventory.labels()
        settled = (
            (device.id, bundle["active"])
            for device in self._inventory.all()
            if (bundle := device.bundles.get(run.bundle)) and bundle["phase"] == Phase.ACTIVE
        )
        return [
            device
            for device, active in settled
            if active != run.version and query.matches(labels.get(device, {}))
        ]

    def _tell(self, run: ShadowRun) -> None:
        waiting = self._table.waiting(run.id, told=False, most=TOLD_AT_ONCE)
        if not waiting:
            return
        with connected_to(self._broker) as connection:
            for device in waiting:
                order = self._order(device, run.bundle)
                # It may have been told to run that very version, or nothing, since it was chosen.
                if order is not None and order.version != run.version:
                    # Signed before a crash, it was perhaps not sent.
                    if self._named(device, run) is None:
                        shadow = run.settings.order(run.id, run.version)
                        order_bundle(
                            self._fleet, device, replace(order, shadow=shadow), clock=self._clock
                        )
                    publish_order(self._fleet, connection, device)
                self._table.note_told(run.id, device)

    def _take_back(self, run: ShadowRun) -> None:
        told = self._table.waiting(run.id, told=True, most=TOLD_AT_ONCE)
        if not told:
            self._table.look(run.id)
            self._table.note_ended(run.id)
            return
        with connected_to(self._broker) as connection:
            for device in told:
                order = self._named(device, run)
                if order is not None:
                    order_bundle(
                        self._fleet, device, replace(order, shadow=None), clock=self._clock
                    )
                # Signed before a crash, it was perhaps not sent.
                if self._order(device, run.bundle) is not None:
                    publish_order(self._fleet, connection, device)
                self._table.note_told(run.id, device, told=False)

    def _named(self, device: str, run: ShadowRun) -> BundleOrder | None:
        """What a device is told of the run's bundle, if that names the run."""
        order = self._order(device, run.bundle)
        shadow = None if order is None else order.shadow
        return order if shadow is not None and shadow.run == run.id else None

    def _order(self, device: str, bundle: str) -> BundleOrder | None:
        """What a device is told of a bundle."""
        return order_of(device_order(self._fleet, device).bundles, bundle)
