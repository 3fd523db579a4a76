"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR, where they read exactly what ONNX reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.litert.lower.folding_steps import FoldingSteps
    from edgekit_converters.litert.program import Tensor

# The ways in which the kernels map cells, by their options, the usual ones first.
_VARIANTS: Final = (
    {"alignCorners": False, "halfPixelCenters": True},
    {"alignCorners": False, "halfPixelCenters": False},
    {"alignCorners": True, "halfPixelCenters": False},
)
_SIGNAL, _IMAGE, _VOLUME = 3, 4, 5
# Of a cell's size; both sides compute coordinates in float32.
_TOLERANCE: Final = 1e-6


def resize_by_kernel(
    steps: FoldingSteps,
    value: Tensor,
    places: Mapping[int, NDArray[Any]],
    *,
    nearest: Mapping[int, NDArray[Any]] | None,
    linear: bool,
) -> tuple[Tensor, set[int]]:
    """Resize those axes for which one of the kernels reads exactly the same cells.

    Args:
        steps: The formula.
        value: Batch first, channels last.
        places: For each axis, by its position, the coordinates that are to be read.
        nearest: In the mode "nearest", the cells that these are rounded to.
        linear: Whether it is plain linear interpolation.

    Returns:
        The tensor, and the positions that are done.
    """
    rank = len(value.shape)
    if value.dtype != "float32" or not (linear or nearest is not None):
        return value, set()
    if rank not in {_SIGNAL, _IMAGE, _VOLUME} or None in value.shape[1:]:
        return value, set()
    wanted = places if nearest is None else nearest
    best: set[int] = set()
    options: Mapping[str, bool] = {}
    for variant in _VARIANTS:
        fitting = {
            at
            for at, cells in wanted.items()
            if 0 < at < rank - 1
            and _reads_the_same(cells, value.shape[at] or 0, variant, linear=linear)
        }
        if len(fitting) > len(best):
            best, options = fitting, variant
    if not best:
        return value, set()
    code = "RESIZE_BILINEAR" if linear else "RESIZE_NEAREST_NEIGHBOR"
    sizes = [len(wanted[at]) if at in best else size or 0 for at, size in enumerate(value.shape)]
    return _resize(steps, value, sizes, code, options), best


def _reads_the_same(
    wanted: NDArray[Any], before: int, variant: Mapping[str, bool], *, linear: bool
) -> bool:
    after = len(wanted)
    if not after or not before:
        return False
    cells = np.arange(after, dtype=np.float32)
    shift = np.float32(0.5 if variant["halfPixelCenters"] else 0.0)
    corners = variant["alignCorners"] and after > 1
    scale = (
        np.float32(before - 1) / np.float32(after - 1)
        if corners
        else np.float32(before) / np.float32(after)
    )
    scaled = (cells + shift) * scale
    if linear:
        read = np.clip(scaled - shift, 0, before - 1)
        return bool(np.all(np.abs(read - np.clip(wanted, 0, before - 1)) <= _TOLERANCE * before))
    # The kernel rounds halves away from zero.
    rounded = np.floor(scaled + np.float32(0.5)) if variant["alignCorners"] else np.floor(scaled)
    return bool(np.array_equal(np.clip(rounded, 0, before - 1), wanted))


def _resize(
    steps: FoldingSteps,
    value: Tensor,
    sizes: list[int],
    code: str,
    options: Mapping[str, bool],
) -> Tensor:
    """Resize all spatial axes to `sizes`; volumes their planes first, then their depth."""
    shape = value.shape
    if len(shape) == _IMAGE:
        return _image(steps, value, (sizes[1], sizes[2]), code, options)
    batch, channels = shape[0], shape[-1]
    if len(shape) == _SIGNAL:
        wide = steps.reshape(value, (batch, 1, shape[1], channels))
        wide = _image(steps, wide, (1, sizes[1]), code, options)
        return steps.reshape(wide, (batch, sizes[1], channels))
    depth = shape[1] or 0
    if list(shape[2:4]) != sizes[2:4]:
        merged = None if batch is None else batch * depth
        planes = steps.reshape(value, (merged, *shape[2:]))
        planes = _image(steps, planes, (sizes[2], sizes[3]), code, options)
        value = steps.reshape(planes, (batch, depth, *planes.shape[1:]))
    if depth != sizes[1]:
        area = sizes[2] * sizes[3]
        columns = steps.reshape(value, (batch, depth, area, channels))
        columns = _image(steps, columns, (sizes[1], area), code, options)
        value = steps.reshape(columns, (batch, *sizes[1:4], channels))
    return value


def _image(
    steps: FoldingSteps,
    image: Tensor,
    size: tuple[int, int],
    code: str,
    options: Mapping[str, bool],
) -> Tensor:
    shape = (image.shape[0], *size, image.shape[3])
    return steps.step(code, [image, steps.integers(size, "size")], shape, image.dtype, **options)
