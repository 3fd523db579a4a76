"""What is decided before a quantized model is written: the same for ONNX and for LiteRT."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit_converters.quantize.scheme import Scheme
from edgekit_runtime.errors import UsageError

Io = Literal["float", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What an activation may be: values outside are clipped to it.

    Attributes:
        low: The least value.
        high: The largest value, not below `low`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"not a range: {self.low} to {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationPlan:
    """How a model is to be quantized, in the names of the normalised ONNX graph.

    Attributes:
        scheme: What weights and activations become.
        ranges: Of the activations, by the value's name; needed where the scheme is static. A
            value without one stays float.
        keep_float: Names of the nodes that stay float, as `node_name` tells them.
        wide: Names of the nodes whose activations have 16 bits although the scheme says 8.
        saturates: Whether the engine may add products of bytes with 16 bits, as onnxruntime does
            on x86 without VNNI; weights are then chosen so that this makes no difference.
        io: What the model's inputs and outputs are; "int8" asks for a static scheme.
    """

    scheme: Scheme
    ranges: Mapping[str, Range] = field(default_factory=dict)
    keep_float: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    saturates: bool = True
    io: Io = "float"

    def __post_init__(self) -> None:
        if self.wide and self.scheme not in {Scheme.INT8, Scheme.MIXED}:
            raise UsageError(
                f"{self.scheme} has no nodes that are wider than others",
                where="wide",
                fix="choose mixed, or int16x8 for all of them",
            )
        if self.io == "int8" and not self.scheme.needs_ranges:
            raise UsageError(
                f"{self.scheme} computes in float, its inputs and outputs cannot be int8",
                where="io",
                fix="leave them float, or choose int8 or int16x8",
            )


def node_name(node: Any) -> str:
    """What a plan calls a node of an `onnx.GraphProto`: its name, or its first output's."""
    return str(node.name) or next((name for name in node.output if name), str(node.op_type))


def matching_nodes(model: Any, wanted: Iterable[str]) -> frozenset[str]:
    """The names of the nodes that a user means, by name, by an output's name or by type.

    Args:
        model: The normalised `onnx.ModelProto`.
        wanted: Names of nodes or of values that they compute, and operator types in any case.

    Raises:
        UsageError: Naming everything that fits no node.
    """
    found: set[str] = set()
    unknown = []
    for word in wanted:
        fitting = {
            node_name(node)
            for node in model.graph.node
            if word in {node_name(node), *node.output} or word.lower() == node.op_type.lower()
        }
        if not fitting:
            unknown.append(word)
        found |= fitting
    if unknown:
        types = sorted({node.op_type for node in model.graph.node})
        raise UsageError(
            f"no node or operator type of the model: {', '.join(unknown)}",
            where="keep-float",
            fix=f"the model's operator types are {', '.join(types)}; edgekit inspect lists more",
        )
    return frozenset(found)
