"""A regression is what the statistics of both runs say, not two single numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit_benchmarks.bench import ModelBench, run_bench
from edgekit_benchmarks.gates import compare_with_baseline
from edgekit_benchmarks.latency import LatencyStatistics, describe_latencies
from edgekit_benchmarks.plan import Plan
from edgekit_benchmarks.results import RecordedRun
from runtime.models import linear_model


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> ModelBench:
    model = linear_model(tmp_path_factory.mktemp("gates") / "linear.onnx")
    return run_bench([model], Plan(runs=1, min_seconds=0.0)).models[0]


def latencies(median: float, runs: int, seed: int) -> LatencyStatistics:
    generator = np.random.default_rng(seed)
    return describe_latencies(list(generator.lognormal(np.log(median), 0.2, runs)))


def now(bench: ModelBench, latency: LatencyStatistics) -> ModelBench:
    return replace(bench, measurements=(replace(bench.measurements[0], latency=latency),))


def before(bench: ModelBench, latency: LatencyStatistics, **change: object) -> RecordedRun:
    measurement = bench.measurements[0]
    fields = {
        "model": measurement.model,
        "sha256": measurement.sha256,
        "runtime": measurement.runtime,
        "runtime_version": measurement.runtime_version,
        "threads": measurement.threads,
        "reference_kernels": measurement.reference_kernels,
        "provider": measurement.provider,
        "runs": latency.runs,
        "median_ms": latency.median_ms,
        "median_low_ms": latency.median_low_ms,
        "median_high_ms": latency.median_high_ms,
        "p99_ms": latency.p99_ms,
        "peak_bytes": None,
        "board": None,
        "measured_at": "2026-01-02T03:04:05+00:00",
        "counts": None,
        **change,
    }
    return RecordedRun(**fields)  # type: ignore[arg-type]


def failures(bench: ModelBench, factor: float, runs: int, share: float = 0.1) -> float:
    """How many of a hundred comparisons fail where the true median grew by a factor."""
    failed = 0
    for seed in range(100):
        old = before(bench, latencies(1.0, runs, seed))
        new = now(bench, latencies(factor, runs, seed + 1000))
        (verdict,) = compare_with_baseline([new], [old], most_regression=share)
        failed += not verdict.passed
    return failed


def test_chance_does_not_fail_a_model(measured: ModelBench) -> None:
    assert failures(measured, 1.0, runs=50) == 0
    assert failures(measured, 1.1, runs=50) <= 3


def test_a_real_regression_fails_it(measured: ModelBench) -> None:
    assert failures(measured, 1.3, runs=200) >= 97
    # With few runs it takes more to be sure.
    assert failures(measured, 1.3, runs=10) < 60


def test_what_else_changed_is_said(measured: ModelBench) -> None:
    same = latencies(1.0, 50, 0)
    old = before(measured, same, sha256="0" * 64, runtime_version="0.1")
    (verdict,) = compare_with_baseline([now(measured, same)], [old], most_regression=0.1)
    assert verdict.passed
    assert "the file is another one than before" in verdict.reason
    assert "onnxruntime was 0.1" in verdict.reason
    assert "+0.0%" in verdict.reason
