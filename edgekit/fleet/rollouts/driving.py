"""What people and notices need of a rollout: to change it, and to say what was decided."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from edgekit.fleet.folder import Fleet
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.state import Decision, RolloutState
from edgekit.fleet.rollouts.store import RolloutStore, StaleRevisionError, StoredRollout
from edgekit.fleet.telemetry.notices import Notice

OnDecision = Callable[[RolloutPlan, Decision], None]
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.05


def decision_notice(fleet: Fleet, plan: RolloutPlan, decision: Decision) -> Notice:
    """What others are told of a rollout's decision."""
    words = f"rollout {plan.id} of {plan.bundle} {plan.version}: {decision.what}"
    return Notice(
        kind="rollout." + decision.what.split()[0],
        fleet=fleet.id,
        time=decision.time,
        text=words + (f", {decision.reason}" if decision.reason else ""),
        data={"rollout": plan.id, "bundle": plan.bundle, "version": plan.version}
        | asdict(decision),
    )


def change_rollout(
    store: RolloutStore, rollout: str, decide: Callable[[RolloutPlan, RolloutState], RolloutState]
) -> StoredRollout:
    """Change a rollout as a person wants, also while it is being driven; the rollout then.

    Raises:
        UsageError: If there is no such rollout, or `decide` says no.
        StaleRevisionError: If it changes faster than it can be read.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(StaleRevisionError):
            return _change_once(store, rollout, decide)
        time.sleep(_PAUSE_SECONDS)
    return _change_once(store, rollout, decide)


def _change_once(
    store: RolloutStore, rollout: str, decide: Callable[[RolloutPlan, RolloutState], RolloutState]
) -> StoredRollout:
    stored = store.load(rollout)
    state = decide(stored.plan, stored.state)
    revision = store.save(rollout, state, revision=stored.revision)
    return StoredRollout(plan=stored.plan, state=state, revision=revision)
