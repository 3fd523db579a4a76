"""Which function lowers which ONNX operator, and the walk over a graph that calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.layout import (
    LayoutRule,
    absorb_flattening,
    as_onnx,
    plan_layout,
)
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Program

FLOAT: Final = frozenset({"float32"})
NUMBERS: Final = frozenset({"float32", "int32", "int64"})
ANYTHING: Final = frozenset({"float32", "int8", "uint8", "int16", "int32", "int64", "bool"})

LoweringFunction = Callable[["Builder", "Node"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """How one ONNX operator is lowered.

    Attributes:
        function: Emits LiteRT operators, or raises `RefusedNodeError` with the reason.
        layout: The order of axes that the function works in.
        dtypes: What the node's outputs may be.
    """

    function: LoweringFunction
    layout: LayoutRule
    dtypes: frozenset[str]


_REGISTRY: dict[str, Lowering] = {}


def lowers(
    *operators: str, layout: LayoutRule = as_onnx, dtypes: frozenset[str] = FLOAT
) -> Callable[[LoweringFunction], LoweringFunction]:
    """Register a function as the lowering of these ONNX operators."""

    def register(function: LoweringFunction) -> LoweringFunction:
        for operator in operators:
            _REGISTRY[operator] = Lowering(function=function, layout=layout, dtypes=dtypes)
        return function

    return register


def registered() -> Mapping[str, Lowering]:
    """Every lowering, by its ONNX operator."""
    return _REGISTRY


def lower_graph(graph: Graph, *, where: str) -> Program:
    """Say a whole graph in LiteRT's operators.

    Args:
        graph: Normalised, with every shape inferred.
        where: The model's path, for errors.

    Raises:
        UnsupportedModelError: Naming every node that cannot be lowered, and why.
    """
    rules = {operator: lowering.layout for operator, lowering in _REGISTRY.items()}
    faults = _find_faults(graph)
    if faults:
        raise _unsupported(faults, where)
    graph, reordered = absorb_flattening(graph, plan_layout(graph, rules))
    plan = plan_layout(graph, rules)
    builder = Builder(graph, plan)
    for position, node in enumerate(graph.nodes):
        builder.layout = plan.nodes[position]
        try:
            _REGISTRY[node.op].function(builder, node)
        except RefusedNodeError as refusal:
            faults.append(f"{node.name} ({node.op}): {refusal}")
            builder.stand_in(node)
    try:
        program = builder.finish(reordered)
    except RefusedNodeError as refusal:
        faults.append(str(refusal))
    if faults:
        raise _unsupported(faults, where)
    return program


def _find_faults(graph: Graph) -> list[str]:
    """What can be refused by name, type and shape alone."""
    faults = []
    for node in graph.nodes:
        lowering = _REGISTRY.get(node.op)
        if lowering is None:
            faults.append(f"{node.name} ({node.op}): no LiteRT equivalent is known")
            continue
        for name in (name for name in node.outputs if name):
            shape, dtype = graph.shape(name), graph.dtype(name)
            if shape is None:
                faults.append(f"{node.name} ({node.op}): the rank of {name!r} is unknown")
            elif 0 in shape:
                faults.append(f"{node.name} ({node.op}): {name!r} is empty: {list(shape)}")
            if dtype not in lowering.dtypes:
                faults.append(
                    f"{node.name} ({node.op}): it computes {dtype or 'an unknown type'}, "
                    f"supported: {', '.join(sorted(lowering.dtypes))}"
                )
    return faults


def _unsupported(faults: list[str], where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{len(faults)} operator(s) cannot be converted to LiteRT: " + "; ".join(faults),
        where=where,
        fix="convert to ONNX instead, or replace these operators in the model and export it again",
    )
