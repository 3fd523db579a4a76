"""Everything that a request may need, in the name of who makes it."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.fleet.access import Access, Role
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.inventory import Device, Inventory
from edgekit.fleet.devices.requests import RequestBook
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.installable import require_installable
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.storage.setting import open_bundles
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.experiments import ExperimentTable
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.store.shadows import ShadowTable


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """A fleet and its database.

    Attributes:
        fleet: Its folder.
        database: Its memory; other replicas may share it.
        broker: Where the devices are; by default the one that was published to last.
        clock: The time.
    """

    fleet: Fleet
    database: Database
    broker: BrokerAddress | None = None
    clock: Clock = utc_now

    def inventory(self, access: Access) -> Inventory:
        """The devices, changed in somebody's name."""
        return Inventory(self.database, actor=access.name, clock=self.clock)

    def requests(self, access: Access) -> RequestBook:
        """What devices are asked for, in somebody's name."""
        return RequestBook(self.database, actor=access.name, clock=self.clock)

    def registry(self, access: Access) -> Registry:
        """The bundle versions, changed in somebody's name."""
        files = open_bundles(self.fleet)
        return Registry(self.database, files, actor=access.name, clock=self.clock)

    @property
    def rollouts(self) -> RolloutTable:
        """The rollouts; every decision says itself who took it."""
        return RolloutTable(self.database, clock=self.clock)

    @property
    def experiments(self) -> ExperimentTable:
        """The A/B experiments."""
        return ExperimentTable(self.database, clock=self.clock)

    @property
    def shadows(self) -> ShadowTable:
        """The versions that run beside those that serve."""
        return ShadowTable(self.database, clock=self.clock)

    def require_installable(self, bundle: str, *versions: str) -> None:
        """Go on only if devices can get these versions: see there."""
        require_installable(self.fleet, bundle, set(versions), broker=self.broker)

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return self.clock().timestamp()


def shown_id(access: Access, device: Device) -> str:
    """A device as this person may see it: a viewer has no need of its id."""
    return device.id if sees_ids(access) else device.pseudonym


def sees_ids(access: Access) -> bool:
    """Whether this person sees devices by id; else by pseudonym."""
    return access.role.includes(Role.OPERATOR)
