"""How much memory activations hold at each step of a model: the hills that an arena must cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit_runtime.graph.kinds import Kind, kind_of
from edgekit_runtime.graph.structure import Structure

if TYPE_CHECKING:
    from edgekit_runtime.graph.model import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operator.

    Attributes:
        name: The operator's name.
        live_bytes: What is alive while it runs.
    """

    name: str
    live_bytes: int


def live_steps(graph: Graph) -> tuple[Step, ...]:
    """The memory that is alive at each operator, in order.

    As the plan of the arena: inputs and outputs live for the whole call, views and what is fused
    into a product share its memory. Tensors of unknown size count as nothing.
    """
    structure = Structure(graph)
    owners: dict[str, str] = {}
    first: dict[str, int] = {spec.name: 0 for spec in graph.inputs}
    last: dict[str, int] = {spec.name: len(graph.operators) - 1 for spec in graph.inputs}
    for step, operator in enumerate(graph.operators):
        for name in operator.inputs:
            owner = owners.get(name, name)
            if owner in first:
                last[owner] = max(last[owner], step)
        source = next((n for n in operator.inputs if n and n not in structure.constants), "")
        owner = owners.get(source, source)
        shares = kind_of(operator) is Kind.SHAPE_ONLY or structure.is_fused(operator)
        for name in operator.outputs:
            if not name or name in structure.constants:
                continue
            if shares and owner in first:
                owners[name] = owner
            else:
                first[name] = last[name] = step
    for spec in graph.outputs:
        owner = owners.get(spec.name, spec.name)
        if owner in last:
            last[owner] = len(graph.operators) - 1
    changes = [0] * (len(graph.operators) + 1)
    for name, begin in first.items():
        tensor = graph.tensors.get(name)
        size = (tensor.bytes or 0) if tensor else 0
        changes[begin] += size
        changes[last[name] + 1] -= size
    steps = []
    live = 0
    for operator, change in zip(graph.operators, changes, strict=False):
        live += change
        steps.append(Step(name=operator.name or operator.type, live_bytes=live))
    return tuple(steps)
