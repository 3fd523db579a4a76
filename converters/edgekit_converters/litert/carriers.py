"""Between layout and ONNX: let operators compute in a type that LiteRT's kernels have.

Where a kernel lacks a type, the numbers go through a wider one that holds them all, and back: the
result is what the narrow type gives, wrapped around at the end, or more exact where it is float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.graph import Graph, Node, Value
from edgekit_converters.litert.type_variables import type_variables
from edgekit_converters.litert.types import carrier_of

if TYPE_CHECKING:
    from edgekit_converters.litert.lower.registry import Lowering


def carry_types(graph: Graph, lowerings: Mapping[str, Lowering]) -> Graph:
    """Put casts around the nodes whose kernels lack the types of their inputs or outputs.

    A type that no wider one can carry is left as it is, for the lowering to refuse.
    """
    return _Carrying(graph, lowerings).carry()


class _Carrying:
    def __init__(self, graph: Graph, lowerings: Mapping[str, Lowering]) -> None:
        self._graph = graph
        self._lowerings = lowerings
        self._values = dict(graph.values)
        self._constants = dict(graph.constants)
        self._nodes: list[Node] = []
        self._carried: dict[tuple[str, str], str] = {}
        # The float16 values that are there in float32 because they were computed in it.
        self._computed_wide: set[str] = set()

    def carry(self) -> Graph:
        for node in self._graph.nodes:
            self._carry_node(node)
        return replace(
            self._graph,
            nodes=tuple(self._nodes),
            values=self._values,
            constants=self._constants,
        )

    def _carry_node(self, node: Node) -> None:
        if node.op == "Cast" and self._graph.dtype(node.inputs[0]) == self._graph.dtype(
            node.outputs[0]
        ):
            node = replace(node, op="Identity", attributes={})
        lowering = self._lowerings.get(node.op)
        if lowering is None:
            self._nodes.append(node)
            return
        variables = type_variables(node)
        inputs = list(node.inputs)
        outputs = list(node.outputs)
        # What only moves numbers moves the wide ones too, if they are there.
        wide = any(name in self._computed_wide for name in inputs)
        for position, name in enumerate(inputs):
            other = self._carrier(lowering, variables.inputs[position], name, wide=wide)
            if other:
                inputs[position] = self._cast_input(name, other)
        casts = []
        for position, name in enumerate(outputs):
            other = self._carrier(lowering, variables.outputs[position], name, wide=wide)
            if other:
                outputs[position] = self._inner(name, other)
                casts.append(_cast(outputs[position], name))
                if self._graph.dtype(name) == "float16":
                    # Between two of these nodes nothing is rounded; integers must wrap around.
                    self._carried[name, other] = outputs[position]
                    self._computed_wide.add(name)
        self._nodes.append(replace(node, inputs=tuple(inputs), outputs=tuple(outputs)))
        self._nodes += casts

    def _carrier(self, lowering: Lowering, variable: str, name: str, *, wide: bool) -> str:
        """The other type that a value must have for this operator, "" for none."""
        allowed = lowering.dtypes.get(variable)
        dtype = self._graph.dtype(name)
        if allowed is None or not name or not dtype:
            return ""
        if wide and dtype == "float16" and "float32" in allowed:
            return "float32"
        other = carrier_of(dtype, allowed)
        return "" if other is None or other == dtype else other

    def _cast_input(self, name: str, wider: str) -> str:
        key = (name, wider)
        if key not in self._carried:
            constant = self._constants.get(name)
            carried = self._inner(name, wider)
            if constant is None:
                self._nodes.append(_cast(name, carried))
            else:
                with np.errstate(over="ignore"):
                    self._constants[carried] = constant.astype(wider)
            self._carried[key] = carried
        return self._carried[key]

    def _inner(self, name: str, wider: str) -> str:
        inner = f"{name}/{wider}"
        while inner in self._values:
            inner += "_"
        self._values[inner] = Value(name=inner, dtype=wider, shape=self._graph.shape(name))
        return inner


def _cast(source: str, target: str) -> Node:
    return Node(op="Cast", name=target, inputs=(source,), outputs=(target,), attributes={})
