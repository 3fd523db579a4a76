"""Normalisations by mean and variance, over the axes that each ONNX operator names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.channels import (
    channel_position,
    join_groups,
    per_channel,
    split_groups,
)
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_EPSILON: Final = 1e-5
# What MeanVarianceNormalization adds to the deviation, so that it is never zero.
_LEAST_DEVIATION: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Centred:
    """A tensor without its mean over some axes, which stay with size one."""

    mean: Tensor
    rest: Tensor
    variance: Tensor


@lowers("LayerNormalization", layout=follow)
def lower_layer_normalization(build: Builder, node: Node) -> None:
    """Over the last axes, with the mean and the inverse deviation as further outputs."""
    steps = Steps(build, node)
    centred = _centre(steps, steps.input(), _last_axes(build, node))
    inverse = _inverse_deviation(steps, centred.variance, node)
    value = steps.mul(centred.rest, inverse)
    value = steps.mul(value, steps.input(1))
    if node.input(2):
        value = steps.add(value, steps.input(2))
    steps.finish(value)
    steps.finish(centred.mean, output=1)
    steps.finish(inverse, output=2)


@lowers("RMSNormalization", layout=follow, dtypes={"T": FLOAT, "V": FLOAT})
def lower_rms_normalization(build: Builder, node: Node) -> None:
    """By the root of the mean square over the last axes."""
    steps = Steps(build, node)
    value = steps.input()
    squares = steps.mean(steps.square(value), _last_axes(build, node), keep=True)
    value = steps.mul(value, _inverse_deviation(steps, squares, node))
    steps.finish(steps.mul(value, steps.input(1)))


@lowers("InstanceNormalization", layout=follow)
def lower_instance_normalization(build: Builder, node: Node) -> None:
    """Each channel of each sample, over space."""
    steps = Steps(build, node)
    order = build.layout.work
    space = [order.index(axis) for axis in range(2, len(order))]
    centred = _centre(steps, steps.input(), space)
    value = steps.mul(centred.rest, _inverse_deviation(steps, centred.variance, node))
    value = steps.mul(value, per_channel(steps, 1))
    steps.finish(steps.add(value, per_channel(steps, 2)))


@lowers("GroupNormalization", layout=follow)
def lower_group_normalization(build: Builder, node: Node) -> None:
    """Each group of channels of each sample, over its channels and space."""
    steps = Steps(build, node)
    value = steps.input()
    groups = node.integer("num_groups", 1)
    apart, axes = split_groups(steps, value, groups)
    centred = _centre(steps, apart, axes)
    normal = steps.mul(centred.rest, _inverse_deviation(steps, centred.variance, node))
    normal = join_groups(steps, normal, value)
    # Before opset 21, scale and bias were given for each group.
    normal = steps.mul(normal, per_channel(steps, 1, groups=groups))
    steps.finish(steps.add(normal, per_channel(steps, 2, groups=groups)))


@lowers("MeanVarianceNormalization", layout=follow)
def lower_mean_variance_normalization(build: Builder, node: Node) -> None:
    """By the deviation over the axes that are named."""
    steps = Steps(build, node)
    order = build.layout.work
    axes = node.integers("axes") or (0, 2, 3)
    centred = _centre(steps, steps.input(), [order.index(axis % len(order)) for axis in axes])
    deviation = steps.add(steps.sqrt(centred.variance), _LEAST_DEVIATION)
    steps.finish(steps.div(centred.rest, deviation))


@lowers("BatchNormalization", layout=follow, dtypes=dict.fromkeys(("T", "T1", "T2"), FLOAT))
def lower_batch_normalization(build: Builder, node: Node) -> None:
    """Each channel over all samples, by given statistics or by the batch's own."""
    steps = Steps(build, node)
    value = steps.input()
    if node.integer("training_mode", 0):
        _normalize_by_batch(steps, node, value)
        return
    if any(node.outputs[1:]):
        raise RefusedNodeError("its statistics are used: the model was exported for training")
    variance, mean = per_channel(steps, 4), per_channel(steps, 3)
    factor = steps.mul(_inverse_deviation(steps, variance, node), per_channel(steps, 1))
    shift = steps.sub(per_channel(steps, 2), steps.mul(mean, factor))
    steps.finish(steps.add(steps.mul(value, factor), shift))


def _normalize_by_batch(steps: Steps, node: Node, value: Tensor) -> None:
    channels = channel_position(steps)
    axes = [axis for axis in range(len(value.shape)) if axis != channels]
    centred = _centre(steps, value, axes)
    inverse = _inverse_deviation(steps, centred.variance, node)
    normal = steps.mul(centred.rest, steps.mul(inverse, per_channel(steps, 1)))
    steps.finish(steps.add(normal, per_channel(steps, 2)))
    momentum = node.number("momentum", 0.9)
    for output, position, own in ((1, 3, centred.mean), (2, 4, centred.variance)):
        before = steps.mul(per_channel(steps, position), momentum)
        running = steps.add(before, steps.mul(own, 1.0 - momentum))
        steps.finish(steps.flatten(running), output=output)


def _centre(steps: Steps, value: Tensor, axes: Sequence[int]) -> _Centred:
    if not axes:
        raise RefusedNodeError("it normalises over no axis")
    mean = steps.mean(value, axes, keep=True)
    rest = steps.sub(value, mean)
    variance = steps.mean(steps.square(rest), axes, keep=True)
    return _Centred(mean=mean, rest=rest, variance=variance)


def _inverse_deviation(steps: Steps, variance: Tensor, node: Node) -> Tensor:
    return steps.rsqrt(steps.add(variance, node.number("epsilon", _EPSILON)))


def _last_axes(build: Builder, node: Node) -> list[int]:
    """The axes from `axis` on, in the order that the node works in."""
    order = build.layout.work
    first = node.integer("axis", -1) % len(order)
    return [order.index(axis) for axis in range(first, len(order))]
