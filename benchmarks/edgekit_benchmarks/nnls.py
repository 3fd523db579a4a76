"""Least squares with coefficients that may not be negative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOLERANCE: Final = 1e-10
_ROUNDS_PER_COLUMN: Final = 10


def solve_nnls(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise |matrix @ x - wanted| over x >= 0.

    Lawson and Hanson, "Solving Least Squares Problems" (1974), algorithm NNLS, chapter 23. Columns
    are scaled to unit length first: here they differ by nine orders of magnitude.

    Args:
        matrix: Shape (rows, columns); a column of zeros gets the coefficient 0.
        wanted: Shape (rows,).

    Returns:
        Shape (columns,).
    """
    lengths = np.linalg.norm(matrix, axis=0)
    lengths[lengths == 0] = 1.0
    scaled = matrix / lengths
    columns = scaled.shape[1]
    solution = np.zeros(columns)
    free = np.zeros(columns, dtype=bool)
    for _ in range(_ROUNDS_PER_COLUMN * columns):
        slope = scaled.T @ (wanted - scaled @ solution)
        slope[free] = -np.inf
        if free.all() or slope.max() <= _TOLERANCE:
            break
        free[int(slope.argmax())] = True
        _step_back_inside(scaled, wanted, solution, free)
    unscaled: NDArray[np.float64] = solution / lengths
    return unscaled


def _step_back_inside(
    scaled: NDArray[np.float64],
    wanted: NDArray[np.float64],
    solution: NDArray[np.float64],
    free: NDArray[np.bool_],
) -> None:
    """Move `solution` to the best point on its free columns, freezing those that fall below 0."""
    while free.any():
        best = np.zeros_like(solution)
        best[free] = np.linalg.lstsq(scaled[:, free], wanted, rcond=None)[0]
        falling = free & (best <= 0)
        if not falling.any():
            solution[:] = best
            return
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(falling, solution / (solution - best), np.inf)
        share = min(1.0, float(np.nanmin(shares)))
        solution += share * (best - solution)
        free &= solution > _TOLERANCE
        solution[~free] = 0.0
    solution[:] = 0.0
