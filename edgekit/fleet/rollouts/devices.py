"""What a rollout learns of each device from what is seen of it. Pure."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from edgekit.fleet.rollouts.observations import UNSEEN, Observation, Observations
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.state import (
    MAX_REASON,
    DeviceProgress,
    Phase,
    RolloutState,
    Status,
)
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.reports import Phase as BundlePhase

_REFUSED = (BundlePhase.REJECTED, BundlePhase.ROLLED_BACK)


class Fate(Enum):
    """What has become of an intent to order something."""

    OPEN = auto()
    DONE = auto()
    OVERTAKEN = auto()


def fate_of(
    *,
    after: int,
    expected: BundleOrder | None,
    wanted: BundleOrder | None,
    order_version: int,
    ordered: BundleOrder | None,
) -> Fate:
    """Whether an order is still to be made; the same answer for whoever looks.

    Args:
        after: The device's order version when the intent was written down.
        expected: What it was told of the bundle then.
        wanted: What it is to be told; None to run the bundle no more.
        order_version: The device's order version now.
        ordered: What it is told of the bundle now.
    """
    if order_version <= after:
        return Fate.OPEN
    if ordered == wanted:
        return Fate.DONE
    # One newer order that says the same of this bundle is not ours: its other bundles have
    # changed. Of two, one may have been ours, and taken back by the other: that stands.
    return Fate.OPEN if ordered == expected and order_version == after + 1 else Fate.OVERTAKEN


def follow_devices(
    plan: RolloutPlan, state: RolloutState, observations: Observations, now: float
) -> RolloutState:
    """The state with what is seen of its devices; the very same state if that is nothing new."""
    changed: dict[str, DeviceProgress] = {}
    back = state.phase is Phase.ROLLING_BACK
    ended = state.phase is Phase.ABORTED
    for name, device in state.devices.items():
        seen = observations.get(name, UNSEEN)
        after = device
        # A device may take several steps at once, where the world has gone on unseen.
        while True:
            before = after
            after = _next(plan, state, after, seen, now, back=back, ended=ended)
            if after is before:
                break
        if after is not device:
            changed[name] = after
    if not changed:
        return state
    return replace(state, devices={**state.devices, **changed})


def _next(  # noqa: PLR0911 - one a status
    plan: RolloutPlan,
    state: RolloutState,
    device: DeviceProgress,
    seen: Observation,
    now: float,
    *,
    back: bool,
    ended: bool,
) -> DeviceProgress:
    before = state.befores[device.before] if device.before >= 0 else None
    match device.status:
        case Status.ORDERING:
            return _resolve(
                device, seen, now, expected=before, wanted=plan.order, give_up=back or ended
            )
        case Status.ORDERED | Status.VANISHED | Status.ACTIVE | Status.FAILED:
            if ended:
                return device
            if seen.order_version > device.after and seen.ordered != plan.order:
                return _overridden(device, seen, now)
            if back:
                if seen.order_version < device.after:
                    return device
                return replace(
                    device,
                    status=Status.RESTORING,
                    after=seen.order_version,
                    since=now,
                )
            return _settle(plan, device, seen, now)
        case Status.RESTORING:
            return _resolve(device, seen, now, expected=plan.order, wanted=before, give_up=False)
        case Status.RETURNING | Status.STRANDED:
            return _return(plan, device, seen, now, before)
        case Status.SKIPPED | Status.OVERRIDDEN | Status.RESTORED:
            return device


def _resolve(
    device: DeviceProgress,
    seen: Observation,
    now: float,
    *,
    expected: BundleOrder | None,
    wanted: BundleOrder | None,
    give_up: bool,
) -> DeviceProgress:
    fate = fate_of(
        after=device.after,
        expected=expected,
        wanted=wanted,
        order_version=seen.order_version,
        ordered=seen.ordered,
    )
    if fate is Fate.DONE:
        done = Status.ORDERED if device.status is Status.ORDERING else Status.RETURNING
        return replace(device, status=done, after=seen.order_version, since=now)
    if fate is Fate.OVERTAKEN:
        return _overridden(device, seen, now)
    if give_up and (seen.order_version >= device.after):
        return replace(
            device, status=Status.SKIPPED, since=now, reason="its turn came when it was over"
        )
    return device


def _settle(
    plan: RolloutPlan, device: DeviceProgress, seen: Observation, now: float
) -> DeviceProgress:
    answered = seen.follows >= device.after
    runs_it = seen.phase is BundlePhase.ACTIVE and seen.active == plan.version
    refused = seen.phase in _REFUSED and seen.active != plan.version
    if answered and refused and device.status is not Status.FAILED:
        reason = seen.reason[:MAX_REASON] or f"it is {seen.phase.value}"
        return replace(device, status=Status.FAILED, since=now, reason=reason)
    if answered and runs_it and device.status in (Status.ORDERED, Status.VANISHED):
        return replace(device, status=Status.ACTIVE, since=now, reason="")
    if device.status is Status.ORDERED and now - device.since >= plan.device_timeout_seconds:
        reason = f"no answer within {plan.device_timeout_seconds:g} s"
        if answered and seen.reason:
            reason += f"; it is {seen.phase.value}: {seen.reason}"
        return replace(device, status=Status.VANISHED, since=now, reason=reason[:MAX_REASON])
    return device


def _return(
    plan: RolloutPlan,
    device: DeviceProgress,
    seen: Observation,
    now: float,
    before: BundleOrder | None,
) -> DeviceProgress:
    if seen.order_version > device.after and seen.ordered != before:
        return _overridden(device, seen, now)
    if seen.follows >= device.after:
        gone = before is None and not seen.active
        if gone or (
            before is not None
            and seen.phase is BundlePhase.ACTIVE
            and seen.active == before.version
        ):
            return replace(device, status=Status.RESTORED, since=now)
        if seen.phase in _REFUSED and device.status is Status.RETURNING:
            reason = f"it refused to go back: {seen.reason}"[:MAX_REASON]
            return replace(device, status=Status.STRANDED, since=now, reason=reason)
    late = now - device.since >= plan.device_timeout_seconds
    if late and device.status is Status.RETURNING:
        reason = f"no answer within {plan.device_timeout_seconds:g} s"
        return replace(device, status=Status.STRANDED, since=now, reason=reason)
    return device


def _overridden(device: DeviceProgress, seen: Observation, now: float) -> DeviceProgress:
    told = seen.ordered.version if seen.ordered else "to run the bundle no more"
    return replace(
        device,
        status=Status.OVERRIDDEN,
        since=now,
        reason=f"somebody else has told it: {told}",
    )
