"""What convolutions and poolings share: images and volumes, channels last, padded by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.builder import RefusedNodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.graph import Shape
    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.lower.window import Window
    from edgekit_converters.litert.program import Tensor

SIGNAL_RANK = 3
IMAGE_RANK = 4
VOLUME_RANK = 5


def as_image(steps: Steps, value: Tensor) -> Tensor:
    """A signal (batch, width, channels) as an image of height one; an image stays."""
    return steps.expand_dims(value, 1) if len(value.shape) == SIGNAL_RANK else value


def as_signal(steps: Steps, image: Tensor, rank: int) -> Tensor:
    """An image of height one as a signal again, if that is what was."""
    return steps.squeeze(image, 1) if rank == SIGNAL_RANK else image


def as_planes(steps: Steps, volume: Tensor) -> Tensor:
    """A volume (batch, depth, height, width, channels) as images, one a cell of the depth."""
    batch, depth, *plane = volume.shape
    count = None if batch is None or depth is None else batch * depth
    return steps.reshape(volume, (count, *plane))


def as_volume(steps: Steps, planes: Tensor, batch: int | None, depth: int | None) -> Tensor:
    """Images as the volume again that they were cut from."""
    return steps.reshape(planes, (batch, depth, *planes.shape[1:]))


def reshape_like(
    steps: Steps, tensor: Tensor, shape: Shape, like: Tensor, factors: Sequence[int]
) -> Tensor:
    """Reshape where several sizes are free: those are another tensor's, times factors.

    Args:
        steps: The formula.
        tensor: What is reshaped.
        shape: What is known about the result.
        like: The tensor whose sizes, axis by axis, the free ones are made of.
        factors: What each of its sizes is multiplied with.
    """
    if shape.count(None) <= 1:
        return steps.reshape(tensor, shape)
    free = [factor if size is None else 0 for size, factor in zip(shape, factors, strict=True)]
    known = [0 if size is None else size for size in shape]
    measured = steps.mul(steps.shape_of(like), steps.integers(free, "factors"))
    return steps.reshape_to(tensor, steps.add(measured, steps.integers(known, "known")), shape)


def pad_field(steps: Steps, field: Tensor, window: Window, value: float) -> Tensor:
    """Pad by hand where LiteRT's SAME and VALID are not what the window wants."""
    if window.padding != "EXPLICIT":
        return field
    pads = [(0, 0), *zip(window.before, window.behind, strict=True), (0, 0)]
    return steps.pad(field, pads, value)


def padded(window: Window) -> Window:
    """The window over an input that has been padded already."""
    nothing = (0,) * len(window.size)
    size = tuple(
        None if cells is None else cells + front + back
        for cells, front, back in zip(window.size, window.before, window.behind, strict=True)
    )
    return replace(window, size=size, before=nothing, after=nothing, extra=nothing, padding="VALID")


def windows_in(window: Window) -> Shape:
    """How many windows there are along each axis, None where that is free."""
    counts: list[int | None] = []
    for axis, cells in enumerate(window.size):
        stride, span = window.strides[axis], window.reach[axis]
        if cells is None:
            counts.append(None)
        elif window.padding == "SAME":
            counts.append(-(-cells // stride))
        else:
            padded = cells + window.before[axis] + window.behind[axis]
            counts.append((padded - span) // stride + 1)
    return tuple(counts)


def known_sizes(shape: Shape, what: str) -> tuple[int, ...]:
    """A shape without free sizes.

    Raises:
        RefusedNodeError: If a size is free; `what` says whose.
    """
    if None in shape:
        raise RefusedNodeError(f"a size of its {what} is free")
    return tuple(size or 0 for size in shape)
