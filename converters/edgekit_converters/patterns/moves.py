"""Read rows of movements and dense layers from a graph, and write them anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.patterns.arithmetic import (
    integer_attribute,
    integers_attribute,
    number_attribute,
)
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.sizes.movement import Movement, MovementPlan, written_shape
from edgekit_converters.sizes.size import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.patterns.graph import PatternGraph
    from edgekit_converters.sizes.size import Size, Sizes

MOVERS: Final = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_MATRIX: Final = 2
_MAX_ROW: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Nodes in execution order, each of which alone reads what the one before it makes.

    Attributes:
        source: What the first of them reads.
        nodes: The nodes, at least one.
    """

    source: str
    nodes: tuple[Any, ...]

    @property
    def cost(self) -> tuple[int, int]:
        """How many transposes, and how many nodes."""
        return sum(node.op_type == "Transpose" for node in self.nodes), len(self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """A product with constant weights, and the row that is added.

    Attributes:
        source: What it reads.
        nodes: The nodes of it.
        names: What the nodes that take their place are called, "" for the value that they make.
        weights: Inputs by outputs.
        weights_name: Of the constant that they come from.
        bias: A number an output, None where there is none.
        bias_name: Of the constant that it comes from.
    """

    source: str
    nodes: tuple[Any, ...]
    names: tuple[str, str]
    weights: NDArray[Any]
    weights_name: str
    bias: NDArray[Any] | None
    bias_name: str

    def part(self, number: int, count: int) -> DenseLayer:
        """One of equal parts of its outputs, as a layer."""
        each = self.weights.shape[1] // count
        columns = slice(number * each, (number + 1) * each)
        suffix = f"/part{number}of{count}"
        return DenseLayer(
            source=self.source,
            nodes=self.nodes,
            # The whole may stay, and so may another layer of the same part.
            names=("", ""),
            weights=self.weights[:, columns],
            weights_name=self.weights_name + suffix,
            bias=None if self.bias is None else self.bias[columns],
            bias_name=self.bias_name + suffix,
        )


def movements_up_to(graph: PatternGraph, name: str) -> Row | None:
    """The row of movements that makes a value, as long as it can be."""
    nodes: list[Any] = []
    node = graph.producer(name, *MOVERS)
    while node is not None and len(nodes) < _MAX_ROW:
        nodes.append(node)
        name = node.input[0]
        node = graph.producer(name, *MOVERS) if graph.uses(name) == 1 else None
    return Row(source=name, nodes=tuple(reversed(nodes))) if nodes else None


def dense_layer_of(graph: PatternGraph, name: str) -> DenseLayer | None:
    """The dense layer that makes a value for one reader."""
    bias, bias_name, behind = None, "", []
    if graph.uses(name) != 1:
        return None
    addition = graph.producer(name, "Add")
    for position in (0, 1) if addition is not None else ():
        constant, inner = graph.constant(addition.input[position]), addition.input[1 - position]
        if constant is not None and constant.ndim <= 1 and graph.uses(inner) == 1:
            bias, bias_name, behind = constant, addition.input[position], [addition]
            name = inner
            break
    node = graph.producer(name, "MatMul", "Gemm")
    weights = None if node is None else graph.constant(node.input[1])
    if node is None or weights is None or weights.ndim != _MATRIX or weights.dtype.kind != "f":
        return None
    weights_name = node.input[1]
    if node.op_type == "Gemm":
        factors = (number_attribute(node, "alpha", 1.0), number_attribute(node, "beta", 1.0))
        if factors != (1.0, 1.0) or integer_attribute(node, "transA", 0) or behind:
            return None
        if integer_attribute(node, "transB", 0):
            weights, weights_name = weights.T, f"{weights_name}/transposed"
        if len(node.input) > _MATRIX and node.input[2]:
            bias, bias_name = graph.constant(node.input[2]), node.input[2]
            if bias is None or bias.ndim > 1:
                return None
    if bias is not None and bias.size not in {1, weights.shape[1]}:
        return None
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), (weights.shape[1],))
    return DenseLayer(
        source=node.input[0],
        nodes=(node, *behind),
        names=(node.name, behind[-1].name if behind else ""),
        weights=weights,
        weights_name=weights_name,
        bias=bias,
        bias_name=bias_name,
    )


