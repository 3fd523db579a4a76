"""Which tensors and operators of a LiteRT file stand for which values and nodes of ONNX."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit_converters.body_constants import reads_of
from edgekit_converters.quantize.plan import node_name

if TYPE_CHECKING:
    from edgekit_converters.litert.compile import CompiledModel
    from edgekit_converters.litert.program import Operator, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a plan's names mean in a file.

    Attributes:
        values: What each tensor holds of the ONNX values, by its number, in whatever order of axes.
        operators: For each operator, the nodes whose work it has a part in.
    """

    values: Mapping[int, str]
    operators: tuple[frozenset[str], ...]

    def of(self, nodes: Collection[str]) -> frozenset[int]:
        """The operators that have a part in the work of any of these nodes."""
        wanted = frozenset(nodes)
        return frozenset(n for n, owners in enumerate(self.operators) if owners & wanted)


def names_of(compiled: CompiledModel, normalised: Any, graph: Any) -> Names:
    """Find every value and node of a normalised model in what was compiled from it.

    Nodes were split and fused on the way, so that neither names nor numbers tell: between two
    values that survived, the nodes that compute the one from the other are the work of the
    operators that do so.

    Args:
        compiled: What `compile_to_litert` made.
        normalised: The `onnx.ModelProto` that it was given.
        graph: The first `SubGraphT` of the compiled file.
    """
    program = compiled.program
    numbers: dict[int, int] = {}
    for operator, written in zip(program.operators, graph.operators, strict=True):
        for side, given in ((operator.outputs, written.outputs), (operator.inputs, written.inputs)):
            for tensor, number in zip(side, given, strict=True):
                if tensor is not None:
                    numbers[id(tensor)] = int(number)
    for tensor, number in zip(program.inputs, graph.inputs, strict=True):
        numbers[id(tensor)] = int(number)
    for tensor, number in zip(program.outputs, graph.outputs, strict=True):
        numbers[id(tensor)] = int(number)
    makers = {name: node for node in normalised.graph.node for name in node.output if name}
    named = makers.keys() | {value.name for value in normalised.graph.input}
    # An input or output may have a twin in another order of axes.
    places = [
        *((name, tensor) for name, (tensor, _) in program.located.items()),
        *zip(compiled.graph.inputs, program.inputs, strict=True),
        *zip(compiled.graph.outputs, program.outputs, strict=True),
    ]
    places = [(name, t) for name, t in places if name in named and id(t) in numbers]
    known = {name for name, _ in places}
    ends = {id(tensor) for _, tensor in places}
    producers = program.producers()
    owners: dict[int, set[str]] = {}
    for name, tensor in places:
        nodes = set(_nodes_behind(name, makers, known - {name}))
        for operator in _operators_behind(tensor, producers, ends - {id(tensor)}):
            owners.setdefault(id(operator), set()).update(nodes)
    return Names(
        values={numbers[id(tensor)]: name for name, tensor in places},
        operators=tuple(frozenset(owners.get(id(o), ())) for o in program.operators),
    )


def _nodes_behind(name: str, makers: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    """The nodes that compute a value from the nearest known ones."""
    waiting, seen = [name], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node_name(node)
        waiting += [read for read in reads_of(node) if read not in known]


def _operators_behind(
    tensor: Tensor, producers: Mapping[int, Operator], ends: Collection[int]
) -> Iterator[Operator]:
    """The operators that compute a tensor from the nearest known ones."""
    waiting, seen = [tensor], set()
    while waiting:
        operator = producers.get(id(waiting.pop()))
        if operator is None or id(operator) in seen:
            continue
        seen.add(id(operator))
        yield operator
        waiting += [t for t in operator.inputs if t is not None and id(t) not in ends]
