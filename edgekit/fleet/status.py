"""One view of a fleet: what was released, what each device should run, and what it says it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import DeviceOrder, device_orders
from edgekit.fleet.release import Release, list_releases
from edgekit.fleet.repositories import open_images
from edgekit_runtime.reports import DeviceState


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A device: what was ordered, and what it says.

    Attributes:
        device: Its id.
        order: What it must run; None if nothing was ordered for it.
        state: What it said last; None if it was not heard.
        fulfilled: Whether it says that it follows the newest order, and runs every version of it.
    """

    device: str
    order: DeviceOrder | None
    state: DeviceState | None
    fulfilled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """A fleet at one moment.

    Attributes:
        fleet: Its id.
        releases: Everything that may be installed.
        devices: All that were ordered something or were heard, by id.
        metadata_expires: Until when the image repository's timestamp holds: `refresh` before.
    """

    fleet: str
    releases: tuple[Release, ...]
    devices: tuple[DeviceStatus, ...]
    metadata_expires: datetime


def fleet_status(fleet: Fleet, states: Mapping[str, DeviceState]) -> FleetStatus:
    """Put together what is on disk and what was heard.

    Args:
        fleet: The fleet.
        states: By device id, as a `FleetWatcher` has them; empty without a broker.

    Raises:
        UsageError: If the fleet has no keys yet.
        VerificationError: If metadata or a record on disk is damaged.
    """
    expiries = {item.role: item.expires for item in open_images(fleet).expiries()}
    orders = device_orders(fleet)
    return FleetStatus(
        fleet=fleet.id,
        releases=list_releases(fleet),
        devices=tuple(
            DeviceStatus(
                device=device,
                order=orders.get(device),
                state=states.get(device),
                fulfilled=is_fulfilled(orders.get(device), states.get(device)),
            )
            for device in sorted(orders.keys() | states.keys())
        ),
        metadata_expires=expiries["timestamp"],
    )


def is_fulfilled(order: DeviceOrder | None, state: DeviceState | None) -> bool:
    """Whether a device says that it follows the order and runs every version of it."""
    if order is None or state is None or state.order_version != order.version:
        return False
    return all(
        wanted.bundle in state.bundles and state.bundles[wanted.bundle].active == wanted.version
        for wanted in order.bundles
    )
