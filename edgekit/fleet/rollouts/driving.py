"""Drive a rollout with everything that belongs to it: measurements, alarms, notices, labels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Final

from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.repositories import open_images
from edgekit.fleet.rollouts.engine import is_finished
from edgekit.fleet.rollouts.label_cache import CachedLabels, Labelling, OwnerLabels
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.runner import RolloutRunner, RunnerSettings
from edgekit.fleet.rollouts.state import Decision, RolloutState
from edgekit.fleet.rollouts.store import (
    RolloutFolder,
    RolloutStore,
    StaleRevisionError,
    StoredRollout,
)
from edgekit.fleet.telemetry.desk import open_desk
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.listener import FleetListener, Heard
from edgekit.fleet.telemetry.notices import Notice
from edgekit_runtime.errors import EnvironmentLackError, UsageError

OnDecision = Callable[[RolloutPlan, Decision], None]
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.05


def rollout_folder(fleet: Fleet) -> RolloutFolder:
    """Where a fleet's rollouts are kept."""
    return RolloutFolder(fleet.path / "rollouts")


def drive_rollout(
    fleet: Fleet,
    rollout: str,
    broker: BrokerAddress,
    *,
    goes_on: Callable[[], bool] = lambda: True,
    on_decision: OnDecision = lambda _plan, _decision: None,
    clock: Callable[[], float] = time.time,
    turn_seconds: float = 1.0,
    labels: Labelling | None = None,
) -> RolloutState:
    """Drive a rollout until it is finished, or `goes_on` says no; its state then.

    Killed at any instant and called again, it goes on where it was.

    Args:
        fleet: Whose.
        rollout: Its id.
        broker: Where the devices are.
        goes_on: Asked at every turn.
        on_decision: Told of every decision of the engine, when it is on the disk.
        clock: Seconds since 1970.
        turn_seconds: How long a turn listens.
        labels: The owner's labels of devices; by default those in the fleet's database.

    Raises:
        UsageError: If there is no such rollout, or `notices.toml` is invalid.
        EnvironmentLackError: If another process drives it, or no broker answers.
        VerificationError: If what is kept is damaged.
    """
    store = rollout_folder(fleet)
    with contextlib.ExitStack() as stack:
        store.load(rollout)
        stack.enter_context(store.driving(rollout))
        desk = stack.enter_context(open_desk(fleet, broker))
        listener = stack.enter_context(
            FleetListener(
                fleet.id, broker, name=f"edgekit-rollout-{fleet.id}-{rollout}", events=False
            )
        )

        def decided(plan: RolloutPlan, decision: Decision) -> None:
            desk.messenger.tell(decision_notice(fleet, plan, decision))
            on_decision(plan, decision)

        def take(messages: list[Heard]) -> None:
            _take(desk.ledger, listener, messages, clock())

        runner = RolloutRunner(
            fleet,
            store,
            rollout,
            listener=listener,
            broker=broker,
            settings=RunnerSettings(
                labels=labels or CachedLabels(partial(owner_labels, fleet)),
                health=desk.ledger.health,
                take_telemetry=take,
                on_decision=decided,
                clock=clock,
                turn_seconds=turn_seconds,
            ),
        )

        def still() -> bool:
            desk.alarms.turn(clock())
            return goes_on()

        state = runner.run(goes_on=still)
        if is_finished(state):
            # The broker would go on to keep everything that devices say for this rollout.
            listener.forget()
        return state


def owner_labels(fleet: Fleet) -> OwnerLabels:
    """The labels in a fleet's database; nothing where it has none yet."""
    from edgekit.fleet.store.database import DEFAULT_NAME

    if not (fleet.path / DEFAULT_NAME).is_file():
        return {}
    from edgekit.fleet.devices.inventory import Inventory
    from edgekit.fleet.store.database import open_fleet_database

    database = open_fleet_database(fleet)
    try:
        return Inventory(database, actor="rollout").owner_labels()
    finally:
        database.close()


def _take(ledger: Ledger, listener: FleetListener, messages: list[Heard], now: float) -> None:
    known = [
        (device, message.payload)
        for message in messages
        if (device := listener.topics.device_of(message.topic)) is not None
    ]
    ledger.take(known, now=now)
    for message in messages:
        message.done()


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


def is_driven(fleet: Fleet, rollout: str) -> bool:
    """Whether a process on this machine is driving a rollout."""
    try:
        with rollout_folder(fleet).driving(rollout):
            return False
    except EnvironmentLackError:
        return True


def require_released(fleet: Fleet, plan: RolloutPlan) -> None:
    """Go on only if the version may be installed at all.

    Raises:
        UsageError: If it is not released.
    """
    targets = open_images(fleet).published_targets().targets
    if plan.order.target_path not in targets:
        known = sorted({path.rpartition("/")[0].replace("/", "@") for path in targets})
        raise UsageError(
            f"{plan.bundle} {plan.version} is not released",
            fix=f"release it: edgekit release add; released are: {', '.join(known) or 'none'}",
        )


def _change_once(
    store: RolloutStore, rollout: str, decide: Callable[[RolloutPlan, RolloutState], RolloutState]
) -> StoredRollout:
    stored = store.load(rollout)
    state = decide(stored.plan, stored.state)
    revision = store.save(rollout, state, revision=stored.revision)
    return StoredRollout(plan=stored.plan, state=state, revision=revision)
