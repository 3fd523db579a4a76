"""Put a fleet's chunks, metadata and orders on a broker, as retained messages.

The order matters: a device that sees an order finds the metadata, and the chunks that it names.
The broker is the store, so everything that is released is published: a broker that has lost its
memory, or whose messages somebody has changed, is whole again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgekit.fleet.connection import BrokerConnection, Progress, connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.repositories import open_director, open_images, ordered_devices
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.protocol import Topics, pack_metadata, unpack_metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a broker has acknowledged.

    Attributes:
        broker: Where.
        protocol: "MQTT 5" or "MQTT 3.1.1".
        chunks: How many chunks.
        chunk_bytes: Their length.
        metadata_bytes: Length of the metadata message.
        orders: To how many devices.
        order_bytes: Their length.
        damaged: Whose orders are damaged, and were not sent.
    """

    broker: BrokerAddress
    protocol: str
    chunks: int
    chunk_bytes: int
    metadata_bytes: int
    orders: int
    order_bytes: int
    damaged: tuple[str, ...]


def publish(fleet: Fleet, broker: BrokerAddress, *, progress: Progress | None = None) -> Published:
    """Publish all releases, the metadata, and the orders of all devices; remember the broker.

    Args:
        fleet: The fleet.
        broker: Where to.
        progress: Told how many chunks are acknowledged, of how many sent so far.

    Raises:
        UsageError: If the fleet has no keys yet.
        VerificationError: If chunks or the metadata of releases on disk are damaged.
        EnvironmentLackError: If the broker cannot be reached or does not take a message.
    """
    damaged: list[str] = []
    with connected_to(broker) as connection:
        chunks, chunk_bytes = publish_chunks(fleet, connection, progress=progress)
        metadata_bytes = publish_metadata(fleet, connection)
        orders, order_bytes = connection.publish(
            packed_orders(fleet, ordered_devices(fleet), damaged=damaged)
        )
        protocol = connection.protocol
    fleet.with_broker(broker)
    return Published(
        broker=broker,
        protocol=protocol,
        chunks=chunks,
        chunk_bytes=chunk_bytes,
        metadata_bytes=metadata_bytes,
        orders=orders,
        order_bytes=order_bytes,
        damaged=tuple(damaged),
    )


def revisions(fleet: Fleet) -> dict[str, int]:
    """What would be published now, in two numbers: each change of metadata or orders adds to one.

    Raises:
        UsageError: If the fleet has no keys yet.
        VerificationError: If metadata on disk is damaged.
    """
    timestamp = next(i for i in open_images(fleet).expiries() if i.role == "timestamp")
    return {
        "metadata_version": timestamp.version,
        "order_changes": sum(open_director(fleet).store.revisions().values()),
    }


def publish_chunks(
    fleet: Fleet, connection: BrokerConnection, *, progress: Progress | None = None
) -> tuple[int, int]:
    """Publish every chunk that the published releases refer to.

    Returns:
        How many, and their length in bytes.

    Raises:
        VerificationError: If a chunk on disk is missing or damaged.
        EnvironmentLackError: If the broker does not take one.
    """
    return connection.publish(_chunk_messages(fleet), progress=progress)


def publish_metadata(fleet: Fleet, connection: BrokerConnection) -> int:
    """Publish the image repository's metadata set; its length in bytes.

    Raises:
        VerificationError: If metadata on disk is damaged, or more than devices accept.
        EnvironmentLackError: If the broker does not take it.
    """
    message = packed_metadata(fleet)
    connection.publish([(Topics(fleet.id).metadata, message)])
    return len(message)


def publish_order(fleet: Fleet, connection: BrokerConnection, device: str) -> int:
    """Publish a device's order; its length in bytes.

    Raises:
        UsageError: If the device has no order.
        VerificationError: If metadata on disk is damaged.
        EnvironmentLackError: If the broker does not take it.
    """
    return connection.publish(packed_orders(fleet, [device]))[1]


def packed_metadata(fleet: Fleet) -> bytes:
    """The message with the image repository's metadata set.

    Raises:
        VerificationError: If metadata on disk is damaged, or more than devices accept.
    """
    return _packed(open_images(fleet).published(), where=f"fleet {fleet.id}")


def packed_order(fleet: Fleet, device: str) -> bytes:
    """The message with the director's metadata set for a device.

    Raises:
        UsageError: If the device has no order.
        VerificationError: If metadata on disk is damaged.
    """
    ((_, message),) = packed_orders(fleet, [device])
    return message


def packed_orders(
    fleet: Fleet,
    devices: Iterable[str],
    *,
    damaged: list[str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Topic and message of each device, as `packed_order` makes it.

    Args:
        fleet: The fleet.
        devices: Their ids.
        damaged: Takes the ids of those whose order is damaged, which is left out then.

    Raises:
        UsageError: If a device has no order.
        VerificationError: If metadata on disk is damaged, and that is not to be left out.
    """
    director, topics = open_director(fleet), Topics(fleet.id)
    for device in devices:
        try:
            message = _packed(director.published(device), where=f"device {device}")
        except VerificationError:
            if damaged is None:
                raise
            damaged.append(device)
        else:
            yield topics.order(device), message


def _chunk_messages(fleet: Fleet) -> Iterator[tuple[str, bytes]]:
    images = open_images(fleet)
    topics = Topics(fleet.id)
    for name, wire in images.chunks.get_all(list(images.chunk_names())):
        yield topics.chunk(name), wire


def _packed(files: dict[str, bytes], *, where: str) -> bytes:
    message = pack_metadata(files)
    # What a device would refuse is not sent: it has bounds for what it unpacks.
    unpack_metadata(message, where=where)
    return message
