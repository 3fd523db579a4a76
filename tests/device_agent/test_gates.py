from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_agent.gates import Verdict, judge
from edgekit_agent.live_stats import LatencyHistogram, LiveStats, read_stats
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import Gates
from edgekit_runtime.telemetry import FeatureCounts

LATENCIES = st.lists(st.floats(0.01, 1e5), min_size=1, max_size=200)


def stats(requests: int, *, errors: int = 0, insane: int = 0, latency_ms: float = 1.0) -> LiveStats:
    made = LiveStats(requests=requests, errors=errors, insane=insane)
    for _ in range(requests):
        made.latency.add(latency_ms)
    return made


@pytest.mark.parametrize(
    ("given_stats", "gates", "seconds", "verdict", "reason"),
    [
        (stats(0), Gates(min_seconds=0), 0.0, Verdict.PASSED, ""),
        (stats(0), Gates(min_seconds=5), 4.0, Verdict.PENDING, ""),
        (stats(9), Gates(min_seconds=0, min_requests=10), 9.0, Verdict.PENDING, ""),
        (stats(10), Gates(min_seconds=0, min_requests=10), 9.0, Verdict.PASSED, ""),
        (stats(9), Gates(min_requests=10, deadline_seconds=60), 60.0, Verdict.FAILED, "9 requests"),
        (stats(50, errors=1), Gates(), 0.0, Verdict.FAILED, "1 of 50 requests failed"),
        (stats(2, errors=1), Gates(min_requests=100), 0.0, Verdict.PENDING, ""),
        (stats(2, errors=2), Gates(min_requests=100), 0.0, Verdict.FAILED, "2 of 2"),
        (stats(1000, insane=1), Gates(), 0.0, Verdict.FAILED, "NaN or infinity"),
        (stats(50, latency_ms=9), Gates(max_p90_ms=5), 0.0, Verdict.FAILED, "90th percentile"),
        (stats(5, latency_ms=9), Gates(max_p90_ms=5), 0.0, Verdict.PENDING, ""),
        (stats(50, latency_ms=4), Gates(max_p90_ms=5), 99.0, Verdict.PASSED, ""),
        (stats(9, latency_ms=4), Gates(max_p90_ms=5), 99.0, Verdict.PENDING, ""),
        (stats(10, latency_ms=4), Gates(max_p90_ms=5), 99.0, Verdict.PASSED, ""),
        (stats(10, latency_ms=9), Gates(min_requests=2, max_p90_ms=5), 99.0, Verdict.FAILED, "p"),
        (stats(9), Gates(max_p90_ms=5, deadline_seconds=60), 60.0, Verdict.FAILED, "of the 10"),
    ],
)
def test_gates(
    given_stats: LiveStats, gates: Gates, seconds: float, verdict: Verdict, reason: str
) -> None:
    judgement = judge(given_stats, gates, seconds=seconds)
    assert judgement.verdict is verdict
    assert reason in judgement.reason


def test_a_request_that_is_being_computed_is_not_enough() -> None:
    """The latency that fails the gate is that of the request which is the last one needed."""
    gates = Gates(min_seconds=0, min_requests=10, max_p90_ms=5)
    slow = stats(9, latency_ms=9)
    slow.requests = 10
    assert judge(slow, gates, seconds=1.0).verdict is Verdict.PENDING
    slow.latency.add(9.0)
    assert judge(slow, gates, seconds=1.0).verdict is Verdict.FAILED
    # Nor are nine answers and an error: ten latencies were to be looked at.
    partly = stats(9, latency_ms=9)
    partly.requests, partly.errors = 10, 1
    allowing = Gates(min_seconds=0, min_requests=10, max_p90_ms=5, max_error_share=0.5)
    assert judge(partly, allowing, seconds=1.0).verdict is Verdict.PENDING
    assert judge(stats(10, latency_ms=9), allowing, seconds=1.0).verdict is Verdict.FAILED


def test_every_failing_gate_is_named() -> None:
    bad = stats(100, errors=50, insane=5, latency_ms=100)
    reason = judge(bad, Gates(max_p90_ms=1), seconds=0).reason
    assert [word in reason for word in ("failed", "NaN", "percentile")] == [True] * 3


@given(LATENCIES, st.floats(0.05, 0.95))
def test_quantiles_are_right_within_five_percent(latencies: list[float], share: float) -> None:
    histogram = LatencyHistogram()
    for latency in latencies:
        histogram.add(latency)
    exact = sorted(latencies)[max(0, -int(-share * len(latencies) // 1) - 1)]
    assert histogram.quantile_ms(share) == pytest.approx(exact, rel=0.051)


@given(LATENCIES, LATENCIES)
def test_merging_is_counting_together(one: list[float], two: list[float]) -> None:
    first, second, both = LiveStats(), LiveStats(), LiveStats()
    for made, latencies in ((first, one), (second, two), (both, one + two)):
        for latency in latencies:
            made.requests += 1
            made.latency.add(latency)
    first.merge(second)
    assert first == both
    assert first.latency.count == len(one) + len(two)


@given(LATENCIES, st.integers(0, 9))
def test_counters_travel_as_json(latencies: list[float], errors: int) -> None:
    made = LiveStats(requests=len(latencies), errors=errors)
    for latency in latencies:
        made.latency.add(latency)
    reader = FieldReader(json.loads(json.dumps(made.to_json())))
    assert read_stats(reader) == made
    assert reader.faults == []


@pytest.mark.parametrize("latency", [[1], [[1]], [["a", 1]], [[-1, 1]], [[9999, 1]]])
def test_broken_counters_are_faults(latency: object) -> None:
    reader = FieldReader({"requests": 1, "errors": 0, "insane": 0, "latency": latency})
    read_stats(reader)
    assert reader.faults


def features(counts: list[int]) -> dict[str, FeatureCounts]:
    return {"input:x": FeatureCounts(expected=(0.25,) * 4, counts=tuple(counts))}


@pytest.mark.parametrize(
    ("requests", "counts", "verdict"),
    [
        (199, [0, 0, 0, 199], Verdict.PENDING),
        (200, [50, 50, 50, 50], Verdict.PASSED),
        (200, [0, 0, 0, 200], Verdict.FAILED),
        # A shift as large as chance makes of so few requests.
        (200, [42, 58, 44, 56], Verdict.PASSED),
    ],
)
def test_drift_is_a_gate_as_soon_as_it_can_be_told(
    requests: int, counts: list[int], verdict: Verdict
) -> None:
    gates = Gates(min_seconds=0.0, max_psi=0.1)
    judgement = judge(stats(requests), gates, seconds=1.0, features=features(counts))
    assert judgement.verdict is verdict
    if verdict is Verdict.FAILED:
        assert "input:x has drifted" in judgement.reason
        assert "0.1 is allowed" in judgement.reason


def test_without_a_reference_there_is_no_drift_to_wait_for() -> None:
    gates = Gates(min_seconds=0.0, max_psi=0.1)
    assert judge(LiveStats(), gates, seconds=1.0, features={}).verdict is Verdict.PASSED
