"""Operators that work on one element at a time, with broadcasting; and Softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import NodeLayout, Permutation, follow, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.types import ANYTHING, NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Tensor

_UNARY: Final = {
    "Relu": "RELU",
    "Sigmoid": "LOGISTIC",
    "Tanh": "TANH",
    "Exp": "EXP",
    "Log": "LOG",
    "Sqrt": "SQRT",
    "Abs": "ABS",
    "Neg": "NEG",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Sin": "SIN",
    "Cos": "COS",
    "HardSwish": "HARD_SWISH",
}
_ARITHMETIC: Final = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL"}
_CLAMPS: Final = {
    (0.0, 6.0): "RELU6",
    (0.0, np.inf): "RELU",
    (-1.0, 1.0): "RELU_N1_TO_1",
    (0.0, 1.0): "RELU_0_TO_1",
}
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


@lowers(*_UNARY, layout=follow)
def lower_unary(build: Builder, node: Node) -> None:
    """Operators that LiteRT has under another name."""
    build.emit(_UNARY[node.op], [build.input(node)], node)


@lowers(*_ARITHMETIC, layout=follow, dtypes=NUMBERS)
def lower_arithmetic(build: Builder, node: Node) -> None:
    """Sum, difference and product, broadcast as numpy does."""
    inputs = [build.input(node, 0), build.input(node, 1)]
    build.emit(_ARITHMETIC[node.op], [*inputs], node, fusedActivationFunction="NONE")


@lowers("Div", layout=follow)
def lower_division(build: Builder, node: Node) -> None:
    """Division of floats."""
    inputs = [build.input(node, 0), build.input(node, 1)]
    build.emit("DIV", [*inputs], node, fusedActivationFunction="NONE")


@lowers("Sum", layout=follow)
def lower_sum(build: Builder, node: Node) -> None:
    """A sum of any number of inputs, one after the other."""
    total = build.input(node, 0)
    if len(node.inputs) == 1:
        build.alias(node, total)
        return
    rank = len(build.layout.work)
    for position in range(1, len(node.inputs) - 1):
        addend = build.input(node, position)
        if len(total.shape) != rank or total.shape != addend.shape:
            raise RefusedNodeError("more than two inputs of different shapes")
        total = build.step(
            "ADD",
            [total, addend],
            name=f"{node.outputs[0]}/partial",
            shape=total.shape,
            fusedActivationFunction="NONE",
        )
    last = build.input(node, len(node.inputs) - 1)
    build.emit("ADD", [total, last], node, fusedActivationFunction="NONE")


@lowers("Pow", layout=follow)
def lower_power(build: Builder, node: Node) -> None:
    """A power of floats; the exponent may have been written as an integer."""
    exponent = build.input(node, 1)
    if exponent.dtype != "float32":
        values = build.constant_of(node, 1)
        if values is None:
            raise RefusedNodeError("its exponent is missing")
        exponent = build.constant(f"{node.outputs[0]}/exponent", values.astype(np.float32))
    build.emit("POW", [build.input(node, 0), exponent], node)


@lowers("Max", "Min", layout=follow)
def lower_extremum(build: Builder, node: Node) -> None:
    """The larger or smaller of two."""
    if len(node.inputs) != 2:  # noqa: PLR2004
        raise RefusedNodeError(f"it has {len(node.inputs)} inputs, supported: 2")
    code = "MAXIMUM" if node.op == "Max" else "MINIMUM"
    build.emit(code, [build.input(node, 0), build.input(node, 1)], node)


@lowers("Reciprocal", layout=follow)
def lower_reciprocal(build: Builder, node: Node) -> None:
    """One divided by the input."""
    one = build.constant(f"{node.outputs[0]}/one", np.array(1.0, dtype=np.float32))
    build.emit("DIV", [one, build.input(node)], node, fusedActivationFunction="NONE")


@lowers("LeakyRelu", layout=follow)
def lower_leaky_relu(build: Builder, node: Node) -> None:
    """Relu with a slope below zero."""
    build.emit("LEAKY_RELU", [build.input(node)], node, alpha=node.number("alpha", 0.01))


@lowers("Elu", layout=follow)
def lower_elu(build: Builder, node: Node) -> None:
    """Elu; LiteRT's has no alpha."""
    if node.number("alpha", 1.0) != 1.0:
        raise RefusedNodeError(f"its alpha is {node.number('alpha', 1.0)}, supported: 1")
    build.emit("ELU", [build.input(node)], node)


