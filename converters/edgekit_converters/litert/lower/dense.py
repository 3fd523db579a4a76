"""Products of matrices: FULLY_CONNECTED where the weights are constant, else BATCH_MATMUL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.litert.layout import identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node, Shape
    from edgekit_converters.litert.program import Tensor

_MATRIX = 2


@lowers("MatMul")
def lower_matmul(build: Builder, node: Node) -> None:
    """A product, its second factor constant or computed; a vector is a row or a column."""
    left, right = (build.shape(node.input(position)) for position in (0, 1))
    if not left or not right:
        raise RefusedNodeError("one factor is a number")
    first = build.value(node.input(0), identity(len(left)))
    weights = build.graph.constants.get(node.input(1))
    if weights is not None and weights.ndim == _MATRIX and len(left) >= _MATRIX:
        _fully_connected(build, node, first, np.ascontiguousarray(weights.T), None)
        return
    second = build.value(node.input(1), identity(len(right)))
    steps = Steps(build, node)
    if min(len(left), len(right)) >= _MATRIX:
        steps.finish(steps.matmul(first, second))
        return
    row = first if len(left) > 1 else steps.expand_dims(first, 0)
    column = second if len(right) > 1 else steps.expand_dims(second, 1)
    product = steps.matmul(row, column)
    extra = [-1] if len(right) == 1 else []
    if len(left) == 1:
        extra.append(-2)
    steps.finish(steps.squeeze(product, *extra))


@lowers("Gemm")
def lower_gemm(build: Builder, node: Node) -> None:
    """The product alpha * A * B + beta * C, either factor transposed."""
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    name = node.outputs[0]
    first = build.value(node.input(0), (1, 0) if node.integer("transA", 0) else (0, 1))
    weights = build.graph.constants.get(node.input(1))
    addend = build.graph.constants.get(node.input(2))
    result = build.shape(name)
    if weights is not None:
        matrix = weights if node.integer("transB", 0) else weights.T
        scaled = np.ascontiguousarray(matrix if alpha == 1.0 else matrix * np.float32(alpha))
        bias = _as_bias(addend, result, beta)
        if bias is not None or not node.input(2):
            _fully_connected(build, node, first, scaled, bias)
            return
        kernel = build.constant(node.input(1), scaled)
        product = build.step(
            "FULLY_CONNECTED", [first, kernel, None], name=f"{name}/product", shape=result,
            fusedActivationFunction="NONE", weightsFormat="DEFAULT", keepNumDims=False,
        )  # fmt: skip
    else:
        second = build.value(node.input(1), (0, 1))
        options: dict[str, Any] = {"adjX": False, "adjY": bool(node.integer("transB", 0))}
        if alpha == 1.0 and not node.input(2):
            build.emit("BATCH_MATMUL", [first, second], node, **options)
            return
        product = build.step(
            "BATCH_MATMUL", [first, second], name=f"{name}/product", shape=result, **options
        )
        product = _scaled(build, product, alpha, f"{name}/alpha")
    if not node.input(2):
        build.alias(node, product)
        return
    shape = build.shape(node.input(2))
    term = _scaled(build, build.value(node.input(2), identity(len(shape))), beta, f"{name}/beta")
    build.emit("ADD", [product, term], node, fusedActivationFunction="NONE")


def _fully_connected(
    build: Builder,
    node: Node,
    first: Tensor,
    weights: NDArray[Any],
    bias: NDArray[Any] | None,
) -> None:
    """Emit FULLY_CONNECTED; `weights` are (outputs, inputs)."""
    if bias is None:
        bias = np.zeros(weights.shape[0], dtype=np.float32)
    steps = Steps(build, node)
    kernel = build.constant(node.input(1), weights)
    addend = build.constant(node.input(2) or f"{node.outputs[0]}/bias", bias)
    steps.finish(steps.fully_connected(first, kernel, addend))


def _as_bias(addend: NDArray[Any] | None, result: Shape, beta: float) -> NDArray[Any] | None:
    outputs = result[-1]
    if addend is None or outputs is None or addend.size not in {1, outputs}:
        return None
    if addend.size != 1 and addend.shape[-1] != outputs:
        return None
    flat = addend.reshape(-1) * np.float32(beta)
    return np.ascontiguousarray(np.broadcast_to(flat, (outputs,)))


def _scaled(build: Builder, tensor: Tensor, factor: float, name: str) -> Tensor:
    if factor == 1.0:
        return tensor
    constant = build.constant(name, np.array(factor, dtype=np.float32))
    return build.step(
        "MUL", [tensor, constant], name=f"{name}_applied", shape=tensor.shape,
        fusedActivationFunction="NONE",
    )  # fmt: skip
