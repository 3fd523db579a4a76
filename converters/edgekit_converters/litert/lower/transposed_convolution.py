"""Transposed convolutions, as plain ones that make several output cells at once.

With stride s, the cells s*q, s*q + 1, ... of an axis are made of the same cells of the input by
different parts of the kernel. These parts are the output channels of one plain convolution, from
which they are unfolded into space. That is several times faster than TRANSPOSE_CONV, wants no
computed output shape, and groups, dilations and volumes come with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import channels_last, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.convolving import Filters, convolve
from edgekit_converters.litert.lower.folding_steps import FoldingSteps
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.unfolding import crop, unfold
from edgekit_converters.litert.lower.window import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One spatial axis.

    Attributes:
        size: Of the input, None where it is free.
        kernel: Cells of the kernel.
        stride: Cells of the output from one of the input to the next.
        dilation: Cells of the output from one of the kernel to the next.
        begin: Cells of the whole output that are cut off in front.
        extent: How much larger the output is than (size - 1) * stride.
    """

    size: int | None
    kernel: int
    stride: int
    dilation: int
    begin: int
    extent: int

    @property
    def taps(self) -> int:
        """Cells of the input that one cell of the output is made of, at most."""
        if self.stride == 1:
            return self.kernel
        return -(-((self.kernel - 1) * self.dilation + 1) // self.stride)

    @property
    def reach(self) -> int:
        """How far those are apart."""
        return (self.taps - 1) * (self.dilation if self.stride == 1 else 1)

    @property
    def pads(self) -> tuple[int, int]:
        """Cells to add to the input in front and behind, negative where it is to be cut."""
        last = (self.begin + self.extent - 1) // self.stride
        return self.reach - self.begin // self.stride, last

    @property
    def surplus(self) -> tuple[int, int]:
        """Cells to cut off what is unfolded, in front and behind."""
        front = self.begin % self.stride
        return front, -(front + self.extent) % self.stride

    def sources(self) -> NDArray[np.int64]:
        """The kernel's cell for each phase and tap, -1 where there is none: (stride, taps)."""
        back = np.arange(self.taps)[::-1]
        if self.stride == 1:
            return back[None]
        cells = back[None] * self.stride + np.arange(self.stride)[:, None]
        inside = (cells % self.dilation == 0) & (cells // self.dilation < self.kernel)
        return np.where(inside, cells // self.dilation, -1)


@lowers("ConvTranspose", layout=channels_last)
def lower_conv_transpose(build: Builder, node: Node) -> None:
    """CONV_2D, and DEPTH_TO_SPACE behind it."""
    steps = FoldingSteps(build, node)
    axes = _axes_of(build, node)
    field = steps.input()
    for position, axis in enumerate(axes):
        front, behind = (min(pad, 0) for pad in axis.pads)
        field = crop(steps, field, position + 1, -front, -behind)
    pads = [tuple(max(pad, 0) for pad in axis.pads) for axis in axes]
    window = Window(
        size=field.shape[1:-1],
        kernel=tuple(axis.taps for axis in axes),
        strides=(1,) * len(axes),
        dilations=tuple(axis.dilation if axis.stride == 1 else 1 for axis in axes),
        before=tuple(front for front, _ in pads),
        after=tuple(behind for _, behind in pads),
        extra=(0,) * len(axes),
        padding="",
    ).named()
    groups = node.integer("group", 1)
    phases = tuple(axis.stride for axis in axes)
    made = convolve(steps, field, _filters(build, node, steps, axes, groups), window, groups)
    value = unfold(steps, made, phases, groups)
    for position, axis in enumerate(axes):
        value = crop(steps, value, position + 1, *axis.surplus)
    steps.finish(value)


def _axes_of(build: Builder, node: Node) -> list[_Axis]:
    shape = build.shape(node.input(1))
    kernel = known_sizes(shape[2:], "kernel")
    size = build.shape(node.input(0))[2:]
    rank = len(kernel)
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    surplus = node.integers("output_padding") or (0,) * rank
    pads = node.integers("pads") or (0,) * (2 * rank)
    wanted = node.integers("output_shape")
    mode = node.text("auto_pad", "NOTSET")
    if not len(size) == rank == len(strides) == len(dilations) == len(surplus):
        raise RefusedNodeError(f"its window has {rank} axes, its input {len(size)}")
    axes = []
    for at in range(rank):
        cells, stride = size[at], strides[at]
        extent = (kernel[at] - 1) * dilations[at] + 1 + surplus[at]
        begin = 0
        if wanted or mode in {"SAME_UPPER", "SAME_LOWER"}:
            target = stride
            if wanted:
                if cells is None:
                    raise RefusedNodeError("its padding depends on a size that is free")
                # Some tools give the batch and the channels as well.
                target = wanted[at - rank] - (cells - 1) * stride
            if not wanted and (extent < target or surplus[at]):
                raise RefusedNodeError(
                    "its automatic padding is negative, or with more of its own: tools disagree"
                )
            total = max(0, extent - target)
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
            extent = target
        elif mode == "NOTSET":
            begin = pads[at]
            extent -= pads[at] + pads[at + rank]
        if begin < 0 or extent + ((cells or 1) - 1) * stride < 1:
            raise RefusedNodeError("its padding is negative, or leaves nothing")
        axes.append(
            _Axis(
                size=cells,
                kernel=kernel[at],
                stride=stride,
                dilation=dilations[at],
                begin=begin,
                extent=extent,
            )
        )
    return axes


def _filters(
    build: Builder, node: Node, steps: FoldingSteps, axes: list[_Axis], groups: int
) -> Filters:
    """The parts of the kernel as output channels: group by group, phase by phase."""
    shape = build.shape(node.input(1))
    inputs, outputs = known_sizes(shape[:2], "kernel")
    weights = _operand(build, node, steps, 1)
    flat = steps.reshape(weights, (inputs, outputs, math.prod(axis.kernel for axis in axes)))
    # One cell of nothing, for what no cell of the kernel is behind.
    flat = steps.pad(flat, [(0, 0), (0, 0), (0, 1)])
    table = _sources(axes)
    phases, taps = table.shape
    parts = steps.gather(flat, steps.integers(table, "parts"), 2)
    parts = steps.reshape(parts, (groups, inputs // groups, outputs, phases, taps))
    parts = steps.transpose(parts, (0, 3, 2, 4, 1))
    kernel = steps.reshape(
        parts,
        (groups * phases * outputs, *(axis.taps for axis in axes), inputs // groups),
    )
    bias: Tensor | None = None
    if node.input(2):
        single = steps.reshape(_operand(build, node, steps, 2), (groups, 1, outputs))
        repeated = steps.tile(single, (1, phases, 1))
        bias = steps.reshape(repeated, (groups * phases * outputs,))
    return Filters(
        kernel=_known(kernel),
        bias=None if bias is None else _known(bias),
        name=node.input(1),
        bias_name=node.input(2) or f"{node.outputs[0]}/bias",
    )


def _sources(axes: list[_Axis]) -> NDArray[np.int64]:
    """The flat cell of the kernel for each phase and tap: (phases, taps).

    The last cell, which is behind the kernel, stands for nothing. Phases of the depth run fastest,
    because volumes are unfolded plane by plane first.
    """
    cells = np.zeros((1, 1), dtype=np.int64)
    nothing = np.zeros((1, 1), dtype=bool)
    for axis in axes:
        own = axis.sources()
        shape = (cells.shape[0] * own.shape[0], cells.shape[1] * own.shape[1])
        here = own[None, :, None, :]
        cells = (cells[:, None, :, None] * axis.kernel + here).reshape(shape)
        nothing = (nothing[:, None, :, None] | (here < 0)).reshape(shape)
    cells = np.where(nothing, math.prod(axis.kernel for axis in axes), cells)
    if len(axes) == 3:  # noqa: PLR2004 - depth, height, width
        depth, *plane = (axis.stride for axis in axes)
        apart = cells.reshape(depth, math.prod(plane), -1)
        return apart.transpose(1, 0, 2).reshape(cells.shape)
    return cells


def _operand(build: Builder, node: Node, steps: FoldingSteps, position: int) -> Tensor:
    """An input in ONNX's order; a constant under another name, which is the result's to take."""
    known = build.known(node, position)
    if known is not None:
        return steps.constant(known)
    return build.input(node, position, order=identity(len(build.shape(node.input(position)))))


def _known(tensor: Tensor) -> NDArray[np.float32] | Tensor:
    return tensor if tensor.data is None else tensor.data
