"""Plan the memory of activations over a graph's lifetimes, as an engine's arena does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgekit_runtime.graph.kinds import Kind, kind_of
from edgekit_runtime.graph.model import Graph, Operator
from edgekit_runtime.graph.structure import Structure

# Arenas align each tensor for vector instructions (TFLite: kDefaultTensorAlignment).
_ALIGNMENT_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What the computed tensors of one inference need.

    Attributes:
        peak_bytes: The size of an arena that holds them all, packed by size.
        live_bytes: The most that is alive at once: no plan can be smaller.
        busiest: The operator at which that is; empty where the model has none.
        unknown: How many tensors have no known size and are left out.
    """

    peak_bytes: int
    live_bytes: int
    busiest: str
    unknown: int


@dataclass(slots=True)
class _Span:
    first: int
    last: int
    size: int


def plan_memory(graph: Graph) -> MemoryPlan:
    """Place every computed tensor where its lifetime allows, largest first.

    That is the greedy-by-size offset plan of TFLite's arena (Pisarchyk and Lee 2020,
    arXiv:2001.03288, section 5.3). Views share their source's memory, and what engines fuse
    into a product is computed in place.
    """
    lifetimes = _Lifetimes(graph)
    spans = list(lifetimes.spans.values())
    live = [0] * (len(graph.operators) + 2)
    for span in spans:
        live[span.first] += span.size
        live[span.last + 1] -= span.size
    total, most, step = 0, 0, 0
    for index, change in enumerate(live):
        total += change
        if total > most:
            most, step = total, index
    # The last step is behind the last operator; a model may have none at all.
    name = graph.operators[min(step, len(graph.operators) - 1)].name if graph.operators else ""
    return MemoryPlan(
        peak_bytes=_pack(spans), live_bytes=most, busiest=name, unknown=lifetimes.unknown
    )


class _Lifetimes:
    """The spans of all computed tensors, by the name of the tensor that owns the memory."""

    def __init__(self, graph: Graph) -> None:
        self.unknown = 0
        self.spans: dict[str, _Span] = {}
        self._graph = graph
        self._structure = Structure(graph)
        self._owners: dict[str, str] = {}
        end = len(graph.operators)
        # Inputs and outputs belong to the caller for the whole call.
        for spec in graph.inputs:
            self._open(spec.name, first=0, last=end)
        for step, operator in enumerate(graph.operators):
            for name in operator.inputs:
                self._extend(name, step)
            self._add_outputs(operator, step)
        for spec in graph.outputs:
            self._extend(spec.name, end)

    def _add_outputs(self, operator: Operator, step: int) -> None:
        constants = self._structure.constants
        source = next((name for name in operator.inputs if name and name not in constants), "")
        owner = self._owners.get(source, source)
        in_place = kind_of(operator) is Kind.SHAPE_ONLY or self._structure.is_fused(operator)
        for name in operator.outputs:
            if not name or name in constants:
                continue
            if in_place and owner in self.spans:
                self._owners[name] = owner
            else:
                self._open(name, first=step, last=step)

    def _open(self, name: str, *, first: int, last: int) -> None:
        tensor = self._graph.tensors.get(name)
        if tensor is None or tensor.bytes is None:
            self.unknown += 1
        else:
            self.spans[name] = _Span(first, last, _aligned(tensor.bytes))

    def _extend(self, name: str, step: int) -> None:
        span = self.spans.get(self._owners.get(name, name))
        if span is not None:
            span.last = max(span.last, step)


def _pack(spans: list[_Span]) -> int:
    """The arena's size after giving each span the lowest gap among those it overlaps in time."""
    placed: list[tuple[int, _Span]] = []
    peak = 0
    for span in sorted(spans, key=lambda s: (-s.size, s.first)):
        offset = 0
        for start, other in placed:
            if other.first > span.last or other.last < span.first:
                continue
            if start - offset >= span.size:
                break
            offset = max(offset, start + other.size)
        placed.append((offset, span))
        placed.sort(key=lambda entry: entry[0])
        peak = max(peak, offset + span.size)
    return peak


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
