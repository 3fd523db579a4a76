"""Prices of many boards at once: those that made the latencies are found again."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit_benchmarks import pooled
from edgekit_benchmarks.features import FEATURES
from edgekit_benchmarks.pooled import Spread, fit_pool, sample_of
from edgekit_benchmarks.starting_prices import starting_prices

SPREAD = Spread(pool=0.8, single=0.4, block=0.7)
START = starting_prices(dtype="float32", threaded=False)


def counts(models: int, seed: int = 1) -> np.ndarray:
    """Counts of made-up models whose features cost about as much as one another."""
    generator = np.random.default_rng(seed)
    return generator.lognormal(0, 1, (models, len(FEATURES))) / np.exp(START)


def test_a_board_with_many_measurements_is_predicted_by_its_own_prices() -> None:
    true = np.exp(START + np.random.default_rng(2).normal(0, 0.3, len(FEATURES)))
    seen, new = counts(60), counts(20, seed=3)
    _, prices = fit_pool({"board": sample_of(seen, seen @ true)}, START, SPREAD)
    assert new @ prices["board"] == pytest.approx(new @ true, rel=0.02)


def test_a_board_with_few_measurements_has_the_pools_prices_times_a_factor() -> None:
    true = np.exp(START + np.random.default_rng(2).normal(0, 0.3, len(FEATURES)))
    seen, new = counts(60), counts(20, seed=3)
    samples = {f"board{n}": sample_of(seen, seen @ true * (1 + n)) for n in range(3)}
    samples["new"] = sample_of(seen[:2], seen[:2] @ true * 10)
    _, prices = fit_pool(samples, START, SPREAD)
    assert new @ prices["new"] == pytest.approx(new @ true * 10, rel=0.06)


def test_one_odd_measurement_does_not_move_the_prices() -> None:
    true = np.exp(START)
    seen, new = counts(40), counts(20, seed=3)
    latencies = seen @ true
    latencies[0] *= 10
    _, prices = fit_pool({"board": sample_of(seen, latencies)}, START, SPREAD)
    assert new @ prices["board"] == pytest.approx(new @ true, rel=0.03)


def test_measurements_that_no_prices_explain_leave_a_board_to_its_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Taken for better than they are, noisy measurements would lead its prices astray."""
    true = np.exp(START)
    clean = {
        f"board{n}": sample_of(counts(60, seed=n), counts(60, seed=n) @ true) for n in range(4)
    }
    seen, new = counts(25, seed=8), counts(40, seed=9)
    noise = np.exp(np.random.default_rng(4).normal(0, 0.3, 25))
    samples = {**clean, "noisy": sample_of(seen, seen @ true * noise)}

    def error() -> float:
        _, prices = fit_pool(samples, START, SPREAD)
        return float(np.std(np.log(new @ prices["noisy"] / (new @ true))))

    adapted = error()
    monkeypatch.setattr(pooled, "_MOST_RESIDUAL", 0.1)
    assert adapted < error() * 0.8
    assert adapted < 0.1


def test_every_kind_of_work_has_a_price() -> None:
    seen = counts(12)
    seen[:, 3] = 0.0
    _, prices = fit_pool({"board": sample_of(seen, seen @ np.exp(START))}, START, SPREAD)
    assert (prices["board"] > 0).all()
