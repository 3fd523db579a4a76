"""The director: what each device has been told to run, signed for that device alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.repository import AbortEdit

from edgekit.fleet.clock import Clock
from edgekit.fleet.folder import Fleet
from edgekit.fleet.signed_folder import SignedFolder
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.orders import ORDER_FIELD, BundleOrder, parse_order, target_path
from edgekit_runtime.protocol import require_id

# `refresh` signs an order's targets again when less than this share of their time is left.
_RENEWAL_SHARE: Final = 0.5


class DeviceOrders(SignedFolder):
    """The director's repository for one device; all devices share the director's root.

    The version of the targets metadata is the version of the order. Renewing the snapshot and
    the timestamp keeps an order valid without making it a new one, which a device would take as
    the wish to try again what it has rejected.

    Args:
        fleet: Whose device it is.
        device: Its id.
        sign_with: Gives the signers of a role; asked only when something is signed.
        clock: The time of signing.
    """

    def __init__(
        self,
        fleet: Fleet,
        device: str,
        *,
        sign_with: Callable[[str], Sequence[Signer]],
        clock: Clock,
    ) -> None:
        self.device = require_id(device, kind="device")
        # Without a refresh for so long the order is void: the device notices a freeze.
        order = timedelta(days=fleet.expiries.order)
        super().__init__(
            folder=fleet.devices / device,
            root_folder=fleet.director_metadata,
            sign_with=sign_with,
            lifetimes={
                Root.type: timedelta(days=fleet.expiries.root),
                Targets.type: timedelta(days=fleet.expiries.targets),
                Snapshot.type: order,
                Timestamp.type: order,
            },
            clock=clock,
        )

    def order(self, orders: Iterable[BundleOrder], images: Targets) -> int:
        """Sign and publish the whole order of the device.

        Args:
            orders: Every bundle that it must run.
            images: What the image repository has published.

        Returns:
            The order's version.

        Raises:
            UsageError: If a bundle stands there twice, is not released, or has invalid numbers.
        """
        targets = _order_targets(orders, images)
        with self.edit_targets() as metadata:
            self._check_owner(metadata)
            if metadata.targets == targets and metadata.version > self.current()[0]:
                # Signed before a crash, and seen by nobody: it is finished, and no other made.
                raise AbortEdit
            metadata.unrecognized_fields[ORDER_FIELD] = {"device": self.device}
            metadata.targets = targets
        self.commit()
        return metadata.version

    def current(self) -> tuple[int, tuple[BundleOrder, ...]]:
        """The published order and its version; version 0 and nothing if there is none."""
        metadata = self.published_targets()
        if not metadata.targets and ORDER_FIELD not in metadata.unrecognized_fields:
            return 0, ()
        self._check_owner(metadata)
        return metadata.version, tuple(
            parse_order(path, target.custom) for path, target in sorted(metadata.targets.items())
        )

    def renew(self) -> None:
        """Sign what keeps the order valid; the order itself only when half its time is over."""
        expires = self.targets().expires
        left = expires - self._clock()
        if left < self._lifetimes[Targets.type] * _RENEWAL_SHARE:
            with self.edit_targets() as metadata:
                self._check_owner(metadata)
        self.commit(renew=True)

    def sign_again(self, final: Root) -> None:
        """Sign the present order with the keys of today, where a coming root asks for that.

        Its version stays: a new one a device would take as the wish to try again.

        Args:
            final: The root that will trust the keys of today alone.
        """
        metadata = self.open(Targets.type)
        if metadata.signed.version:
            self._check_owner(metadata.signed)
            signed = final.get_verification_result(
                Targets.type, metadata.signed_bytes, metadata.signatures
            )
            if not signed.verified:
                self.replace_signatures(Targets.type, metadata)
            self.commit(renew=True)

    def _check_owner(self, metadata: Targets) -> None:
        owner = metadata.unrecognized_fields.get(ORDER_FIELD, {"device": self.device})
        if owner != {"device": self.device}:
            raise VerificationError(
                "this order was signed for another device",
                where=f"device {self.device}",
                fix="take the fleet folder from a backup",
            )


def _order_targets(orders: Iterable[BundleOrder], images: Targets) -> dict[str, TargetFile]:
    targets: dict[str, TargetFile] = {}
    bundles: set[str] = set()
    for order in orders:
        if order.bundle in bundles:
            raise UsageError(
                "a device runs one version of a bundle", where=order.bundle, fix="name it once"
            )
        bundles.add(order.bundle)
        image = images.targets.get(order.target_path)
        if image is None:
            raise _unreleased(order.bundle, order.version, images)
        custom = _with_index(order, images).to_custom()
        try:
            parse_order(order.target_path, custom)
        except VerificationError as error:
            raise UsageError(error.what, where=f"{order.bundle} {order.version}") from error
        targets[order.target_path] = TargetFile(
            image.length, dict(image.hashes), order.target_path, {"custom": custom}
        )
    return targets


def _with_index(order: BundleOrder, images: Targets) -> BundleOrder:
    """The order, with the released index of what is to run beside; devices compare the two."""
    if order.shadow is None:
        return order
    image = images.targets.get(target_path(order.bundle, order.shadow.version))
    if image is None:
        raise _unreleased(order.bundle, order.shadow.version, images)
    shadow = replace(order.shadow, digest=image.hashes["sha256"], length=image.length)
    return replace(order, shadow=shadow)


def _unreleased(bundle: str, version: str, images: Targets) -> UsageError:
    prefix = f"{bundle}/"
    versions = sorted(path.split("/")[1] for path in images.targets if path.startswith(prefix))
    if versions:
        fix = f"choose a released version of {bundle}: {', '.join(versions)}"
    else:
        names = sorted({path.split("/")[0] for path in images.targets})
        fix = "release it first: edgekit release add; released are: " + (", ".join(names) or "none")
    return UsageError(f"{bundle} {version} is not released", fix=fix)
