"""Softmax and LogSoftmax that are written out, with or without the largest value subtracted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit_converters.patterns.arithmetic import reduced_axes
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph


@recognises("Div")
def softmax(graph: PatternGraph, node: Any) -> Rewrite | None:
    """exp(x - max(x)) / sum(exp(x - max(x))), or the same without the maximum."""
    power = graph.producer(node.input[0], "Exp")
    total = graph.producer(node.input[1], "ReduceSum")
    if power is None or total is None or total.input[0] != power.output[0]:
        return None
    return _whole(graph, "Softmax", node, power, total, ())


@recognises("Sub")
def log_softmax(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Minus log(sum(exp(z))) behind z, which is x or x - max(x), in parts or as one operator."""
    from onnx import helper

    whole = graph.producer(node.input[1], "ReduceLogSumExp")
    if whole is not None and whole.input[0] == node.input[0]:
        axes = reduced_axes(graph, whole)
        if axes is None or len(axes) != 1:
            return None
        plain = helper.make_node(
            "LogSoftmax", [node.input[0]], node.output, name=node.name, axis=axes[0]
        )
        return Rewrite(removes=[whole, node], adds=[plain])
    logarithm = graph.producer(node.input[1], "Log")
    total = None if logarithm is None else graph.producer(logarithm.input[0], "ReduceSum")
    power = None if total is None else graph.producer(total.input[0], "Exp")
    if power is None or power.input[0] != node.input[0]:
        return None
    return _whole(graph, "LogSoftmax", node, power, total, (logarithm,))


def _whole(
    graph: PatternGraph, operator: str, node: Any, power: Any, total: Any, between: tuple[Any, ...]
) -> Rewrite | None:
    from onnx import helper

    axes = reduced_axes(graph, total)
    if axes is None or len(axes) != 1:
        return None
    source, removes = power.input[0], [power, total, *between, node]
    difference = graph.producer(source, "Sub")
    largest = None if difference is None else graph.producer(difference.input[1], "ReduceMax")
    if (
        difference is not None
        and largest is not None
        and largest.input[0] == difference.input[0]
        and reduced_axes(graph, largest) == axes
    ):
        source = largest.input[0]
        removes += [largest, difference]
    whole = helper.make_node(operator, [source], node.output, name=node.name, axis=axes[0])
    return Rewrite(removes=removes, adds=[whole])
