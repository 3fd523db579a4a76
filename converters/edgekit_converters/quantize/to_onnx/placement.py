"""Decide which values of an ONNX graph become integers, and which nodes compute with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit_converters.quantize.affine import INT16, UINT8, Affine, affine_of
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_onnx.roles import Role, activations_of, role_of

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.quantize.plan import QuantizationPlan, Range

# Engines compute these in integers only if what goes out is integer too; of other products they
# give floats as well.
_ENDS_IN_INTEGERS: Final = frozenset({"Conv"})
_INTEGER: Final = frozenset({Role.WEIGHTED, Role.ARITHMETIC})


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a graph is quantized.

    Attributes:
        values: How the integers of each quantized value are to be read.
        narrow: Of those with 16 bits, how the 8 bits are to be read that some nodes take.
        reads: For each node that reads integers, by its number: the positions of these inputs.
        computing: The numbers of those among them that compute in integers.
        wide: The numbers of those that do so with 16 bits.
        offered: The values that all readers take quantized; of the others, those in `reads` do.
    """

    values: Mapping[str, Affine]
    narrow: Mapping[str, Affine]
    reads: Mapping[int, tuple[int, ...]]
    computing: frozenset[int]
    wide: frozenset[int]
    offered: frozenset[str]


def place(graph: Graph, plan: QuantizationPlan) -> Placement:
    """Find the islands of integers in a graph.

    Products are computed in integers wherever the ranges of their inputs are known. What lies
    between two of them is, where its inputs come as integers anyway. A value that is computed in
    float is rounded for those readers alone that compute in integers.
    """
    return _Placer(graph, plan).place()


