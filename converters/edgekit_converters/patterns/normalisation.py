"""Layer normalization that exporters write out.

One LayerNormalization keeps its scale and its epsilon together. What follows can then choose a form
that holds in eight bits; the variance of a layer and its reciprocal root, each with a range of
their own, do not survive as the separate tensors of the written-out form. A normalization by the
root of the mean square is left in parts, since ONNX has an operator for it only from opset 23 on:
`multiply_by_inverse_root` gives those parts one form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.patterns.arithmetic import product_of, reduced_axes
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.patterns.graph import PatternGraph


@recognises("Sqrt", opset=17)
def layer_normalization(graph: PatternGraph, node: Any) -> Rewrite | None:  # noqa: PLR0911
    """(x - mean) / sqrt(variance + epsilon), and the scale and shift in or behind it."""
    from onnx import TensorProto, helper

    raised = graph.producer(node.input[0], "Add")
    variance = None if raised is None else _with_epsilon(graph, raised)
    if raised is None or variance is None:
        return None
    name, epsilon = variance
    mean_square = graph.producer(name, "ReduceMean")
    centred = None if mean_square is None else _squared(graph, mean_square.input[0])
    if mean_square is None or centred is None:
        return None
    source, square, parts = centred
    axes = reduced_axes(graph, mean_square)
    rank = graph.rank(source)
    if axes is None or rank is None or axes != tuple(range(axes[0], rank)):
        return None
    if axes != reduced_axes(graph, parts[0]) or graph.element_type(source) != TensorProto.FLOAT:
        return None
    inner = graph.shape(source)
    sizes = () if inner is None else inner[axes[0] :]
    if not all(isinstance(size, int) for size in sizes):
        return None
    shape = tuple(int(size) for size in sizes)
    applied = _divided(graph, node, parts[1].output[0], shape) or _spread_out(
        graph, node, source, parts[0].output[0], shape
    )
    if applied is None or not graph.same_rank(source, applied.result):
        return None
    constants, inputs = {}, [source]
    for role, array in (("scale", applied.scale), ("shift", applied.shift)):
        if array is not None:
            inputs.append(graph.fresh(f"{applied.result}/{role}"))
            constants[inputs[-1]] = array
    whole = helper.make_node(
        "LayerNormalization", inputs, [applied.result], name=applied.nodes[-1].name,
        axis=axes[0] - rank, epsilon=epsilon,
    )  # fmt: skip
    removes = [*parts, *square, mean_square, raised, node, *applied.nodes]
    unique = list({id(part): part for part in removes}.values())
    return Rewrite(removes=unique, adds=[whole], constants=constants)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applied:
    """What is done with the root of the variance.

    Attributes:
        result: The normalised value.
        scale: What it is multiplied by.
        shift: What is added, None for nothing.
        nodes: What does it.
    """

    result: str
    scale: NDArray[Any]
    shift: NDArray[Any] | None
    nodes: tuple[Any, ...]


def _divided(
    graph: PatternGraph, root: Any, centred: str, shape: tuple[int, ...]
) -> _Applied | None:
    """Divide by the root, scale and shift, as the definition says it."""
    divided = _divided_by(graph, root, centred)
    if divided is None:
        return None
    top, division = divided
    scale, top, scaling = _next_constant(graph, top, "Mul", shape)
    shift, top, shifting = _next_constant(graph, top, "Add", shape)
    return _Applied(
        result=top,
        scale=np.ones(shape, np.float32) if scale is None else scale,
        shift=shift,
        nodes=(*division, *scaling, *shifting),
    )


def _spread_out(
    graph: PatternGraph, root: Any, source: str, mean: str, shape: tuple[int, ...]
) -> _Applied | None:
    """Keras' form, x * g + (shift - mean * g), where g is scale / root."""
    inverse = graph.sole_reader(root.output[0], "Reciprocal", "Div")
    if inverse is None or (inverse.op_type == "Div" and graph.scalar(inverse.input[0]) != 1):
        return None
    scale, factor, scaling = _next_constant(graph, inverse.output[0], "Mul", shape)
    for line in graph.readers(factor):
        if line.op_type != "Mul" or set(line.input) != {source, factor}:
            continue
        total = graph.sole_reader(line.output[0], "Add", "Sub")
        if total is None or (total.op_type == "Sub" and total.input[0] != line.output[0]):
            continue
        other = total.input[1 if total.input[0] == line.output[0] else 0]
        offset = _offset(graph, other, tuple(sorted((mean, factor))))
        sign = -1 if total.op_type == "Sub" else 1
        if offset is None or offset[0] * sign != -1:
            continue
        shift = None
        if offset[1] is not None:
            if not _fits(offset[1].shape, shape):
                continue
            shift = sign * _widened(offset[1], shape)
        return _Applied(
            result=total.output[0],
            scale=np.ones(shape, np.float32) if scale is None else scale,
            shift=shift,
            nodes=(inverse, *scaling, line, *offset[2], total),
        )
    return None


