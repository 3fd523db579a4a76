"""Drives a rollout: looks at the fleet, asks the engine, writes its state, carries it out.

It may be killed at any instant, and started again here or elsewhere with the same store: the
state is on the disk before anything is signed, what is signed is not signed twice, and what may
have been signed and not sent is sent again at the start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.rollouts import engine
from edgekit.fleet.rollouts.engine import Order, is_finished, step
from edgekit.fleet.rollouts.fleet_view import FleetView
from edgekit.fleet.rollouts.label_cache import Labelling, OwnerLabels
from edgekit.fleet.rollouts.observations import UNSEEN, Observation
from edgekit.fleet.rollouts.order_book import OrderBook
from edgekit.fleet.rollouts.plan import RolloutPlan
from edgekit.fleet.rollouts.state import Decision, DeviceProgress, Phase, RolloutState, Status
from edgekit.fleet.rollouts.store import RolloutStore, StaleRevisionError, StoredRollout
from edgekit.fleet.telemetry.health import Health, HealthSum
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.reports import BundleState, DeviceState

_log = logging.getLogger(__name__)

HealthOf = Callable[[str, str, str, float], Health | None]

_ON_THE_WAY: Final = (Status.ORDERING, Status.ORDERED, Status.RESTORING, Status.RETURNING)
_AWAITED: Final = (Status.ORDERED, Status.VANISHED, Status.RETURNING, Status.STRANDED)
# The broker sends retained states at once; when none has come for so long, all are here.
_QUIET_SECONDS: Final = 0.5
_MOST_SETTLING_SECONDS: Final = 30.0
_ASK_AGAIN_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 10.0
_ASKED_AT_ONCE: Final = 1_000
_RETRY_SECONDS: Final = 5.0
# Of a turn's own time: looking takes at most a tenth of a processor, however many devices.
_REST: Final = 9.0
# What others may have changed, orders and measurements, is looked at in turn.
_LOOKS_PER_SECOND: Final = 500
_NO_STATE: Final = BundleState()
_NOTHING: Final[Mapping[str, str]] = {}


def _no_labels() -> OwnerLabels:
    return {}


def _no_health(_device: str, _bundle: str, _version: str, _since: float) -> Health | None:
    return None


def _no_decision(_plan: RolloutPlan, _decision: Decision) -> None:
    return


class Ear(Protocol):
    """Whoever hears the devices: see `FleetListener`."""

    @property
    def connections(self) -> int:
        """How often a connection to the broker was made."""
        ...

    def ask_states(self, devices: Iterable[str]) -> None:
        """Have the broker send the states of these devices again."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """What a runner works with, beside the fleet.

    Attributes:
        wait: Lets a time pass, in seconds, in which devices are heard; or less.
        labels: The owner's labels of devices.
        health: What a device reports of a version since a moment: device, bundle, version, since.
        on_decision: Told of every decision of the engine, after it was written down.
        clock: Seconds since 1970.
        turn_seconds: How long to wait between two turns.
    """

    wait: Callable[[float], object] = time.sleep
    labels: Labelling = _no_labels
    health: HealthOf = _no_health
    on_decision: Callable[[RolloutPlan, Decision], None] = _no_decision
    clock: Callable[[], float] = time.time
    turn_seconds: float = 1.0


@dataclass(slots=True)
class _Look:
    """What was seen of a device, and from what; it is seen anew where that has changed."""

    at: float
    heard: DeviceState | None
    owner: Mapping[str, str]
    progress: DeviceProgress | None
    seen: Observation


@dataclass(kw_only=True)
class _Looking:
    """What a runner remembers of its looking; all of it can be lost."""

    owner: OwnerLabels = field(default_factory=dict)
    looks: dict[str, _Look] = field(default_factory=dict)
    sums: dict[int, HealthSum] = field(default_factory=dict)
    asked: float = 0.0
    position: int = 0
    connections: int = 0


class RolloutRunner:
    """Drives one rollout to its end.

    Args:
        fleet: Whose.
        store: Where the rollout is kept.
        rollout: Its id.
        view: What the devices say; somebody else fills it.
        ear: Hears them.
        broker: Where orders are published.
        settings: See there.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: RolloutStore,
        rollout: str,
        *,
        view: FleetView,
        ear: Ear,
        broker: BrokerAddress,
        settings: RunnerSettings | None = None,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._rollout = rollout
        self._ear = ear
        self._broker = broker
        self._settings = settings or RunnerSettings()
        self._view = view
        self._book = OrderBook(fleet)
        self._stored = store.load(rollout)
        self._looking = _Looking(connections=ear.connections)
        # Whatever was signed before may not have been sent.
        self._must_send_again = True

    @property
    def stored(self) -> StoredRollout:
        """The rollout as it stands."""
        return self._stored

    def run(self, *, goes_on: Callable[[], bool] = lambda: True) -> RolloutState:
        """Drive the rollout until it is finished, or `goes_on` says no; its state then."""
        self._settle(goes_on)
        while goes_on():
            began = time.thread_time()
            try:
                self.turn()
            except EnvironmentLackError as error:
                # A disk that is full, a database that is away: nothing was decided, try again.
                _log.warning("nothing can be decided: %s", error)
                self._settings.wait(_RETRY_SECONDS)
            if is_finished(self._stored.state):
                break
            # With many devices a turn takes long: looking must not be all that we do.
            spent = time.thread_time() - began
            self._settings.wait(max(self._settings.turn_seconds, _REST * spent))
        return self._stored.state

    def turn(self) -> None:
        """One look, one decision, and what follows from it.

        Raises:
            VerificationError: If what is kept of the rollout, or the file of orders, is damaged.
        """
        if self._store.revision(self._rollout) != self._stored.revision:
            self._stored = self._store.load(self._rollout)
        plan, before = self._stored.plan, self._stored.state
        now = self._settings.clock()
        self._book.look()
        self._looking.owner = self._settings.labels()
        done = step(plan, before, _Observations(self, plan, before), now)
        if done.state != before:
            try:
                revision = self._store.save(
                    self._rollout, done.state, revision=self._stored.revision
                )
            except StaleRevisionError:
                # A person has decided something meanwhile: look again.
                self._stored = self._store.load(self._rollout)
                return
            self._stored = StoredRollout(plan=plan, state=done.state, revision=revision)
            self._tell_decisions(plan, before, done.state)
        self._carry_out(done.state, done.actions)
        self._ask_for_missing(done.state, now)

    def _carry_out(self, state: RolloutState, actions: tuple[Order, ...]) -> None:
        if self._ear.connections != self._looking.connections:
            # A broker that was away may have lost its memory.
            self._looking.connections = self._ear.connections
            self._must_send_again = True
        try:
            if self._must_send_again:
                with connected_to(self._broker) as connection:
                    connection.publish(self._messages_on_the_way(state))
                self._must_send_again = False
            for action in actions:
                self._looking.looks.pop(action.device, None)
            if actions:
                with connected_to(self._broker) as connection:
                    for messages in self._book.carry_out(actions):
                        connection.publish(messages)
        except EnvironmentLackError as error:
            self._must_send_again = True
            _log.warning("orders could not be sent: %s", error)
            self._settings.wait(_RETRY_SECONDS)
        except UsageError as error:
            self._pause(state, f"the devices cannot be told: {error.what}")

    def _messages_on_the_way(self, state: RolloutState) -> Iterator[tuple[str, bytes]]:
        for device, progress in state.devices.items():
            version = self._book.seen(device).version if progress.status in _ON_THE_WAY else 0
            if version:
                heard = self._view.states.get(device)
                if heard is None or heard.order_version < version:
                    yield self._book.message(device)

    def _pause(self, state: RolloutState, reason: str) -> None:
        if state.phase is not Phase.RUNNING:
            _log.error("%s", reason)
            return
        paused = engine.pause(state, reason, self._settings.clock())
        revision = self._store.save(self._rollout, paused, revision=self._stored.revision)
        plan = self._stored.plan
        self._stored = StoredRollout(plan=plan, state=paused, revision=revision)
        self._tell_decisions(plan, state, paused)

    def _tell_decisions(self, plan: RolloutPlan, before: RolloutState, after: RolloutState) -> None:
        known = set(before.decisions)
        for decision in after.decisions:
            if decision not in known:
                _log.info("%s: %s %s", plan.id, decision.what, decision.reason)
                self._settings.on_decision(plan, decision)

    def _settle(self, goes_on: Callable[[], bool]) -> None:
        """Hear the retained states before anything is decided."""
        deadline = time.monotonic() + _MOST_SETTLING_SECONDS
        while goes_on() and time.monotonic() < deadline:
            before = self._view.changes
            self._settings.wait(_QUIET_SECONDS)
            if self._view.changes == before:
                return

    def _ask_for_missing(self, state: RolloutState, now: float) -> None:
        """Ask for states that a full queue at the broker may have swallowed, some at a time."""
        if time.monotonic() - self._looking.asked < _ASK_AGAIN_SECONDS:
            return
        self._looking.asked = time.monotonic()
        waiting = [name for name in state.members if name not in self._view.states]
        waiting += [
            name
            for name, device in state.devices.items()
            if device.status in _AWAITED and now - device.since >= _PATIENCE_SECONDS
        ]
        if waiting:
            start = self._looking.position % len(waiting)
            turn = (waiting[start:] + waiting[:start])[:_ASKED_AT_ONCE]
            self._looking.position = start + len(turn)
            self._ear.ask_states(turn)

    def observe(self, plan: RolloutPlan, state: RolloutState, device: str) -> Observation:
        """What is seen of a device: what it said last, and the rest as of not long ago.

        Whether an order is still to be made is looked at once more when it is made.
        """
        heard = self._view.states.get(device)
        owner = self._looking.owner.get(device, _NOTHING)
        progress = state.devices.get(device)
        last = self._looking.looks.get(device)
        now = time.monotonic()
        if last is not None and last.heard is heard and last.owner is owner:
            patience = len(self._looking.looks) / _LOOKS_PER_SECOND
            if last.progress is progress and now - last.at < patience:
                return last.seen
            labels = last.seen.labels
        else:
            labels = self._view.labels(device, owner)
        entry = self._book.seen(device)
        bundle = heard.bundles.get(plan.bundle, _NO_STATE) if heard else _NO_STATE
        health = (
            self._settings.health(device, plan.bundle, plan.version, progress.told)
            if progress is not None
            else None
        )
        seen = Observation(
            labels=labels,
            order_version=entry.version,
            ordered=entry.of(plan.bundle),
            follows=heard.order_version if heard else 0,
            phase=bundle.phase,
            # The device's report shows the candidate as active while it is being tried.
            active=bundle.active,
            reason=bundle.reason,
            health=health,
        )
        self._looking.looks[device] = _Look(now, heard, owner, progress, seen)
        return seen

    def stage_health(self, stage: int, seen: Iterable[tuple[str, Health | None]]) -> Health:
        """What the devices of a stage report together."""
        return self._looking.sums.setdefault(stage, HealthSum()).update(seen)

    def known_devices(self, state: RolloutState) -> tuple[str, ...]:
        """The group once it is fixed; before, everybody who was heard or told something."""
        if state.members:
            return state.members
        return tuple(sorted(self._view.states.keys() | set(self._book.devices())))


class _Observations(Mapping[str, Observation]):
    """Devices, looked at when they are asked for: most stages need only some of them."""

    def __init__(self, runner: RolloutRunner, plan: RolloutPlan, state: RolloutState) -> None:
        self._runner, self._plan, self._state = runner, plan, state
        self._names = dict.fromkeys(runner.known_devices(state))
        self._seen: dict[str, Observation] = {}

    def __getitem__(self, device: str) -> Observation:
        seen = self._seen.get(device)
        if seen is None:
            if device not in self._names:
                raise KeyError(device)
            seen = self._runner.observe(self._plan, self._state, device)
            self._seen[device] = seen
        return seen

    def stage_health(self, stage: int, devices: Sequence[str]) -> Health:
        """See `HealthKeeper`."""
        seen = ((device, self.get(device, UNSEEN).health) for device in devices)
        return self._runner.stage_health(stage, seen)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
