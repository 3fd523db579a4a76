"""Non-negative least squares: the conditions that make a solution the best one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_benchmarks.nnls import solve_nnls


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0, 4),
)
def test_solution_is_optimal(rows: int, columns: int, seed: int, spread: float) -> None:
    """Karush-Kuhn-Tucker: no price below 0, and no way down that is allowed."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, columns)) * 10 ** rng.uniform(-spread, spread, columns)
    wanted = rng.normal(size=rows)
    solution = solve_nnls(matrix, wanted)
    assert (solution >= 0).all()
    lengths = np.linalg.norm(matrix, axis=0)
    slope = (matrix / lengths).T @ (wanted - matrix @ solution)
    assert (slope <= 1e-6).all()
    assert np.abs(slope[solution * lengths > 1e-9]).max(initial=0.0) <= 1e-6


def test_finds_the_prices_that_made_the_data() -> None:
    rng = np.random.default_rng(5)
    matrix = rng.uniform(0, 1, (30, 4)) * np.array([1e9, 1e6, 1.0, 1e3])
    prices = np.array([2e-9, 0.0, 3.0, 5e-3])
    np.testing.assert_allclose(solve_nnls(matrix, matrix @ prices), prices, rtol=1e-6, atol=1e-12)


def test_a_column_of_zeros_costs_nothing() -> None:
    matrix = np.array([[1.0, 0.0], [2.0, 0.0]])
    assert solve_nnls(matrix, np.array([3.0, 6.0])) == pytest.approx([3.0, 0.0])
