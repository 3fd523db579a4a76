"""Poolings over windows: the largest, the mean, the root of the mean power."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.layout import channels_last
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.pooled_indices import pool_with_indices
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import (
    IMAGE_RANK,
    VOLUME_RANK,
    as_image,
    as_planes,
    as_signal,
    as_volume,
    pad_field,
    padded,
    windows_in,
)
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.lower.window import Window, window_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# Their results are never negative, so that zero is as neutral for a maximum as the lowest float.
# A padding of -3e38 would make the whole tensor unquantizable.
_NEVER_NEGATIVE: Final = frozenset({"Relu", "Sigmoid", "Softmax", "Abs", "HardSigmoid", "Exp"})
_SAME_AS_INPUT: Final = frozenset({"MaxPool", "AveragePool", "Identity", "Dropout", "Transpose"})


@lowers("MaxPool", layout=channels_last, dtypes=frozenset({"float32", "int8", "uint8"}))
def lower_max_pool(build: Builder, node: Node) -> None:
    """MAX_POOL_2D; cells beyond the border never win."""
    steps = Steps(build, node)
    field = steps.input()
    window = _window(build, node)
    if any(node.outputs[1:]):
        columnwise = bool(node.integer("storage_order", 0))
        largest, indices = pool_with_indices(steps, field, window, columnwise=columnwise)
        steps.finish(largest)
        steps.finish(indices, output=1)
        return
    fill = _lowest(field.dtype)
    if field.dtype == "float32" and _never_negative(build, node.input(0)):
        fill = 0.0
    field, window = _padded_by_hand(steps, field, window, fill)
    steps.finish(_pool(steps, field, window, "MAX_POOL_2D"))


@lowers("AveragePool", layout=channels_last)
def lower_average_pool(build: Builder, node: Node) -> None:
    """AVERAGE_POOL_2D, corrected where ONNX divides by another count of cells."""
    steps = Steps(build, node)
    field = steps.input()
    window = _window(build, node)
    counted = bool(node.integer("count_include_pad", 0))
    dilated = any(step != 1 for step in window.dilations)
    # LiteRT's own SAME leaves out the cells beyond the border, as ONNX does by default.
    if window.padding == "SAME" and (counted or dilated):
        window = window.by_hand()
    correction = None if window.padding == "SAME" else _correction(window, counted=counted)
    field, window = _padded_by_hand(steps, field, window, 0.0)
    pooled = _pool(steps, field, window, "AVERAGE_POOL_2D")
    if correction is not None and np.any(correction != 1.0):
        pooled = steps.mul(pooled, steps.constant(correction, "correction"))
    steps.finish(pooled)


@lowers("LpPool", layout=channels_last)
def lower_power_pool(build: Builder, node: Node) -> None:
    """The root of the sum of powers, which is the mean times the count of cells."""
    steps = Steps(build, node)
    power = node.number("p", 2.0)
    window = _window(build, node)
    field = steps.abs(steps.input()) if power % 2 else steps.input()
    if power != 1.0:
        field = steps.square(field) if power == 2.0 else steps.pow(field, power)  # noqa: PLR2004
    field, window = _padded_by_hand(steps, field, window.by_hand(), 0.0)
    pooled = _pool(steps, field, window, "AVERAGE_POOL_2D")
    total = steps.mul(pooled, float(np.prod(window.kernel)))
    if power != 1.0:
        total = steps.sqrt(total) if power == 2.0 else steps.pow(total, 1.0 / power)  # noqa: PLR2004
    steps.finish(total)


def _window(build: Builder, node: Node) -> Window:
    kernel = node.integers("kernel_shape") or ()
    size = build.shape(node.input(0))[2:]
    if not 1 <= len(size) <= VOLUME_RANK - 2:
        raise RefusedNodeError(f"it has {len(size)} spatial axes, supported: 1, 2, 3")
    dilated = any(step != 1 for step in node.integers("dilations") or ())
    if dilated and node.text("auto_pad", "NOTSET").startswith("SAME"):
        raise RefusedNodeError("its window is dilated and padded by itself: tools disagree on that")
    return window_of(node, kernel, size, build.shape(node.outputs[0])[2:])


def _padded_by_hand(
    steps: Steps, field: Tensor, window: Window, fill: float
) -> tuple[Tensor, Window]:
    """The field and the window over it, padded already where LiteRT's own padding is another."""
    if window.padding != "EXPLICIT":
        return field, window
    return pad_field(steps, field, window, fill), padded(window)


