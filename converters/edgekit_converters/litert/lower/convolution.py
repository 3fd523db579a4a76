"""Convolutions: plain, grouped, depthwise, over one to three spatial axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit_converters.litert.layout import channels_last, channels_last_order
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.convolving import Filters, convolve
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.lower.window import window_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor


@lowers("Conv", layout=channels_last)
def lower_conv(build: Builder, node: Node) -> None:
    """CONV_2D or DEPTHWISE_CONV_2D, with constant or computed weights."""
    steps = Steps(build, node)
    shape = build.shape(node.input(1))
    kernel = known_sizes(shape[2:], "kernel")
    size = build.shape(node.input(0))[2:]
    window = window_of(node, kernel, size, build.shape(node.outputs[0])[2:])
    filters = Filters(
        kernel=weights_of(build, node, 1),
        bias=bias_of(build, node, 2),
        name=node.input(1),
        bias_name=node.input(2) or f"{node.outputs[0]}/bias",
    )
    steps.finish(convolve(steps, steps.input(), filters, window, node.integer("group", 1)))


def weights_of(build: Builder, node: Node, position: int) -> NDArray[Any] | Tensor:
    """A kernel that ONNX has as (outputs, inputs, *space), as (outputs, *space, inputs)."""
    if not node.input(position):
        raise RefusedNodeError("its weights are missing")
    order = channels_last_order(len(build.shape(node.input(position))))
    known = build.known(node, position)
    if known is not None:
        return known.transpose(order)
    return build.input(node, position, order=order)


def bias_of(build: Builder, node: Node, position: int) -> NDArray[Any] | Tensor | None:
    """A bias, one number an output channel, None where it is left out."""
    if not node.input(position):
        return None
    known = build.known(node, position)
    return build.input(node, position, order=(0,)) if known is None else known.reshape(-1)
