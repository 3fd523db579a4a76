"""Activations: what bends a value by a slope, a threshold, an exponential or a sigmoid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# Selu's defaults, as its schema gives them.
_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875
# From here on tanh(log(1 + exp(x))) is 1 in float32, and exp(2 * x) is far from its largest.
_MISH_LINEAR = 20.0


@lowers("LeakyRelu", layout=follow)
def lower_leaky_relu(build: Builder, node: Node) -> None:
    """Relu with a slope below zero."""
    build.emit("LEAKY_RELU", [build.input(node)], node, alpha=node.number("alpha", 0.01))


@lowers("PRelu", layout=follow, dtypes=NUMBERS)
def lower_prelu(build: Builder, node: Node) -> None:
    """Relu with slopes below zero: PRELU where constant slopes are the same for all samples."""
    steps = Steps(build, node)
    source, slope = steps.input(0), _slope(build, node)
    rank = len(source.shape)
    wide = slope.data
    if wide is not None and source.dtype == "float32" and rank > 1:
        wide = wide.reshape((1,) * (rank - wide.ndim) + wide.shape)
        if wide.shape[0] == 1:
            # LiteRT wants the slopes without the batch axis, of the input's rank otherwise.
            alpha = steps.constant(np.ascontiguousarray(wide[0]), "slope")
            steps.finish(steps.step("PRELU", [source, alpha], source.shape, source.dtype))
            return
    below = steps.mul(slope, steps.minimum(0, source))
    steps.finish(steps.add(steps.maximum(0, source), below))


@lowers("Elu", layout=follow)
def lower_elu(build: Builder, node: Node) -> None:
    """An alpha times exp(x) - 1 below zero; LiteRT's ELU has no alpha."""
    steps = Steps(build, node)
    source, alpha = steps.input(), node.number("alpha", 1.0)
    if alpha == 1.0:
        steps.finish(steps.unary("ELU", source))
    else:
        steps.finish(steps.add(steps.relu(source), steps.mul(_bent(steps, source), alpha)))


@lowers("Selu", layout=follow)
def lower_selu(build: Builder, node: Node) -> None:
    """Scaled by gamma: x above zero, alpha * (exp(x) - 1) below."""
    steps = Steps(build, node)
    source = steps.input()
    alpha, gamma = node.number("alpha", _SELU_ALPHA), node.number("gamma", _SELU_GAMMA)
    above = steps.mul(steps.relu(source), gamma)
    steps.finish(steps.add(above, steps.mul(_bent(steps, source), gamma * alpha)))


@lowers("Celu", layout=follow)
def lower_celu(build: Builder, node: Node) -> None:
    """An alpha times exp(x / alpha) - 1 below zero."""
    alpha = node.number("alpha", 1.0)
    if alpha <= 0:
        raise RefusedNodeError(f"its alpha is {alpha}, supported: above 0")
    steps = Steps(build, node)
    source = steps.input()
    below = steps.unary("ELU", steps.div(steps.minimum(0.0, source), alpha))
    steps.finish(steps.add(steps.relu(source), steps.mul(below, alpha)))


@lowers("ThresholdedRelu", layout=follow)
def lower_thresholded_relu(build: Builder, node: Node) -> None:
    """The value where it is above alpha, else zero."""
    steps = Steps(build, node)
    source = steps.input()
    above = steps.greater(source, node.number("alpha", 1.0))
    steps.finish(steps.select(above, source, 0.0))


@lowers("Shrink", layout=follow, dtypes=NUMBERS)
def lower_shrink(build: Builder, node: Node) -> None:
    """Nearer to zero by a bias outside of (-lambda, lambda), and zero inside."""
    steps = Steps(build, node)
    source = steps.input()
    threshold, bias = node.number("lambd", 0.5), node.number("bias", 0.0)
    low, high = -threshold, threshold
    if source.dtype != "float32":
        if not bias.is_integer():
            raise RefusedNodeError(f"its bias is {bias} for integers")
        low, high, bias = math.ceil(low), math.floor(high), int(bias)
    above = steps.select(steps.greater(source, high), steps.sub(source, bias), 0)
    steps.finish(steps.select(steps.less(source, low), steps.add(source, bias), above))


@lowers("HardSigmoid", layout=follow)
def lower_hard_sigmoid(build: Builder, node: Node) -> None:
    """min(1, max(0, alpha * x + beta)).

    With PyTorch's slope of a sixth it is a Relu6 in between: the layer before takes over the sum
    and the Relu6, and engines of every age have that.
    """
    steps = Steps(build, node)
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6):
        shifted = steps.unary("RELU6", steps.add(steps.input(), beta / alpha))
        steps.finish(steps.mul(shifted, alpha))
        return
    line = steps.add(steps.mul(steps.input(), alpha), beta)
    steps.finish(steps.unary("RELU_0_TO_1", line))


@lowers("Gelu", layout=follow)
def lower_gelu(build: Builder, node: Node) -> None:
    """Gelu, exact or by tanh."""
    approximate = node.text("approximate", "none") == "tanh"
    build.emit("GELU", [build.input(node)], node, approximate=approximate)


@lowers("Swish", layout=follow)
def lower_swish(build: Builder, node: Node) -> None:
    """The product x * sigmoid(alpha * x)."""
    steps = Steps(build, node)
    source, alpha = steps.input(), node.number("alpha", 1.0)
    inner = source if alpha == 1.0 else steps.mul(source, alpha)
    steps.finish(steps.mul(source, steps.logistic(inner)))


@lowers("Softsign", layout=follow)
def lower_softsign(build: Builder, node: Node) -> None:
    """The quotient x / (1 + |x|)."""
    steps = Steps(build, node)
    source = steps.input()
    steps.finish(steps.div(source, steps.add(steps.abs(source), 1.0)))


@lowers("Mish", layout=follow)
def lower_mish(build: Builder, node: Node) -> None:
    """The product x * tanh(log(1 + exp(x))), without the logarithm.

    With e = exp(x) and n = e * (e + 2) it is x * n / (n + 2).
    """
    steps = Steps(build, node)
    source = steps.input()
    growth = steps.exp(steps.minimum(_MISH_LINEAR, source))
    share = steps.mul(growth, steps.add(growth, 2.0))
    steps.finish(steps.mul(source, steps.div(share, steps.add(share, 2.0))))


def _bent(steps: Steps, source: Tensor) -> Tensor:
    """exp(x) - 1 below zero, else zero: ELU keeps its digits near zero."""
    return steps.unary("ELU", steps.minimum(0.0, source))


def _slope(build: Builder, node: Node) -> Tensor:
    """The slopes; those of one axis that is not the last are one a channel, as in opset 6."""
    shape = build.shape(node.input(0))
    slopes = build.shape(node.input(1))
    count, last = slopes[0] if len(slopes) == 1 else None, shape[-1] if shape else None
    if count is None or last is None or len(shape) < 2 or count in {1, last}:  # noqa: PLR2004
        return build.input(node, 1)
    if count != shape[1]:
        raise RefusedNodeError(f"it has {count} slopes for shape {list(shape)}")
    wide = tuple(count if axis == 1 else 1 for axis in range(len(shape)))
    name = node.input(1)
    flat = build.reshape(build.value(name, (0,)), wide, name=f"{node.outputs[0]}/slopes")
    return build.transpose(flat, build.layout.work, name=f"{node.outputs[0]}/slopes")
