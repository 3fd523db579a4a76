"""Activation functions that are operators of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import identity

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

_PLAIN: Final = {
    "ELU": "Elu", "HARD_SWISH": "HardSwish", "LOGISTIC": "Sigmoid", "RELU": "Relu", "TANH": "Tanh",
}  # fmt: skip


@imports(*_PLAIN, inputs=(1, 1))
def import_plain(build: Builder) -> None:
    """Functions that ONNX has under another name."""
    order = build.follow()
    build.emit(_PLAIN[build.operator.code], [build.input(0, order)], order)


@imports("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", inputs=(1, 1))
def import_clamp(build: Builder) -> None:
    """Both bounds are in the name."""
    order = build.follow()
    build.activate(build.input(0, order), build.operator.code, order)


@imports("LEAKY_RELU", inputs=(1, 1), options="LeakyReluOptions")
def import_leaky_relu(build: Builder) -> None:
    """Relu with a slope below zero."""
    order = build.follow()
    alpha = float(build.option("alpha", 0.0))
    build.emit("LeakyRelu", [build.input(0, order)], order, alpha=alpha)


@imports("GELU", inputs=(1, 1), options="GeluOptions")
def import_gelu(build: Builder) -> None:
    """Exact, or approximated by tanh."""
    order = build.follow()
    approximate = "tanh" if build.option("approximate", default=False) else "none"
    build.emit("Gelu", [build.input(0, order)], order, approximate=approximate)


@imports("PRELU", inputs=(2, 2))
def import_prelu(build: Builder) -> None:
    """Relu with a slope for each channel below zero; the slope has no batch axis."""
    order = build.follow()
    build.emit("PRelu", [build.input(0, order), build.aligned(1, order)], order)


@imports("SOFTMAX", inputs=(1, 1), options="SoftmaxOptions")
def import_softmax(build: Builder) -> None:
    """Along the last axis, of beta times the input."""
    order, axis = _last_axis(build)
    value = build.input(0, order)
    beta = float(build.option("beta", 0.0))
    if beta != 1.0:
        value = build.node("Mul", [value, build.scalar(beta)])
    build.emit("Softmax", [value], order, axis=axis)


@imports("LOG_SOFTMAX", inputs=(1, 1))
def import_log_softmax(build: Builder) -> None:
    """Along the last axis."""
    order, axis = _last_axis(build)
    build.emit("LogSoftmax", [build.input(0, order)], order, axis=axis)


def _last_axis(build: Builder) -> tuple[tuple[int, ...], int]:
    """The order to work in, and where the file's last axis is in it."""
    rank = build.tensor(0).rank
    order = build.order(0) if rank else identity(rank)
    return order, order.index(rank - 1)
