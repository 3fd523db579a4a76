"""LiteRT's own Fourier transform, of real signals whose length is a power of two.

It is slower than a product with a small matrix, but a large matrix is megabytes in the file, and
is a layer of weights to whoever quantizes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgekit_converters.litert.lower.steps import Steps
    from edgekit_converters.litert.program import Tensor

_LEAST_LENGTH: Final = 128


def suits_kernel(length: Tensor, size: int) -> bool:
    """Whether a transform of this length, of signals of this size, can be left to the kernel.

    Args:
        length: An int32 scalar.
        size: How many cells the signal has.
    """
    if length.data is None or int(length.data) != size:
        return False
    return size >= _LEAST_LENGTH and size & (size - 1) == 0


def half_spectrum(steps: Steps, signal: Tensor) -> Tensor:
    """The half of a real signal's spectrum of which the other is the mirror image.

    Args:
        steps: The formula.
        signal: (..., cells).

    Returns:
        (..., cells // 2 + 1, 2): real and imaginary parts.
    """
    cells = signal.shape[-1] or 0
    bins = cells // 2 + 1
    # The kernel transforms two axes at once, the first of which has one cell.
    rows = steps.expand_dims(signal, -2)
    shape = (*rows.shape[:-1], bins)
    spectrum = steps.step(
        "RFFT2D", [rows, steps.integers([1, cells], "length")], shape, "complex64"
    )
    parts = [steps.step(code, [spectrum], shape, "float32") for code in ("REAL", "IMAG")]
    return steps.squeeze(steps.stack(parts, -1), -3)
