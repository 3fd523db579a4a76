"""What convolutions and poolings share: images of one or two spatial axes, padded by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.window import Window, window_of

if TYPE_CHECKING:
    from edgekit_converters.graph import Node, Shape
    from edgekit_converters.litert.program import Tensor

_IMAGE_RANK = 4
_SIGNAL_RANK = 3


def image_of(build: Builder, node: Node) -> Tensor:
    """The first input as (batch, height, width, channels); a signal gets a height of one."""
    source = build.input(node)
    if len(source.shape) == _IMAGE_RANK:
        return source
    if len(source.shape) != _SIGNAL_RANK:
        raise RefusedNodeError(f"its input has rank {len(source.shape)}, supported: 3, 4")
    return build.reshape(source, _as_image(source.shape), name=f"{node.input(0)}/image")


def image_window(build: Builder, node: Node, kernel: tuple[int, ...]) -> Window:
    """The window of a node, of two spatial axes always."""
    size = build.shape(node.input(0))[2:]
    result = build.shape(node.outputs[0])[2:]
    if len(size) == 2:  # noqa: PLR2004
        return window_of(node, kernel, size, result)
    window = window_of(node, kernel[-1:], size, result)
    padding = window.padding
    return Window(
        kernel=(1, *window.kernel),
        strides=(1, *window.strides),
        dilations=(1, *window.dilations),
        before=(0, *window.before),
        after=(0, *window.after),
        extra=(0, *window.extra),
        padding=padding,
    )


def pad_image(build: Builder, node: Node, image: Tensor, window: Window, value: float) -> Tensor:
    """Pad an image by hand where LiteRT's SAME and VALID are not what the window wants."""
    if window.padding != "EXPLICIT":
        return image
    name = f"{node.outputs[0]}/padded"
    pads = [(0, 0), *zip(window.before, window.behind, strict=True), (0, 0)]
    shape = tuple(
        None if size is None else size + front + back
        for size, (front, back) in zip(image.shape, pads, strict=True)
    )
    inputs: list[Tensor | None] = [image, build.integers(f"{name}/sizes", pads)]
    if value == 0.0:
        return build.step("PAD", inputs, name=name, shape=shape)
    fill = build.constant(f"{name}/value", np.array([value], dtype=np.float32))
    return build.step("PADV2", [*inputs, fill], name=name, shape=shape)


def emit_image(
    build: Builder,
    node: Node,
    code: str,
    inputs: list[Tensor | None],
    options: dict[str, Any],
) -> None:
    """Emit an operator on images as the node's output; a signal loses its height again."""
    shape = build.shape(node.outputs[0])
    if len(shape) == _IMAGE_RANK:
        build.emit(code, inputs, node, **options)
        return
    signal = (shape[0], shape[2], shape[1])
    name = f"{node.outputs[0]}/image"
    image = build.step(code, inputs, name=name, shape=_as_image(signal), **options)
    build.emit(
        "RESHAPE",
        [image, build.reshape_sizes(signal, node.outputs[0])],
        node,
        newShape=[-1 if size is None else size for size in signal],
    )


def _as_image(signal: Shape) -> Shape:
    return (signal[0], 1, signal[1], signal[2])