def _offset(
    graph: PatternGraph, name: str, factors: tuple[str, ...]
) -> tuple[float, NDArray[Any] | None, tuple[Any, ...]] | None:
    """Read a value as a number times factors, plus a constant: both, and what computes it."""
    product = product_of(graph, name)
    if product.factors == factors:
        return product.scale, None, product.nodes
    node = graph.producer(name, "Add", "Sub")
    for position in (0, 1) if node is not None and graph.uses(name) == 1 else ():
        constant = graph.constant(node.input[position])
        inner = product_of(graph, node.input[1 - position])
        if constant is None or constant.dtype != np.float32 or inner.factors != factors:
            continue
        # The second input of a Sub counts negative, be it the constant or the product.
        minus = -1.0 if node.op_type == "Sub" else 1.0
        if position == 1:
            return inner.scale, np.asarray(minus * constant, np.float32), (*inner.nodes, node)
        return minus * inner.scale, constant, (*inner.nodes, node)
    return None


def _with_epsilon(graph: PatternGraph, node: Any) -> tuple[str, float] | None:
    for position in (0, 1):
        epsilon = graph.scalar(node.input[1 - position])
        if epsilon is not None and 0 < epsilon < 1:
            return str(node.input[position]), epsilon
    return None


def _squared(graph: PatternGraph, name: str) -> tuple[str, tuple[Any, ...], tuple[Any, Any]] | None:
    """Read a value as the square of x - mean(x): x, the nodes of the square, of mean and of Sub."""
    node = graph.producer(name, "Mul", "Pow")
    if node is None or (node.op_type == "Pow" and graph.scalar(node.input[1]) != 2.0):  # noqa: PLR2004
        return None
    if node.op_type == "Mul" and node.input[0] != node.input[1]:
        return None
    difference = graph.producer(node.input[0], "Sub")
    mean = None if difference is None else graph.producer(difference.input[1], "ReduceMean")
    if difference is None or mean is None or mean.input[0] != difference.input[0]:
        return None
    return str(mean.input[0]), (node,), (mean, difference)


def _divided_by(graph: PatternGraph, root: Any, centred: str) -> tuple[str, tuple[Any, ...]] | None:
    """The value that is `centred` over a root, and the nodes that divide."""
    reader = graph.sole_reader(root.output[0], "Div", "Reciprocal")
    if reader is None:
        return None
    if reader.op_type == "Div" and tuple(reader.input) == (centred, root.output[0]):
        return reader.output[0], (reader,)
    inverse = reader.op_type == "Reciprocal" or graph.scalar(reader.input[0]) == 1
    product = graph.sole_reader(reader.output[0], "Mul") if inverse else None
    if product is None or set(product.input) != {centred, reader.output[0]}:
        return None
    return product.output[0], (reader, product)


def _next_constant(
    graph: PatternGraph, name: str, operator: str, shape: tuple[int, ...]
) -> tuple[Any, str, tuple[Any, ...]]:
    """The constant that a value is scaled or shifted by, wide, and what comes out of that."""
    reader = graph.sole_reader(name, operator)
    for position in (0, 1) if reader is not None else ():
        array = graph.constant(reader.input[position])
        if array is None or array.dtype != np.float32 or not _fits(array.shape, shape):
            continue
        if graph.same_rank(name, reader.output[0]):
            return _widened(array, shape), reader.output[0], (reader,)
    return None, name, ()


def _widened(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    flat = array.reshape(array.shape[max(0, array.ndim - len(shape)) :])
    return np.ascontiguousarray(np.broadcast_to(flat, shape))


def _fits(constant: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a constant differs along the normalised axes alone."""
    extra = max(0, len(constant) - len(shape))
    return all(size == 1 for size in constant[:extra]) and all(
        size in {1, wide} for size, wide in zip(constant[extra:][::-1], shape[::-1], strict=False)
    )
