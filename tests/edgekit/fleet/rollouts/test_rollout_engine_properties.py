"""Whatever happens, in whatever order, and wherever the control plane is killed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgekit.fleet.rollouts import commands
from edgekit.fleet.rollouts.engine import is_finished, step
from edgekit.fleet.rollouts.plan import OnFailure, RolloutPlan, Stage
from edgekit.fleet.rollouts.selection import stage_bounds
from edgekit.fleet.rollouts.state import ENDED, Phase, RolloutState, Status
from edgekit.fleet.telemetry.health import Health
from tests.edgekit.fleet.rollouts.worlds import NEW, OLD, QUICK, World, make_plan

DEVICES = 12
COURSE = {
    status: place
    for place, names in enumerate(
        [
            [Status.ORDERING],
            [Status.ORDERED],
            [Status.VANISHED],
            [Status.ACTIVE],
            [Status.FAILED],
            [Status.RESTORING],
            [Status.RETURNING],
            [Status.STRANDED],
            [Status.RESTORED, Status.SKIPPED, Status.OVERRIDDEN],
        ]
    )
    for status in names
}

plans = st.builds(
    make_plan,
    st.just(Stage(name="canary", count=2, criteria=replace(QUICK, max_failed_share=0.4))),
    st.builds(
        Stage,
        name=st.just("half"),
        percent=st.sampled_from([25.0, 50.0]),
        criteria=st.just(QUICK),
        needs_approval=st.booleans(),
    ),
    st.just(Stage(name="all", percent=100.0, criteria=replace(QUICK, min_seconds=3.0))),
    on_failure=st.sampled_from(OnFailure),
    max_in_flight=st.sampled_from([0, 1, 3]),
    query=st.sampled_from(["site=berlin", "site=berlin and not arch=arm"]),
)


class RolloutMachine(RuleBasedStateMachine):
    """The world takes its course around an engine that dies between any two instants."""

    world: World
    outside: set[str]

    def __init__(self) -> None:
        super().__init__()
        self.last: RolloutState | None = None

    @precondition(lambda self: self.last is None)
    @rule(plan=plans)
    def start(self, plan: RolloutPlan) -> None:
        self.world = World.of(plan, DEVICES)
        for number, device in enumerate(self.world.devices.values()):
            device.labels["arch"] = "arm" if number % 3 == 0 else "x86"
            if number == 1:
                device.labels["site"] = "paris"
        self.last = self.world.state

    @precondition(lambda self: self.last is not None)
    @rule(done=st.integers(0, 10))
    def step_and_die(self, done: int) -> None:
        """The state is written; some of the actions are carried out; then the process ends."""
        for action in self.world.think().actions[:done]:
            self.world.act(action)
        self.world.now += 1.0

    @precondition(lambda self: self.last is not None)
    @rule()
    def die_before_writing(self) -> None:
        """A step whose state never reached the disk carries out nothing."""
        step(self.world.plan, self.world.state, self.world.observe(), self.world.now)
        self.world.now += 1.0

    @precondition(lambda self: self.last is not None)
    @rule(which=st.sets(st.integers(0, DEVICES - 1)), obeys=st.booleans())
    def devices_answer(self, which: set[int], obeys: bool) -> None:
        for number in which:
            device = self.world.devices[f"d{number:03}"]
            if obeys:
                device.obey()
            else:
                device.refuse()

    @precondition(lambda self: self.last is not None)
    @rule(which=st.integers(0, DEVICES - 1), errors=st.integers(0, 3))
    def traffic(self, which: int, errors: int) -> None:
        self.world.devices[f"d{which:03}"].health = Health(requests=100, errors=errors)

    @precondition(lambda self: self.last is not None)
    @rule(seconds=st.sampled_from([1.0, 60.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @precondition(lambda self: self.last is not None)
    @rule(which=st.integers(0, DEVICES - 1), same=st.booleans())
    def somebody_else_orders(self, which: int, same: bool) -> None:
        device = self.world.devices[f"d{which:03}"]
        device.order_version += 1
        if not same:
            device.ordered = replace(OLD, version="1.7.0")

    @precondition(lambda self: self.last is not None)
    @rule(what=st.sampled_from(["pause", "resume", "accept", "approve", "abort", "stop"]))
    def person(self, what: str) -> None:
        world = self.world
        given_ = {"who": "bob", "now": world.now}
        phase = world.state.phase
        try:
            if what == "accept":
                world.state = commands.resume(world.plan, world.state, accept=True, **given_)  # type: ignore[arg-type]
            else:
                world.state = getattr(commands, what)(world.plan, world.state, **given_)
        except commands.UsageError:
            assert world.state.phase is phase

    @invariant()
    def nobody_is_told_twice(self) -> None:
        if self.last is not None:
            for device in self.world.devices.values():
                assert device.told in ([], [NEW], [NEW, OLD], [NEW, replace(OLD, version="1.7.0")])

    @invariant()
    def nobody_outside_is_touched(self) -> None:
        if self.last is None:
            return
        state, plan = self.world.state, self.world.plan
        for name in self.world.updated():
            labels = self.world.devices[name].labels
            assert labels["site"] == "berlin"
            assert "arch" not in plan.query or labels["arch"] != "arm"
        bounds = stage_bounds(plan.stages, len(state.members))
        reached = set(state.members[: bounds[state.stage]] if state.members else ())
        assert self.world.updated() <= reached
        assert set(state.devices) <= reached

    @invariant()
    def it_goes_only_forward(self) -> None:
        if self.last is None:
            return
        last, state = self.last, self.world.state
        assert state.stage >= last.stage
        assert not last.members or state.members == last.members
        for name, before in last.devices.items():
            after = state.devices[name]
            assert COURSE[after.status] >= COURSE[before.status], (name, before, after)
            assert (after.stage, after.before) == (before.stage, before.before)
        if last.phase in ENDED and state.phase is not last.phase:
            assert state.decisions[-1].who == "bob" or state.phase is Phase.ROLLED_BACK
        self.last = state

    @invariant()
    def the_same_again_changes_nothing(self) -> None:
        if self.last is None:
            return
        world = self.world
        once = step(world.plan, world.state, world.observe(), world.now)
        twice = step(world.plan, once.state, world.observe(), world.now)
        assert twice == once

    def teardown(self) -> None:
        """Left alone with obedient devices, everything comes to a right end."""
        if self.last is None:
            return
        world = self.world
        for _ in range(60):
            if is_finished(world.state):
                break
            if world.state.phase is Phase.PAUSED:
                world.state = commands.resume(
                    world.plan, world.state, who="bob", now=world.now, accept=True
                )
            waits = world.plan.stages[1].needs_approval and 1 not in world.state.approvals
            if waits and world.state.phase in (Phase.NEW, Phase.RUNNING):
                world.state = commands.approve(world.plan, world.state, who="bob", now=world.now)
            world.run(1, seconds=5.0)
        assert is_finished(world.state), world.state
        for name, progress in world.state.devices.items():
            told = world.devices[name].told
            match progress.status:
                case Status.ACTIVE | Status.FAILED | Status.VANISHED:
                    assert told == [NEW]
                case Status.RESTORED | Status.STRANDED:
                    assert told[0] == NEW
                    assert len(told) == 2
                case Status.SKIPPED:
                    assert told == []
                case Status.OVERRIDDEN:
                    assert len(told) <= 2
                case _:
                    assert world.state.phase is Phase.ABORTED


RolloutMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRolloutMachine = RolloutMachine.TestCase


@given(seed=st.integers(0, 10**6), count=st.integers(1, 40))
@settings(max_examples=30)
def test_every_member_is_reached_by_the_last_stage(seed: int, count: int) -> None:
    world = World.of(make_plan(id=f"r{seed}"), count)
    world.run(15)
    assert world.state.phase is Phase.COMPLETED
    assert world.updated() == set(world.devices)
