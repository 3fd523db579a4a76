"""Squares of an image as channels, and channels as squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import channels_last
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_IMAGE_RANK: Final = 4
# The kernels have no elements of two bytes.
_MOVED: Final = ANYTHING - {"float16", "int16", "uint16"}


@lowers("DepthToSpace", layout=channels_last, dtypes=_MOVED)
def lower_depth_to_space(build: Builder, node: Node) -> None:
    """DEPTH_TO_SPACE takes the channels depth last (DCR); for CRD they are put so before."""
    steps = Steps(build, node)
    tensor, block = _image(steps)
    channels = tensor.shape[-1] or 0
    if node.text("mode", "DCR") == "CRD":
        order = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
        tensor = steps.gather(tensor, steps.integers(order, "channels"), -1)
    shape = (
        tensor.shape[0], *(None if size is None else size * block for size in tensor.shape[1:3]),
        channels // (block * block),
    )  # fmt: skip
    steps.finish(steps.move("DEPTH_TO_SPACE", [tensor], shape, blockSize=block))


@lowers("SpaceToDepth", layout=channels_last, dtypes=_MOVED)
def lower_space_to_depth(build: Builder, node: Node) -> None:
    """SPACE_TO_DEPTH gives the channels depth last (DCR); for CRD they are put so behind."""
    steps = Steps(build, node)
    tensor, block = _image(steps)
    channels = tensor.shape[-1] or 0
    if None in tensor.shape[1:3]:
        made = _blocks_of_free_size(steps, tensor, block, channels)
    else:
        shape = (
            tensor.shape[0], *((size or 0) // block for size in tensor.shape[1:3]),
            channels * block * block,
        )  # fmt: skip
        made = steps.move("SPACE_TO_DEPTH", [tensor], shape, blockSize=block)
    if node.text("mode", "DCR") == "CRD":
        order = np.arange(channels * block * block).reshape(-1, channels).T.reshape(-1)
        made = steps.gather(made, steps.integers(order, "channels"), -1)
    steps.finish(made)


def _blocks_of_free_size(steps: Steps, tensor: Tensor, block: int, channels: int) -> Tensor:
    """What the kernel does, which wants whole blocks before it is told the real size."""
    batch, height, width = steps.extents(tensor)[:3]
    rows, columns = (steps.over(extent, block) for extent in (height, width))
    cut = steps.reshaped(tensor, [batch, rows, block, columns, block, channels])
    moved = steps.transpose(cut, (0, 1, 3, 2, 4, 5))
    return steps.reshaped(moved, [batch, rows, columns, channels * block * block])


def _image(steps: Steps) -> tuple[Tensor, int]:
    tensor = steps.input()
    block = steps.node.integer("blocksize", 0)
    if len(tensor.shape) != _IMAGE_RANK or tensor.shape[-1] is None or block < 1:
        raise RefusedNodeError("it needs an image of known channels and a block size")
    mode = steps.node.text("mode", "DCR")
    if mode not in {"DCR", "CRD"}:
        raise RefusedNodeError(f"its mode is {mode!r}, supported: 'DCR', 'CRD'")
    return tensor, block
