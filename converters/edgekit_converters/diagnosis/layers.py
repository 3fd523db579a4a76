"""Run a model and its quantized form side by side, and measure what each layer adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.diagnosis.alignment import unlike
from edgekit_converters.graph import Graph, read_graph
from edgekit_converters.quantize.to_onnx.roles import Role, role_of
from edgekit_converters.repair.ratios import NoiseRatio
from edgekit_converters.repair.simulation import Batch, Run, simulate
from edgekit_converters.repair.twins import own_noise

if TYPE_CHECKING:
    from edgekit_converters.diagnosis.subject import Subject, ValuesOf
    from edgekit_converters.graph import Node

_PASSING: Final = frozenset({Role.CLAMP, Role.MOVING})
# A row of scores for each sample.
_SCORES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNoise:
    """How well the quantized model computes one value.

    Attributes:
        node: The node that computes it.
        op: Its operator.
        value: The value's name.
        inputs: The activations that the node reads.
        sqnr_db: Of the value in the quantized model, against the float model: the noise of this
            layer and of all before it; None where the quantized model does not show it.
        own_sqnr_db: Of a layer with weights that reads what the float model computes: the noise of
            rounding that, and its weights; None where it rounds neither, or has no weights.
    """

    node: str
    op: str
    value: str
    inputs: tuple[str, ...]
    sqnr_db: float | None
    own_sqnr_db: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models side by side.

    Attributes:
        layers: In the order of the nodes.
        agreement: The share of the samples for which the first output names the same class in
            both; None where it has no scores of classes.
    """

    layers: tuple[LayerNoise, ...]
    agreement: float | None


def compare_layers(reference: Any, subject: Subject, batches: Iterable[Batch]) -> Comparison:
    """Compare every float value that both models compute.

    Args:
        reference: The float `onnx.ModelProto`, its channels scaled as the subject's.
        subject: What is diagnosed.
        batches: The samples; read twice, one batch at a time, and as often as they are asked for.
    """
    graph = read_graph(reference)
    simulated = simulate(subject.model, dataclasses.replace(subject.plan, io="float"))
    strange = unlike(reference, subject.model)
    own = {
        found.node: found
        for found in own_noise(reference, simulated, batches)
        if found.node not in strange
    }
    floats = [name for node in graph.nodes for name in _outputs(node, graph)]
    sums = _Sums(floats, graph.outputs[0])
    exact, run = Run(reference, floats), subject.run or _simulation(simulated, floats)
    for batch in batches:
        sums.add(exact(batch), run(batch))
    ratios = sums.ratios
    shown = {
        node.name: next((name for name in names if _seen_as(name, ratios, graph)), names[0])
        for node in graph.nodes
        if (names := _outputs(node, graph))
    }
    layers = tuple(
        LayerNoise(
            node=node.name,
            op=node.op,
            value=shown[node.name],
            inputs=_activations(node, graph),
            sqnr_db=_ratio_of(shown[node.name], ratios, graph),
            own_sqnr_db=own[node.name].sqnr_db if node.name in own else None,
        )
        for node in graph.nodes
        if node.name in shown and (node.name in own or _seen_as(shown[node.name], ratios, graph))
    )
    return Comparison(layers=layers, agreement=sums.agreement)


def _simulation(simulated: Any, wanted: Collection[str]) -> ValuesOf:
    computed = {name for node in simulated.graph.node for name in node.output}
    return Run(simulated, [name for name in wanted if name in computed])


class _Sums:
    """The ratios of values to their errors, and how often classes agree."""

    def __init__(self, names: Collection[str], answer: str) -> None:
        self.ratios: dict[str, NoiseRatio] = {}
        self._names = names
        self._answer = answer
        self._same: list[bool] = []

    def add(self, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Take in one batch."""
        for name in self._names:
            if name in found:
                self.ratios.setdefault(name, NoiseRatio()).add(expected[name], found[name])
        wanted, given = expected.get(self._answer), found.get(self._answer)
        if wanted is None or given is None or wanted.ndim != _SCORES:
            return
        if wanted.shape[1] > 1:
            self._same += (wanted.argmax(axis=1) == given.argmax(axis=1)).tolist()

    @property
    def agreement(self) -> float | None:
        """The share of the same classes."""
        return sum(self._same) / len(self._same) if self._same else None


def _outputs(node: Node, graph: Graph) -> list[str]:
    """The outputs of a node that can be compared."""
    return [
        name
        for name in node.outputs
        if name and graph.dtype(name) == "float32" and not _is_container(graph, name)
    ]


def _seen_as(name: str, seen: Collection[str], graph: Graph) -> str:
    """A value, or what stands for it: it is only cut off or moved on the way there."""
    while name not in seen:
        readers = graph.consumers(name)
        if name in graph.outputs or len(readers) != 1:
            return ""
        if role_of(readers[0], graph) not in _PASSING or readers[0].input(0) != name:
            return ""
        name = readers[0].outputs[0]
    return name


def _ratio_of(name: str, ratios: Mapping[str, NoiseRatio], graph: Graph) -> float | None:
    seen = _seen_as(name, ratios, graph)
    return ratios[seen].decibels if seen else None


def _activations(node: Node, graph: Graph) -> tuple[str, ...]:
    found = (n for n in node.inputs if n in graph.values and n not in graph.constants)
    return tuple(dict.fromkeys(found))


def _is_container(graph: Graph, name: str) -> bool:
    value = graph.values.get(name)
    return value is not None and bool(value.container)
