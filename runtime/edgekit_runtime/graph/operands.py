"""Where an operator of either format keeps its operands: windows and the sides of products."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit_runtime.graph.model import Attribute, Graph, Operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A convolution's geometry; `channels` is what one output place holds (input, transposed)."""

    source: str
    weights: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    groups: int
    channels: int
    depthwise: bool


def convolution_window(graph: Graph, operator: Operator) -> Window:
    """The geometry of a convolution of either format.

    Raises:
        ValueError: If its shapes are not known.
    """
    attributes = operator.attributes
    if operator.type in {"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}:
        # TRANSPOSE_CONV: output shape, weights, input.
        source = operator.inputs[2 if operator.type == "TRANSPOSE_CONV" else 0]
        weights = operator.inputs[1]
        shape, taps = _known(graph, source), _known(graph, weights)
        strides = tuple(_whole(attributes.get(name, 1)) for name in ("strideH", "strideW"))
        depthwise = operator.type == "DEPTHWISE_CONV_2D"
        # Weights: (out, kernel..., in); CONV_3D: (kernel..., in, out).
        kernel = taps[:3] if operator.type == "CONV_3D" else taps[1:3]
        inner = taps[-2] if operator.type == "CONV_3D" else taps[-1]
        groups = shape[-1] if depthwise else max(1, shape[-1] // inner)
        place = shape if operator.type == "TRANSPOSE_CONV" else _known(graph, operator.outputs[0])
        return Window(
            source=source,
            weights=weights,
            kernel=kernel,
            strides=strides,
            groups=groups,
            channels=place[-1],
            depthwise=depthwise,
        )
    # QLinearConv: x, its scale and zero point, w.
    weights = operator.inputs[3 if operator.type == "QLinearConv" else 1]
    source = operator.inputs[0]
    taps, shape = _known(graph, weights), _known(graph, source)
    groups = _whole(attributes.get("group", 1))
    place = shape if operator.type == "ConvTranspose" else _known(graph, operator.outputs[0])
    return Window(
        source=source,
        weights=weights,
        kernel=taps[2:],
        strides=_whole_numbers(attributes.get("strides", (1,))),
        groups=groups,
        channels=place[1],
        depthwise=groups > 1 and groups == shape[1],
    )


def operand_names(operator: Operator) -> tuple[str, str]:
    """The two matrices of a product."""
    # QLinearMatMul and QGemm: a, its scale and zero point, b.
    second = 3 if operator.type in {"QLinearMatMul", "QGemm"} else 1
    return operator.inputs[0], operator.inputs[second]


def _known(graph: Graph, name: str) -> tuple[int, ...]:
    shape = graph.shape(name)
    if shape is None or None in shape:
        raise ValueError(name)
    return tuple(size for size in shape if size is not None)


def _whole_numbers(value: Attribute) -> tuple[int, ...]:
    return tuple(int(item) for item in value) if isinstance(value, tuple) else ()


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 1
