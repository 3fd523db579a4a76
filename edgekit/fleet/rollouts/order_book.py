"""The way from a rollout to the director: what devices are told, and telling them, exactly once.

Imports tuf only when something is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import Repository, read_keyring
from edgekit.fleet.repositories import open_images, open_orders, ordered_devices
from edgekit.fleet.rollouts.devices import Fate, fate_of
from edgekit.fleet.rollouts.engine import Order
from edgekit_runtime.orders import BundleOrder, order_of
from edgekit_runtime.protocol import Topics, pack_metadata

if TYPE_CHECKING:
    from securesystemslib.signer import Signer
    from tuf.api.metadata import Root, Targets

    from edgekit.fleet.director import DeviceOrders

# Others may sign between two batches; a batch takes a second or so.
BATCH: Final = 100
_MOST_PROVEN: Final = 1_000
# Most of the time of an order goes by in waiting for the disk, which takes many at once.
_SIDE_BY_SIDE: Final = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """What a device is told: the version of its order, and everything that it names."""

    version: int
    bundles: tuple[BundleOrder, ...]

    def of(self, bundle: str) -> BundleOrder | None:
        """What it says of a bundle."""
        return order_of(self.bundles, bundle)


_NOTHING: Final = Entry(0, ())


class OrderBook:
    """What the director has signed for each device, read again only where it has changed.

    Args:
        fleet: Whose.
        clock: The time of signing.
    """

    def __init__(self, fleet: Fleet, *, clock: Clock = utc_now) -> None:
        self._fleet = fleet
        self._clock = clock
        self._topics = Topics(fleet.id)
        self._devices = str(fleet.devices)
        self._entries: dict[str, tuple[tuple[int, int], Entry]] = {}
        self._signers: dict[str, Sequence[Signer]] = {}
        self._signing = Lock()
        self._proven: set[tuple[str, bytes]] = set()
        self._root: Root | None = None
        self._roots_mark = 0

    def devices(self) -> tuple[str, ...]:
        """All devices that were ever told something."""
        return ordered_devices(self._fleet)

    def entry(self, device: str) -> Entry:
        """What a device is told now; nothing, of version 0, if it never was.

        Raises:
            VerificationError: If the order on disk is damaged.
        """
        mark = self._mark(device)
        if mark is None:
            return _NOTHING
        known = self._entries.get(device)
        if known is None or known[0] != mark:
            known = (mark, Entry(*self._open(device).current()))
            self._entries[device] = known
        return known[1]

    def carry_out(self, actions: Iterable[Order]) -> Iterator[list[tuple[str, bytes]]]:
        """Sign orders, each only if it is still to be made; in batches, as they are signed.

        Yields:
            Topic and message of every device of a batch whose order is as the action wants it,
            also of those that were signed before.

        Raises:
            UsageError: If the version is not released.
            EnvironmentLackError: If another process is signing, or the folder cannot be written.
        """
        waiting = list(actions)
        for start in range(0, len(waiting), BATCH):
            # The keys may have been rotated since the last batch.
            self._signers.clear()
            self._proven.clear()
            self._root = None
            by_device: dict[str, list[Order]] = {}
            for action in waiting[start : start + BATCH]:
                by_device.setdefault(action.device, []).append(action)
            with self._fleet.locked(), ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
                images = open_images(self._fleet).published_targets()
                told = threads.map(partial(self._tell_device, images=images), by_device.values())
                messages = [message for message in told if message is not None]
            yield messages

    def message(self, device: str) -> tuple[str, bytes]:
        """Topic and message of a device's present order."""
        return self._topics.order(device), pack_metadata(self._open(device).published())

    def _tell_device(
        self, actions: Sequence[Order], *, images: Targets
    ) -> tuple[str, bytes] | None:
        fates = [self._tell(action, images) for action in actions]
        if all(fate is Fate.OVERTAKEN for fate in fates):
            return None
        return self.message(actions[0].device)

    def _tell(self, action: Order, images: Targets) -> Fate:
        entry = self.entry(action.device)
        fate = fate_of(
            after=action.after,
            expected=action.expected,
            wanted=action.order,
            order_version=entry.version,
            ordered=entry.of(action.bundle),
        )
        if fate is not Fate.OPEN:
            return fate
        kept = [item for item in entry.bundles if item.bundle != action.bundle]
        orders = tuple(kept if action.order is None else [*kept, action.order])
        version = self._open(action.device).order(orders, images)
        mark = self._mark(action.device)
        if mark is not None:
            ordered = tuple(sorted(orders, key=lambda item: item.bundle))
            self._entries[action.device] = (mark, Entry(version, ordered))
        return Fate.DONE

    def _mark(self, device: str) -> tuple[int, int] | None:
        try:
            # Asked for every device again and again: no path is built for it.
            status = os.stat(f"{self._devices}/{device}/timestamp.json")  # noqa: PTH116
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _open(self, device: str) -> DeviceOrders:
        mark = _changed(self._fleet.director_metadata)
        if self._root is None or mark != self._roots_mark:
            # The keys may have been rotated by another process.
            self._roots_mark = mark
            # Also says what is missing where tuf is not installed. What an older root has
            # signed is to be proven anew.
            self._proven.clear()
            self._root = open_orders(self._fleet, device).root()
        if len(self._proven) > _MOST_PROVEN:
            self._proven.clear()
        from edgekit.fleet.rollouts.bulk_orders import BulkDeviceOrders

        return BulkDeviceOrders(
            self._fleet,
            device,
            root=self._root,
            proven=self._proven,
            sign_with=self._sign_with,
            signing=self._signing,
            clock=self._clock,
        )

    def _sign_with(self, role: str) -> Sequence[Signer]:
        if role not in self._signers:
            self._signers[role] = read_keyring(self._fleet).signers(Repository.DIRECTOR, role)
        return self._signers[role]


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        # Whoever opens it says what is missing.
        return 0
