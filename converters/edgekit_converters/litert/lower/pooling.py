"""Poolings over windows and over whole images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.layout import channels_last, follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import emit_image, image_of, image_window, pad_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node, Shape
    from edgekit_converters.litert.lower.window import Window

_LOWEST: Final = float(np.finfo(np.float32).min)
# Their results are never negative, so that zero is as neutral for a maximum as the lowest float.
# A padding of -3e38 would make the whole tensor unquantizable.
_NEVER_NEGATIVE: Final = frozenset({"Relu", "Sigmoid", "Softmax", "Abs", "HardSigmoid", "Exp"})


@lowers("MaxPool", layout=channels_last)
def lower_max_pool(build: Builder, node: Node) -> None:
    """MAX_POOL_2D; cells beyond the border never win."""
    if any(node.outputs[1:]):
        raise RefusedNodeError("its indices are used")
    window = _pool_window(build, node)
    image = image_of(build, node)
    fill = 0.0 if _never_negative(build, node.input(0)) else _LOWEST
    image = pad_image(build, node, image, window, fill)
    emit_image(build, node, "MAX_POOL_2D", [image], _options(window))


@lowers("AveragePool", layout=channels_last)
def lower_average_pool(build: Builder, node: Node) -> None:
    """AVERAGE_POOL_2D, corrected where ONNX divides by another count of cells."""
    window = _pool_window(build, node)
    image = image_of(build, node)
    counted = bool(node.integer("count_include_pad", 0))
    # LiteRT's own SAME leaves out the cells beyond the border, as ONNX does by default.
    if window.padding == "VALID" or (window.padding == "SAME" and not counted):
        emit_image(build, node, "AVERAGE_POOL_2D", [image], _options(window))
        return
    size = build.shape(node.input(0))[2:]
    correction = _correction(window, size, counted=counted)
    padded = pad_image(build, node, image, _by_hand(window), 0.0)
    options = _options(_by_hand(window))
    if np.all(correction == 1.0):
        emit_image(build, node, "AVERAGE_POOL_2D", [padded], options)
        return
    shape = (image.shape[0], *correction.shape[1:3], image.shape[3])
    name = f"{node.outputs[0]}/uncorrected"
    pooled = build.step("AVERAGE_POOL_2D", [padded], name=name, shape=shape, **options)
    factor = build.constant(f"{node.outputs[0]}/correction", correction)
    emit_image(build, node, "MUL", [pooled, factor], {"fusedActivationFunction": "NONE"})


@lowers("GlobalAveragePool", "GlobalMaxPool", layout=follow)
def lower_global_pool(build: Builder, node: Node) -> None:
    """A reduction over all spatial axes."""
    order = build.layout.work
    axes = [order.index(axis) for axis in range(2, len(order))]
    code = "MEAN" if node.op == "GlobalAveragePool" else "REDUCE_MAX"
    inputs = [build.input(node), build.integers(f"{node.outputs[0]}/axes", axes)]
    build.emit(code, [*inputs], node, keepDims=True)


@lowers("LRN", layout=channels_last)
def lower_local_response_normalization(build: Builder, node: Node) -> None:
    """Normalisation over neighbouring channels; LiteRT's alpha is not divided by the size."""
    size = node.integer("size", 1)
    if size % 2 == 0 or len(build.layout.work) != 4:  # noqa: PLR2004
        raise RefusedNodeError("it needs an odd size and an image")
    build.emit(
        "LOCAL_RESPONSE_NORMALIZATION",
        [build.input(node)],
        node,
        radius=size // 2,
        bias=node.number("bias", 1.0),
        alpha=node.number("alpha", 1e-4) / size,
        beta=node.number("beta", 0.75),
    )


def _pool_window(build: Builder, node: Node) -> Window:
    kernel = node.integers("kernel_shape") or ()
    window = image_window(build, node, kernel)
    if any(step != 1 for step in window.dilations):
        raise RefusedNodeError("its window is dilated")
    return window


def _by_hand(window: Window) -> Window:
    return replace(window, padding="EXPLICIT")


def _options(window: Window) -> dict[str, Any]:
    return {
        "padding": "SAME" if window.padding == "SAME" else "VALID",
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "filterHeight": window.kernel[0],
        "filterWidth": window.kernel[1],
        "fusedActivationFunction": "NONE",
    }


def _correction(window: Window, size: Shape, *, counted: bool) -> NDArray[np.float32]:
    """Cells in the window over cells that ONNX divides by: (1, height, width, 1)."""
    height = size[0] if len(size) == 2 else 1  # noqa: PLR2004
    factors = []
    for axis, cells in enumerate((height, size[-1])):
        if cells is None:
            raise RefusedNodeError("its padding depends on a size that is free")
        front, back, extra = window.before[axis], window.after[axis], window.extra[axis]
        line = np.zeros(front + cells + back + extra)
        line[front : front + cells] = 1.0
        if counted:
            line[: front + cells + back] = 1.0
        kernel, stride = window.kernel[axis], window.strides[axis]
        starts = range(0, len(line) - kernel + 1, stride)
        counts = np.array([line[at : at + kernel].sum() for at in starts])
        if not counts.all():
            raise RefusedNodeError("a window lies in the padding alone")
        factors.append(kernel / counts)
    return np.asarray(np.outer(*factors)[None, :, :, None], dtype=np.float32)


def _never_negative(build: Builder, name: str) -> bool:
    producer = next((node for node in build.graph.nodes if name in node.outputs), None)
    if producer is None:
        return False
    if producer.op in {"MaxPool", "AveragePool", "Identity"}:
        return _never_negative(build, producer.input(0))
    if producer.op == "Clip":
        bound = build.constant_of(producer, 1)
        return bound is not None and float(bound.reshape(-1)[0]) >= 0.0
    return producer.op in _NEVER_NEGATIVE
