"""What an order says, as TUF targets: bundles that are released, each once. Imports tuf."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tuf.api.metadata import TargetFile, Targets

from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.orders import BundleOrder, parse_order, target_path


def order_targets(
    orders: Iterable[BundleOrder], images: Targets
) -> tuple[tuple[BundleOrder, ...], dict[str, TargetFile]]:
    """What a device will read, by name, and the targets that say so.

    Args:
        orders: Every bundle that it must run.
        images: What the image repository has published.

    Raises:
        UsageError: If a bundle stands there twice, is not released (the fix lists what is), or
            has invalid numbers.
    """
    targets: dict[str, TargetFile] = {}
    bundles: dict[str, BundleOrder] = {}
    for order in orders:
        if order.bundle in bundles:
            raise UsageError(
                "a device runs one version of a bundle", where=order.bundle, fix="name it once"
            )
        image = images.targets.get(order.target_path)
        if image is None:
            raise _unreleased(order.bundle, order.version, images)
        custom = _with_index(order, images).to_custom()
        try:
            bundles[order.bundle] = parse_order(order.target_path, custom)
        except VerificationError as error:
            raise UsageError(error.what, where=f"{order.bundle} {order.version}") from error
        targets[order.target_path] = TargetFile(
            image.length, dict(image.hashes), order.target_path, {"custom": custom}
        )
    return tuple(bundles[name] for name in sorted(bundles)), targets


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
