"""Poolings over whole images: reductions of all spatial axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node


@lowers("GlobalAveragePool", "GlobalMaxPool", layout=follow)
def lower_global_pool(build: Builder, node: Node) -> None:
    """MEAN or REDUCE_MAX over all spatial axes."""
    steps = Steps(build, node)
    code = "MEAN" if node.op == "GlobalAveragePool" else "REDUCE_MAX"
    steps.finish(steps.reduce(code, steps.input(), _space(build), keep=True))


@lowers("GlobalLpPool", layout=follow)
def lower_global_power_pool(build: Builder, node: Node) -> None:
    """The root of the sum of powers over all spatial axes."""
    steps = Steps(build, node)
    power = node.number("p", 2.0)
    value = steps.input()
    if power == 2.0:  # noqa: PLR2004
        steps.finish(steps.sqrt(steps.sum(steps.square(value), _space(build), keep=True)))
        return
    powers = steps.pow(steps.abs(value), power)
    steps.finish(steps.pow(steps.sum(powers, _space(build), keep=True), 1.0 / power))


def _space(build: Builder) -> list[int]:
    """The spatial axes in the order that the node works in."""
    order = build.layout.work
    return [order.index(axis) for axis in range(2, len(order))]
