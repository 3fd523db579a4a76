"""Inputs whose columns differ in size: each gets a scale of its own in front of the first layer.

An integer input has one scale for all of its columns. In tables, areas in thousands stand beside
shares below one, and the standardisation that made them alike has become part of the first layer's
weights: rounded with one scale, the small columns are gone. The columns are brought to one range in
float, before they are rounded, and the first layer's weights take the factors back. So are its
weights, of which the large columns would leave nothing to the small ones either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node

# How many times less noise makes two more steps worth it: one and a half bits.
_LEAST_GAIN: Final = 8.0
# Weights this much smaller than the largest are rounded to nothing, or to one step.
_LOST: Final = 1 / 64
# Of the columns: one or two may be small because they do not matter.
_MANY: Final = 0.1
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """The channels of an input: what they are brought to zero from, and what to one."""

    middle: NDArray[np.float64]
    reach: NDArray[np.float64]
    span: float


def scale_inputs(model: Any, samples: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Bring the columns of inputs to one range, in place, where that saves more than it costs.

    The model computes what it did.

    Args:
        model: A normalised `onnx.ModelProto`, its shapes inferred.
        samples: Typical inputs by name, samples along the first axis. Of an input without any it
            is taken, where the weights of many columns would be lost, that the columns are as large
            as their weights are small.

    Returns:
        The names of the inputs that got a scale for each column.
    """
    changed = []
    graph = read_graph(model)
    for name in graph.inputs:
        products = [node for node in graph.consumers(name) if _reads_as_product(node, name, graph)]
        axes = {_axis(node, graph) for node in products}
        if len(axes) != 1 or graph.dtype(name) != "float32":
            continue
        if name in samples:
            centred = all(_takes_shift(node, graph) for node in products)
            columns = _columns(samples[name], axes.pop(), centred=centred)
            pays = columns is not None and _gain(products, columns, graph) >= _LEAST_GAIN
        else:
            columns = _columns_by_weights(products, graph)
            pays = columns is not None
        if columns is not None and pays:
            _rewrite(model, name, products, columns, graph)
            changed.append(name)
    return tuple(changed)


def _reads_as_product(node: Node, name: str, graph: Graph) -> bool:
    weights = graph.constants.get(node.input(1))
    rank = len(graph.shape(name) or ())
    if weights is None or node.inputs.count(name) != 1 or node.input(0) != name or rank < _MATRIX:
        return False
    if node.op == "Conv":
        return node.integer("group", 1) == 1
    matrix = node.op in {"Gemm", "MatMul"} and weights.ndim == _MATRIX
    return matrix and not node.integer("transA", 0)


def _takes_shift(node: Node, graph: Graph) -> bool:
    """Whether a constant in front can become part of the bias: nothing is padded with zeros."""
    bias = node.input(2)
    factors = node.number("alpha", 1.0), node.number("beta", 1.0)
    return node.op == "Gemm" and (not bias or bias in graph.constants) and factors == (1.0, 1.0)


def _axis(node: Node, graph: Graph) -> int:
    return 1 if node.op == "Conv" else len(graph.shape(node.input(0)) or ()) - 1


def _columns(array: NDArray[Any], axis: int, *, centred: bool) -> _Columns | None:
    if array.ndim <= axis or not array.size or not np.isfinite(array).all():
        return None
    rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]).astype(np.float64)
    low, high = rows.min(axis=0), rows.max(axis=0)
    middle = (low + high) / 2 if centred else np.zeros_like(low)
    reach = np.maximum(high - middle, middle - low)
    return _Columns(
        middle=middle,
        # What never changes needs no room.
        reach=np.where(reach > 0, reach, 1.0),
        span=float(max(high.max(), 0.0) - min(low.min(), 0.0)),
    )


