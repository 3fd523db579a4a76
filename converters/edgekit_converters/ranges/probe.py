"""A model that also tells, for some of its values, the extremes and a part of what they hold.

The reductions run inside the engine: a value is gone as soon as its readers and its reductions are
done, so that a run needs about the memory that it needs without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import opset_of

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node, Shape

# ReduceMin and its kin take their axes as an input from there on.
_AXES_ARE_INPUT: Final = 18
_CHANNELS_SECOND: Final = frozenset(
    {
        "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization",
        "GroupNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
        "LRN", "PRelu", "Resize", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip
_KEEPS_AXES: Final = frozenset(
    {
        "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu",
        "Softplus", "Mish", "Add", "Sub", "Mul", "Div", "Min", "Max", "Concat", "Pad", "Identity",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedValue:
    """A value whose statistics are asked for.

    Attributes:
        name: Of the value.
        channel_axis: Along which there is a figure for each index; None: one for all.
        rank: How many axes it has, None where that is unknown.
    """

    name: str
    channel_axis: int | None
    rank: int | None


def watchable(graph: Graph) -> tuple[WatchedValue, ...]:
    """The float32 values of a graph, its inputs first; those inside bodies are not among them."""
    second = _channels_second(graph)
    computed = (name for node in graph.nodes for name in node.outputs if name)
    found = []
    for name in (*graph.inputs, *computed):
        value = graph.values.get(name)
        if value is None or value.dtype != "float32" or value.container:
            continue
        rank = None if value.shape is None else len(value.shape)
        axis = _channel_axis(value.shape, second=name in second)
        found.append(WatchedValue(name=name, channel_axis=axis, rank=rank))
    return tuple(found)


class ProbeNames:
    """What the added inputs and outputs are called; no name of the model is among them."""

    def __init__(self, taken: Iterable[str]) -> None:
        names = set(taken)
        stem = "watched"
        while any(name.startswith(f"{stem}/") for name in names):
            stem += "_"
        self.stem = stem
        self.limit = f"{stem}/limit"
        self.draw = f"{stem}/draw"

    def of(self, index: int, part: str) -> str:
        """The name of one part of a value."""
        return f"{self.stem}/{index}/{part}"


#: What is told of each value, in this order.
PARTS: Final = ("low", "high", "mean", "part")


def with_probes(model: Any, values: Sequence[WatchedValue], names: ProbeNames) -> Any:
    """A copy of a model whose outputs are the `PARTS` of each value, and nothing else.

    Two scalar inputs are added: `names.limit`, how many elements of a value are drawn at most, and
    `names.draw`, a random number that says where the drawing starts.
    """
    from onnx import ModelProto, TensorProto, helper

    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    nodes = list(model.graph.node)
    del graph.output[:], graph.node[:]
    for name in (names.limit, names.draw):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [1]))
    writer = _Writer(graph, values, names, axes_are_input=opset_of(made) >= _AXES_ARE_INPUT)
    # Each reduction stands right behind what it reads, so that an engine that keeps to the order
    # can let go of the value.
    for value in model.graph.input:
        writer.watch([value.name])
    for node in nodes:
        graph.node.append(node)
        writer.watch(node.output)
    for index in range(len(values)):
        for part in PARTS:
            graph.output.add().name = names.of(index, part)
    return made


class _Writer:
    """Adds the nodes that reduce and draw."""

    def __init__(
        self,
        graph: Any,
        values: Sequence[WatchedValue],
        names: ProbeNames,
        *,
        axes_are_input: bool,
    ) -> None:
        self._graph = graph
        self._watched = {value.name: (index, value) for index, value in enumerate(values)}
        self._names = names
        self._axes_are_input = axes_are_input
        self._one = self._constant("one", [1])
        self._flat = self._constant("flat", [-1])
        self._first_axis = self._constant("axis", [0])
        self._end = self._constant("end", [np.iinfo(np.int64).max])
        self._axes: dict[tuple[int, ...], str] = {}

    def watch(self, computed: Iterable[str]) -> None:
        """Add the parts of those values that are watched."""
        for name in computed:
            if name in self._watched:
                self._watch(*self._watched[name])

    def _watch(self, index: int, value: WatchedValue) -> None:
        def name(part: str) -> str:
            return self._names.of(index, part)

        self._node("Reshape", [value.name, self._flat], name("flat"))
        source, axes = name("flat"), [0]
        if value.channel_axis is not None and value.rank is not None:
            source = value.name
            axes = [axis for axis in range(value.rank) if axis != value.channel_axis]
        for operator, part in zip(("ReduceMin", "ReduceMax", "ReduceMean"), PARTS, strict=False):
            self._reduce(operator, source, axes, name(part))
        # Every n-th element, n as small as the limit allows.
        self._node("Size", [value.name], name("size"))
        self._node("Div", [name("size"), self._names.limit], name("quotient"))
        self._node("Add", [name("quotient"), self._one], name("step"))
        self._node("Mod", [self._names.draw, name("step")], name("start"))
        self._node(
            "Slice",
            [name("flat"), name("start"), self._end, self._first_axis, name("step")],
            name("part"),
        )

    def _reduce(self, operator: str, source: str, axes: list[int], output: str) -> None:
        if not self._axes_are_input:
            self._node(operator, [source], output, axes=axes, keepdims=0)
            return
        key = tuple(axes)
        if key not in self._axes:
            self._axes[key] = self._constant("axes" + "_".join(map(str, key)), axes)
        self._node(operator, [source, self._axes[key]], output, keepdims=0)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self._graph.node.append(helper.make_node(operator, inputs, [output], **attributes))

    def _constant(self, name: str, values: list[int]) -> str:
        from onnx import numpy_helper

        full = f"{self._names.stem}/{name}"
        self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), full))
        return full


def _channel_axis(shape: Shape | None, *, second: bool) -> int | None:
    if shape is None or len(shape) < 2:  # noqa: PLR2004 - a batch and the channels
        return None
    axis = 1 if second else len(shape) - 1
    return axis if shape[axis] is not None else None


def _channels_second(graph: Graph) -> frozenset[str]:
    """The values whose channels are the second axis, as convolutions have them."""
    found: set[str] = set()
    ranks: Mapping[str, int] = {
        name: len(value.shape) for name, value in graph.values.items() if value.shape is not None
    }
    for node in graph.nodes:
        if node.op in _CHANNELS_SECOND:
            found |= {node.input(0), *node.outputs}
    for nodes, back in ((graph.nodes, False), (graph.nodes[::-1], True)):
        for node in nodes:
            if node.op in _KEEPS_AXES:
                found |= _carried(node, found, ranks, back=back)
    return frozenset(found)


def _carried(node: Node, found: set[str], ranks: Mapping[str, int], *, back: bool) -> set[str]:
    given, reached = (node.outputs, node.inputs) if back else (node.inputs, node.outputs)
    known = {ranks.get(name) for name in given if name in found} - {None}
    return {name for name in reached if ranks.get(name) in known}