class _Placer:
    def __init__(self, graph: Graph, plan: QuantizationPlan) -> None:
        self._graph = graph
        self._plan = plan
        self._roles = [
            Role.FLOAT if node.name in plan.keep_float else role_of(node, graph)
            for node in graph.nodes
        ]
        self._producers = {
            name: number for number, node in enumerate(graph.nodes) for name in node.outputs if name
        }
        self._readers: dict[str, list[int]] = {}
        for number, node in enumerate(graph.nodes):
            for name in {*node.inputs, *captured_names(node)}:
                self._readers.setdefault(name, []).append(number)
        self._wide = frozenset(
            number
            for number, node in enumerate(graph.nodes)
            if plan.scheme is Scheme.INT16X8 or node.name in plan.wide
        )
        # Ranges of moved values are those of what was moved.
        self._ranges: dict[str, Range] = dict(plan.ranges)

    def place(self) -> Placement:
        natural = self._settle_roles()
        demanded = self._demanded()
        quantized = {
            name
            for name in self._ranges
            if not self._clamped_later(name)
            and (name in demanded or self._ends_in_integers(name) or self._on_border(name))
        }
        reads: dict[int, tuple[int, ...]] = {}
        for number, (node, role) in enumerate(zip(self._graph.nodes, self._roles, strict=True)):
            if role in _INTEGER:
                positions = activations_of(node, role, self._graph)
                reads[number] = tuple(at for at in positions if node.inputs[at] in quantized)
            elif role is Role.MOVING and node.inputs[0] in quantized:
                reads[number] = (0,) if quantized.intersection(node.outputs) else ()
        values = self._affines(quantized)
        computing = frozenset(n for n in reads if self._roles[n] in _INTEGER)
        narrow = {
            node.inputs[at]: affine_of(self._ranges[node.inputs[at]], UINT8)
            for number, positions in reads.items()
            for node in [self._graph.nodes[number]]
            for at in positions
            if number in computing - self._wide and values[node.inputs[at]].codes is INT16
        }
        return Placement(
            values=values,
            narrow=narrow,
            reads=reads,
            computing=computing,
            wide=computing & self._wide,
            offered=frozenset(natural & quantized),
        )

    def _settle_roles(self) -> set[str]:
        """Turn nodes that cannot or need not compute in integers to float.

        Returns:
            The values that come as integers.
        """
        natural: set[str] = set()
        for number, node in enumerate(self._graph.nodes):
            role = self._roles[number]
            read = [node.inputs[at] for at in activations_of(node, role, self._graph)]
            if role is Role.WEIGHTED:
                fits = bool(read) and all(name in self._ranges for name in read)
                goes_on = node.op in _ENDS_IN_INTEGERS
            elif role is Role.ARITHMETIC:
                fits = len(read) == len(node.inputs) and natural.issuperset(read)
                goes_on = True
            else:
                fits = bool(read) and role is not Role.FLOAT
                goes_on = natural.issuperset(read)
            if not fits:
                self._roles[number] = Role.FLOAT
                continue
            if role is Role.MOVING and read[0] in self._ranges:
                for name in node.outputs:
                    self._ranges.setdefault(name, self._ranges[read[0]])
            if goes_on:
                natural.update(name for name in node.outputs if name)
        return natural

    def _demanded(self) -> set[str]:
        """The values that nodes want as integers.

        What leads to no product, as the last steps of a detector or a softmax, turns to float: it
        is little work, and rounding would be all that the model's outputs see of it.
        """
        demanded = {name for name in self._graph.outputs if self._on_border(name)}
        for number in reversed(range(len(self._roles))):
            node, role = self._graph.nodes[number], self._roles[number]
            wanted = not demanded.isdisjoint(node.outputs)
            if role is Role.ARITHMETIC and not wanted:
                self._roles[number] = Role.FLOAT
            elif role is Role.CLAMP:
                if wanted and self._clamped_later(node.inputs[0]):
                    demanded.add(node.inputs[0])
            elif role is Role.WEIGHTED or (wanted and role is not Role.FLOAT):
                positions = activations_of(node, role, self._graph)
                demanded.update(node.inputs[at] for at in positions)
        return demanded

    def _clamped_later(self, name: str) -> bool:
        """Whether the range of the next value says all about this one."""
        readers = self._readers.get(name, [])
        alone = len(readers) == 1 and name not in self._graph.outputs
        return alone and self._roles[readers[0]] is Role.CLAMP

    def _ends_in_integers(self, name: str) -> bool:
        """Whether a value must be quantized for the node that computes it."""
        source = self._source(name)
        if source is None or self._roles[source] not in _INTEGER:
            return False
        role, node = self._roles[source], self._graph.nodes[source]
        return role is Role.ARITHMETIC or node.op in _ENDS_IN_INTEGERS

    def _source(self, name: str) -> int | None:
        """The node that computes a value, in front of the clamps that end its work."""
        number = self._producers.get(name)
        while number is not None and self._roles[number] is Role.CLAMP:
            name = self._graph.nodes[number].inputs[0]
            if not self._clamped_later(name):
                break
            number = self._producers.get(name)
        return number

    def _on_border(self, name: str) -> bool:
        if self._plan.io == "float":
            return False
        return name in self._graph.inputs or name in self._graph.outputs

    def _affines(self, quantized: set[str]) -> dict[str, Affine]:
        affines: dict[str, Affine] = {}
        names = [*self._graph.inputs, *(n for node in self._graph.nodes for n in node.outputs)]
        for name in names:
            if name not in quantized:
                continue
            number = self._producers.get(name)
            moved = self._graph.nodes[number].inputs[0] if number is not None else ""
            if number is not None and self._roles[number] is Role.MOVING and moved in affines:
                affines[name] = affines[moved]
            else:
                codes = INT16 if self._has_16_bits(name) else UINT8
                affines[name] = affine_of(self._ranges[name], codes)
        return affines

    def _has_16_bits(self, name: str) -> bool:
        if self._plan.scheme is Scheme.INT16X8:
            return True
        source = self._source(name)
        made = [number for number in (source, self._producers.get(name)) if number is not None]
        if self._wide.intersection(made):
            return True
        # What 8 bits made is not made finer by more of them.
        return not self._ends_in_integers(name) and self._read_wide(name)

    def _read_wide(self, name: str) -> bool:
        for number in self._readers.get(name, []):
            role = self._roles[number]
            if role in _INTEGER and number in self._wide:
                return True
            if role is Role.MOVING and any(map(self._read_wide, self._graph.nodes[number].outputs)):
                return True
        return False


def captured_names(node: Node) -> set[str]:
    """What the bodies of a node read from outside of them."""
    names: set[str] = set()
    for attribute in node.attributes.values():
        for inner in getattr(attribute, "nodes", ()):
            names.update(inner.inputs)
            names |= captured_names(inner)
        names.update(getattr(attribute, "outputs", ()))
    return names
