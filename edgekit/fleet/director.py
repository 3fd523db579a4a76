"""The director: what each device has been told to run, signed for that device alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import CanonicalJSONSerializer

from edgekit.fleet.clock import Clock, rfc3339
from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_planning import current_root
from edgekit.fleet.keyring import Repository
from edgekit.fleet.order_store import NO_ORDER, HeldOrder, OrderStore, SignedOrder
from edgekit.fleet.order_targets import order_targets
from edgekit.fleet.signed_folder import RoleExpiry, prove
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.orders import (
    ORDER_FIELD,
    TIME_FIELD,
    BundleOrder,
    parse_order,
)
from edgekit_runtime.protocol import require_id

_CANONICAL: Final = CanonicalJSONSerializer()
# `refresh` signs an order's targets again when less than this share of their time is left.
_RENEWAL_SHARE: Final = 0.5
# Orders that are kept at once: enough that writing costs nothing beside signing.
_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAgain:
    """What was done to the orders of all devices.

    Attributes:
        devices: How many were signed again.
        damaged: Whose order was left as it is: it is damaged, or not signed by a trusted key.
    """

    devices: int
    damaged: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """The three files of an order, each signed by a key that the root trusts."""

    revision: int
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    signed: SignedOrder


class Director:
    """The director's repositories, one for each device; all devices share the director's root.

    The version of the targets metadata is the version of the order. Renewing the snapshot and
    the timestamp keeps an order valid without making it a new one, which a device would take as
    the wish to try again what it has rejected. Nothing is built upon that is not signed by a key
    which the root trusts. Whoever orders holds the fleet's lock meanwhile.

    Args:
        fleet: Whose devices they are.
        sign_with: Gives the signers of a role, as many as its threshold asks for; asked only
            when something is signed.
        clock: The time of signing.

    Raises:
        UsageError: If the fleet has no keys yet.
        VerificationError: If the root is damaged.
    """

    def __init__(
        self, fleet: Fleet, *, sign_with: Callable[[str], Sequence[Signer]], clock: Clock
    ) -> None:
        self.store = OrderStore(fleet)
        self._fleet = fleet
        self.root, self._roots = self._read_roots()
        # Without a refresh for so long the order is void: the device notices a freeze.
        order = timedelta(days=fleet.expiries.order)
        self._lifetimes = {
            Targets.type: timedelta(days=fleet.expiries.targets),
            Snapshot.type: order,
            Timestamp.type: order,
        }
        self._sign_with = sign_with
        self._signers: dict[str, Sequence[Signer]] = {}
        self._clock = clock

    def held(self, device: str) -> HeldOrder:
        """What a device is told; `NO_ORDER` if that is nothing so far.

        Raises:
            VerificationError: If the order is damaged, not signed by a trusted key, or of another
                device.
        """
        opened = self._opened(device)
        return NO_ORDER if opened is None else _held(opened)

    def published(self, device: str) -> dict[str, bytes]:
        """The metadata set that a device gets: all roots, and its order.

        Raises:
            UsageError: If it was never told anything.
            VerificationError: As `held`.
        """
        files = self.find(device)
        if files is None:
            raise UsageError("nothing has been ordered for this device yet", where=device)
        return files

    def find(self, device: str) -> dict[str, bytes] | None:
        """As `published`; None if it was never told anything, or was deleted."""
        opened = self._opened(device)
        return None if opened is None else self.files(opened.signed, _held(opened))

    def files(self, order: SignedOrder, held: HeldOrder) -> dict[str, bytes]:
        """The metadata set of an order, of these versions, as a device gets it."""
        return self._roots | {
            f"{held.version}.targets.json": order.targets,
            f"{held.snapshot}.snapshot.json": order.snapshot,
            "timestamp.json": order.timestamp,
        }

    def order(self, device: str, orders: Iterable[BundleOrder], images: Targets) -> int:
        """Sign and keep the whole order of a device.

        Args:
            device: Its id.
            orders: Every bundle that it must run.
            images: What the image repository has published.

        Returns:
            The order's version.

        Raises:
            UsageError: If a bundle stands there twice, is not released, or has invalid numbers;
                or if the id is invalid.
            VerificationError: As `held`.
        """
        signed, held = self.sign(device, orders, images, before=self.held(device))
        self.store.put({device: signed})
        return held.version

    def sign(
        self, device: str, orders: Iterable[BundleOrder], images: Targets, *, before: HeldOrder
    ) -> tuple[SignedOrder, HeldOrder]:
        """Sign the whole order of a device, and keep nothing.

        Args:
            device: Its id.
            orders: Every bundle that it must run.
            images: What the image repository has published.
            before: The order that it takes the place of.

        Raises:
            UsageError: As `order`.
            VerificationError: If the key that signs is not trusted by the root.
        """
        require_id(device, kind="device")
        bundles, files = order_targets(orders, images)
        targets = Targets(version=before.version + 1, targets=files)
        targets.unrecognized_fields[ORDER_FIELD] = {"device": device}
        signed = self._publish(self._fresh(targets), targets.version, before)
        held = HeldOrder(
            revision=0,
            version=targets.version,
            snapshot=before.snapshot + 1,
            timestamp=before.timestamp + 1,
            bundles=bundles,
        )
        return signed, held

    def renew(self) -> SignedAgain:
        """Sign what keeps orders valid; an order itself only when half its time is over."""
        return self._change_all(self._renewed)

    def sign_again(self, final: Root) -> SignedAgain:
        """Sign present orders with the keys of today, where a coming root asks for that.

        Their versions stay: a new one a device would take as the wish to try again.

        Args:
            final: The root that will trust the keys of today alone.
        """
        return self._change_all(lambda opened: self._signed_for(final, opened))

    @property
    def root_expiry(self) -> RoleExpiry:
        """Until when the root holds, which all devices share."""
        return RoleExpiry.of(self.root)

    def expiries(self, device: str) -> tuple[RoleExpiry, ...]:
        """Until when a device's targets, snapshot and timestamp hold; nothing without an order."""
        opened = self._opened(device)
        if opened is None:
            return ()
        files = (opened.targets, opened.snapshot, opened.timestamp)
        return tuple(RoleExpiry.of(file.signed) for file in files)

    def _change_all(self, change: Callable[[_Opened], SignedOrder]) -> SignedAgain:
        devices = list(self.store.revisions())
        damaged: list[str] = []
        for start in range(0, len(devices), _AT_ONCE):
            changed = {}
            for device in devices[start : start + _AT_ONCE]:
                try:
                    opened = self._opened(device)
                except VerificationError:
                    # Other devices must not be left in the dark for it.
                    damaged.append(device)
                    continue
                if opened is not None:
                    changed[device] = change(opened)
            self.store.put(changed)
        return SignedAgain(devices=len(devices) - len(damaged), damaged=tuple(damaged))

    def _renewed(self, opened: _Opened) -> SignedOrder:
        targets = opened.targets.signed
        before = _held(opened)
        if targets.expires - self._clock() < self._lifetimes[Targets.type] * _RENEWAL_SHARE:
            targets.version += 1
            return self._publish(self._fresh(targets), targets.version, before)
        return self._publish(opened.signed.targets, targets.version, before)

    def _signed_for(self, final: Root, opened: _Opened) -> SignedOrder:
        targets = opened.targets
        signed = final.get_verification_result(
            Targets.type, targets.signed_bytes, targets.signatures
        )
        data = opened.signed.targets if signed.verified else self._sign(targets.signed)
        return self._publish(data, targets.signed.version, _held(opened))

    def _publish(self, targets: bytes, version: int, before: HeldOrder) -> SignedOrder:
        snapshot = Snapshot(
            version=before.snapshot + 1, meta={"targets.json": MetaFile(version=version)}
        )
        timestamp = Timestamp(
            version=before.timestamp + 1, snapshot_meta=MetaFile(version=snapshot.version)
        )
        # Devices without a clock learn from it what time it is at least.
        timestamp.unrecognized_fields[TIME_FIELD] = rfc3339(self._clock())
        return SignedOrder(
            targets=targets, snapshot=self._fresh(snapshot), timestamp=self._fresh(timestamp)
        )

    def _fresh(self, signed: Targets | Snapshot | Timestamp) -> bytes:
        signed.expires = self._clock() + self._lifetimes[signed.type]
        return self._sign(signed)

    def _sign(self, signed: Targets | Snapshot | Timestamp) -> bytes:
        # The very bytes that are signed are proven: making them takes longer than either.
        payload = _CANONICAL.serialize(signed)
        metadata: Metadata[Any] = Metadata(signed)
        for signer in self._signers_of(signed.type):
            signature = signer.sign(payload)
            metadata.signatures[signature.keyid] = signature
        where = "what was signed just now"
        prove(self.root, signed.type, metadata, payload=payload, where=where)
        return metadata.to_bytes()

    def _signers_of(self, role: str) -> Sequence[Signer]:
        if role not in self._signers:
            self._signers[role] = self._sign_with(role)
        return self._signers[role]

    def _read_roots(self) -> tuple[Root, dict[str, bytes]]:
        root = current_root(self._fleet, Repository.DIRECTOR).signed
        paths = sorted(self._fleet.director_metadata.glob("*.root.json"))
        return root, {path.name: path.read_bytes() for path in paths}

    def _opened(self, device: str) -> _Opened | None:
        require_id(device, kind="device")
        try:
            return self._read(device)
        except VerificationError:
            # Keys that were exchanged since the root was read may have signed it.
            before = self.root.version
            self.root, self._roots = self._read_roots()
            if self.root.version == before:
                raise
            return self._read(device)

    def _read(self, device: str) -> _Opened | None:
        kept = self.store.get(device)
        if kept is None:
            return None
        revision, order = kept
        where = f"the order of device {device}"
        opened = _Opened(
            revision=revision,
            targets=self._open(Targets, order.targets, where),
            snapshot=self._open(Snapshot, order.snapshot, where),
            timestamp=self._open(Timestamp, order.timestamp, where),
            signed=order,
        )
        targets, snapshot = opened.targets.signed, opened.snapshot.signed
        if (
            opened.timestamp.signed.snapshot_meta.version != snapshot.version
            or snapshot.meta["targets.json"].version != targets.version
        ):
            raise _damaged("its files do not belong together", where)
        if targets.unrecognized_fields.get(ORDER_FIELD) != {"device": device}:
            raise _damaged("this order was signed for another device", where)
        return opened

    def _open(self, kind: type[Signed], data: bytes, where: str) -> Metadata[Any]:
        try:
            metadata: Metadata[Any] = Metadata.from_bytes(data)
        except RepositoryError as error:
            raise _damaged(f"the metadata is damaged: {error}", where) from error
        if not isinstance(metadata.signed, kind):
            raise _damaged(f"this is {metadata.signed.type} metadata, not {kind.type}", where)
        prove(self.root, kind.type, metadata, payload=metadata.signed_bytes, where=where)
        return metadata


def _held(opened: _Opened) -> HeldOrder:
    targets = opened.targets.signed
    return HeldOrder(
        revision=opened.revision,
        version=targets.version,
        snapshot=opened.snapshot.signed.version,
        timestamp=opened.timestamp.signed.version,
        bundles=tuple(
            parse_order(path, target.custom) for path, target in sorted(targets.targets.items())
        ),
    )


def _damaged(what: str, where: str) -> VerificationError:
    return VerificationError(what, where=where, fix="take the fleet folder from a backup")
