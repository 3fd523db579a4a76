"""Tell devices what to run, and keep what was told them valid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.repositories import open_director, open_images
from edgekit_runtime.orders import BundleOrder

# Signing with the offline keys takes a person, who wants to hear of it in time.
_NOTICE: Final = timedelta(days=30)
_OFFLINE_IMAGE: Final = ("root", "targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOrder:
    """What a device has been told to run.

    Attributes:
        device: Its id.
        version: Counts the orders of this device; 0 if it has none.
        bundles: Everything that it must run, by name.
    """

    device: str
    version: int
    bundles: tuple[BundleOrder, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What `refresh` renewed.

    Attributes:
        image_expires: Until when the image repository's timestamp holds now.
        devices: How many devices' orders were renewed.
        damaged: Whose orders are damaged, and were not.
        needs_offline_keys: Which roles expire within 30 days and cannot be renewed here.
    """

    image_expires: datetime
    devices: int
    damaged: tuple[str, ...]
    needs_offline_keys: tuple[str, ...]


def order_device(
    fleet: Fleet, device: str, orders: Iterable[BundleOrder], *, clock: Clock = utc_now
) -> int:
    """Order everything that a device must run, in place of what it was told before.

    An order is always a new version, also with the same content: a device then tries again what
    it has rejected. An older bundle version may be ordered: that is how to go back.

    Args:
        fleet: The fleet.
        device: The device's id; a new one is known from now on.
        orders: One for each bundle; none at all tells it to run nothing.
        clock: The time of signing.

    Returns:
        The order's version.

    Raises:
        UsageError: If the id is invalid, or a bundle stands there twice, is not released (the
            fix lists what is), or has invalid numbers.
    """
    with fleet.locked():
        director = open_director(fleet, clock=clock)
        return director.order(device, orders, open_images(fleet).published_targets())


def order_bundle(fleet: Fleet, device: str, order: BundleOrder, *, clock: Clock = utc_now) -> int:
    """Order one bundle, and keep what else the device was told to run.

    Returns:
        The order's version.

    Raises:
        UsageError: As `order_device`.
    """
    with fleet.locked():
        director = open_director(fleet, clock=clock)
        others = director.held(device).bundles
        kept = [other for other in others if other.bundle != order.bundle]
        return director.order(device, [*kept, order], open_images(fleet).published_targets())


def device_order(fleet: Fleet, device: str) -> DeviceOrder:
    """What a device has been told to run.

    Raises:
        VerificationError: If the order on disk is damaged or not signed by a trusted key.
    """
    held = open_director(fleet).held(device)
    return DeviceOrder(device=device, version=held.version, bundles=held.bundles)


def device_orders(fleet: Fleet) -> dict[str, DeviceOrder]:
    """What every device has been told to run, by its id.

    Raises:
        VerificationError: As `device_order`.
    """
    director = open_director(fleet)
    orders = {}
    for device in director.store.revisions():
        held = director.held(device)
        orders[device] = DeviceOrder(device=device, version=held.version, bundles=held.bundles)
    return orders


def refresh(fleet: Fleet, *, clock: Clock = utc_now) -> Refreshed:
    """Sign again, with the online keys, what tells devices that they are not kept in the dark.

    Raises:
        UsageError: If the fleet has no keys yet.
        VerificationError: If the metadata of the image repository, or the file of orders, is
            damaged or not signed by a trusted key.
    """
    images = open_images(fleet, clock=clock)
    with fleet.locked():
        images.commit(renew=True)
        director = open_director(fleet, clock=clock)
        renewed = director.renew()
    expiries = list(images.expiries())
    offline = [(f"image {item.role}", item) for item in expiries if item.role in _OFFLINE_IMAGE]
    if renewed.devices or renewed.damaged:
        offline.append(("director root", director.root_expiry))
    return Refreshed(
        image_expires=next(item.expires for item in expiries if item.role == "timestamp"),
        devices=renewed.devices,
        damaged=renewed.damaged,
        needs_offline_keys=tuple(
            name for name, item in offline if item.expires - clock() < _NOTICE
        ),
    )
