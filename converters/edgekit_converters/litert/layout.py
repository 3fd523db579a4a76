"""Second stage: decide in which order of axes every value is stored, before any code is made.

LiteRT's convolutions and poolings want channels last, ONNX has them second. Each value gets one
*permutation*: stored axis i is ONNX axis `permutation[i]`. Operators that do not care follow
their inputs, an ONNX Transpose only relabels axes, and so real transposes are left at the borders
of the graph and before the few operators that need ONNX's own order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node, Shape

Permutation = tuple[int, ...]
# Batch, channels, height, width.
IMAGE_RANK: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayout:
    """How one node works: the order of axes it reads, and the one its outputs are stored in."""

    work: Permutation
    stored: Permutation


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutPlan:
    """The layout of every node, by its position, and of every value, by its name."""

    nodes: tuple[NodeLayout, ...]
    values: Mapping[str, Permutation]


class BorderLayout(StrEnum):
    """What the images at a model's border look like: as the source has them, or channels last."""

    KEEP = "keep"
    NHWC = "nhwc"


LayoutRule = Callable[["Node", "Graph", Mapping[str, Permutation]], NodeLayout]


def border_orders(graph: Graph, layout: BorderLayout) -> dict[str, Permutation]:
    """The inputs and outputs that are not stored as ONNX has them: the images, if NHWC is asked."""
    if layout is BorderLayout.KEEP:
        return {}
    return {
        name: channels_last_order(IMAGE_RANK)
        for name in (*graph.inputs, *graph.outputs)
        if len(graph.shape(name) or ()) == IMAGE_RANK
    }


def absorb_flattening(graph: Graph, plan: LayoutPlan) -> tuple[Graph, frozenset[str]]:
    """Reorder the weights behind a flattened image instead of transposing the image.

    Where a channels-last value is flattened to (batch, features) and only multiplied by constant
    weights, the rows of the weights are put into the order in which the value is stored. The
    returned graph has a Transpose in front of the flattening, which costs nothing in that layout.

    Returns:
        The graph, and the names of the values whose elements are in another order than before.
    """
    nodes: list[Node] = []
    constants = dict(graph.constants)
    values = dict(graph.values)
    reordered: set[str] = set()
    for node in graph.nodes:
        source = node.input(0)
        shape = graph.shape(source)
        stored = plan.values.get(source)
        readers = _weight_readers(graph, node)
        if (
            stored is None
            or shape is None
            or stored[:1] != (0,)
            or stored == identity(len(stored))
            or None in shape[1:]
            or not _flattens(node, graph, shape)
            or not readers
        ):
            nodes.append(node)
            continue
        inner = [size for size in shape[1:] if size is not None]
        rows = np.arange(math.prod(inner)).reshape(inner)
        order = rows.transpose([axis - 1 for axis in stored[1:]]).ravel()
        reordered.update(node.outputs)
        for name, axis in readers:
            constants[name] = np.take(constants[name], order, axis=axis)
        moved = f"{source}/stored_order/{node.outputs[0]}"
        values[moved] = replace(
            graph.values[source], name=moved, shape=tuple(shape[axis] for axis in stored)
        )
        nodes.append(
            replace(
                node,
                op="Transpose",
                name=moved,
                inputs=(source,),
                outputs=(moved,),
                attributes={"perm": stored},
            )
        )
        nodes.append(replace(node, inputs=(moved, *node.inputs[1:])))
    rewritten = replace(graph, nodes=tuple(nodes), constants=constants, values=values)
    return rewritten, frozenset(reordered)


def _flattens(node: Node, graph: Graph, shape: Shape) -> bool:
    result = graph.shape(node.outputs[0])
    features = math.prod(size for size in shape[1:] if size is not None)
    return (
        node.op in {"Flatten", "Reshape"}
        and result is not None
        and len(result) == 2  # noqa: PLR2004 - batch, features
        and result[1] == features
    )


def _weight_readers(graph: Graph, node: Node) -> list[tuple[str, int]]:
    """The weights that multiply a node's output, with their input axis; empty if others read it."""
    output = node.outputs[0] if node.outputs else ""
    found = []
    uses = Counter(name for reader in graph.nodes for name in reader.inputs)
    for reader in graph.nodes:
        uses.update(reader.reads().difference(reader.inputs))
    uses.update(graph.outputs)
    for reader in graph.consumers(output):
        weights = reader.input(1)
        plain = reader.input(0) == output and uses[weights] == 1 and not reader.integer("transA", 0)
        matrix = graph.constants.get(weights)
        if reader.op not in {"Gemm", "MatMul"} or not plain or matrix is None or matrix.ndim != 2:  # noqa: PLR2004
            return []
        found.append((weights, 1 if reader.integer("transB", 0) else 0))
    # Each reader counts once: not where it adds the same value, or where that is an output.
    return found if uses[output] == len(found) else []


def identity(rank: int) -> Permutation:
    """ONNX's own order of axes."""
    return tuple(range(rank))


def channels_last_order(rank: int) -> Permutation:
    """Batch, then space, then channels."""
    return (0, *range(2, rank), 1)


def inverse(permutation: Permutation) -> Permutation:
    """The permutation that undoes this one."""
    return tuple(permutation.index(axis) for axis in range(len(permutation)))


def permute(shape: Shape, permutation: Permutation) -> Shape:
    """A shape in the stored order of axes."""
    return tuple(shape[axis] for axis in permutation)


def as_onnx(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:  # noqa: ARG001
    """Rule of operators whose meaning depends on ONNX's order of axes."""
    rank = len(graph.shape(node.outputs[0]) or ())
    return NodeLayout(work=identity(rank), stored=identity(rank))


def channels_last(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:  # noqa: ARG001
    """Rule of convolutions and poolings."""
    order = channels_last_order(len(graph.shape(node.outputs[0]) or ()))
    return NodeLayout(work=order, stored=order)


def follow(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    """Rule of elementwise operators: the layout of most inputs, channels-last before ONNX's own."""
    rank = len(graph.shape(node.outputs[0]) or ())
    votes = Counter(
        stored[name] for name in node.inputs if name in stored and len(stored[name]) == rank
    )
    ranked = sorted(votes, key=lambda order: (votes[order], order != identity(rank), order))
    order = ranked[-1] if ranked else identity(rank)
    return NodeLayout(work=order, stored=order)


def relabel(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    """Rule of Transpose: the same stored tensor, its axes under other names."""
    rank = len(graph.shape(node.outputs[0]) or ())
    order = stored.get(node.input(0), identity(rank))
    moved = node.integers("perm") or tuple(reversed(range(rank)))
    back = inverse(moved)
    return NodeLayout(work=order, stored=tuple(back[axis] for axis in order))


def reduced(
    node: Node,
    graph: Graph,
    stored: Mapping[str, Permutation],
    axes: tuple[int, ...],
    *,
    keep: bool,
) -> NodeLayout:
    """The layout of a reduction over `axes`: its input's, with the reduced axes left out."""
    rank = len(graph.shape(node.input(0)) or ())
    order = stored.get(node.input(0), identity(rank))
    if keep:
        return NodeLayout(work=order, stored=order)
    left = [axis for axis in range(rank) if axis not in axes]
    return NodeLayout(work=order, stored=tuple(left.index(axis) for axis in order if axis in left))
