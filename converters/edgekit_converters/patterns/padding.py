"""Padding that the operator behind it can do itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.onnx_graphs import copy_of
from edgekit_converters.patterns.arithmetic import (
    bounds,
    integer_attribute,
    integers_attribute,
    text_attribute,
)
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph


@recognises("Conv", "AveragePool")
def join_padding(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Zeros that a Pad puts around an image become padding of the Conv or AveragePool behind it.

    Not so for MaxPool, whose own padding is minus infinity.
    """
    found = _padded_image(graph, node)
    if found is None:
        return None
    pad, widths = found
    own = integers_attribute(node, "pads") or (0,) * len(widths)
    counted = integer_attribute(node, "count_include_pad", 0) == 1
    if node.op_type == "AveragePool":
        # Zeros of the Pad count as elements; padding counts only where it is told to.
        if any(own) and not counted:
            return None
        if integer_attribute(node, "ceil_mode", 0):
            return None
    pads = [mine + extra for mine, extra in zip(own, widths, strict=True)]
    if node.op_type == "AveragePool" and not _within_kernel(node, pads):
        return None
    changes: dict[str, Any] = {"pads": pads}
    if node.op_type == "AveragePool":
        changes["count_include_pad"] = 1
    return Rewrite(removes=[pad, node], adds=[_padded(node, pad.input[0], changes)])


@recognises("MaxPool")
def join_padding_of_maximum(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Zeros around what is never below zero do not change a maximum that sees real elements too."""
    found = _padded_image(graph, node)
    if found is None:
        return None
    pad, widths = found
    if any(integers_attribute(node, "pads") or ()) or integer_attribute(node, "ceil_mode", 0):
        return None
    if any(step != 1 for step in integers_attribute(node, "dilations") or ()) or any(
        node.output[1:]
    ):
        return None
    pads = list(widths)
    if not _within_kernel(node, pads) or not _never_negative(graph, pad.input[0]):
        return None
    return Rewrite(removes=[pad, node], adds=[_padded(node, pad.input[0], {"pads": pads})])


def _never_negative(graph: PatternGraph, name: str) -> bool:
    node = graph.producer(name, "Relu", "Clip", "Sigmoid", "Softmax", "HardSigmoid", "Softplus")
    if node is None:
        return False
    limits = bounds(graph, node) if node.op_type == "Clip" else (0.0, 0.0)
    return limits is not None and limits[0] >= 0


def _within_kernel(node: Any, pads: Sequence[int]) -> bool:
    """Whether every window sees at least one real element; engines refuse wider padding."""
    kernel = integers_attribute(node, "kernel_shape") or ()
    return all(pad < size for pad, size in zip(pads, kernel * 2, strict=True))


def _padded(node: Any, source: str, changes: dict[str, Any]) -> Any:
    from onnx import helper

    joined = copy_of(node)
    joined.input[0] = source
    kept = [attribute for attribute in joined.attribute if attribute.name not in changes]
    joined.ClearField("attribute")
    joined.attribute.extend(kept)
    joined.attribute.extend(helper.make_attribute(name, value) for name, value in changes.items())
    return joined


def _padded_image(graph: PatternGraph, node: Any) -> tuple[Any, tuple[int, ...]] | None:
    """The Pad that puts zeros around a window's image alone, and how many, as `pads` has them."""
    pad = graph.producer(node.input[0], "Pad")
    rank = graph.rank(node.input[0])
    if pad is None or not rank or text_attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    widths = _zeros_around(graph, pad, rank)
    if widths is None or (widths[:2] != (0, 0) or widths[rank : rank + 2] != (0, 0)):
        return None
    return pad, widths[2:rank] + widths[rank + 2 :]


def _zeros_around(graph: PatternGraph, pad: Any, rank: int) -> tuple[int, ...] | None:
    """How many zeros a Pad adds before and after each axis, None if it does anything else."""
    if text_attribute(pad, "mode", "constant") != "constant":
        return None
    inputs = [*pad.input, "", ""]
    widths = graph.constant(inputs[1])
    if widths is None or (inputs[2] and graph.scalar(inputs[2]) != 0) or np.any(widths < 0):
        return None
    axes = graph.constant(inputs[3]) if inputs[3] else np.arange(rank)
    if axes is None:
        return None
    found = [0] * (2 * rank)
    for position, axis in enumerate(int(axis) % rank for axis in axes):
        found[axis] = int(widths[position])
        found[axis + rank] = int(widths[position + len(axes)])
    return tuple(found)
