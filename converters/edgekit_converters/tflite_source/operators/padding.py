"""Padding with zeros, with a value, and by mirroring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder
    from edgekit_converters.tflite_source.values import Order

_SYMMETRIC = 1


@imports("PAD", inputs=(2, 2))
def import_pad(build: Builder) -> None:
    """With zeros."""
    order = _order(build)
    build.emit("Pad", [build.input(0, order), _amounts(build, order)], order)


@imports("PADV2", inputs=(3, 3))
def import_pad_value(build: Builder) -> None:
    """With a value."""
    order = _order(build)
    shape = build.sizes([], "scalar")
    value = (
        build.node("Reshape", [build.input(2), shape]) if build.tensor(2).rank else build.input(2)
    )
    build.emit("Pad", [build.input(0, order), _amounts(build, order), value], order)


@imports("MIRROR_PAD", inputs=(2, 2), options="MirrorPadOptions", moves=True)
def import_mirror_pad(build: Builder) -> None:
    """With what lies inside, mirrored at the border; symmetric: the border itself comes first."""
    source = build.tensor(0)
    amounts = build.constant(1).reshape(source.rank, 2)
    if build.option("mode") != _SYMMETRIC:
        order = _order(build)
        build.emit("Pad", [build.input(0, order), _amounts(build, order)], order, mode="reflect")
        return
    value = build.input(0)
    for axis, (before, after) in enumerate(amounts.tolist()):
        size = build.shape(0)[axis]
        if not before and not after:
            continue
        if size is None or not 0 <= max(before, after) <= size or min(before, after) < 0:
            raise RefusedOperatorError(f"it pads axis {axis} of size {size} by {before}, {after}")
        inside = list(range(size))
        places = inside[:before][::-1] + inside + inside[size - after :][::-1]
        value = build.node("Gather", [value, build.sizes(places, f"places{axis}")], axis=axis)
    build.emit("Identity", [value])


def _order(build: Builder) -> Order:
    """Where the amounts are constant they can be said in any order of axes."""
    return build.order(0) if build.is_constant(1) else tuple(range(build.tensor(0).rank))


def _amounts(build: Builder, order: Order) -> str:
    """ONNX wants all that comes before, then all that comes after."""
    if build.is_constant(1):
        amounts = build.constant(1).reshape(len(order), 2)[list(order)]
        return build.store(amounts.T.reshape(-1).astype(np.int64), f"{build.operator.name}/pads")
    turned = build.node("Transpose", [build.index_value(1)], perm=[1, 0])
    return build.node("Reshape", [turned, build.sizes([-1], "flat")])
