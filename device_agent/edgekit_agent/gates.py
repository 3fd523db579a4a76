"""Do live statistics satisfy an order's gates? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edgekit_agent.live_stats import LiveStats
from edgekit_agent.telemetry.watching import LEAST_REQUESTS, measure_drift
from edgekit_runtime.orders import Gates
from edgekit_runtime.telemetry import FeatureCounts

# A 90th percentile of fewer answers says nothing.
LEAST_LATENCIES: Final = 10


class Verdict(StrEnum):
    """What the gates say so far."""

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict, and for people why."""

    verdict: Verdict
    reason: str = ""


def judge(
    stats: LiveStats,
    gates: Gates,
    *,
    seconds: float,
    features: Mapping[str, FeatureCounts] | None = None,
) -> Judgement:
    """Judge a candidate in live use.

    A share is judged against the number of requests that the gates wait for, or those answered
    if more: one error among the first two requests does not fail a candidate that may have one
    in a hundred, if it has to answer a hundred anyway.

    Args:
        stats: Since the candidate went live.
        gates: What must hold.
        seconds: Since the candidate went live.
        features: Its inputs and outputs in the bins of the reference; None where there is none.
    """
    # What is still being computed may be what takes long: only what has ended is enough.
    answered = stats.ended().requests
    base = max(stats.requests, gates.min_requests)
    faults = []
    if stats.errors > gates.max_error_share * base:
        faults.append(
            f"{stats.errors} of {stats.requests} requests failed; "
            f"a share of {gates.max_error_share:g} is allowed"
        )
    if stats.insane > gates.max_insane_share * base:
        faults.append(
            f"{stats.insane} of {stats.requests} answers held NaN or infinity; "
            f"a share of {gates.max_insane_share:g} is allowed"
        )
    # A limit that is set is looked at, and not only if so many happen to come.
    needed = max(
        gates.min_requests,
        LEAST_REQUESTS if gates.max_psi and features else 0,
        LEAST_LATENCIES + stats.errors if gates.max_p90_ms else 0,
    )
    enough = answered >= needed and seconds >= gates.min_seconds
    if answered >= max(1, gates.min_requests):
        faults += [
            f"{counts.nonfinite_share:.3g} of the values of {name} are NaN or infinity; "
            f"a share of {gates.max_nonfinite_share:g} is allowed"
            for name, counts in (features or {}).items()
            if counts.nonfinite_share > gates.max_nonfinite_share
        ]
    p90_ms = stats.latency.quantile_ms(0.9)
    if (
        gates.max_p90_ms
        and answered >= gates.min_requests
        and stats.latency.count >= LEAST_LATENCIES
        and p90_ms > gates.max_p90_ms
    ):
        faults.append(
            f"the 90th percentile of its latency is {p90_ms:.3g} ms; "
            f"{gates.max_p90_ms:g} ms are allowed"
        )
    if gates.max_psi and answered >= max(LEAST_REQUESTS, gates.min_requests):
        drifts = measure_drift(features or {}, requests=stats.requests, limit=gates.max_psi)
        faults += [
            f"{name} has drifted: its PSI is {drift.psi:.2f}; {gates.max_psi:g} is allowed"
            for name, drift in drifts.items()
            if drift.drifted
        ]
    if faults:
        return Judgement(verdict=Verdict.FAILED, reason="; ".join(faults))
    if enough:
        return Judgement(verdict=Verdict.PASSED)
    if seconds >= gates.deadline_seconds:
        return Judgement(
            verdict=Verdict.FAILED,
            reason=f"it answered {answered} requests of the {needed} needed "
            f"within {gates.deadline_seconds:g} s",
        )
    return Judgement(verdict=Verdict.PENDING)
