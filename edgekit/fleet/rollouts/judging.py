"""How a stage does, by what its devices report. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgekit.fleet.rollouts.observations import UNSEEN, HealthKeeper, Observations
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan
from edgekit.fleet.rollouts.state import RolloutState, Status
from edgekit.fleet.telemetry.health import Health, Limits, find_faults, merge_health


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
    health = _together(observations, stage, names)
    counts = dict.fromkeys(Status, 0)
    for name in names:
        counts[state.devices[name].status] += 1
    told = sum(counts.values()) - counts[Status.SKIPPED] - counts[Status.OVERRIDDEN]
    settled = bool(stage < state.stage or state.settled_since)
    expected = told if settled else max(told, size - counts[Status.SKIPPED])
    reasons = [fault.text for fault in find_faults(limits_of(plan, criteria), health)]
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


def _together(observations: Observations, stage: int, names: list[str]) -> Health:
    if isinstance(observations, HealthKeeper):
        return observations.stage_health(stage, names)
    return merge_health(
        health for name in names if (health := observations.get(name, UNSEEN).health)
    )


def limits_of(plan: RolloutPlan, criteria: Criteria) -> Limits:
    """What a stage's criteria demand of the version in live use."""
    return Limits(
        min_requests=criteria.min_requests,
        max_error_share=criteria.max_error_share,
        max_insane_share=criteria.max_insane_share,
        max_p90_ms=criteria.max_p90_ms,
        max_drift=criteria.max_drift,
        min_accuracy=criteria.min_accuracy,
        min_feedback=criteria.min_feedback,
        accepted_drift=plan.accepted_drift,
    )


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
