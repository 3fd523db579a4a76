"""One step of training: Adagrad, Adam and Momentum, for any number of tensors at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_DOMAIN: Final = "ai.onnx.preview.training"
# The learning rate and the count of updates come first.
_LEADING: Final = 2
_DTYPES: Final = {"T1": FLOAT, "T3": FLOAT}


@lowers(f"{_DOMAIN}.Adagrad", dtypes=_DTYPES)
def lower_adagrad(build: Builder, node: Node) -> None:
    """The new values, then the sums of the squared gradients."""
    steps = Steps(build, node)
    rate, count = _rate(steps)
    decay = steps.add(steps.mul(count, node.number("decay_factor", 0.0)), 1.0)
    rate = steps.div(rate, decay)
    tensors = _groups(steps, 3)
    for position, (value, gradient, squares) in enumerate(tensors):
        slope = _regularized(steps, value, gradient)
        total = steps.add(squares, steps.square(slope))
        size = steps.add(steps.sqrt(total), node.number("epsilon", 1e-6))
        moved = steps.sub(value, steps.div(steps.mul(rate, slope), size))
        _finish(steps, position, len(tensors), moved, total)


@lowers(f"{_DOMAIN}.Adam", dtypes=_DTYPES)
def lower_adam(build: Builder, node: Node) -> None:
    """The new values, then the averages of the gradients, then those of their squares."""
    steps = Steps(build, node)
    rate, count = _rate(steps)
    alpha, beta = node.number("alpha", 0.9), node.number("beta", 0.999)
    grown = steps.div(
        steps.mul(rate, steps.sqrt(_less_power(steps, beta, count))),
        _less_power(steps, alpha, count),
    )
    rate = steps.select(steps.greater(count, 0.0), grown, rate)
    tensors = _groups(steps, 4)
    for position, (value, gradient, mean, squares) in enumerate(tensors):
        slope = _regularized(steps, value, gradient)
        new_mean = _mixed(steps, mean, slope, alpha)
        new_squares = _mixed(steps, squares, steps.square(slope), beta)
        size = steps.add(steps.sqrt(new_squares), node.number("epsilon", 1e-6))
        moved = steps.sub(value, steps.div(steps.mul(rate, new_mean), size))
        moved = steps.mul(moved, 1.0 - node.number("norm_coefficient_post", 0.0))
        _finish(steps, position, len(tensors), moved, new_mean, new_squares)


@lowers(f"{_DOMAIN}.Momentum", dtypes=_DTYPES)
def lower_momentum(build: Builder, node: Node) -> None:
    """The new values, then the new momenta."""
    mode = node.text("mode", "standard")
    if mode not in {"standard", "nesterov"}:
        raise RefusedNodeError(f"its mode is {mode!r}, supported: 'standard', 'nesterov'")
    steps = Steps(build, node)
    rate, count = _rate(steps)
    alpha = node.number("alpha", 0.0)
    first = steps.greater(count, 0.0)
    beta = steps.select(first, steps.number(node.number("beta", 0.0)), steps.number(1.0))
    tensors = _groups(steps, 3)
    for position, (value, gradient, momentum) in enumerate(tensors):
        slope = _regularized(steps, value, gradient)
        gained = steps.add(steps.mul(momentum, alpha), steps.mul(beta, slope))
        way = gained if mode == "standard" else steps.add(slope, steps.mul(gained, alpha))
        moved = steps.sub(value, steps.mul(rate, way))
        _finish(steps, position, len(tensors), moved, gained)


def _rate(steps: Steps) -> tuple[Tensor, Tensor]:
    return steps.in_onnx_order(0), steps.cast(steps.in_onnx_order(1), "float32")


def _groups(steps: Steps, kinds: int) -> list[tuple[Tensor, ...]]:
    """What belongs to one optimized tensor; the node has all values, then all gradients, ..."""
    count, rest = divmod(len(steps.node.inputs) - _LEADING, kinds)
    if rest or len(steps.node.outputs) > count * (kinds - 1):
        raise RefusedNodeError(f"it has {len(steps.node.inputs)} inputs")
    return [
        tuple(steps.in_onnx_order(_LEADING + kind * count + position) for kind in range(kinds))
        for position in range(count)
    ]


def _finish(steps: Steps, position: int, count: int, *results: Tensor) -> None:
    for kind, result in enumerate(results):
        steps.finish(result, kind * count + position)


def _regularized(steps: Steps, value: Tensor, gradient: Tensor) -> Tensor:
    weight = steps.node.number("norm_coefficient", 0.0)
    return steps.add(steps.mul(value, weight), gradient) if weight else gradient


def _mixed(steps: Steps, old: Tensor, new: Tensor, share: float) -> Tensor:
    return steps.add(steps.mul(old, share), steps.mul(new, 1.0 - share))


def _less_power(steps: Steps, base: float, exponent: Tensor) -> Tensor:
    """1 - base ** exponent; ELU is exp(x) - 1 below zero, without the loss near it."""
    if 0 < base < 1:
        return steps.neg(steps.unary("ELU", steps.mul(exponent, math.log(base))))
    return steps.sub(1.0, steps.pow(base, exponent))
