"""What quantization makes of each ONNX operator, and which of its operands are weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node


class Role(Enum):
    """How an operator takes part in a model whose activations are quantized."""

    WEIGHTED = auto()
    """It multiplies: that is what integers are for. Its inputs are quantized for its sake."""
    ARITHMETIC = auto()
    """It has an integer form, which pays where its inputs are integers already."""
    MOVING = auto()
    """It moves or picks values: its output has the scale of its input."""
    CLAMP = auto()
    """It only limits values, which the range of its output does too."""
    FLOAT = auto()
    """It computes in float."""


_WEIGHTED: Final = frozenset({"Conv", "Gemm", "MatMul"})
_ARITHMETIC: Final = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
)
_MOVING: Final = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
# Those of a vector have no channels.
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """An operand that is a constant full of weights.

    Attributes:
        name: Of the constant.
        position: Among the node's inputs.
        axis: Where its channels are, None where it has none.
    """

    name: str
    position: int
    axis: int | None


def role_of(node: Node, graph: Graph) -> Role:
    """The role of a node, by its type and attributes."""
    if node.op in _WEIGHTED:
        constant = node.op != "Conv" or node.input(1) in graph.constants
        return Role.WEIGHTED if constant else Role.FLOAT
    if node.op in _ARITHMETIC:
        return Role.ARITHMETIC
    if node.op in {"Relu", "Clip"}:
        bounds = all(name in graph.constants for name in node.inputs[1:] if name)
        return Role.CLAMP if bounds else Role.FLOAT
    if node.op in _MOVING or _moves(node, graph):
        alone = node.op == "Split" or not any(node.outputs[1:])
        return Role.MOVING if alone else Role.FLOAT
    return Role.FLOAT


def activations_of(node: Node, role: Role, graph: Graph) -> tuple[int, ...]:
    """The positions of the inputs that are quantized where the node computes in integers."""
    if role is Role.WEIGHTED:
        positions = range(2)
    elif role is Role.ARITHMETIC:
        positions = range(len(node.inputs))
    else:
        positions = range(1)
    return tuple(at for at in positions if node.input(at) and node.input(at) not in graph.constants)


def weights_of(node: Node, graph: Graph) -> tuple[Weight, ...]:
    """The weights of a node that can be stored as integers."""
    constants = graph.constants
    axes: dict[int, int | None] = {}
    if node.op == "Conv":
        axes = {1: 0}
    elif node.op == "ConvTranspose":
        # Groups share the axis of the outputs; the inputs are theirs alone.
        axes = {1: 1 if node.integer("group", 1) == 1 else 0}
    elif node.op == "Gemm":
        axes = {1: 0 if node.integer("transB", 0) else 1, 0: 1 if node.integer("transA", 0) else 0}
    elif node.op == "MatMul":
        axes = {at: _matmul_axis(graph, node.input(at), at) for at in (0, 1)}
    elif node.op in {"LSTM", "GRU", "RNN"}:
        axes = {1: 1, 2: 1}
    return tuple(
        Weight(name=node.input(at), position=at, axis=axis)
        for at, axis in axes.items()
        if node.input(at) in constants and constants[node.input(at)].dtype == np.float32
    )


def table_of(node: Node, graph: Graph) -> str:
    """The constant that a Gather picks rows of, "" where there is none."""
    name = node.input(0)
    found = graph.constants.get(name)
    if node.op != "Gather" or node.integer("axis", 0) or found is None:
        return ""
    return name if found.dtype == np.float32 and found.ndim >= _MATRIX else ""


def _matmul_axis(graph: Graph, name: str, position: int) -> int | None:
    rank = len(graph.shape(name) or ())
    if rank < _MATRIX:
        return None
    return rank - 1 if position == 1 else rank - 2


def _moves(node: Node, graph: Graph) -> bool:
    if node.op == "Resize":
        # A cubic goes beyond its inputs, and a crop brings a number of its own.
        mode = node.text("mode", "nearest")
        crops = node.text("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        return mode in {"nearest", "linear"} and not crops
    if node.op == "Pad":
        value = node.input(2)
        zero = not value or (value in graph.constants and not graph.constants[value].any())
        return node.text("mode", "constant") != "constant" or zero
    return False
