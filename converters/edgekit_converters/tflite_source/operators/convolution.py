"""Convolutions: channels first inside, the weights turned where they are constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.tflite_source.operators.window import (
    SAME,
    dilations,
    paddings,
    strides,
)
from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError, channels_first

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder
    from edgekit_converters.tflite_source.values import Order

_IMAGE = channels_first(4)
_VOLUME = channels_first(5)


@imports("CONV_2D", inputs=(2, 3), options="Conv2DOptions")
def import_conv(build: Builder) -> None:
    """Weights are (out, height, width, in); fewer input channels than the image has are groups."""
    _convolution(build, "HW", (0, 3, 1, 2))


@imports("CONV_3D", inputs=(2, 3), options="Conv3DOptions")
def import_conv_3d(build: Builder) -> None:
    """Weights are (depth, height, width, in, out)."""
    _convolution(build, "DHW", (4, 3, 0, 1, 2))


@imports("DEPTHWISE_CONV_2D", inputs=(2, 3), options="DepthwiseConv2DOptions")
def import_depthwise(build: Builder) -> None:
    """Weights are (1, height, width, channels * multiplier): a group for each channel."""
    image, weights = build.tensor(0), build.tensor(1)
    channels, filters = image.shape[-1], weights.shape[-1]
    if channels is None or filters is None or filters % channels or weights.shape[0] != 1:
        raise RefusedOperatorError("its weights do not fit its input's channels")
    kernel = [size or 0 for size in weights.shape[1:3]]
    steps, spacing = strides(build), dilations(build)
    inputs = [build.input(0, _IMAGE), build.input(1, (3, 0, 1, 2))]
    build.emit_activated(
        "Conv",
        inputs + ([build.input(2)] if build.has(2) else []),
        _IMAGE,
        kernel_shape=kernel,
        strides=steps,
        dilations=spacing,
        group=channels,
        **paddings(build, build.shape(0)[1:3], kernel, steps, spacing),
    )


@imports("TRANSPOSE_CONV", inputs=(3, 4), options="TransposeConvOptions")
def import_transpose_conv(build: Builder) -> None:
    """Weights are (out, height, width, in)."""
    _transposed(build, "HW", (3, 0, 1, 2))


@imports("CONV_3D_TRANSPOSE", inputs=(3, 4), options="Conv3DOptions")
def import_transpose_conv_3d(build: Builder) -> None:
    """Weights are (depth, height, width, out, in)."""
    _transposed(build, "DHW", (4, 3, 0, 1, 2))


def _convolution(build: Builder, axes: str, weight_order: Order) -> None:
    image, weights = build.tensor(0), build.tensor(1)
    order = _IMAGE if len(axes) == len("HW") else _VOLUME
    channels, taken = image.shape[-1], weights.shape[weight_order[1]]
    if not channels or not taken or channels % taken:
        raise RefusedOperatorError("its weights do not fit its input's channels")
    kernel = [weights.shape[axis] or 0 for axis in weight_order[2:]]
    steps, spacing = strides(build, axes=axes), dilations(build, axes=axes)
    inputs = [build.input(0, order), build.input(1, weight_order)]
    build.emit_activated(
        "Conv",
        inputs + ([build.input(2)] if build.has(2) else []),
        order,
        kernel_shape=kernel,
        strides=steps,
        dilations=spacing,
        group=channels // taken,
        **paddings(build, build.shape(0)[1:-1], kernel, steps, spacing),
    )


def _transposed(build: Builder, axes: str, weight_order: Order) -> None:
    """A convolution undone; inputs are the output's shape, weights, image and bias.

    SAME pads as the convolution would that this one undoes (TFLite: `ComputePaddingHeightWidth`
    with the sizes of the output); what ONNX would leave off at the end is added as output padding.
    """
    weights = build.tensor(1)
    order = _IMAGE if len(axes) == len("HW") else _VOLUME
    kernel = [weights.shape[axis] or 0 for axis in weight_order[2:]]
    steps = strides(build, axes=axes)
    if not build.is_constant(0):
        raise RefusedOperatorError("the shape of its output is computed")
    places = build.shape(2)[1:-1]
    if None in places:
        raise RefusedOperatorError("the size of its input is not known in advance")
    before, after, beyond = [], [], []
    wanted_places = build.whole_numbers(0)[1:-1]
    for size, wanted, taps, step in zip(places, wanted_places, kernel, steps, strict=True):
        total = 0
        if build.option("padding") == SAME:
            total = max((-(-wanted // step) - 1) * step + taps - wanted, 0)
        whole = ((size or 0) - 1) * step + taps
        rest = whole - total // 2 - wanted
        before.append(total // 2)
        after.append(max(rest, 0))
        beyond.append(max(-rest, 0))
    if any(extra >= step for extra, step in zip(beyond, steps, strict=True)):
        raise RefusedOperatorError("its output is larger than what its strides reach")
    inputs = [build.input(2, order), build.input(1, weight_order)]
    build.emit_activated(
        "ConvTranspose",
        inputs + ([build.input(3)] if build.has(3) else []),
        order,
        kernel_shape=kernel,
        strides=steps,
        pads=before + after,
        output_padding=beyond,
    )
