"""Which function lowers which ONNX operator, and the walk over a graph that calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.carriers import carry_types
from edgekit_converters.litert.layout import LayoutRule, Permutation, absorb_flattening, as_onnx
from edgekit_converters.litert.lower.builder import MAX_RANK, Builder, RefusedNodeError
from edgekit_converters.litert.planning import plan_layout
from edgekit_converters.litert.type_variables import main_variable, type_variables
from edgekit_converters.litert.types import ANYTHING, FLOAT
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Program

LoweringFunction = Callable[["Builder", "Node"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """How one ONNX operator is lowered.

    Attributes:
        function: Emits LiteRT operators, or raises `RefusedNodeError` with the reason.
        layout: The order of axes that the function works in.
        dtypes: The element types that the function can work with, by type variable of the
            operator's schema. Others are carried by a wider one where there is one, or refused;
            a variable that is not named may be anything, and is the function's own affair.
    """

    function: LoweringFunction
    layout: LayoutRule
    dtypes: Mapping[str, frozenset[str]]


# What a strange model says about shapes, axes and types need not make sense; nor what it declares
# be what is computed, which the builder asserts.
_CONTRADICTIONS: Final = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)

_REGISTRY: dict[str, Lowering] = {}


def lowers(
    *operators: str,
    layout: LayoutRule = as_onnx,
    dtypes: frozenset[str] | Mapping[str, frozenset[str]] = FLOAT,
) -> Callable[[LoweringFunction], LoweringFunction]:
    """Register a function as the lowering of these ONNX operators.

    Args:
        operators: Types, with their domain in front where it is not ONNX's own.
        layout: The rule by which the order of axes is chosen.
        dtypes: As in `Lowering`; a set alone speaks of the variable "T", or of the first output's.
    """

    def register(function: LoweringFunction) -> LoweringFunction:
        for operator in operators:
            by_variable = (
                dtypes if isinstance(dtypes, Mapping) else {main_variable(operator): dtypes}
            )
            _REGISTRY[operator] = Lowering(function=function, layout=layout, dtypes=by_variable)
        return function

    return register


def registered() -> Mapping[str, Lowering]:
    """Every lowering, by its ONNX operator."""
    return _REGISTRY


def lower_graph(
    graph: Graph, *, where: str, borders: Mapping[str, Permutation] | None = None
) -> Program:
    """Say a whole graph in LiteRT's operators.

    Args:
        graph: Normalised, with every shape inferred.
        where: The model's path, for errors.
        borders: The inputs and outputs that are stored otherwise than ONNX has them.

    Raises:
        UnsupportedModelError: Naming every node that cannot be lowered, and why.
    """
    rules = {operator: lowering.layout for operator, lowering in _REGISTRY.items()}
    graph = carry_types(graph, _REGISTRY)
    faults = _find_faults(graph)
    if faults:
        raise _unsupported(faults, where)
    borders = borders or {}
    graph, reordered = absorb_flattening(graph, plan_layout(graph, rules, borders))
    plan = plan_layout(graph, rules, borders)
    builder = Builder(graph, plan)
    for position, node in enumerate(graph.nodes):
        builder.layout = plan.nodes[position]
        try:
            _REGISTRY[node.op].function(builder, node)
        except RefusedNodeError as refusal:
            faults.append(f"{node.name} ({node.op}): {refusal}")
            builder.stand_in(node)
        except _CONTRADICTIONS as error:
            faults.append(f"{node.name} ({node.op}): its parts contradict each other: {error}")
            builder.stand_in(node)
    try:
        program = builder.finish(reordered, borders)
    except RefusedNodeError as refusal:
        faults.append(str(refusal))
    if faults:
        raise _unsupported(faults, where)
    return program


def _find_faults(graph: Graph) -> list[str]:
    """What can be refused by name, type and shape alone."""
    faults = []
    for kind, names in (("input", graph.inputs), ("output", graph.outputs)):
        for name in names:
            value = graph.values.get(name)
            if value is not None and value.container:
                faults.append(f"the {kind} {name!r} is a {value.container}, not a tensor")
            elif graph.dtype(name) not in ANYTHING:
                faults.append(
                    f"the {kind} {name!r} is of a type that LiteRT lacks: "
                    f"{graph.dtype(name) or 'unknown'}"
                )
    for node in graph.nodes:
        lowering = _REGISTRY.get(node.op)
        if lowering is None:
            faults.append(f"{node.name} ({node.op}): no LiteRT equivalent is known")
            continue
        variables = type_variables(node)
        typed = (
            *zip(node.inputs, variables.inputs, strict=True),
            *zip(node.outputs, variables.outputs, strict=True),
        )
        for name, variable in typed:
            allowed = lowering.dtypes.get(variable, ANYTHING)
            dtype = graph.dtype(name)
            if name and dtype not in allowed and not _is_container(graph, name):
                faults.append(
                    f"{node.name} ({node.op}): {name!r} is {dtype or 'of unknown type'}, "
                    f"supported: {', '.join(sorted(allowed))}"
                )
                break
        faults += [
            f"{node.name} ({node.op}): the rank of {name!r} is unknown"
            for name in node.outputs
            if name and graph.shape(name) is None and not _is_container(graph, name)
        ]
        faults += [
            f"{node.name} ({node.op}): {name!r} has {len(graph.shape(name) or ())} axes, "
            f"supported: {MAX_RANK}"
            for name in node.outputs
            if name and len(graph.shape(name) or ()) > MAX_RANK
        ]
    return faults


def _is_container(graph: Graph, name: str) -> bool:
    value = graph.values.get(name)
    return value is not None and bool(value.container)


def _unsupported(faults: list[str], where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{len(faults)} operator(s) cannot be converted to LiteRT: " + "; ".join(faults),
        where=where,
        fix="convert to ONNX instead, or replace these operators in the model and export it again",
    )
