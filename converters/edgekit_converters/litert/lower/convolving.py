"""Convolutions of channels-last tensors in LiteRT's operators, whatever ONNX calls them.

A convolution over a volume is a sum of convolutions over planes: several times faster than
CONV_3D, which XNNPACK does not have, and quantizable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.litert.lower.builder import RefusedNodeError
from edgekit_converters.litert.lower.spatial import (
    IMAGE_RANK,
    VOLUME_RANK,
    as_image,
    as_planes,
    as_signal,
    as_volume,
    pad_field,
    padded,
    windows_in,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.lower.window import Window
    from edgekit_converters.litert.program import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a convolution multiplies and adds, constant as an array, computed as a tensor.

    Attributes:
        kernel: (outputs, *space, inputs of a group).
        bias: (outputs,), None for none.
        name: What the kernel is called.
        bias_name: What the bias is called.
    """

    kernel: NDArray[Any] | Tensor
    bias: NDArray[Any] | Tensor | None
    name: str
    bias_name: str

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return int(self.kernel.shape[0] or 0)


def convolve(
    steps: Steps, field: Tensor, filters: Filters, window: Window, groups: int = 1
) -> Tensor:
    """Convolve a signal, an image or a volume.

    Args:
        steps: The formula.
        field: (batch, *space, channels).
        filters: Kernel and bias.
        window: Over the spatial axes.
        groups: Into how many the channels are divided.
    """
    rank = len(field.shape)
    if field.shape[-1] is None:
        # XNNPACK counts the groups before it knows more than the file says.
        field.shape = (*field.shape[:-1], (filters.kernel.shape[-1] or 1) * groups)
    if rank == VOLUME_RANK:
        return _convolve_volume(steps, field, filters, window, groups)
    if rank > VOLUME_RANK or rank < IMAGE_RANK - 1:
        raise RefusedNodeError(f"it has {rank - 2} spatial axes, supported: 1, 2, 3")
    if rank < IMAGE_RANK:
        window = window.along(-1, 0)
        filters = Filters(
            kernel=_insert_height(steps, filters.kernel),
            bias=filters.bias,
            name=filters.name,
            bias_name=filters.bias_name,
        )
    image = pad_field(steps, as_image(steps, field), window, 0.0)
    return as_signal(steps, _convolve_image(steps, image, filters, window, groups), rank)


def _convolve_image(
    steps: Steps, image: Tensor, filters: Filters, window: Window, groups: int
) -> Tensor:
    """CONV_2D, or DEPTHWISE_CONV_2D where every group has one input channel."""
    kernel = filters.kernel
    depthwise = groups > 1 and kernel.shape[-1] == 1 and image.shape[-1] == groups
    order = (3, 1, 2, 0) if depthwise else (0, 1, 2, 3)
    options: dict[str, Any] = {
        "padding": "SAME" if window.padding == "SAME" else "VALID",
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "dilationHFactor": window.dilations[0],
        "dilationWFactor": window.dilations[1],
        "fusedActivationFunction": "NONE",
    }
    if depthwise:
        options["depthMultiplier"] = filters.outputs // groups
    weights = (
        steps.build.constant(filters.name, np.ascontiguousarray(kernel.transpose(order)))
        if isinstance(kernel, np.ndarray)
        else steps.transpose(kernel, order)
    )
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    shape = (image.shape[0], *windows_in(window), filters.outputs)
    return steps.step(code, [image, weights, _bias(steps, filters)], shape, "float32", **options)


def _convolve_volume(
    steps: Steps, volume: Tensor, filters: Filters, window: Window, groups: int
) -> Tensor:
    """A sum over the kernel's depth of convolutions over planes."""
    depthwards, planewise = window.along(0), window.along(1, 2)
    if depthwards.padding == "SAME" and None in depthwards.size and window.strides[0] != 1:
        raise RefusedNodeError("its padding depends on a size that is free")
    pads = [(depthwards.before[0], depthwards.behind[0]), (0, 0), (0, 0)]
    if planewise.padding == "EXPLICIT":
        pads[1:] = zip(planewise.before, planewise.behind, strict=True)
        planewise = padded(planewise)
    volume = steps.pad(volume, [(0, 0), *pads, (0, 0)])
    counts = windows_in(window)
    total: Tensor | None = None
    for place in range(window.kernel[0]):
        part = _take_planes(steps, volume, window, place, counts[0])
        planes = _convolve_image(
            steps, as_planes(steps, part), _of_depth(steps, filters, place), planewise, groups
        )
        total = planes if total is None else steps.add(total, planes)
    if total is None:
        raise RefusedNodeError("its kernel is empty")
    return as_volume(steps, total, volume.shape[0], counts[0])


def _take_planes(
    steps: Steps, volume: Tensor, window: Window, place: int, count: int | None
) -> Tensor:
    """The planes that a row of the kernel's depth meets."""
    first = place * window.dilations[0]
    left = window.reach[0] - 1 - first
    batch, depth, *plane = volume.shape
    if depth is not None and first == 0 and left == 0 and window.strides[0] == 1:
        return volume
    end = -left if depth is None or count is None else first + (count - 1) * window.strides[0] + 1
    # All other axes are taken whole, and so is what follows where nothing is left out.
    others = 0b11101
    open_end = others | (0b10 if end == 0 else 0)
    return steps.strided_slice(
        volume, [0, first, 0, 0, 0], [0, end, 0, 0, 0], [1, window.strides[0], 1, 1, 1],
        (batch, count, *plane), beginMask=others, endMask=open_end,
    )  # fmt: skip


def _of_depth(steps: Steps, filters: Filters, place: int) -> Filters:
    """The filters for the planes at one place of the kernel's depth; the first have the bias."""
    kernel = filters.kernel
    if isinstance(kernel, np.ndarray):
        part: NDArray[Any] | Tensor = kernel[:, place]
    else:
        outputs, _, *rest = kernel.shape
        part = steps.reshape(steps.slice_axis(kernel, 1, place, 1), (outputs, *rest))
    first = place == 0
    return Filters(
        kernel=part,
        bias=filters.bias if first else None,
        name=f"{filters.name}/depth_{place}",
        bias_name=filters.bias_name if first else f"{filters.name}/no_bias",
    )


def _insert_height(steps: Steps, kernel: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
    if isinstance(kernel, np.ndarray):
        return kernel[:, None]
    outputs, width, inputs = kernel.shape
    return steps.reshape(kernel, (outputs, 1, width, inputs))


def _bias(steps: Steps, filters: Filters) -> Tensor:
    bias = filters.bias
    if bias is None:
        bias = np.zeros(filters.outputs, dtype=np.float32)
    return steps.build.constant(filters.bias_name, bias) if isinstance(bias, np.ndarray) else bias
