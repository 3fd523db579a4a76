"""Prices of operators on many boards at once: each board's are its own, but near all boards'.

A latency is a sum of counts times prices. The logarithm of a board's price for a count is the
price that its pool has in common (boards with the same engine, dtype and kind of threading), plus
one factor for the whole board, plus deviations. Deviations are drawn from a normal distribution
in which the prices of computing move together, and those of memory, and those of calling; the
pool's prices are drawn around what a vector kernel costs, or around those of a related pool.
The most probable prices are found by Gauss-Newton steps on the relative error, with Student's t
weights, so that one odd measurement does not move them (Lange, Little and Taylor, "Robust
Statistical Modeling Using the t Distribution", JASA 84, 1989).

With 25 measurements of a board and sixteen prices nothing else keeps the prices apart; with three
measurements they are the pool's, times a factor.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from edgekit_benchmarks.features import FEATURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

K = TypeVar("K", bound=Hashable)

# Two submissions of one board and engine differ by 3 to 5 %; what a sum of counts cannot say
# about an operator is as large again.
_RESIDUAL: Final = 0.1
_DEGREES_OF_FREEDOM: Final = 5.0
# A fixed number, so that the result is the same everywhere; after it, predictions move by less than
# a hundredth.
_ROUNDS: Final = 15
_STEPS: Final = 3
_LONGEST_STEP: Final = 0.7
_COMPUTING: Final = frozenset(
    {
        "product_macs",
        "winograd_macs",
        "depthwise_macs",
        "grouped_macs",
        "exponential_elements",
        "normalized_elements",
    }
)
_CALLING: Final = frozenset({"operators"})
# Few families of models have these at all, so a board's own price for them is hardly measured.
_RARE: Final = frozenset(
    {"grouped_macs", "exponential_elements", "moved_elements", "normalized_elements"}
)
_RARE_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far prices may lie apart; standard deviations of their logarithms.

    Attributes:
        pool: A pool's prices around the ones it starts from.
        single: One price of a board around its pool's.
        block: A board's prices of computing, of memory or of calling, all moved together.
    """

    pool: float
    single: float
    block: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The measurements of one board with one engine and setting.

    Attributes:
        features: Shape (measurements, features).
        latencies_ms: Shape (measurements,).
    """

    features: NDArray[np.float64]
    latencies_ms: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The prices that boards have in common; milliseconds for a unit, as logarithms."""

    log_prices: NDArray[np.float64]


def fit_pool(
    samples: Mapping[K, Sample], start: NDArray[np.float64], spread: Spread
) -> tuple[Pool, dict[K, NDArray[np.float64]]]:
    """The pool's prices, and each board's own in milliseconds for a unit.

    Args:
        samples: By board.
        start: The logarithms of the prices that the pool's are drawn around, up to a factor.
        spread: How far prices may lie apart.
    """
    precision = _precision(spread)
    common = start.copy()
    boards = list(samples)
    levels = {board: _level(samples[board], common) for board in boards}
    deviations = {board: np.zeros(len(FEATURES)) for board in boards}
    for _ in range(_ROUNDS):
        for board in boards:
            levels[board], deviations[board] = _improve(
                samples[board], common, levels[board], deviations[board], precision
            )
        positions = [common + deviations[board] for board in boards]
        weight = np.eye(len(FEATURES)) / spread.pool**2
        new = np.linalg.solve(
            len(boards) * precision + weight,
            precision @ np.sum(positions, axis=0) + weight @ start,
        )
        for board, position in zip(boards, positions, strict=True):
            deviations[board] = position - new
        common = new
    prices = {board: np.exp(common + levels[board] + deviations[board]) for board in boards}
    return Pool(log_prices=common), prices


def _precision(spread: Spread) -> NDArray[np.float64]:
    """The inverse of the deviations' covariance."""
    shares = np.array([_RARE_SHARE if name in _RARE else 1.0 for name in FEATURES])
    covariance = np.diag((spread.single * shares) ** 2)
    memory = frozenset(FEATURES) - _COMPUTING - _CALLING
    for block in (_COMPUTING, memory, _CALLING):
        inside = np.array([float(name in block) for name in FEATURES])
        covariance += spread.block**2 * np.outer(inside, inside)
    return np.asarray(np.linalg.inv(covariance), dtype=np.float64)


def _level(sample: Sample, log_prices: NDArray[np.float64]) -> float:
    predicted = sample.features @ np.exp(log_prices)
    return float(np.median(np.log(sample.latencies_ms / predicted)))


def _improve(
    sample: Sample,
    common: NDArray[np.float64],
    level: float,
    deviation: NDArray[np.float64],
    precision: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """A few Gauss-Newton steps; the new level and deviations."""
    count = len(FEATURES)
    for _ in range(_STEPS):
        costs = sample.features * np.exp(common + level + deviation)
        predicted = costs.sum(axis=1)
        residual = np.log(sample.latencies_ms / predicted)
        slopes = np.column_stack([costs / predicted[:, None], np.ones(len(residual))])
        freedom = _DEGREES_OF_FREEDOM
        weights = (freedom + 1) / (freedom + (residual / _RESIDUAL) ** 2) / _RESIDUAL**2
        curvature = slopes.T @ (slopes * weights[:, None])
        gradient = slopes.T @ (weights * residual)
        curvature[:count, :count] += precision
        gradient[:count] -= precision @ deviation
        step = np.linalg.solve(curvature, gradient)
        size = float(np.abs(step).max())
        step *= min(1.0, _LONGEST_STEP / size) if size > 0 else 1.0
        deviation = deviation + step[:count]
        level += float(step[count])
    return level, deviation


def sample_of(features: Sequence[Sequence[float]], latencies_ms: Sequence[float]) -> Sample:
    """A sample from plain numbers."""
    return Sample(
        features=np.array(features, dtype=np.float64),
        latencies_ms=np.array(latencies_ms, dtype=np.float64),
    )
