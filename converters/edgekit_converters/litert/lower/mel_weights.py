"""The weights of mel-scaled triangles over the bins of a spectrum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import identity
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_MEL_PER_DECADE: Final = 2595.0
_CORNER_HZ: Final = 700.0


@lowers("MelWeightMatrix", dtypes={"T2": FLOAT, "T3": FLOAT})
def lower_mel_weights(build: Builder, node: Node) -> None:
    """The formula, for numbers that the running model knows; its sizes must be known before."""
    steps = Steps(build, node)
    spectrum, mels = known_sizes(build.shape(node.outputs[0]), "output")
    bins, length, rate, low, high = (_number(build, node, steps, at) for at in range(5))
    lowest, highest = _mel(steps, low), _mel(steps, high)
    step = steps.div(steps.sub(highest, lowest), steps.add(bins, 2.0))
    places = steps.constant(np.arange(mels + 2, dtype=np.float32), "places")
    scaled = steps.add(steps.mul(places, step), lowest)
    power = steps.exp(steps.mul(scaled, math.log(10) / _MEL_PER_DECADE))
    hertz = steps.mul(steps.sub(power, 1.0), _CORNER_HZ)
    corners = steps.floor(steps.div(steps.mul(hertz, steps.add(length, 1.0)), rate))
    left, centre, right = (steps.slice_axis(corners, 0, at, mels) for at in range(3))
    cells = steps.constant(np.arange(spectrum, dtype=np.float32)[:, None], "cells")
    rising = _ratio(steps, steps.sub(cells, left), steps.sub(centre, left))
    falling = _ratio(steps, steps.sub(right, cells), steps.sub(right, centre))
    slope = steps.select(steps.less(cells, centre), rising, falling)
    slope = steps.maximum(slope, 0.0)
    steps.finish(steps.select(steps.equal(cells, centre), 1.0, slope))


def _mel(steps: Steps, hertz: Tensor) -> Tensor:
    decades = steps.log(steps.add(steps.mul(hertz, 1.0 / _CORNER_HZ), 1.0))
    return steps.mul(decades, _MEL_PER_DECADE / math.log(10))


def _ratio(steps: Steps, part: Tensor, whole: Tensor) -> Tensor:
    """Nothing where the whole is."""
    return steps.div(part, steps.maximum(whole, 1.0))


def _number(build: Builder, node: Node, steps: Steps, position: int) -> Tensor:
    known = build.known(node, position)
    if known is not None:
        return steps.number(float(known.reshape(-1)[0]))
    order = identity(len(build.shape(node.input(position))))
    return steps.reshape(steps.cast(build.input(node, position, order=order), "float32"), ())
