"""Write a fleet's chunks, metadata and orders into a folder: for a USB stick, or a web server.

The names are those of the MQTT topics, so that a folder, a bucket and a broker hold the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.fleet.folder import Fleet
from edgekit.fleet.publisher import packed_metadata, packed_orders
from edgekit.fleet.repositories import open_images, ordered_devices
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import UsageError
from edgekit_runtime.protocol import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What a folder holds now.

    Attributes:
        folder: Where.
        chunks: How many chunks and deltas.
        chunk_bytes: Their length.
        written: How many of them were not there, or not whole.
        orders: For how many devices.
    """

    folder: Path
    chunks: int
    chunk_bytes: int
    written: int
    orders: int


def export_fleet(fleet: Fleet, folder: Path, *, devices: Collection[str] = ()) -> Exported:
    """Write all that devices need; what is there and whole is not written again.

    As when publishing, chunks come first and orders last: a stick that is pulled out early holds
    nothing that cannot be completed.

    Args:
        fleet: The fleet.
        folder: Made if it is missing. Nothing in it is deleted.
        devices: Whose orders, and only the bundles that these orders name; empty for everything.

    Raises:
        UsageError: If the fleet has no keys, or a device has no order.
        VerificationError: If chunks or metadata on disk are damaged.
        EnvironmentLackError: If the folder cannot be written.
    """
    topics = Topics(fleet.id)
    known = ordered_devices(fleet)
    unknown = sorted(set(devices) - set(known))
    if unknown:
        raise UsageError(
            f"no order for {', '.join(unknown)}",
            where=str(fleet.path),
            fix="order something: edgekit fleet order; with orders are: "
            + (", ".join(known) or "none"),
        )
    chunks = chunk_bytes = written = 0
    for name, data in _chunks(fleet, devices):
        chunks += 1
        chunk_bytes += len(data)
        written += _write(folder / topics.chunk(name), data)
    _write(folder / topics.metadata, packed_metadata(fleet))
    exported = sorted(devices) or known
    for topic, message in packed_orders(fleet, exported):
        _write(folder / topic, message)
    return Exported(
        folder=folder,
        chunks=chunks,
        chunk_bytes=chunk_bytes,
        written=written,
        orders=len(exported),
    )


def _chunks(fleet: Fleet, devices: Collection[str]) -> Iterator[tuple[str, bytes]]:
    from edgekit.fleet.ordering import device_order

    images = open_images(fleet)
    paths = {
        path
        for device in devices
        for order in device_order(fleet, device).bundles
        for path in order.target_paths
    }
    yield from images.chunks.get_all(list(images.chunk_names(paths if devices else None)))


def _write(path: Path, data: bytes) -> bool:
    """Whether it had to be written."""
    try:
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_bytes(path, data)
    return True
