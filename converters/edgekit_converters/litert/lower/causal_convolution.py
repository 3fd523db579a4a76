"""The causal convolution of state-space models, which carries what it saw last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import channels_last
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.convolution import bias_of, weights_of
from edgekit_converters.litert.lower.convolving import Filters, convolve
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.lower.window import Window

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor


@lowers("CausalConvWithState", layout=channels_last)
def lower_causal_convolution(build: Builder, node: Node) -> None:
    """A depthwise convolution behind the state, whose last cells are the next state."""
    steps = Steps(build, node)
    signal = steps.input()
    channels = known_sizes(signal.shape[-1:], "channels")[0]
    (kernel,) = known_sizes(build.shape(node.input(1))[2:], "kernel")
    known = node.input(3) and kernel > 1
    if known:
        whole = steps.concat([steps.input(3), signal], 1)
    else:
        whole = steps.pad(signal, [(0, 0), (kernel - 1, 0), (0, 0)])
    window = Window(
        size=(whole.shape[1],),
        kernel=(kernel,),
        strides=(1,),
        dilations=(1,),
        before=(0,),
        after=(0,),
        extra=(0,),
        padding="VALID",
    )
    filters = Filters(
        kernel=weights_of(build, node, 1),
        bias=bias_of(build, node, 2),
        name=node.input(1),
        bias_name=node.input(2) or f"{node.outputs[0]}/bias",
    )
    value = convolve(steps, whole, filters, window, channels)
    activation = node.text("activation", "none")
    if activation in {"silu", "swish"}:
        value = steps.mul(value, steps.logistic(value))
    elif activation != "none":
        raise RefusedNodeError(f"its activation is {activation!r}")
    steps.finish(value)
    if any(node.outputs[1:]):
        steps.finish(_last_cells(steps, whole, kernel - 1), output=1)


def _last_cells(steps: Steps, whole: Tensor, count: int) -> Tensor:
    """The last cells of a signal, whose length may be free."""
    batch, length, channels = whole.shape
    if not count and batch is not None:
        return steps.constant(np.zeros((batch, 0, channels or 0), dtype=np.float32), "nothing")
    if length is not None or not count:
        return steps.slice_axis(whole, 1, (length or count) - count, count)
    return steps.strided_slice(
        whole, [0, -count, 0], [0, 0, 0], [1, 1, 1], (batch, count, channels),
        beginMask=0b101, endMask=0b111,
    )  # fmt: skip
