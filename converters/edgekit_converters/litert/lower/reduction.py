"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import NodeLayout, Permutation, as_onnx, reduced
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.reduction_steps import MAX_REDUCED
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT, NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Tensor

_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_ORDERED: Final = NUMBERS | {"bfloat16", "bool", "int8", "uint8", "int16"}

# What a reduction does over nothing at all.
_NEUTRAL: Final[Mapping[str, float]] = {
    "ReduceSum": 0,
    "ReduceSumSquare": 0,
    "ReduceL1": 0,
    "ReduceL2": 0,
    "ReduceProd": 1,
    "ReduceMean": np.nan,
    "ReduceLogSum": -np.inf,
    "ReduceLogSumExp": -np.inf,
    "ReduceMax": -np.inf,
    "ReduceMin": np.inf,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    """What a node reduces over.

    Attributes:
        known: The axes in the order in which the node works; None where they are computed.
        computed: The tensor that holds them then.
        keep: Whether they stay, with a size of one.
    """

    known: tuple[int, ...] | None
    computed: Tensor | None
    keep: bool


def axes_of(node: Node, graph: Graph) -> tuple[int, ...] | None:
    """The axes in ONNX's order, all of them where the node names none; None if computed."""
    rank = len(graph.shape(node.input(0)) or ())
    axes = node.integers("axes")
    if node.input(1):
        constant = graph.constants.get(node.input(1))
        if constant is None:
            return None
        axes = tuple(int(axis) for axis in constant.reshape(-1))
    if not axes:
        return () if node.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({axis % rank for axis in axes}))


