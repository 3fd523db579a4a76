"""Reshape, Transpose, Reshape: what moves blocks of channels, said as one operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.patterns.arithmetic import integers_attribute
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import NamedShape, PatternGraph

_IMAGE: Final = 4
# The shape in the middle is (batch, ..., height, width) with the block's sides r:
# (n, c, r, r, h, w), columns of a channel's own pixels, and (n, r, r, c, h, w).
_DEPTH_TO_SPACE: Final[dict[tuple[int, ...], tuple[str, tuple[int, int], int]]] = {
    (0, 1, 4, 2, 5, 3): ("CRD", (2, 3), 1),
    (0, 3, 4, 1, 5, 2): ("DCR", (1, 2), 3),
}
# (n, c, h, r, w, r) to (n, r, r, c, h, w), which ONNX has, and to (n, c, r, r, h, w).
_SPACE_TO_DEPTH: Final = (0, 3, 5, 1, 2, 4)
_CHANNELS_FIRST: Final = (0, 1, 3, 5, 2, 4)


@recognises("Transpose")
def depth_to_space(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Pixel shuffle, in both orders of channels."""
    from onnx import helper

    found = _between_reshapes(graph, node)
    form = _DEPTH_TO_SPACE.get(integers_attribute(node, "perm") or ())
    if found is None or form is None:
        return None
    first, last, middle = found
    mode, sides, depth = form
    block, channels = middle[sides[0]], middle[depth]
    result = graph.shape(last.output[0]) or ()
    source = graph.shape(first.input[0]) or ()
    if not isinstance(block, int) or not isinstance(channels, int) or middle[sides[1]] != block:
        return None
    if source[:2] != (middle[0], channels * block * block) or source[2:] != middle[4:]:
        return None
    if result[:2] != (middle[0], channels) or not _times(middle[4:], result[2:], block):
        return None
    whole = helper.make_node(
        "DepthToSpace", [first.input[0]], last.output, name=node.name, blocksize=block, mode=mode
    )
    return Rewrite(removes=[first, node, last], adds=[whole])


@recognises("Transpose")
def space_to_depth(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Blocks of pixels to channels; ONNX has one order of these, from which a Gather makes another.

    A transpose of six axes is what engines are slow at, or lack.
    """
    from onnx import helper

    found = _between_reshapes(graph, node)
    order = integers_attribute(node, "perm")
    if found is None or order not in {_SPACE_TO_DEPTH, _CHANNELS_FIRST}:
        return None
    first, last, middle = found
    batch, channels, high, block, wide, other = middle
    source, result = graph.shape(first.input[0]) or (), graph.shape(last.output[0]) or ()
    if not isinstance(block, int) or not isinstance(channels, int) or block != other:
        return None
    if source[:2] != (batch, channels) or not _times((high, wide), source[2:], block):
        return None
    if result != (batch, channels * block * block, high, wide):
        return None
    whole = helper.make_node(
        "SpaceToDepth", [first.input[0]], last.output, name=node.name, blocksize=block
    )
    if order == _SPACE_TO_DEPTH:
        return Rewrite(removes=[first, node, last], adds=[whole])
    names = [graph.fresh(f"{last.output[0]}/{role}") for role in ("blocks", "channels")]
    whole.output[0] = names[0]
    places = np.arange(channels * block * block).reshape(block * block, channels).T.reshape(-1)
    gather = helper.make_node("Gather", names, last.output, name=last.name, axis=1)
    return Rewrite(
        removes=[first, node, last],
        adds=[whole, gather],
        constants={names[1]: places.astype(np.int64)},
        alike={names[0]: last.output[0]},
    )


@recognises("Transpose")
def channel_shuffle(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Channels dealt out like cards: one Gather, which needs no axes of its own."""
    from onnx import helper

    rank = graph.rank(node.output[0]) or 0
    if integers_attribute(node, "perm") != (0, 2, 1, *range(3, rank)):
        return None
    first = graph.producer(node.input[0], "Reshape")
    last = graph.sole_reader(node.output[0], "Reshape")
    middle = graph.shape(node.input[0]) or ()
    if first is None or last is None or last.input[0] != node.output[0]:
        return None
    source, result = graph.shape(first.input[0]) or (), graph.shape(last.output[0]) or ()
    groups, each = middle[1:3]
    if not isinstance(groups, int) or not isinstance(each, int) or "" in middle:
        return None
    if source != (middle[0], groups * each, *middle[3:]) or result != source:
        return None
    name = graph.fresh(f"{last.output[0]}/channels")
    order = np.arange(groups * each, dtype=np.int64).reshape(groups, each).T.reshape(-1)
    gather = helper.make_node("Gather", [first.input[0], name], last.output, name=node.name, axis=1)
    return Rewrite(removes=[first, node, last], adds=[gather], constants={name: order})


def _between_reshapes(graph: PatternGraph, node: Any) -> tuple[Any, Any, NamedShape] | None:
    """The Reshapes around a Transpose of six axes between images, and the shape in the middle."""
    first = graph.producer(node.input[0], "Reshape")
    last = graph.sole_reader(node.output[0], "Reshape")
    middle = graph.shape(node.input[0])
    if first is None or last is None or last.input[0] != node.output[0] or middle is None:
        return None
    if len(middle) != _IMAGE + 2 or {graph.rank(first.input[0]), graph.rank(last.output[0])} != {
        _IMAGE
    }:
        return None
    # A free size without a name equals none, its own neither.
    return None if "" in middle else (first, last, middle)


def _times(small: NamedShape, large: NamedShape, block: int) -> bool:
    """Whether sizes are those of others times the block's side; free ones cannot be told."""
    return len(small) == len(large) and all(
        isinstance(one, int) and one * block == other
        for one, other in zip(small, large, strict=True)
    )
