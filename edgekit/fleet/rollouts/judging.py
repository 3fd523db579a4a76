"""How a stage does, by what its devices report. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from edgekit.fleet.rollouts.observations import UNSEEN, Health, Observations, merge_health
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan
from edgekit.fleet.rollouts.state import RolloutState, Status
from edgekit.fleet.telemetry.drift import drifted

# A 90th percentile of fewer answers says nothing.
LEAST_LATENCIES = 20
_NAMED_FEATURES = 5


class Verdict(StrEnum):
    """What the criteria say so far."""

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict.

    Attributes:
        verdict: Of all criteria together.
        reasons: What is wrong; or else what is still waited for.
        health: What the stage's devices report together.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    health: Health


def judge_stage(
    plan: RolloutPlan,
    state: RolloutState,
    stage: int,
    observations: Observations,
    now: float,
    *,
    size: int,
) -> Judgement:
    """Judge one stage.

    Args:
        plan: What was planned.
        state: Where the rollout stands.
        stage: Which stage, the present or an earlier one.
        observations: What is seen of the devices.
        now: Seconds since 1970.
        size: How many devices the stage adds.
    """
    criteria = plan.stages[stage].criteria
    names = [name for name, device in state.devices.items() if device.stage == stage]
    health = merge_health(
        health for name in names if (health := observations.get(name, UNSEEN).health)
    )
    counts = dict.fromkeys(Status, 0)
    for name in names:
        counts[state.devices[name].status] += 1
    told = sum(counts.values()) - counts[Status.SKIPPED] - counts[Status.OVERRIDDEN]
    settled = bool(stage < state.stage or state.settled_since)
    expected = told if settled else max(told, size - counts[Status.SKIPPED])
    reasons = harm(criteria, health, accepted_drift=plan.accepted_drift)
    failed = counts[Status.FAILED]
    if failed > criteria.max_failed_share * expected:
        why = _first_reason(state, stage)
        reasons.append(
            f"{failed} of {expected} devices refused the version or rolled it back, "
            f"{criteria.max_failed_share:.4g} of them may" + (f"; one says: {why}" if why else "")
        )
    installed = counts[Status.ACTIVE]
    if settled and stage == state.stage and installed < criteria.min_installed_share * told:
        reasons.append(
            f"{installed} of {told} devices run the version, {criteria.min_installed_share:.4g} "
            f"of them must ({counts[Status.VANISHED]} did not answer in time)"
        )
    if reasons:
        return Judgement(verdict=Verdict.FAILED, reasons=tuple(reasons), health=health)
    waiting = _waiting(criteria, state, health, now, settled=settled) if told or not settled else []
    return Judgement(
        verdict=Verdict.PENDING if waiting else Verdict.PASSED,
        reasons=tuple(waiting),
        health=health,
    )


def harm(criteria: Criteria, health: Health, *, accepted_drift: Sequence[str] = ()) -> list[str]:
    """What is wrong with a version in live use, one sentence each; nothing if it does well."""
    base = max(health.requests, criteria.min_requests)
    faults = []
    if health.errors > criteria.max_error_share * base:
        faults.append(
            f"{health.errors} of {health.requests} requests failed, "
            f"a share of {criteria.max_error_share:g} is allowed"
        )
    if health.insane > criteria.max_insane_share * base:
        faults.append(
            f"{health.insane} of {health.requests} answers held NaN or infinity, "
            f"a share of {criteria.max_insane_share:g} is allowed"
        )
    enough = health.latency.count >= max(LEAST_LATENCIES, criteria.min_requests)
    p90_ms = health.latency.quantile_ms(0.9) if criteria.max_p90_ms and enough else 0.0
    if p90_ms > criteria.max_p90_ms:
        faults.append(
            f"the 90th percentile of its latency is {p90_ms:.3g} ms, "
            f"{criteria.max_p90_ms:g} ms are allowed"
        )
    if criteria.max_drift:
        live = {name: bins for name, bins in health.drift.items() if name not in accepted_drift}
        found = drifted(live, limit=criteria.max_drift)
        if found:
            named = ", ".join(
                f"{n} ({psi:.2f})" for n, psi in list(found.items())[:_NAMED_FEATURES]
            )
            more = len(found) - _NAMED_FEATURES
            faults.append(
                f"the data has drifted from the reference beyond {criteria.max_drift:g}: {named}"
                + (f" and {more} more" if more > 0 else "")
            )
    if (
        criteria.min_accuracy
        and health.feedback >= criteria.min_feedback
        and health.right < criteria.min_accuracy * health.feedback
    ):
        faults.append(
            f"{health.right} of {health.feedback} answers with feedback were right, "
            f"a share of {criteria.min_accuracy:g} is needed"
        )
    return faults


def _waiting(
    criteria: Criteria, state: RolloutState, health: Health, now: float, *, settled: bool
) -> list[str]:
    waiting = []
    if not settled:
        waiting.append("not every device has settled")
    elif now - state.settled_since < criteria.min_seconds:
        left = criteria.min_seconds - (now - state.settled_since)
        waiting.append(f"{left:.0f} s more to watch")
    if health.requests < criteria.min_requests:
        waiting.append(f"{health.requests} of {criteria.min_requests} requests")
    if criteria.min_accuracy and health.feedback < criteria.min_feedback:
        waiting.append(f"{health.feedback} of {criteria.min_feedback} answers with feedback")
    return waiting


def _first_reason(state: RolloutState, stage: int) -> str:
    return next(
        (
            device.reason
            for device in state.devices.values()
            if device.stage == stage and device.status is Status.FAILED and device.reason
        ),
        "",
    )
