"""Routes of rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter

from edgekit.fleet.access import Access
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.forms import Newest, Reason, Resumption, RolloutForm, RolloutId
from edgekit.fleet.api.security import Operator, Plane, ReleaseManager, Viewer
from edgekit.fleet.api.sight import Sight
from edgekit.fleet.rollouts import commands
from edgekit.fleet.rollouts.plan import FORMAT, FORMAT_VERSION, RolloutPlan, plan_from_json
from edgekit.fleet.rollouts.state import RolloutState
from edgekit.fleet.rollouts.store import StaleRevisionError, StoredRollout

router = APIRouter(prefix="/rollouts", tags=["rollouts"])

_ATTEMPTS: Final = 5
_Change = Callable[[RolloutPlan, RolloutState], RolloutState]


@router.get("")
def list_rollouts(plane: Plane, access: Viewer, limit: Newest = 50) -> list[dict[str, Any]]:
    """The newest rollouts first."""
    sight = Sight(plane, access)
    return [summary(sight.rollout(stored)) for stored in plane.rollouts.all(newest=limit)]


@router.post("", status_code=201)
def create(plane: Plane, access: ReleaseManager, form: RolloutForm) -> dict[str, Any]:
    """Make a rollout; it begins by itself, in its windows and after its approvals."""
    made = {"created_by": access.name, "created": plane.now}
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    plan = plan_from_json(head | form.plan | made, where="the request")
    plane.require_installable(plan.bundle, plan.version)
    plane.rollouts.create(plan)
    return summary(plane.rollouts.load(plan.id))


@router.get("/{rollout}")
def show(plane: Plane, access: Viewer, rollout: RolloutId) -> dict[str, Any]:
    """A rollout with its plan, its decisions, and each device; a viewer sees pseudonyms."""
    stored = Sight(plane, access).rollout(plane.rollouts.load(rollout))
    return summary(stored) | {
        "plan": stored.plan.to_json(),
        "decisions": [
            {"time": d.time, "who": d.who, "what": d.what, "reason": d.reason}
            for d in stored.state.decisions
        ],
        "devices": {
            name: {
                "stage": device.stage,
                "status": device.status.value,
                "since": device.since,
                "reason": device.reason,
            }
            for name, device in stored.state.devices.items()
        },
    }


@router.post("/{rollout}/pause")
def pause(plane: Plane, access: Operator, rollout: RolloutId, form: Reason) -> dict[str, Any]:
    """Tell no further device; those under way go on."""
    return _decide(
        plane,
        rollout,
        lambda plan, state: commands.pause(
            plan, state, who=access.name, now=plane.now, reason=form.reason
        ),
    )


@router.post("/{rollout}/resume")
def resume(
    plane: Plane, access: ReleaseManager, rollout: RolloutId, form: Resumption
) -> dict[str, Any]:
    """Go on after a pause; may overrule the criteria of the stages so far."""
    return _decide(
        plane,
        rollout,
        lambda plan, state: commands.resume(
            plan, state, who=access.name, now=plane.now, accept=form.accept
        ),
    )


@router.post("/{rollout}/abort")
def abort(plane: Plane, access: ReleaseManager, rollout: RolloutId, form: Reason) -> dict[str, Any]:
    """End the rollout where it stands: devices keep what they were told."""
    return _decide(
        plane,
        rollout,
        lambda plan, state: commands.abort(
            plan, state, who=access.name, now=plane.now, reason=form.reason
        ),
    )


@router.post("/{rollout}/stop")
def stop(plane: Plane, access: Operator, rollout: RolloutId, form: Reason) -> dict[str, Any]:
    """Emergency stop: every device that was told goes back, at once."""
    return _decide(
        plane,
        rollout,
        lambda plan, state: commands.stop(
            plan, state, who=access.name, now=plane.now, reason=form.reason
        ),
    )


@router.post("/{rollout}/approval")
def approve(plane: Plane, access: ReleaseManager, rollout: RolloutId) -> dict[str, Any]:
    """Approve the next stage that needs it; nobody approves their own rollout."""
    return _decide(
        plane,
        rollout,
        lambda plan, state: commands.approve(plan, state, who=access.name, now=plane.now),
    )


def act(plane: ControlPlane, access: Access, rollout: str, action: str) -> None:
    """What a button of the page does."""
    {"pause": pause, "stop": stop}[action](plane, access, rollout, Reason(reason=""))


def summary(stored: StoredRollout) -> dict[str, Any]:
    """A rollout in a few figures."""
    plan, state = stored.plan, stored.state
    counts = Counter(device.status.value for device in state.devices.values())
    stage = plan.stages[min(state.stage, len(plan.stages) - 1)]
    return {
        "id": plan.id,
        "bundle": plan.bundle,
        "version": plan.version,
        "query": plan.query,
        "phase": state.phase.value,
        "reason": state.reason,
        "stage": stage.name,
        "stages": [item.name for item in plan.stages],
        "created": plan.created,
        "created_by": plan.created_by,
        "revision": stored.revision,
        "members": len(state.members),
        "statuses": dict(sorted(counts.items())),
    }


def _decide(plane: ControlPlane, rollout: str, change: _Change) -> dict[str, Any]:
    store = plane.rollouts
    for attempt in range(_ATTEMPTS):
        stored = store.load(rollout)
        state = change(stored.plan, stored.state)
        try:
            revision = store.save(rollout, state, revision=stored.revision)
        except StaleRevisionError:
            # The engine was quicker; it writes once a second at most.
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        break
    return summary(StoredRollout(plan=stored.plan, state=state, revision=revision))
