"""Where ONNX's Resize reads along one axis, and with which weights.

Coordinates are computed in float32, operation by operation as onnxruntime does, because rounding
to the nearest cell hangs on the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import RefusedNodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.lower.folding_steps import FoldingSteps
    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.program import Tensor

_LINEAR_REACH: Final = 1.0
_CUBIC_REACH: Final = 2.0
# A size that misses a whole number by less is meant to be it: scales are float32.
_NEARLY_WHOLE: Final = 1e-4
# Coordinates that miss the middle of two cells by less are in the middle, for onnxruntime too.
_TIE: Final = 1e-6
_MODES: Final = frozenset({"nearest", "linear", "cubic"})
_COORDINATES: Final = frozenset(
    {
        "align_corners",
        "asymmetric",
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "tf_crop_and_resize",
        "tf_half_pixel_for_nn",
    }
)
_ROUNDINGS: Final = frozenset({"ceil", "floor", "round_prefer_ceil", "round_prefer_floor"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a Resize reads, the same for all axes.

    Attributes:
        mode: "nearest", "linear" or "cubic".
        coordinates: ONNX's `coordinate_transformation_mode`.
        rounding: ONNX's `nearest_mode`.
        cubic_a: The cubic filter's free coefficient.
        antialias: Whether the filter is stretched where the axis shrinks.
        exclude_outside: Whether cells beyond the border weigh nothing, instead of being the border.
    """

    mode: str
    coordinates: str
    rounding: str
    cubic_a: float
    antialias: bool
    exclude_outside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizedAxis:
    """One axis; everything is a float32 scalar, constant or computed.

    Attributes:
        before: The size of the input.
        after: The size of the output.
        scale: What the size was multiplied with.
        length: The size of the output before it was rounded.
        begin: Where the part of the input that is resized begins, from 0 to 1.
        end: And where it ends.
    """

    before: Tensor
    after: Tensor
    scale: Tensor
    length: Tensor
    begin: Tensor
    end: Tensor


def sampling_of(node: Node) -> Sampling:
    """Read the attributes of a Resize.

    Raises:
        RefusedNodeError: If one has a value that ONNX does not define.
    """
    sampling = Sampling(
        mode=node.text("mode", "nearest"),
        coordinates=node.text("coordinate_transformation_mode", "half_pixel"),
        rounding=node.text("nearest_mode", "round_prefer_floor"),
        cubic_a=node.number("cubic_coeff_a", -0.75),
        antialias=bool(node.integer("antialias", 0)),
        exclude_outside=bool(node.integer("exclude_outside", 0)),
    )
    for value, allowed in (
        (sampling.mode, _MODES),
        (sampling.coordinates, _COORDINATES),
        (sampling.rounding, _ROUNDINGS),
    ):
        if value not in allowed:
            raise RefusedNodeError(f"{value!r} is none of {', '.join(sorted(allowed))}")
    if sampling.antialias and sampling.mode == "nearest":
        raise RefusedNodeError("antialiasing is not defined for the nearest cell")
    return sampling


def places_of(steps: FoldingSteps, cells: Tensor, axis: ResizedAxis, sampling: Sampling) -> Tensor:
    """Where each cell of the output lies in the input, before borders are looked at.

    Args:
        steps: The formula.
        cells: 0, 1, 2, ... up to the output's size, as float32.
        axis: Sizes and scale.
        sampling: How to read.
    """
    name = sampling.coordinates
    if name in {"asymmetric", "tf_half_pixel_for_nn"}:
        shift = 0.5 if name == "tf_half_pixel_for_nn" else 0.0
        return steps.div(steps.add(cells, shift), axis.scale)
    if name in {"align_corners", "tf_crop_and_resize"}:
        return _places_between(steps, cells, axis, crops=name == "tf_crop_and_resize")
    middle = steps.sub(steps.div(steps.add(cells, 0.5), axis.scale), 0.5)
    if name == "pytorch_half_pixel":
        return steps.select(steps.less(1.0, axis.after), middle, 0.0)
    if name == "half_pixel_symmetric":
        exact = _symmetric_places(cells, axis)
        if exact is not None:
            return steps.constant(exact, "places")
        surplus = steps.sub(1.0, steps.div(axis.after, steps.mul(axis.scale, axis.before)))
        return steps.add(middle, steps.mul(steps.mul(axis.before, 0.5), surplus))
    return middle


def _places_between(
    steps: FoldingSteps, cells: Tensor, axis: ResizedAxis, *, crops: bool
) -> Tensor:
    """The coordinates where the first and the last cell are those of the input, or of a window."""
    last = steps.sub(axis.before, 1.0)
    several = steps.less(1.0, axis.after)
    gaps = steps.select(several, steps.sub(axis.length, 1.0), 1.0)
    if not crops:
        return steps.select(several, steps.div(steps.mul(cells, last), gaps), 0.0)
    window = steps.sub(axis.end, axis.begin)
    inside = steps.div(steps.mul(steps.mul(cells, window), last), gaps)
    spread = steps.add(steps.mul(axis.begin, last), inside)
    centre = steps.mul(steps.mul(steps.add(axis.begin, axis.end), 0.5), last)
    return steps.select(several, spread, centre)


