"""Take a version out of the world: no device may install it, and its chunks leave the broker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.ordering import device_orders
from edgekit.fleet.publisher import publish_metadata
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.repositories import open_images
from edgekit.wording import plural
from edgekit_runtime.errors import GateFailedError
from edgekit_runtime.orders import target_path
from edgekit_runtime.protocol import Topics

if TYPE_CHECKING:
    from edgekit.fleet.image_repository import ImageRepository

_NAMED_DEVICES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """What a retirement did.

    Attributes:
        bundle: Its name.
        version: Its version.
        chunks: How many chunks left the fleet: those that no other version needs.
        chunk_bytes: Their length on the wire.
        broker: Where they were taken from; None if nothing was published yet.
    """

    bundle: str
    version: str
    chunks: int
    chunk_bytes: int
    broker: BrokerAddress | None


def retire(
    registry: Registry,
    fleet: Fleet,
    bundle: str,
    version: str,
    *,
    passphrase: str | None = None,
    broker: BrokerAddress | None = None,
    clock: Clock = utc_now,
) -> Retired:
    """Retire a version.

    First its signature goes, then the devices hear so, then its chunks leave broker and storage,
    and then the registry says "retired": interrupted anywhere, do it again. The file stays in the
    registry, as evidence. A device that runs the version goes on: an installed model never stops
    serving.

    Args:
        registry: Where the version is.
        fleet: Whose devices could install it.
        bundle: Its name.
        version: Its version.
        passphrase: Of the offline keys, if they have one.
        broker: The fleet's broker; the one that was published to last, if not given.
        clock: The time of signing.

    Raises:
        UsageError: If the registry has no such version, or the passphrase is wrong.
        GateFailedError: If devices are ordered to run it; names some.
        EnvironmentLackError: If the broker does not answer.
    """
    registry.get(bundle, version)
    images = open_images(fleet, passphrase=passphrase, clock=clock)
    broker = broker or fleet.broker
    path = target_path(bundle, version)
    with fleet.locked():
        _require_unordered(fleet, bundle, version)
        if path in images.targets().targets:
            images.require_signer("targets")
            with images.edit_targets() as targets:
                del targets.targets[path]
        images.commit()
        (fleet.releases / bundle / f"{version}.json").unlink(missing_ok=True)
        gone = _unneeded(images)
        if broker is not None:
            _take_off(fleet, broker, list(gone))
        images.chunks.storage.remove(gone)
        size = sum(gone.values())
    done = Retired(
        bundle=bundle,
        version=version,
        chunks=len(gone),
        chunk_bytes=size,
        broker=broker,
    )
    registry.mark_retired(bundle, version, {"chunks": len(gone), "chunk_bytes": size})
    return done


def _require_unordered(fleet: Fleet, bundle: str, version: str) -> None:
    devices = [
        device
        for device, order in device_orders(fleet).items()
        if any(target_path(bundle, version) in item.target_paths for item in order.bundles)
    ]
    if devices:
        raise GateFailedError(
            plural(len(devices), "device is", "devices are")
            + f" ordered to run {bundle} {version}: "
            + ", ".join(devices[:_NAMED_DEVICES])
            + (", …" if len(devices) > _NAMED_DEVICES else ""),
            fix="order another version for them first",
        )


def _unneeded(images: ImageRepository) -> dict[str, int]:
    """Chunks in the storage that no released version refers to, with their length.

    Not only the retired version's own: what an interrupted retirement or release left behind
    goes as well. Whoever releases holds the fleet's lock, so nothing is on its way in.
    """
    needed = set(images.chunk_names())
    return {
        name: size
        for name, size in sorted(images.chunks.storage.sizes().items())
        if re.fullmatch(r"[0-9a-f]{64}", name) and name not in needed
    }


def _take_off(fleet: Fleet, broker: BrokerAddress, chunks: list[str]) -> None:
    topics = Topics(fleet.id)
    with connected_to(broker) as connection:
        # First, so that no device begins to fetch what is about to go.
        publish_metadata(fleet, connection)
        # An empty retained message takes the place of the one that was kept, and is not kept.
        connection.publish((topics.chunk(name), b"") for name in chunks)
