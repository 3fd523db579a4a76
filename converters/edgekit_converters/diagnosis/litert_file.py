"""Read a quantized `.tflite` file, whatever wrote it, as a subject.

A float file is held beside it: quantizers keep the names of tensors. What a tensor of the float
file stands for in ONNX, and in which order of axes, shows in its values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.diagnosis.recovered import Recovered, weight_inputs
from edgekit_converters.diagnosis.watched_litert import WatchedLitert
from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.plan import Range
from edgekit_converters.repair.simulation import Batch, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.diagnosis.subject import Subject
    from edgekit_converters.graph import Graph

_JUDGED: Final = (
    "computed by LiteRT's own kernels, whose integer products do not saturate on any processor"
)
# Relative errors: of the same kernels, and of those that round activations to meet stored integers.
_SAME: Final = 1e-3
_ALIKE: Final = 0.2
_IMAGE: Final = 4
_CHANNELS_LAST: Final = (0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a value is found: a tensor's name, and the order that makes ONNX's axes of its own."""

    tensor: str
    order: tuple[int, ...]


def litert_subject(
    model: Any, floats: Sequence[bytes], quantized: bytes, sample: Batch, *, scheme: str
) -> Subject:
    """Find in a quantized file what is known of its float form.

    Args:
        model: The float `onnx.ModelProto` in its plain form.
        floats: Float `.tflite` files that the quantized one may have been made from.
        quantized: The quantized file.
        sample: Inputs of the model, as few as it takes.
        scheme: What it is called.

    Raises:
        UnsupportedModelError: If a file is damaged, or the engine refuses it.
    """
    graph = read_graph(model)
    file = WatchedLitert(quantized)
    near = max(map(WatchedLitert, floats), key=lambda one: len(one.names & file.names))
    twins = _twins(near, file)
    places = _places(model, graph, near, twins, sample)
    found = Recovered(graph)
    for name, place in places.items():
        kept = file.range_of(place.tensor)
        if kept is not None:
            found.add_range(name, Range(low=kept[0], high=kept[1]), wide=file.is_wide(place.tensor))
    constants = near.constants()
    for node in graph.nodes:
        for position in weight_inputs(node, graph):
            known = graph.constants[node.inputs[position]]
            for tensor, way in _same_constants(known, constants):
                stored = file.constant(twins.get(tensor, tensor))
                if stored is not None:
                    array, integer = stored
                    found.add_constant(node, position, way.back(array), integer=integer)
                    break

    def run(batch: Batch) -> Mapping[str, NDArray[Any]]:
        values = file.values(batch, [place.tensor for place in places.values()])
        return {
            name: values[place.tensor].transpose(place.order)
            for name, place in places.items()
            if place.tensor in values
        }

    return found.subject(model, run=run, judged=_JUDGED, scheme=scheme)


def _twins(near: WatchedLitert, file: WatchedLitert) -> dict[str, str]:
    """The tensors of the quantized file by those of the float one.

    By name; and by place, where both have the same operators in the same order.
    """
    found = {name: name for name in near.names & file.names}
    borders = ((near.inputs, file.inputs), (near.outputs, file.outputs))
    pairs = [pair for ours, theirs in borders for pair in zip(ours, theirs, strict=False)]
    steps, others = near.steps(), file.steps()
    if [code for code, _, _ in steps] == [code for code, _, _ in others]:
        for (_, reads, makes), (_, also_reads, also_makes) in zip(steps, others, strict=True):
            pairs += zip(reads, also_reads, strict=False)
            pairs += zip(makes, also_makes, strict=False)
    for ours, theirs in pairs:
        found.setdefault(ours, theirs)
    return found


def _places(
    model: Any, graph: Graph, near: WatchedLitert, twins: Mapping[str, str], sample: Batch
) -> dict[str, _Place]:
    """The values that both files compute, told by their names and by what the float one gives."""
    values = (*graph.inputs, *(name for node in graph.nodes for name in node.outputs if name))
    tensors = {name: name for name in values if name in near.names}
    tensors |= dict(zip(graph.inputs, near.inputs, strict=False))
    tensors |= dict(zip(graph.outputs, near.outputs, strict=False))
    named = {
        name: tensor
        for name, tensor in tensors.items()
        if graph.dtype(name) == "float32" and tensor in twins
    }
    expected = {**Run(model, [n for n in named if n not in graph.inputs])(sample), **sample}
    computed = near.values(sample, list(named.values()))
    found = {}
    for name, tensor in named.items():
        order = _order(expected[name], computed[tensor]) if tensor in computed else None
        if order is not None:
            found[name] = _Place(tensor=twins[tensor], order=order)
    return found


def _order(wanted: NDArray[Any], found: NDArray[Any]) -> tuple[int, ...] | None:
    """The order of axes that makes one array of the other, or nearly."""
    if wanted.size != found.size or wanted.ndim != found.ndim:
        return None
    size = float(np.linalg.norm(wanted)) or 1.0
    best, least = None, _ALIKE
    for order in _orders(wanted.ndim):
        turned = found.transpose(order)
        if turned.shape != wanted.shape:
            continue
        error = float(np.linalg.norm(turned - wanted)) / size
        if error < _SAME:
            return order
        if error < least:
            best, least = order, error
    return best


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """All orders of axes, the likely ones first: of several that fit, these are meant."""
    if rank == _IMAGE:
        yield _CHANNELS_LAST
    yield from itertools.permutations(range(rank))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How a constant of ONNX was arranged in a file: its axes first, then its shape."""

    order: tuple[int, ...]
    turned: tuple[int, ...]

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """A constant of the file as ONNX has it."""
        return array.reshape(self.turned).transpose(np.argsort(self.order))


def _same_constants(
    known: NDArray[Any], constants: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, _Way]]:
    """The constants of a file that hold the same numbers, and how they are arranged."""
    likely = [(name, array) for name, array in constants.items() if array.size == known.size]
    for order in itertools.permutations(range(known.ndim)):
        turned = known.transpose(order)
        flat = turned.reshape(-1)
        for name, array in likely:
            if np.allclose(array.reshape(-1), flat, rtol=1e-5, atol=1e-12):
                yield name, _Way(order=order, turned=turned.shape)