def _rule(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    axes = axes_of(node, graph)
    if axes is None:
        return as_onnx(node, graph, stored)
    return reduced(node, graph, stored, axes, keep=bool(node.integer("keepdims", 1)))


def _lower(build: Builder, node: Node, formula: Callable[[Steps, Tensor, _Axes], Tensor]) -> None:
    steps = Steps(build, node)
    source, shape = build.shape(node.input(0)), build.shape(node.outputs[0])
    if 0 in source and None not in shape:
        build.alias(node, _over_nothing(steps))
        return
    if 0 in source and node.op == "ReduceMean":
        # The kernel says zero, not that it is no number.
        raise RefusedNodeError("it is the mean of nothing")
    known = axes_of(node, build.graph)
    keep = bool(node.integer("keepdims", 1))
    if known is not None:
        order = build.layout.work
        places = tuple(sorted(order.index(axis) for axis in known))
        tensor = steps.input()
        result = formula(steps, tensor, _Axes(known=places, computed=None, keep=keep))
        if result is tensor:
            build.alias(node, result)
        else:
            steps.finish(result)
        return
    computed = build.operand(node, 1)
    if computed.shape == (None,) and not node.integer("noop_with_empty_axes", 0):
        # None at all would mean all of them, which the kernel does not know.
        raise RefusedNodeError("the number of its axes is free")
    if len(source) > MAX_REDUCED:
        raise RefusedNodeError(f"its axes are computed and its rank is {len(source)}")
    result = formula(steps, steps.in_onnx_order(0), _Axes(known=None, computed=computed, keep=keep))
    if len(result.shape) != len(shape):
        raise RefusedNodeError("its rank depends on computed axes")
    steps.finish(result)


def _over_nothing(steps: Steps) -> Tensor:
    name = steps.node.outputs[0]
    shape = steps.build.shape(name)
    dtype = np.dtype(steps.build.graph.dtype(name))
    value = _NEUTRAL[steps.node.op]
    if dtype.kind != "f" and not np.isfinite(value):
        if np.isnan(value) or dtype.kind not in "iub":
            raise RefusedNodeError(f"over nothing it has no value of type {dtype}")
        lowest, highest = (
            (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        )
        value = lowest if value < 0 else highest
    sizes = [size or 0 for size in shape]
    return steps.constant(np.full(sizes, value, dtype=dtype), "nothing")


def reduce(steps: Steps, code: str, tensor: Tensor, axes: _Axes) -> Tensor:
    """One of LiteRT's reductions."""
    if axes.known is None:
        assert axes.computed is not None  # noqa: S101 - one of the two is there
        rank = len(tensor.shape if axes.keep else steps.build.shape(steps.node.outputs[0]))
        inputs = [tensor, axes.computed]
        return steps.step(code, inputs, (None,) * rank, tensor.dtype, keepDims=axes.keep)
    return steps.reduce(code, tensor, axes.known, keep=axes.keep)


@lowers("ReduceSum", "ReduceMean", layout=_rule, dtypes=NUMBERS)
def lower_sum(build: Builder, node: Node) -> None:
    """Sums and means; those of integers are cut towards zero, as ONNX's."""
    code = "SUM" if node.op == "ReduceSum" else "MEAN"
    _lower(build, node, lambda steps, tensor, axes: reduce(steps, code, tensor, axes))


@lowers("ReduceProd", layout=_rule, dtypes=NUMBERS)
def lower_product(build: Builder, node: Node) -> None:
    """Products."""
    _lower(build, node, lambda steps, tensor, axes: reduce(steps, "REDUCE_PROD", tensor, axes))


@lowers("ReduceMax", "ReduceMin", layout=_rule, dtypes=_ORDERED)
def lower_extreme(build: Builder, node: Node) -> None:
    """The largest or smallest; of truths, whether any is true, or all are."""
    largest = node.op == "ReduceMax"

    def formula(steps: Steps, tensor: Tensor, axes: _Axes) -> Tensor:
        if tensor.dtype == "bfloat16":
            # Every one is a float32, and none is computed with.
            tensor = steps.cast(tensor, "float32")
        if tensor.dtype == "bool":
            return reduce(steps, "REDUCE_ANY" if largest else "REDUCE_ALL", tensor, axes)
        return reduce(steps, "REDUCE_MAX" if largest else "REDUCE_MIN", tensor, axes)

    _lower(build, node, formula)


@lowers("ReduceL1", layout=_rule, dtypes=NUMBERS)
def lower_l1(build: Builder, node: Node) -> None:
    """Sums of magnitudes."""

    def formula(steps: Steps, tensor: Tensor, axes: _Axes) -> Tensor:
        # ABS lacks int64, and in older runtimes int32.
        magnitude = (
            steps.abs(tensor)
            if tensor.dtype == "float32"
            else steps.maximum(tensor, steps.neg(tensor))
        )
        return reduce(steps, "SUM", magnitude, axes)

    _lower(build, node, formula)


@lowers("ReduceSumSquare", layout=_rule, dtypes=NUMBERS)
def lower_sum_square(build: Builder, node: Node) -> None:
    """Sums of squares."""
    _lower(
        build,
        node,
        lambda steps, tensor, axes: reduce(steps, "SUM", steps.square(tensor), axes),
    )


@lowers("ReduceL2", layout=_rule, dtypes=FLOAT)
def lower_l2(build: Builder, node: Node) -> None:
    """Roots of sums of squares."""

    def formula(steps: Steps, tensor: Tensor, axes: _Axes) -> Tensor:
        return steps.sqrt(reduce(steps, "SUM", steps.square(tensor), axes))

    _lower(build, node, formula)


@lowers("ReduceLogSum", layout=_rule, dtypes=FLOAT)
def lower_log_sum(build: Builder, node: Node) -> None:
    """Logarithms of sums."""
    _lower(build, node, lambda steps, tensor, axes: steps.log(reduce(steps, "SUM", tensor, axes)))


@lowers("ReduceLogSumExp", layout=_rule, dtypes=FLOAT)
def lower_log_sum_exp(build: Builder, node: Node) -> None:
    """Logarithms of sums of exponentials, which do not overflow where the result does not."""

    def formula(steps: Steps, tensor: Tensor, axes: _Axes) -> Tensor:
        kept = _Axes(known=axes.known, computed=axes.computed, keep=True)
        largest = reduce(steps, "REDUCE_MAX", tensor, kept)
        # An infinite one would make the difference to itself no number.
        largest = steps.minimum(steps.maximum(largest, -_FLOAT32_MAX), _FLOAT32_MAX)
        total = reduce(steps, "SUM", steps.exp(steps.sub(tensor, largest)), axes)
        if not axes.keep:
            largest = _without(steps, largest, axes, total)
        return steps.add(steps.log(total), largest)

    _lower(build, node, formula)


def _without(steps: Steps, tensor: Tensor, axes: _Axes, like: Tensor) -> Tensor:
    """The tensor without its reduced axes, which are of size one."""
    if axes.known is not None:
        return steps.squeeze(tensor, *axes.known) if axes.known else tensor
    if like.shape.count(None) <= 1:
        return steps.reshape(tensor, like.shape)
    return steps.reshape_to(tensor, steps.shape_of(like), like.shape)