def _symmetric_places(cells: Tensor, axis: ResizedAxis) -> NDArray[np.float32] | None:
    """The coordinates about the middle of known sizes, where onnxruntime mixes float64 in."""
    known = (cells.data, axis.before.data, axis.after.data, axis.scale.data)
    if any(number is None for number in known):
        return None
    places, before, after, scale = (np.asarray(number, dtype=np.float32) for number in known)
    surplus = np.float32(1) - after / (scale * before)
    offset = before / np.float32(2) * surplus
    middle = (places.astype(np.float64) + 0.5) / scale.astype(np.float64)
    return np.asarray(offset.astype(np.float64) + middle - 0.5, dtype=np.float32)


def whole_length(steps: FoldingSteps, before: Tensor, scale: Tensor) -> Tensor:
    """The size that a scale asks for, unrounded unless it is a whole number but for float32."""
    length = steps.mul(before, scale)
    whole = steps.floor(steps.add(length, 0.5))
    near = steps.less(steps.abs(steps.sub(length, whole)), _NEARLY_WHOLE)
    return steps.select(near, whole, length)


def outside(steps: FoldingSteps, places: Tensor, axis: ResizedAxis) -> Tensor:
    """Which coordinates are beyond the input."""
    last = steps.sub(axis.before, 1.0)
    return steps.logical_or(steps.less(places, 0.0), steps.less(last, places))


def nearest_cells(
    steps: FoldingSteps, places: Tensor, axis: ResizedAxis, sampling: Sampling
) -> Tensor:
    """The cell that each coordinate is rounded to, as float32."""
    rounded = places
    if sampling.rounding == "ceil":
        rounded = steps.ceil(places)
    else:
        below = steps.floor(places)
        rest = steps.sub(places, below)
        rounded = below
        if sampling.rounding == "round_prefer_floor":
            rounded = steps.select(steps.less(0.5 + _TIE, rest), steps.add(below, 1.0), below)
        elif sampling.rounding == "round_prefer_ceil":
            rounded = steps.select(steps.less(rest, 0.5 - _TIE), below, steps.add(below, 1.0))
    return steps.minimum(steps.maximum(rounded, 0.0), steps.sub(axis.before, 1.0))


def taps_of(
    steps: FoldingSteps, places: Tensor, axis: ResizedAxis, sampling: Sampling, shrinkage: float
) -> tuple[Tensor, Tensor]:
    """The cells that each coordinate is made of, as float32, and their weights.

    Args:
        steps: The formula.
        places: The coordinates.
        axis: Sizes and scale.
        sampling: How to read.
        shrinkage: How many times smaller the axis may become at most.

    Returns:
        Two tensors of shape (outputs, taps).
    """
    own = _CUBIC_REACH if sampling.mode == "cubic" else _LINEAR_REACH
    reach = math.ceil(own * (max(1.0, shrinkage) if sampling.antialias else 1.0))
    offsets = steps.constant(np.arange(1 - reach, reach + 1, dtype=np.float32), "taps")
    last = steps.sub(axis.before, 1.0)
    # Further out, everything that the filter reaches is the border.
    places = steps.minimum(steps.maximum(places, -float(reach)), steps.add(last, float(reach)))
    column = steps.reshape(places, (*places.shape, 1))
    cells = steps.add(steps.floor(column), offsets)
    distance = steps.abs(steps.sub(cells, column))
    if sampling.antialias:
        distance = steps.mul(distance, steps.minimum(axis.scale, 1.0))
    if sampling.mode == "cubic":
        weights = cubic_weights(steps, distance, sampling.cubic_a)
    else:
        weights = steps.maximum(steps.sub(1.0, distance), 0.0)
    if sampling.exclude_outside:
        beyond = steps.logical_or(steps.less(cells, 0.0), steps.less(last, cells))
        weights = steps.select(beyond, 0.0, weights)
    if sampling.exclude_outside or sampling.antialias:
        total = steps.sum(weights, 1, keep=True)
        weights = steps.div(weights, steps.select(steps.equal(total, 0.0), 1.0, total))
    return steps.minimum(steps.maximum(cells, 0.0), last), weights


def cubic_weights(steps: Steps, distance: Tensor, a: float) -> Tensor:
    """The weights of a cubic filter with the free coefficient `a`, at distances in cells."""
    squared = steps.mul(distance, distance)
    near = steps.add(steps.mul(squared, steps.sub(steps.mul(distance, a + 2), a + 3)), 1.0)
    far = steps.add(steps.mul(steps.sub(distance, 5.0), distance), 8.0)
    far = steps.mul(steps.sub(steps.mul(far, distance), 4.0), a)
    outer = steps.select(steps.less(distance, _CUBIC_REACH), far, 0.0)
    return steps.select(steps.less_equal(distance, 1.0), near, outer)