@lowers("Gelu", layout=follow)
def lower_gelu(build: Builder, node: Node) -> None:
    """Gelu, exact or by tanh."""
    approximate = node.text("approximate", "none") == "tanh"
    build.emit("GELU", [build.input(node)], node, approximate=approximate)


@lowers("HardSigmoid", layout=follow)
def lower_hard_sigmoid(build: Builder, node: Node) -> None:
    """min(1, max(0, alpha * x + beta))."""
    name = node.outputs[0]
    source = build.input(node)
    value = source
    steps = (("MUL", "alpha", 0.2), ("ADD", "beta", 0.5))
    for code, attribute, default in steps:
        number = np.array(node.number(attribute, default), dtype=np.float32)
        value = build.step(
            code,
            [value, build.constant(f"{name}/{attribute}", number)],
            name=f"{name}/{attribute}_applied",
            shape=source.shape,
            fusedActivationFunction="NONE",
        )
    _clamp(build, node, value, 0.0, 1.0)


@lowers("Clip", layout=follow)
def lower_clip(build: Builder, node: Node) -> None:
    """Both bounds, one, or none."""
    _clamp(build, node, build.input(node), _bound(build, node, 1), _bound(build, node, 2))


@lowers("PRelu", layout=follow)
def lower_prelu(build: Builder, node: Node) -> None:
    """Relu with a slope below zero for each channel."""
    build.constant_of(node, 1)
    slope = build.input(node, 1)
    rank = len(build.shape(node.input(0)))
    array = slope.data
    if array is None or rank < 2:  # noqa: PLR2004
        raise RefusedNodeError("its input has no channels")
    # LiteRT wants the slope without the batch axis, of the input's rank otherwise.
    wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if wide.shape[0] != 1:
        raise RefusedNodeError("its slope depends on the sample")
    alpha = build.constant(f"{node.outputs[0]}/slope", np.ascontiguousarray(wide[0]))
    build.emit("PRELU", [build.input(node), alpha], node)


@lowers("Identity", "Dropout", layout=follow, dtypes=ANYTHING)
def lower_identity(build: Builder, node: Node) -> None:
    """Nothing to do: another name for the same tensor."""
    if any(node.outputs[1:]):
        raise RefusedNodeError("its mask is used: the model was exported for training")
    build.alias(node, build.input(node, order=build.layout.stored))


def _axis_last(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    rank = len(graph.shape(node.outputs[0]) or ())
    axis = node.integer("axis", -1) % max(rank, 1)
    order = stored.get(node.input(0), identity(rank))
    if order and order[-1] != axis:
        order = (*(other for other in range(rank) if other != axis), axis)
    return NodeLayout(work=order, stored=order)


@lowers("Softmax", "LogSoftmax", layout=_axis_last)
def lower_softmax(build: Builder, node: Node) -> None:
    """Along the last stored axis, as LiteRT wants it."""
    if not build.layout.work:
        raise RefusedNodeError("its input is a scalar")
    if node.op == "Softmax":
        build.emit("SOFTMAX", [build.input(node)], node, beta=1.0)
    else:
        build.emit("LOG_SOFTMAX", [build.input(node)], node)


def _bound(build: Builder, node: Node, position: int) -> float | None:
    attribute = node.attributes.get("min" if position == 1 else "max")
    if attribute is not None:
        return float(attribute)
    values = build.constant_of(node, position)
    if values is None:
        return None
    bound = float(values.reshape(-1)[0])
    return None if abs(bound) >= _FLOAT32_MAX else bound


def _clamp(
    build: Builder, node: Node, value: Tensor, low: float | None, high: float | None
) -> None:
    code = _CLAMPS.get(
        (-np.inf if low is None else low, np.inf if high is None else high),
    )
    if code is not None:
        build.emit(code, [value], node)
        return
    steps = [
        (kernel, build.constant(f"{node.outputs[0]}/{role}", np.array(bound, dtype=np.float32)))
        for kernel, role, bound in (("MAXIMUM", "low", low), ("MINIMUM", "high", high))
        if bound is not None
    ]
    if not steps:
        build.alias(node, value)
        return
    for kernel, bound_tensor in steps[:-1]:
        value = build.step(
            kernel, [value, bound_tensor], name=f"{node.outputs[0]}/at_least", shape=value.shape
        )
    kernel, bound_tensor = steps[-1]
    build.emit(kernel, [value, bound_tensor], node)
