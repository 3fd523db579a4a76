"""The way from a rollout to the director: what devices are told, and telling them, exactly once.

Imports tuf only when something is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.order_store import NO_ORDER, HeldOrder, SignedOrder
from edgekit.fleet.repositories import open_director, open_images
from edgekit.fleet.rollouts.devices import Fate, fate_of
from edgekit.fleet.rollouts.engine import Order
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics, pack_metadata

if TYPE_CHECKING:
    from edgekit.fleet.director import Director

_log = logging.getLogger(__name__)

# Others may sign between two batches; a batch takes a part of a second.
BATCH: Final = 100


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
        self._opened: Director | None = None
        self._root_version = 0
        self._head = (0, 0)
        self._revisions: dict[str, int] = {}
        self._held: dict[str, HeldOrder] = {}
        self._damaged: set[str] = set()

    def look(self) -> None:
        """See what others have signed meanwhile, and with which keys.

        Raises:
            UsageError: If the fleet has no keys yet.
            VerificationError: If the director's root or the file of orders is damaged.
            EnvironmentLackError: If the file cannot be read, or tuf is not installed.
        """
        self._opened = open_director(self._fleet, clock=self._clock)
        if self._root_version != self._opened.root.version:
            # What an older root has trusted is proven anew.
            self._held.clear()
            self._root_version = self._opened.root.version
        head = self._opened.store.head()
        if head != self._head:
            self._revisions = self._opened.store.revisions()
            self._head = head

    def devices(self) -> tuple[str, ...]:
        """All devices that were ever told something, as of the last look."""
        self._director()
        return tuple(sorted(self._revisions))

    def entry(self, device: str) -> HeldOrder:
        """What a device is told, as of the last look; an order of version 0 if it never was.

        Raises:
            VerificationError: If the order is damaged, or no trusted key has signed it.
        """
        director = self._director()
        revision = self._revisions.get(device)
        if revision is None:
            return NO_ORDER
        held = self._held.get(device)
        if held is None or held.revision != revision:
            held = self._held[device] = director.held(device)
        return held

    def seen(self, device: str) -> HeldOrder:
        """As `entry`; an order that is damaged is as unseen, and is logged when it is found."""
        return self._undamaged(device) or NO_ORDER

    def carry_out(self, actions: Iterable[Order]) -> Iterator[list[tuple[str, bytes]]]:
        """Sign orders, each only if it is still to be made; in batches, each kept whole or not.

        Yields:
            Topic and message of every device of a batch whose order is as the action wants it,
            also of those that were signed before. Each must be sent before the next is asked for:
            where others have signed meanwhile, their order follows, so that it is the last sent.
            A device whose order is damaged is left out: the others must not wait for it, least of
            all where they are to be told to go back.

        Raises:
            UsageError: If the version is not released.
            EnvironmentLackError: If another process is signing, or the folder cannot be written.
        """
        waiting = list(actions)
        for start in range(0, len(waiting), BATCH):
            by_device: dict[str, list[Order]] = {}
            for action in waiting[start : start + BATCH]:
                by_device.setdefault(action.device, []).append(action)
            with self._fleet.locked():
                # Others may have ordered something, or rotated keys, since the last batch.
                self.look()
                messages = self._tell(by_device)
                sent = {device: self._revisions[device] for device in messages}
            yield [(self._topics.order(device), data) for device, data in messages.items()]
            yield from self._overtaken(sent)

    def message(self, device: str) -> tuple[str, bytes]:
        """Topic and message of a device's present order; an empty one if it was deleted."""
        files = self._director().find(device)
        return self._topics.order(device), pack_metadata(files) if files else b""

    def _director(self) -> Director:
        if self._opened is None:
            self.look()
        assert self._opened is not None  # noqa: S101 - whoever looks has opened it
        return self._opened

    def _undamaged(self, device: str) -> HeldOrder | None:
        try:
            held = self.entry(device)
        except VerificationError as error:
            if device not in self._damaged:
                self._damaged.add(device)
                _log.error("the device is told nothing until this is mended: %s", error)
            return None
        self._damaged.discard(device)
        return held

    def _overtaken(self, sent: Mapping[str, int]) -> Iterator[list[tuple[str, bytes]]]:
        while sent:
            self.look()
            now = self._revisions
            changed = [device for device in sent if now.get(device) != sent[device]]
            if changed:
                # A device that was deleted leaves nothing on the broker.
                yield [self.message(device) for device in changed]
            sent = {device: now[device] for device in changed if device in now}

    def _tell(self, by_device: Mapping[str, Sequence[Order]]) -> dict[str, bytes]:
        """By device, the message for those that are told what the actions want."""
        director = self._director()
        images = open_images(self._fleet).published_targets()
        told: dict[str, HeldOrder] = {}
        signed: dict[str, SignedOrder] = {}
        for device, actions in by_device.items():
            held = self._undamaged(device)
            if held is None:
                continue
            for action in actions:
                fate = _fate(action, held)
                if fate is Fate.OPEN:
                    orders = _with(held, action)
                    signed[device], held = director.sign(device, orders, images, before=held)
                if fate is not Fate.OVERTAKEN:
                    told[device] = held
        self._keep(director, signed, told)
        return {
            device: pack_metadata(director.files(signed[device], held))
            if device in signed
            else self.message(device)[1]
            for device, held in told.items()
        }

    def _keep(
        self,
        director: Director,
        signed: Mapping[str, SignedOrder],
        told: Mapping[str, HeldOrder],
    ) -> None:
        if not signed:
            return
        revisions = director.store.put(signed)
        for device, revision in revisions.items():
            self._held[device] = replace(told[device], revision=revision)
        self._revisions |= revisions
        self._head = (max(revisions.values()), len(self._revisions))


def _fate(action: Order, held: HeldOrder) -> Fate:
    if action.after and not held.version:
        # The device was deleted meanwhile: it must not come back.
        return Fate.OVERTAKEN
    return fate_of(
        after=action.after,
        expected=action.expected,
        wanted=action.order,
        order_version=held.version,
        ordered=held.of(action.bundle),
    )


def _with(held: HeldOrder, action: Order) -> list[BundleOrder]:
    kept = [order for order in held.bundles if order.bundle != action.bundle]
    return kept if action.order is None else [*kept, action.order]
