"""Operators that move values without changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import follow, identity, relabel
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze", dtypes=ANYTHING)
def lower_reshape(build: Builder, node: Node) -> None:
    """All the ways in which ONNX gives the same values another shape."""
    source = build.shape(node.input(0))
    tensor = build.value(node.input(0), identity(len(source)))
    shape = build.shape(node.outputs[0])
    if tensor.shape == shape and shape.count(None) <= 1:
        build.alias(node, tensor)
        return
    sizes = build.reshape_sizes(shape, node.outputs[0])
    target = [-1 if size is None else size for size in shape]
    build.emit("RESHAPE", [tensor, sizes], node, newShape=target)


@lowers("Transpose", layout=relabel, dtypes=ANYTHING)
def lower_transpose(build: Builder, node: Node) -> None:
    """Nothing is moved here: the plan has renamed the axes."""
    build.alias(node, build.input(node))


@lowers("Constant", dtypes=ANYTHING)
def lower_constant(build: Builder, node: Node) -> None:
    """A constant that is an output of the model."""
    value = node.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise RefusedNodeError("it holds no tensor")
    build.alias(node, build.constant(f"{node.outputs[0]}/value", value))


@lowers("Pad", layout=follow)
def lower_pad(build: Builder, node: Node) -> None:
    """Padding with one value."""
    mode = node.text("mode", "constant")
    if mode != "constant":
        raise RefusedNodeError(f"its mode is {mode!r}, supported: 'constant'")
    pads = build.constant_of(node, 1)
    if pads is None:
        raise RefusedNodeError("its padding is missing")
    order = build.layout.work
    chosen = build.constant_of(node, 3)
    axes = range(len(order)) if chosen is None else [int(axis) % len(order) for axis in chosen]
    before, after = (half.astype(int).tolist() for half in np.split(pads, 2))
    if min((*before, *after), default=0) < 0:
        raise RefusedNodeError("its padding is negative")
    by_axis = dict(zip(axes, zip(before, after, strict=True), strict=True))
    sizes = build.integers(
        f"{node.outputs[0]}/sizes", [by_axis.get(axis, (0, 0)) for axis in order]
    )
    fill = build.constant_of(node, 2)
    value = 0.0 if fill is None or fill.size == 0 else float(fill.reshape(-1)[0])
    inputs: list[Tensor | None] = [build.input(node), sizes]
    if value == 0.0:
        build.emit("PAD", inputs, node)
        return
    constant = build.constant(f"{node.outputs[0]}/value", np.array([value], dtype=np.float32))
    build.emit("PADV2", [*inputs, constant], node)