def _columns_by_weights(products: list[Node], graph: Graph) -> _Columns | None:
    """The columns as the weights tell of them, None where these are about alike."""
    rows = []
    for node in products:
        weights = np.abs(graph.constants[node.input(1)].astype(np.float64))
        axis = _input_axis(node)
        rows.append(np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).max(axis=1))
    if len({row.size for row in rows}) != 1:
        return None
    largest = np.max(rows, axis=0)
    used = largest > 0
    if not used.any() or np.mean(largest[used] < _LOST * largest.max()) < _MANY:
        return None
    typical = np.median(largest[used])
    reach = np.where(used, typical / np.where(used, largest, 1.0), 1.0)
    return _Columns(middle=np.zeros_like(reach), reach=reach, span=float(reach.max()))


def _gain(products: list[Node], columns: _Columns, graph: Graph) -> float:
    """How many times less noise comes out of the products than with one scale for all columns."""
    shared = own = 0.0
    for node in products:
        weights = np.square(graph.constants[node.input(1)].astype(np.float64))
        axis = _input_axis(node)
        energies = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).sum(axis=1)
        if energies.size != columns.reach.size:
            return 0.0
        shared += columns.span**2 * float(energies.sum())
        own += float(np.square(2 * columns.reach) @ energies)
    return shared / own if own else 0.0


def _input_axis(node: Node) -> int:
    """Where the weights have the channels of what they are multiplied with."""
    return 1 if node.op == "Conv" or node.integer("transB", 0) else 0


def _rewrite(model: Any, name: str, products: list[Node], columns: _Columns, graph: Graph) -> None:
    from onnx import helper

    shape = [-1 if axis == _axis(products[0], graph) else 1
             for axis in range(1, len(graph.shape(name) or ()))]  # fmt: skip
    nodes, value = [], name
    for op, word, constant in (
        ("Sub", "centred", columns.middle),
        ("Mul", "scaled", 1 / columns.reach),
    ):
        if op == "Sub" and not columns.middle.any():
            continue
        stored = _add(model, f"{name}/{word}_by", constant.reshape(shape))
        value, source = _fresh(model, f"{name}/{word}"), value
        nodes.append(helper.make_node(op, [source, stored], [value], name=value))
        info = model.graph.value_info.add()
        info.CopyFrom(next(entry for entry in model.graph.input if entry.name == name))
        info.name = value
    protos = list(model.graph.node)
    for node, proto in zip(graph.nodes, protos, strict=True):
        if node in products:
            _take_back(model, node, proto, columns, graph)
            proto.input[0] = value
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *protos])
    _drop_unread(model)


def _take_back(model: Any, node: Node, proto: Any, columns: _Columns, graph: Graph) -> None:
    """Change weights and bias, so that the product is what it was."""
    weights = graph.constants[node.input(1)].astype(np.float64)
    axis = _input_axis(node)
    shape = [-1 if at == axis else 1 for at in range(weights.ndim)]
    proto.input[1] = _add(
        model, f"{node.input(1)}/by_column", weights * columns.reach.reshape(shape)
    )
    if not columns.middle.any():
        return
    matrix = weights.T if node.integer("transB", 0) else weights
    bias = columns.middle @ matrix
    if node.input(2):
        bias = graph.constants[node.input(2)].astype(np.float64) + bias
    stored = _add(model, f"{node.name}/centred_bias", bias)
    if len(proto.input) > 2:  # noqa: PLR2004 - the third is optional
        proto.input[2] = stored
    else:
        proto.input.append(stored)


def _add(model: Any, wanted: str, array: NDArray[np.float64]) -> str:
    from onnx import numpy_helper

    name = _fresh(model, wanted)
    model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return name


def _fresh(model: Any, wanted: str) -> str:
    graph = model.graph
    taken = {entry.name for entry in (*graph.initializer, *graph.input, *graph.value_info)}
    taken.update(name for node in graph.node for name in node.output)
    name = wanted
    while name in taken:
        name += "_"
    return name


def _drop_unread(model: Any) -> None:
    graph = read_graph(model)
    read = {name for node in graph.nodes for name in node.reads()} | set(graph.outputs)
    for at in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[at].name not in read:
            del model.graph.initializer[at]