def known_sizes(graph: PatternGraph, name: str) -> tuple[Size, ...] | None:
    """The shape of a value if every size can be said, if only by name, and none is zero."""
    sizes = graph.sizes(name)
    if sizes is None or number(0) in sizes:
        # Of nothing, any movement is as good as another; and zero means something else to Reshape.
        return None
    found = tuple(size for size in sizes if size is not None)
    return found if len(found) == len(sizes) else None


def follow(graph: PatternGraph, movement: Movement, row: Row, *, width: Size | None = None) -> bool:
    """Apply a row of movements to a movement.

    Args:
        graph: Where they stand.
        movement: It goes on from where it is.
        row: What moves.
        width: The size of the last axis, where it is another than when the row was written.

    Returns:
        False where that cannot be said.
    """
    for node in row.nodes:
        if node.op_type == "Transpose":
            rank = len(movement.shape)
            movement.transpose(integers_attribute(node, "perm") or tuple(reversed(range(rank))))
            continue
        target = graph.sizes(node.output[0])
        if target is None or (width is not None and not target):
            return False
        if width is not None:
            target = (*target[:-1], width)
        if not movement.reshape(target):
            return False
    return True


@dataclass(slots=True, kw_only=True)
class Steps:
    """Nodes that are written one behind the other.

    Attributes:
        graph: Where they will stand.
        name: What the latest of them makes.
        label: What new names start with.
        nodes: The nodes so far.
        constants: Their constants.
        shapes: What is known about the values that they make.
    """

    graph: PatternGraph
    name: str
    label: str
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    shapes: dict[str, Sizes] = field(default_factory=dict)
    _source: str = ""

    def __post_init__(self) -> None:
        self._source = self.name

    def move(self, plan: MovementPlan, shape: Sequence[Size]) -> bool:
        """Write a movement that ends in a shape; False if a Reshape cannot be told its target."""
        if plan.before is not None and not self._reshape(plan.before):
            return False
        if plan.order is not None:
            self._write("Transpose", [self.name], self._permuted(plan.order), perm=plan.order)
        return plan.after is None or self._reshape(shape)

    def compute(self, layer: DenseLayer) -> None:
        """Write a dense layer."""
        sizes = self._sizes()
        wide = None if sizes is None else (*sizes[:-1], number(layer.weights.shape[1]))
        weights = self._constant(layer.weights_name, layer.weights)
        self._write("MatMul", [self.name, weights], wide, label=layer.names[0])
        if layer.bias is not None:
            bias = self._constant(layer.bias_name, layer.bias)
            self._write("Add", [self.name, bias], wide, label=layer.names[1])

    def instead_of(self, removes: Sequence[Any], name: str) -> Rewrite:
        """The rewrite in which these nodes make a value that others made before."""
        self.nodes[-1].output[0] = name
        made = [n.output[0] for n in self.nodes[:-1] if n.output[0] in self.shapes]
        return Rewrite(
            removes=removes,
            adds=self.nodes,
            constants=self.constants,
            alike=dict.fromkeys(made, self._source),
            shapes={name: self.shapes[name] for name in made},
        )

    def _sizes(self) -> Sizes | None:
        """The shape of what the latest node makes."""
        return self.shapes.get(self.name) or self.graph.sizes(self.name)

    def _reshape(self, shape: Sequence[Size]) -> bool:
        target = written_shape(shape, self._sizes())
        if target is None:
            return False
        name = self.graph.fresh(f"{self.label}/shape{len(self.constants)}")
        self.constants[name] = np.array(target, dtype=np.int64)
        self._write("Reshape", [self.name, name], tuple(shape))
        return True

    def _permuted(self, order: Sequence[int]) -> Sizes | None:
        sizes = self._sizes()
        return None if sizes is None else tuple(sizes[axis] for axis in order)

    def _write(
        self,
        operator: str,
        inputs: list[str],
        sizes: Sizes | None,
        label: str = "",
        **attributes: Any,
    ) -> None:
        from onnx import helper

        name = self.graph.fresh(f"{self.label}/step{len(self.nodes)}")
        self.nodes.append(
            helper.make_node(operator, inputs, [name], name=label or name, **attributes)
        )
        if sizes is not None:
            self.shapes[name] = sizes
        self.name = name

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        """A constant by this name, the one that is there where it is the same."""
        known = self.graph.constant(name)
        if known is not None and np.array_equal(known, array):
            return name
        fresh = self.graph.fresh(name)
        self.constants[fresh] = array
        return fresh
