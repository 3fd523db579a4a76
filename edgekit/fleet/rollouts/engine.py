"""The rollout engine: (plan, state, observations, now) -> (state, actions). Pure.

The rules:
 * The state is written down before an action is carried out, and actions follow from the state
   alone: after a restart the same actions come out again until it is seen that they were done.
 * An action names the order version that it takes the place of (`after`), so that carrying it
   out twice does nothing the second time.
 * A device is told something only in its turn, if it still matches the query, in an open window,
   while the rollout runs; a rollback waits for no window.
 * The group is fixed when the rollout begins. Devices that come later are not touched.
 * What somebody else has ordered for a device meanwhile stands: the device is left alone.
 * A stage is judged on its own devices; earlier stages stay under watch for harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.fleet.rollouts.devices import follow_devices
from edgekit.fleet.rollouts.judging import Judgement, Verdict, judge_stage
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.rollouts.observations import Observation, Observations
from edgekit.fleet.rollouts.plan import OnFailure, RolloutPlan
from edgekit.fleet.rollouts.selection import choose_members, stage_bounds
from edgekit.fleet.rollouts.state import (
    ENDED,
    KEPT_DECISIONS,
    MAX_REASON,
    SETTLED,
    UNSETTLED,
    Decision,
    DeviceProgress,
    Phase,
    RolloutState,
    Status,
)
from edgekit.fleet.rollouts.windows import is_open
from edgekit.wording import plural
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.reports import Phase as BundlePhase

ENGINE = "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Tell a device what to run of a bundle.

    Attributes:
        device: Which device.
        bundle: Which bundle.
        order: What to run of it; None to run it no more.
        after: Only if the device's order has this version still, or one more that
        expected: says the same of the bundle as before; None for nothing.
    """

    device: str
    bundle: str
    order: BundleOrder | None
    after: int
    expected: BundleOrder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the engine has decided."""

    state: RolloutState
    actions: tuple[Order, ...] = ()


def step(plan: RolloutPlan, state: RolloutState, observations: Observations, now: float) -> Step:
    """Decide what is to be done now.

    Args:
        plan: What was planned; always the same for a rollout.
        state: What the last step gave, or a new one.
        observations: By device; what is missing is waited for.
        now: Seconds since 1970; not before that of the last step.

    Returns:
        The state to write down, and then what to do. Nothing new comes of the same arguments
        with that state.
    """
    if state.phase is Phase.NEW:
        state = _begin(plan, state, observations, now)
    state = follow_devices(plan, state, observations, now)
    # Each turn begins a stage, ends one, or changes the phase: there are only so many.
    while True:
        advanced = _advance(plan, state, observations, now)
        if advanced is state:
            break
        state = follow_devices(plan, advanced, observations, now)
    return Step(state=state, actions=_actions(plan, state, now))


def is_finished(state: RolloutState) -> bool:
    """Whether nothing will come of any further step."""
    return state.phase in ENDED and not state.count(Status.ORDERING)


def decide(state: RolloutState, who: str, what: str, now: float, reason: str = "") -> RolloutState:
    """The state with one more decision on record."""
    decision = Decision(time=now, who=who, what=what, reason=reason)
    return replace(state, decisions=(*state.decisions, decision)[-KEPT_DECISIONS:])


def pause(state: RolloutState, reason: str, now: float, *, who: str = ENGINE) -> RolloutState:
    """The state with the rollout paused."""
    paused = replace(state, phase=Phase.PAUSED, reason=reason)
    return decide(paused, who, "pause", now, reason)


def roll_back(state: RolloutState, reason: str, now: float, *, who: str = ENGINE) -> RolloutState:
    """The state with the rollback begun: every device that was told goes back."""
    rolling = replace(state, phase=Phase.ROLLING_BACK, reason=reason)
    return decide(rolling, who, "rollback", now, reason)


def _begin(
    plan: RolloutPlan, state: RolloutState, observations: Observations, now: float
) -> RolloutState:
    if now < plan.not_before:
        return state
    if plan.stages[0].needs_approval and 0 not in state.approvals:
        return state
    labels = {name: seen.labels for name, seen in observations.items()}
    members = choose_members(plan.id, labels, parse_query(plan.query), plan.comparable_by)
    if not members:
        reason = f"no device matches {plan.query!r}" if plan.query else "no device is known"
        return decide(
            replace(state, phase=Phase.ABORTED, reason=reason), ENGINE, "abort", now, reason
        )
    begun = replace(state, phase=Phase.RUNNING, members=members)
    return decide(begun, ENGINE, "begin", now, plural(len(members), "device"))


def _advance(  # noqa: PLR0911 - one a way on
    plan: RolloutPlan, state: RolloutState, observations: Observations, now: float
) -> RolloutState:
    """One step on, or the very same state."""
    match state.phase:
        case Phase.RUNNING | Phase.PAUSED:
            judgement = _judge(plan, state, observations, now)
            if judgement is not None and judgement.verdict is Verdict.FAILED:
                return _fail(plan, state, judgement, now)
            if state.phase is Phase.PAUSED:
                return state
            if judgement is not None and judgement.verdict is Verdict.PASSED:
                return _pass(plan, state, judgement, now)
            late = _late(plan, state, judgement, now)
            return _tell(plan, state, observations, now) if late is None else late
        case Phase.ROLLING_BACK:
            waiting = (*SETTLED - {Status.SKIPPED, Status.OVERRIDDEN}, *UNSETTLED)
            if state.count(*waiting, Status.RESTORING, Status.RETURNING):
                return state
            stranded = state.count(Status.STRANDED)
            detail = plural(state.count(Status.RESTORED), "device is back", "devices are back") + (
                f", {plural(stranded, 'is not', 'are not')}" if stranded else ""
            )
            ended = replace(state, phase=Phase.ROLLED_BACK)
            return decide(ended, ENGINE, "rolled back", now, detail)
        case _:
            return state


def _judge(
    plan: RolloutPlan, state: RolloutState, observations: Observations, now: float
) -> Judgement | None:
    """The first failure of a stage so far; else the judgement of the present one, if it began."""
    if not state.stage_since and not state.stage:
        return None
    bounds = (0, *stage_bounds(plan.stages, len(state.members)))
    present: Judgement | None = None
    for stage in range(state.stage + 1):
        if stage == state.stage and not state.stage_since:
            return None
        judgement = judge_stage(
            plan, state, stage, observations, now, size=bounds[stage + 1] - bounds[stage]
        )
        if stage in state.accepted:
            settled = stage < state.stage or state.settled_since
            verdict = Verdict.PASSED if settled else Verdict.PENDING
            judgement = replace(judgement, verdict=verdict)
        if judgement.verdict is Verdict.FAILED:
            named = f"stage {plan.stages[stage].name}: " + "; ".join(judgement.reasons)
            return replace(judgement, reasons=(named,))
        present = judgement
    return present


def _fail(plan: RolloutPlan, state: RolloutState, judgement: Judgement, now: float) -> RolloutState:
    reason = judgement.reasons[0][: 4 * MAX_REASON]
    if plan.on_failure is OnFailure.ROLL_BACK:
        return roll_back(state, reason, now)
    return state if state.phase is Phase.PAUSED else pause(state, reason, now)


def _pass(plan: RolloutPlan, state: RolloutState, judgement: Judgement, now: float) -> RolloutState:
    name = plan.stages[state.stage].name
    running = state.count(Status.ACTIVE, stage=state.stage)
    detail = (
        f"{plural(running, 'device runs', 'devices run')} it, "
        f"{plural(judgement.health.requests, 'request')}"
    )
    passed = decide(state, ENGINE, f"stage {name} passed", now, detail)
    if state.stage + 1 == len(plan.stages):
        return decide(replace(passed, phase=Phase.COMPLETED), ENGINE, "complete", now)
    return replace(passed, stage=state.stage + 1, stage_since=0.0, settled_since=0.0)


def _late(
    plan: RolloutPlan, state: RolloutState, judgement: Judgement | None, now: float
) -> RolloutState | None:
    stage = plan.stages[state.stage]
    if (
        judgement is None
        or state.stage in state.accepted
        or now - state.stage_since < stage.criteria.deadline_seconds
    ):
        return None
    reason = (
        f"stage {stage.name} is not done after {stage.criteria.deadline_seconds:g} s; "
        f"it waits for: {'; '.join(judgement.reasons)}"
    )
    return pause(state, reason, now)


def _may_order(plan: RolloutPlan, state: RolloutState, now: float) -> bool:
    approved = not plan.stages[state.stage].needs_approval or state.stage in state.approvals
    return (
        state.phase is Phase.RUNNING
        and approved
        and now >= plan.not_before
        and is_open(plan.windows, now)
    )


def _tell(
    plan: RolloutPlan, state: RolloutState, observations: Observations, now: float
) -> RolloutState:
    """Choose the devices whose turn it is, and see whether all of the stage have settled."""
    before = state
    bound = stage_bounds(plan.stages, len(state.members))[state.stage]
    pending = [name for name in state.members[:bound] if name not in state.devices]
    if _may_order(plan, state, now):
        if not state.stage_since:
            state = replace(state, stage_since=now)
        if pending:
            state = _choose(plan, state, pending, observations, now)
    if (
        state.stage_since
        and not state.settled_since
        and not state.count(*UNSETTLED, stage=state.stage)
        and all(name in state.devices for name in pending)
    ):
        state = replace(state, settled_since=now)
    return before if state == before else state


def _choose(
    plan: RolloutPlan,
    state: RolloutState,
    pending: list[str],
    observations: Observations,
    now: float,
) -> RolloutState:
    query = parse_query(plan.query)
    room = len(pending)
    if plan.max_in_flight:
        room = max(0, plan.max_in_flight - state.count(*UNSETTLED))
    devices, befores = dict(state.devices), list(state.befores)
    for name in pending:
        seen = observations.get(name)
        if seen is None:
            continue
        skipped = _why_skipped(plan, seen, matches=query.matches(seen.labels))
        if skipped:
            devices[name] = DeviceProgress(
                stage=state.stage, status=Status.SKIPPED, since=now, reason=skipped
            )
            continue
        if room <= 0:
            break
        room -= 1
        devices[name] = DeviceProgress(
            stage=state.stage,
            status=Status.ORDERING,
            after=seen.order_version,
            before=_position(befores, _way_back(plan, seen)),
            told=now,
            since=now,
        )
    if len(devices) == len(state.devices):
        return state
    return replace(state, devices=devices, befores=tuple(befores))


def _why_skipped(plan: RolloutPlan, seen: Observation, *, matches: bool) -> str:
    if not matches:
        return "it does not match the query any more"
    runs_it = seen.phase is BundlePhase.ACTIVE and seen.active == plan.version
    if runs_it and seen.ordered is not None and seen.ordered.version == plan.version:
        return "it runs the version already"
    return ""


def _way_back(plan: RolloutPlan, seen: Observation) -> BundleOrder | None:
    """What to order if the device must go back: what it was told, or what it serves instead."""
    if seen.ordered is None or seen.ordered.version != plan.version:
        return seen.ordered
    if seen.active and seen.active != plan.version:
        return replace(seen.ordered, version=seen.active)
    return None


def _position(befores: list[BundleOrder], order: BundleOrder | None) -> int:
    if order is None:
        return -1
    if order not in befores:
        befores.append(order)
    return befores.index(order)


def _actions(plan: RolloutPlan, state: RolloutState, now: float) -> tuple[Order, ...]:
    actions: list[Order] = []
    tell = _may_order(plan, state, now)
    for name, device in state.devices.items():
        before = state.before(name)
        restoring = device.status is Status.RESTORING
        if restoring or (device.status is Status.ORDERING and tell):
            actions.append(
                Order(
                    device=name,
                    bundle=plan.bundle,
                    order=before if restoring else plan.order,
                    after=device.after,
                    expected=plan.order if restoring else before,
                )
            )
    return tuple(actions)
