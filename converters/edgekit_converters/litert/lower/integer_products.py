"""Products of small integers, exact, by kernels for floats.

A sum of products of integers is exact in float32, in whatever order it is added, as long as the
magnitudes of its terms add up to at most 2 ** 24. Longer sums are cut into parts that do, and the
parts are added as int32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.lower.builder import RefusedNodeError
from edgekit_converters.litert.lower.convolving import Filters, convolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.lower.window import Window
    from edgekit_converters.litert.program import Tensor

_EXACT: Final = 2**24
# Of 8 bits, less a zero point of 8 bits.
_LARGEST: Final = 255
_MATRIX: Final = 2


def exact_matmul(steps: Steps, first: Tensor, second: Tensor) -> Tensor:
    """The product of matrices of integers as float32, int32 where it had to be cut.

    Args:
        steps: The formula.
        first: float32, of integers of 8 bits less a zero point.
        second: Likewise, constant or computed.
    """
    depth = first.shape[-1] if first.shape[-1] is not None else second.shape[-2]
    if depth is None:
        raise RefusedNodeError("how many products it adds is free")
    peaks = np.full(depth, _LARGEST)
    if second.data is not None:
        # The largest in each row: more than any column adds.
        peaks = np.abs(second.data).max(axis=(*range(second.data.ndim - 2), -1), initial=0)
    parts = []
    for start, end in _runs(peaks * _LARGEST):
        left = steps.slice_axis(first, -1, start, end - start)
        parts.append(_matmul(steps, left, second, start, end))
    return _total(steps, parts)


def exact_convolution(
    steps: Steps, field: Tensor, kernel: NDArray[Any] | Tensor, window: Window, groups: int
) -> Tensor:
    """A convolution of integers as float32, int32 where it had to be cut.

    Args:
        steps: The formula.
        field: (batch, *space, channels), float32, of integers of 8 bits less a zero point.
        kernel: (outputs, *space, inputs of a group), likewise, constant or computed.
        window: Over the spatial axes.
        groups: Into how many the channels are divided.
    """
    cells = math.prod(size or 0 for size in kernel.shape[1:-1])
    inputs = kernel.shape[-1]
    if inputs is None:
        raise RefusedNodeError("its number of channels is free")
    peaks = np.full(inputs, _LARGEST * cells)
    if isinstance(kernel, np.ndarray):
        spatial = tuple(range(1, kernel.ndim - 1))
        peaks = np.abs(kernel).sum(axis=spatial).max(axis=0, initial=0)
    parts = []
    for start, end in _runs(peaks * _LARGEST):
        part, weights = field, kernel
        if end - start < inputs:
            weights = _channels(steps, kernel, start, end, masked=groups > 1)
            if groups == 1:
                part = steps.slice_axis(field, -1, start, end - start)
        name = steps.node.outputs[0]
        filters = Filters(
            kernel=weights, bias=None, name=f"{name}/weights", bias_name=f"{name}/no_bias"
        )
        parts.append(convolve(steps, part, filters, window, groups))
    return _total(steps, parts)


def _runs(magnitudes: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Ranges of terms, each of which adds up to what is exact."""
    start, total = 0, 0
    for position, magnitude in enumerate(magnitudes.tolist()):
        if magnitude > _EXACT:
            raise RefusedNodeError(f"one channel may add up to {magnitude:.0f}, beyond 2 ** 24")
        if total + magnitude > _EXACT:
            yield start, position
            start, total = position, 0
        total += magnitude
    yield start, len(magnitudes)


def _matmul(steps: Steps, left: Tensor, second: Tensor, start: int, end: int) -> Tensor:
    if second.data is None or second.data.ndim != _MATRIX:
        return steps.matmul(left, steps.slice_axis(second, -2, start, end - start))
    rows = np.ascontiguousarray(second.data[start:end].T)
    bias = np.zeros(rows.shape[0], dtype=np.float32)
    return steps.fully_connected(
        left, steps.constant(rows, "weights"), steps.constant(bias, "no_bias")
    )


def _channels(
    steps: Steps, kernel: NDArray[Any] | Tensor, start: int, end: int, *, masked: bool
) -> NDArray[Any] | Tensor:
    """Some input channels of a kernel: the others left out, or, of groups, zero."""
    if not masked:
        if isinstance(kernel, np.ndarray):
            return kernel[..., start:end]
        return steps.slice_axis(kernel, -1, start, end - start)
    mask = np.zeros(kernel.shape[-1] or 0, dtype=np.float32)
    mask[start:end] = 1
    if isinstance(kernel, np.ndarray):
        return kernel * mask
    return steps.mul(kernel, steps.constant(mask, "mask"))


def _total(steps: Steps, parts: list[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    total = steps.cast(parts[0], "int32")
    for part in parts[1:]:
        total = steps.add(total, steps.cast(part, "int32"))
    return total
