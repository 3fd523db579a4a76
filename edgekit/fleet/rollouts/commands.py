"""What people may do to a rollout. Pure; each gives the state with the decision on record."""

from __future__ import annotations

from dataclasses import replace

from edgekit.fleet.rollouts import engine
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.state import ENDED, Phase, RolloutState
from edgekit_runtime.errors import GateFailedError, UsageError


def approve(
    plan: RolloutPlan, state: RolloutState, *, who: str, now: float, stage: int | None = None
) -> RolloutState:
    """Approve a stage: the given one, or the next that needs it.

    Raises:
        GateFailedError: If it is the maker's own rollout.
        UsageError: If the rollout is over, or no stage needs approval.
    """
    _require_alive(plan, state)
    if who == plan.created_by:
        raise GateFailedError(
            f"{who} has made this rollout and cannot approve it",
            where=plan.id,
            fix="let a second person approve it",
        )
    waiting = [
        number
        for number, item in enumerate(plan.stages)
        if item.needs_approval and number not in state.approvals
    ]
    if stage is None and waiting:
        stage = waiting[0]
    if stage not in waiting:
        raise UsageError(
            "no stage waits for approval" if stage is None else "that stage waits for no approval",
            where=plan.id,
            fix=f"see: edgekit fleet rollout status {plan.id}",
        )
    approved = replace(state, approvals={**state.approvals, stage: who})
    return engine.decide(approved, who, f"approve stage {plan.stages[stage].name}", now)


def pause(
    plan: RolloutPlan, state: RolloutState, *, who: str, now: float, reason: str = ""
) -> RolloutState:
    """Tell no further device; those under way go on.

    Raises:
        UsageError: If the rollout does not run.
    """
    _require_alive(plan, state)
    if state.phase is not Phase.RUNNING:
        raise UsageError(
            f"the rollout is {state.phase.words}, not running",
            where=plan.id,
            fix=f"end it: edgekit fleet rollout abort {plan.id}",
        )
    return engine.pause(state, reason or f"paused by {who}", now, who=who)


def resume(
    plan: RolloutPlan, state: RolloutState, *, who: str, now: float, accept: bool = False
) -> RolloutState:
    """Go on after a pause.

    Args:
        plan: The plan.
        state: The state.
        who: Who decides.
        now: Seconds since 1970.
        accept: Overrule the criteria of the stages so far: they are not judged any more.

    Raises:
        UsageError: If the rollout is not paused.
    """
    _require_alive(plan, state)
    if state.phase is not Phase.PAUSED:
        raise UsageError(f"the rollout is {state.phase.words}, not paused", where=plan.id)
    resumed = replace(
        state,
        phase=Phase.RUNNING,
        reason="",
        # The time of the pause does not count against the stage's deadline.
        stage_since=now if state.stage_since else 0.0,
        accepted=state.accepted | set(range(state.stage + 1)) if accept else state.accepted,
    )
    what = "resume, and overrule the criteria" if accept else "resume"
    return engine.decide(resumed, who, what, now, state.reason)


def abort(
    plan: RolloutPlan, state: RolloutState, *, who: str, now: float, reason: str = ""
) -> RolloutState:
    """End the rollout where it stands: devices that were told keep what they were told.

    Raises:
        UsageError: If it is over already.
    """
    _require_alive(plan, state)
    aborted = replace(state, phase=Phase.ABORTED, reason=reason or f"aborted by {who}")
    return engine.decide(aborted, who, "abort", now, reason)


def stop(
    plan: RolloutPlan, state: RolloutState, *, who: str, now: float, reason: str = ""
) -> RolloutState:
    """Emergency stop: every device that was told goes back, at once.

    Also after the rollout was completed, which is when many an emergency is noticed.

    Raises:
        UsageError: If it was rolled back already.
    """
    if state.phase in (Phase.ROLLED_BACK, Phase.ROLLING_BACK):
        raise UsageError(
            f"the rollout is {state.phase.words} already",
            where=plan.id,
            fix=f"see: edgekit fleet rollout status {plan.id}",
        )
    return engine.roll_back(state, reason or f"stopped by {who}", now, who=who)


def _require_alive(plan: RolloutPlan, state: RolloutState) -> None:
    if state.phase in ENDED or state.phase is Phase.ROLLING_BACK:
        raise UsageError(
            f"the rollout is {state.phase.words}" + (f": {state.reason}" if state.reason else ""),
            where=plan.id,
            fix="make a new rollout",
        )