def _pool(steps: Steps, field: Tensor, window: Window, code: str) -> Tensor:
    """Pool a signal, an image or a volume, the latter its planes first, then its depth."""
    if any(step != 1 for step in window.dilations):
        return _pool_dilated(steps, field, window, code)
    rank = len(field.shape)
    if rank < VOLUME_RANK:
        across = window if rank == IMAGE_RANK else window.along(-1, 0)
        return as_signal(steps, _pool_image(steps, as_image(steps, field), across, code), rank)
    batch, depth = field.shape[:2]
    planes = _pool_image(steps, as_planes(steps, field), window.along(1, 2), code)
    volume = as_volume(steps, planes, batch, depth)
    height, width, channels = volume.shape[2:]
    area = None if height is None or width is None else height * width
    columns = steps.reshape(volume, (batch, depth, area, channels))
    columns = _pool_image(steps, columns, window.along(0, -1), code)
    return steps.reshape(columns, (*columns.shape[:2], height, width, channels))


def _pool_image(steps: Steps, image: Tensor, window: Window, code: str) -> Tensor:
    options: dict[str, Any] = {
        "padding": "SAME" if window.padding == "SAME" else "VALID",
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "filterHeight": window.kernel[0],
        "filterWidth": window.kernel[1],
        "fusedActivationFunction": "NONE",
    }
    if window.kernel == window.strides == (1, 1):
        return image
    counts = windows_in(replace(window, size=image.shape[1:3]))
    shape = (image.shape[0], *counts, image.shape[3])
    return steps.step(code, [image], shape, image.dtype, **options)


def _pool_dilated(steps: Steps, field: Tensor, window: Window, code: str) -> Tensor:
    """REDUCE_WINDOW, which takes any window but pads nothing."""
    if window.padding == "SAME":
        # Only a maximum comes here padded by LiteRT itself.
        field, window = _padded_by_hand(steps, field, window.by_hand(), _lowest(field.dtype))
    largest = code == "MAX_POOL_2D"
    start = np.array(_lowest(field.dtype) if largest else 0, dtype=field.dtype)
    inputs = [
        field,
        steps.constant(start, "start"),
        *(
            steps.integers((1, *numbers, 1), role, dtype="int64")
            for role, numbers in (
                ("window", window.kernel),
                ("strides", window.strides),
                ("dilations", window.dilations),
            )
        ),
    ]
    shape = (field.shape[0], *windows_in(window), field.shape[-1])
    function = "MAXIMUM" if largest else "ADD"
    reduced = steps.step("REDUCE_WINDOW", inputs, shape, field.dtype, reduceFunction=function)
    return reduced if largest else steps.mul(reduced, 1.0 / float(np.prod(window.kernel)))


def _correction(window: Window, *, counted: bool) -> NDArray[np.float32] | None:
    """Cells in the window over cells that ONNX divides by: (1, *space, 1); None for none."""
    if not any((*window.before, *window.behind)):
        return None
    factors = np.ones(1)
    for axis, cells in enumerate(window.size):
        front, back, extra = window.before[axis], window.after[axis], window.extra[axis]
        kernel, stride, span = window.kernel[axis], window.strides[axis], window.reach[axis]
        ratio = np.ones(1)
        if extra or ((front or back) and not counted):
            if cells is None:
                raise RefusedNodeError("its padding depends on a size that is free")
            line = np.zeros(front + cells + back + extra)
            line[front : front + cells] = 1.0
            if counted:
                line[: front + cells + back] = 1.0
            starts = range(0, len(line) - span + 1, stride)
            taken = [line[at : at + span : window.dilations[axis]] for at in starts]
            counts = np.array([cells_taken.sum() for cells_taken in taken])
            if not counts.all():
                raise RefusedNodeError("a window lies in the padding alone")
            ratio = kernel / counts
        factors = np.multiply.outer(factors, ratio)
    return np.asarray(factors[..., None], dtype=np.float32)


def _lowest(dtype: str) -> float:
    return float(np.finfo(dtype).min if dtype == "float32" else np.iinfo(dtype).min)


def _never_negative(build: Builder, name: str) -> bool:
    producer = next((node for node in build.graph.nodes if name in node.outputs), None)
    if producer is None:
        return False
    if producer.op in _SAME_AS_INPUT:
        return _never_negative(build, producer.input(0))
    if producer.op == "Clip":
        bound = build.known(producer, 1)
        return bound is not None and bound.size == 1 and float(bound.reshape(-1)[0]) >= 0.0
    return producer.op in _NEVER_NEGATIVE
