"""Products of matrices and convolutions of integers: MatMulInteger, QLinearConv and their kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.layout import channels_last, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.convolution import weights_of
from edgekit_converters.litert.lower.integer_products import exact_convolution, exact_matmul
from edgekit_converters.litert.lower.quantization import centred, quantized
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.lower.window import window_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_VECTOR: Final = 1


@lowers("MatMulInteger", dtypes={})
def lower_matmul_integer(build: Builder, node: Node) -> None:
    """The product of two matrices of 8 bits as int32."""
    steps = Steps(build, node)
    steps.finish(steps.cast(_product(steps, (0, 2), (1, 3)), "int32"))


@lowers("QLinearMatMul", dtypes={})
def lower_quantized_matmul(build: Builder, node: Node) -> None:
    """The product of two quantized matrices, quantized again."""
    steps = Steps(build, node)
    total = steps.cast(_product(steps, (0, 2), (3, 5)), "float32")
    first = _of_rows(steps, 1, len(build.shape(node.input(0))))
    second = _of_columns(steps, 4)
    scale = _ratio(steps, first, second, _of_columns(steps, 6))
    quantized(steps, steps.mul(total, scale), _of_columns(steps, 7))


@lowers("ConvInteger", layout=channels_last, dtypes={})
def lower_convolution_integer(build: Builder, node: Node) -> None:
    """A convolution of 8 bits as int32; what is padded is the zero point."""
    steps = Steps(build, node)
    steps.finish(steps.cast(_convolution(steps, (0, 2), (1, 3)), "int32"))


@lowers("QLinearConv", layout=channels_last, dtypes={})
def lower_quantized_convolution(build: Builder, node: Node) -> None:
    """A convolution of a quantized image, with a bias of int32, quantized again."""
    steps = Steps(build, node)
    total = _convolution(steps, (0, 2), (3, 5))
    if node.input(8):
        total = steps.add(steps.cast(total, "int32"), build.input(node, 8, order=(0,)))
    scale = _ratio(steps, _lone(steps, 1), _vector(steps, 4), _lone(steps, 6))
    quantized(steps, steps.mul(steps.cast(total, "float32"), scale), _lone(steps, 7))


def _product(steps: Steps, left: tuple[int, int], right: tuple[int, int]) -> Tensor:
    """The product of two inputs, each given with its zero point."""
    first_rank, second_rank = (
        len(steps.build.shape(steps.node.input(position))) for position in (left[0], right[0])
    )
    first = _centred(steps, steps.in_onnx_order(left[0]), _of_rows(steps, left[1], first_rank))
    second = _centred(steps, steps.in_onnx_order(right[0]), _of_columns(steps, right[1]))
    if not first_rank or not second_rank:
        raise RefusedNodeError("one factor is a number")
    row = steps.expand_dims(first, 0) if first_rank == _VECTOR else first
    column = steps.expand_dims(second, 1) if second_rank == _VECTOR else second
    product = exact_matmul(steps, row, column)
    extra = [-1] if second_rank == _VECTOR else []
    extra += [-2] if first_rank == _VECTOR else []
    return steps.squeeze(product, *extra) if extra else product


def _convolution(steps: Steps, image: tuple[int, int], weights: tuple[int, int]) -> Tensor:
    build, node = steps.build, steps.node
    shape = build.shape(node.input(weights[0]))
    window = window_of(
        node,
        known_sizes(shape[2:], "kernel"),
        build.shape(node.input(image[0]))[2:],
        build.shape(node.outputs[0])[2:],
    )
    field = centred(steps, steps.input(image[0]), _lone(steps, image[1]))
    raw = weights_of(build, node, weights[0])
    tensor = steps.constant(np.ascontiguousarray(raw)) if isinstance(raw, np.ndarray) else raw
    zero = _vector(steps, weights[1])
    if zero is not None and zero.shape:
        zero = steps.reshape(zero, (zero.shape[0], *(1,) * (len(shape) - 1)))
    centred_weights = _centred(steps, tensor, zero)
    known = centred_weights.data
    kernel: NDArray[Any] | Tensor = centred_weights if known is None else known
    return exact_convolution(steps, field, kernel, window, node.integer("group", 1))


def _centred(steps: Steps, values: Tensor, zero: Tensor | None) -> Tensor:
    """As `centred`, computed at once where both are constant."""
    if values.data is None or (zero is not None and zero.data is None):
        return centred(steps, values, zero)
    result = values.data.astype(np.float32)
    if zero is not None and zero.data is not None:
        result = result - zero.data.astype(np.float32)
    return steps.constant(result, "centred")


def _ratio(
    steps: Steps, first: Tensor | None, second: Tensor | None, result: Tensor | None
) -> Tensor:
    """What a product of integers is multiplied by, in float32."""
    if first is None or second is None or result is None:
        raise RefusedNodeError("a scale is missing")
    wide = [steps.cast(scale, "float32") for scale in (first, second, result)]
    known = [scale.data for scale in wide if scale.data is not None]
    if len(known) == len(wide):
        return steps.constant(np.asarray(known[0] * known[1] / known[2]), "scale")
    return steps.div(steps.mul(wide[0], wide[1]), wide[2])


def _lone(steps: Steps, position: int) -> Tensor | None:
    """A scale or zero point of a whole tensor, None where it is left out."""
    value = _vector(steps, position)
    return None if value is None else steps.reshape(value, ())


def _vector(steps: Steps, position: int) -> Tensor | None:
    """A scale or zero point of a tensor or of each channel, None where it is left out."""
    name = steps.node.input(position)
    if not name:
        return None
    shape = steps.build.shape(name)
    value = steps.build.value(name, identity(len(shape)))
    return steps.reshape(value, ()) if shape in {(), (1,)} else value


def _of_columns(steps: Steps, position: int) -> Tensor | None:
    """What belongs to a matrix or to its columns, which are broadcast as they are."""
    return _vector(steps, position)


def _of_rows(steps: Steps, position: int, rank: int) -> Tensor | None:
    """What belongs to a matrix or to its rows: a vector is a column."""
    value = _vector(steps, position)
    if value is None or len(value.shape) != _VECTOR or rank == _VECTOR:
        return value
    return steps.expand_dims(value, 1)
