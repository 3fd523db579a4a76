"""Prices of operators on many boards at once: each board's are its own, but near all boards'.

A latency is a sum of counts times prices. The logarithm of a board's price for a count is the
price that its pool has in common (boards with the same engine, dtype and kind of threading), plus
one factor for the whole board, plus deviations. Deviations are drawn from a normal distribution
in which the prices of computing move together, and those of memory, and those of calling; the
pool's prices are drawn around what a vector kernel costs, or around those of a related pool.
The most probable prices are found by Gauss-Newton steps on the relative error, with Student's t
weights, so that one odd measurement does not move them (Lange, Little and Taylor, "Robust
Statistical Modeling Using the t Distribution", JASA 84, 1989). How much of a board's latencies no
sum of counts can say is found along with its prices: where that is much, as on wide cores that
wait for memory, measurements weigh less, and the pool more.

With 25 measurements of a board and sixteen prices nothing else keeps the prices apart; with three
measurements they are the pool's, times a factor.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from edgekit_benchmarks.features import FEATURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

K = TypeVar("K", bound=Hashable)

# Where the search for a board's residual begins, and the bounds of what it may be: two submissions
# of one board and engine differ by 3 to 5 %, and what a sum of counts cannot say is as large again.
_RESIDUAL: Final = 0.1
_LEAST_RESIDUAL: Final = 0.07
_MOST_RESIDUAL: Final = 0.3
# Prices come first: before they have settled, residuals say how far off the start was.
_SETTLED: Final = 3
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
class _Board:
    """A board on the way to its prices: their level, its deviations, and what they leave over."""

    level: float
    deviation: NDArray[np.float64]
    residual: float = _RESIDUAL


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
    found = {
        key: _Board(level=_level(sample, common), deviation=np.zeros(len(FEATURES)))
        for key, sample in samples.items()
    }
    for number in range(_ROUNDS):
        for key, sample in samples.items():
            found[key] = _improve(sample, common, found[key], precision, settled=number >= _SETTLED)
        positions = [common + board.deviation for board in found.values()]
        weight = np.eye(len(FEATURES)) / spread.pool**2
        new = np.linalg.solve(
            len(found) * precision + weight,
            precision @ np.sum(positions, axis=0) + weight @ start,
        )
        for (key, board), position in zip(list(found.items()), positions, strict=True):
            found[key] = replace(board, deviation=position - new)
        common = new
    prices = {key: np.exp(common + board.level + board.deviation) for key, board in found.items()}
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
    board: _Board,
    precision: NDArray[np.float64],
    *,
    settled: bool,
) -> _Board:
    """A few Gauss-Newton steps; then, once prices have settled, what they leave over."""
    count = len(FEATURES)
    level, deviation = board.level, board.deviation
    for _ in range(_STEPS):
        costs = sample.features * np.exp(common + level + deviation)
        predicted = costs.sum(axis=1)
        errors = np.log(sample.latencies_ms / predicted)
        slopes = np.column_stack([costs / predicted[:, None], np.ones(len(errors))])
        weights = _weights(errors, board.residual) / board.residual**2
        measured = slopes.T @ (slopes * weights[:, None])
        gradient = slopes.T @ (weights * errors)
        curvature = measured.copy()
        curvature[:count, :count] += precision
        gradient[:count] -= precision @ deviation
        step = np.linalg.solve(curvature, gradient)
        size = float(np.abs(step).max())
        step *= min(1.0, _LONGEST_STEP / size) if size > 0 else 1.0
        deviation = deviation + step[:count]
        level += float(step[count])
    residual = board.residual
    if settled:
        # What the measurements themselves decided, of all that there was to decide.
        freedom = float(np.trace(np.linalg.solve(curvature, measured)))
        squares = float(np.sum(_weights(errors, residual) * errors**2))
        residual = math.sqrt(squares / max(1.0, len(errors) - freedom))
        residual = min(_MOST_RESIDUAL, max(_LEAST_RESIDUAL, residual))
    return _Board(level=level, deviation=deviation, residual=residual)


def _weights(errors: NDArray[np.float64], residual: float) -> NDArray[np.float64]:
    freedom = _DEGREES_OF_FREEDOM
    weights: NDArray[np.float64] = (freedom + 1) / (freedom + (errors / residual) ** 2)
    return weights


def sample_of(features: Sequence[Sequence[float]], latencies_ms: Sequence[float]) -> Sample:
    """A sample from plain numbers."""
    return Sample(
        features=np.array(features, dtype=np.float64),
        latencies_ms=np.array(latencies_ms, dtype=np.float64),
    )
