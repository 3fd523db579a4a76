from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.fleet.rollouts import commands
from edgekit.fleet.rollouts.engine import is_finished
from edgekit.fleet.rollouts.plan import Criteria, OnFailure, Stage
from edgekit.fleet.rollouts.state import Phase, Status
from edgekit.fleet.rollouts.windows import Window
from edgekit.fleet.telemetry.health import Health
from edgekit.fleet.telemetry.sketches import LatencySketch
from edgekit_runtime.errors import GateFailedError, UsageError
from edgekit_runtime.reports import Phase as BundlePhase
from edgekit_runtime.telemetry import FeatureCounts
from tests.edgekit.fleet.rollouts.worlds import NEW, OLD, QUICK, World, make_plan, rollback_plan


def whats(world: World) -> list[str]:
    return [decision.what for decision in world.state.decisions]


def test_stages_follow_each_other_and_every_device_is_told_once() -> None:
    world = World.of(make_plan(), 10)
    sizes = []
    for _ in range(12):
        world.run(1)
        sizes.append(len(world.updated()))
    assert sorted(set(sizes)) == [2, 5, 10]
    assert world.state.phase is Phase.COMPLETED
    assert whats(world) == [
        "begin", "stage canary passed", "stage half passed", "stage all passed", "complete",
    ]  # fmt: skip
    assert all(device.told == [NEW] for device in world.devices.values())
    assert is_finished(world.state)


def test_devices_that_do_not_match_are_never_told() -> None:
    world = World.of(make_plan(), 6)
    for name in ("d001", "d004"):
        world.devices[name].labels["site"] = "paris"
    world.run()
    assert world.updated() == {"d000", "d002", "d003", "d005"}


def test_a_device_that_stops_to_match_before_its_turn_is_skipped() -> None:
    world = World.of(make_plan(), 10)
    world.turn()
    late = world.state.members[-1]
    world.devices[late].labels["site"] = "paris"
    world.run()
    assert world.state.phase is Phase.COMPLETED
    assert world.state.devices[late].status is Status.SKIPPED
    assert world.devices[late].told == []


def test_a_device_that_comes_later_is_not_touched() -> None:
    world = World.of(make_plan(), 4)
    world.turn()
    world.devices |= {f"new{n}": d for n, d in enumerate(World.of(make_plan(), 3).devices.values())}
    world.run()
    assert not any(name.startswith("new") for name in world.updated())


def test_labels_that_match_nothing_end_it_with_the_reason() -> None:
    world = World.of(make_plan(query="site=rome"), 3)
    world.run(3)
    assert (world.state.phase, world.state.reason) == (
        Phase.ABORTED, "no device matches 'site=rome'",
    )  # fmt: skip
    assert is_finished(world.state)


def test_a_device_that_runs_the_version_already_is_not_told() -> None:
    world = World.of(make_plan(), 4)
    world.devices["d001"].ordered = NEW
    world.devices["d001"].obey()
    world.run()
    assert world.state.devices["d001"].status is Status.SKIPPED
    assert world.devices["d001"].told == []


@pytest.mark.parametrize("on_failure", list(OnFailure))
def test_a_canary_that_refuses_stops_the_rollout(on_failure: OnFailure) -> None:
    strict = replace(QUICK, max_failed_share=0.0)
    world = World.of(
        make_plan(
            Stage(name="canary", count=2, criteria=strict),
            Stage(name="all", percent=100, criteria=strict),
            on_failure=on_failure,
        ),
        10,
    )
    world.turn()
    first, second = world.state.members[:2]
    world.devices[first].refuse()
    for _ in range(10):
        world.turn()
        for name in (second,):
            world.devices[name].obey()
        if world.devices[first].ordered == OLD:
            world.devices[first].obey()
    assert world.updated() == {first, second}
    assert "stage canary: 1 of 2 devices refused" in world.state.reason
    assert "its answers were NaN" in world.state.reason
    if on_failure is OnFailure.PAUSE:
        assert world.state.phase is Phase.PAUSED
        assert world.devices[second].active == "2.0.0"
    else:
        assert world.state.phase is Phase.ROLLED_BACK
        assert {d.active for d in world.devices.values()} == {"1.0.0"}
        assert world.devices[second].told == [NEW, OLD]


def bad_drift() -> FeatureCounts:
    return FeatureCounts(expected=(0.25,) * 4, counts=(10, 10, 10, 970))


@pytest.mark.parametrize(
    ("health", "criteria", "reason"),
    [
        (Health(requests=100, errors=2), {}, "2 of 100 requests failed"),
        (Health(requests=100, insane=1), {}, "1 of 100 answers held NaN"),
        (
            Health(requests=100, latency=LatencySketch({100: 100})),
            {"max_p90_ms": 5.0},
            "the 90th percentile of its latency is 14.5 ms",
        ),
        (Health(requests=100, drift={"light": bad_drift()}), {}, "beyond 0.25: light (3.29)"),
        (
            Health(requests=100, feedback=50, right=30),
            {"min_accuracy": 0.8, "min_feedback": 50},
            "30 of 50 answers with feedback were right",
        ),
    ],
)
def test_harm_in_live_use_rolls_back(
    health: Health, criteria: dict[str, float], reason: str
) -> None:
    watched = replace(QUICK, min_requests=100, **criteria)  # type: ignore[arg-type]
    world = World.of(rollback_plan(stages=(Stage(name="canary", count=1, criteria=watched),)), 5)
    world.turn()
    canary = world.state.members[0]
    world.devices[canary].obey()
    world.devices[canary].health = health
    world.run(5)
    assert world.state.phase is Phase.ROLLED_BACK
    assert reason in world.state.reason
    assert world.devices[canary].told == [NEW, OLD]


def test_known_drift_does_not_count() -> None:
    plan = rollback_plan(
        stages=(Stage(name="all", percent=100, criteria=QUICK),), accepted_drift=("light",)
    )
    world = World.of(plan, 2)
    for device in world.devices.values():
        device.health = Health(requests=1_000, drift={"light": bad_drift()})
    world.run(5)
    assert world.state.phase is Phase.COMPLETED


def test_an_earlier_stage_stays_under_watch() -> None:
    slow = replace(QUICK, min_seconds=1_000.0)
    world = World.of(
        rollback_plan(
            stages=(
                Stage(name="canary", count=1, criteria=QUICK),
                Stage(name="all", percent=100, criteria=slow),
            )
        ),
        4,
    )
    world.run(6)
    assert world.state.stage == 1
    world.devices[world.state.members[0]].health = Health(requests=1_000, errors=500)
    world.run(4)
    assert world.state.phase is Phase.ROLLED_BACK
    assert world.state.reason.startswith("stage canary: 500 of 1000 requests failed")


def test_it_waits_for_time_and_requests_together() -> None:
    patient = replace(QUICK, min_seconds=30.0, min_requests=100)
    world = World.of(make_plan(Stage(name="all", percent=100, criteria=patient)), 2)
    world.run(40)
    assert world.state.phase is Phase.RUNNING
    for device in world.devices.values():
        device.health = Health(requests=50)
    world.run(1)
    assert world.state.phase is Phase.COMPLETED


def test_without_traffic_it_pauses_at_the_deadline_and_says_what_it_waits_for() -> None:
    criteria = replace(QUICK, min_requests=100, deadline_seconds=50.0)
    world = World.of(make_plan(Stage(name="all", percent=100, criteria=criteria)), 2)
    world.run(60)
    assert world.state.phase is Phase.PAUSED
    assert "it waits for: 0 of 100 requests" in world.state.reason
    assert all(device.active == "2.0.0" for device in world.devices.values())


def test_vanished_devices_are_counted_and_time_out() -> None:
    world = World.of(make_plan(Stage(name="all", percent=100, criteria=QUICK)), 4)
    gone = "d002"
    for _ in range(150):
        world.turn()
        for name, device in world.devices.items():
            if name != gone:
                device.obey()
    assert world.state.devices[gone].status is Status.VANISHED
    assert world.state.phase is Phase.COMPLETED


def test_too_many_vanished_devices_fail_the_stage() -> None:
    criteria = replace(QUICK, min_installed_share=0.8)
    world = World.of(make_plan(Stage(name="all", percent=100, criteria=criteria)), 4)
    for _ in range(250):
        world.turn()
        for name, device in world.devices.items():
            if name != "d002":
                device.obey()
    assert "3 of 4 devices run the version" in world.state.reason
    assert "(1 did not answer in time)" in world.state.reason
    assert world.state.phase is Phase.ROLLED_BACK
    assert world.state.devices["d002"].status is Status.STRANDED
    world.devices["d002"].obey()
    assert world.devices["d002"].active == "1.0.0"


def test_a_vanished_device_that_comes_back_counts_again() -> None:
    world = World.of(make_plan(Stage(name="a", percent=100, criteria=replace(
        QUICK, min_seconds=500.0))), 2)  # fmt: skip
    for _ in range(150):
        world.turn()
        world.devices["d000"].obey()
    assert world.state.devices["d001"].status is Status.VANISHED
    world.run(1)
    world.turn()
    assert world.state.devices["d001"].status is Status.ACTIVE


def test_windows_hold_orders_back_but_not_a_rollback() -> None:
    # 1970-01-01 was a Thursday; the world begins at 00:16.
    window = Window(days=("thu",), begin="00:20", end="00:25")
    world = World.of(make_plan(windows=(window,)), 10)
    world.run(10, seconds=10.0)
    assert not world.updated()
    world.run(15, seconds=10.0)
    world.now = 3_600.0
    told = world.updated()
    assert told
    world.run(5)
    world.state = commands.stop(world.plan, world.state, who="bob", now=world.now)
    world.run(5)
    assert world.updated() == told
    assert world.state.phase is Phase.ROLLED_BACK


def test_nothing_begins_before_its_time() -> None:
    world = World.of(make_plan(not_before=1_010.0), 3)
    world.run(10)
    assert world.state.phase is Phase.NEW
    world.run(10)
    assert world.state.phase is Phase.COMPLETED


def test_a_second_person_must_approve() -> None:
    stages = (
        Stage(name="canary", count=1, criteria=QUICK),
        Stage(name="all", percent=100, criteria=QUICK, needs_approval=True),
    )
    world = World.of(make_plan(*stages), 4)
    world.run(10)
    assert len(world.updated()) == 1
    with pytest.raises(GateFailedError, match="ada has made this rollout"):
        commands.approve(world.plan, world.state, who="ada", now=world.now)
    world.state = commands.approve(world.plan, world.state, who="bob", now=world.now)
    with pytest.raises(UsageError, match="no stage waits"):
        commands.approve(world.plan, world.state, who="bob", now=world.now)
    world.run(10)
    assert world.state.phase is Phase.COMPLETED
    assert ("bob", "approve stage all") in [(d.who, d.what) for d in world.state.decisions]


def test_pause_tells_nobody_and_resume_goes_on() -> None:
    world = World.of(make_plan(), 10)
    world.run(1)
    world.state = commands.pause(world.plan, world.state, who="bob", now=world.now, reason="lunch")
    world.run(10)
    assert len(world.updated()) == 2
    world.state = commands.resume(world.plan, world.state, who="bob", now=world.now)
    world.run(10)
    assert world.state.phase is Phase.COMPLETED


def test_resume_may_overrule_the_criteria() -> None:
    stages = (Stage(name="canary", count=2, criteria=replace(QUICK, max_failed_share=0.0)),
              Stage(name="all", percent=100, criteria=QUICK))  # fmt: skip
    world = World.of(make_plan(*stages, on_failure=OnFailure.PAUSE), 8)
    world.turn()
    world.devices[world.state.members[0]].refuse()
    world.turn()
    assert world.state.phase is Phase.PAUSED
    world.state = commands.resume(world.plan, world.state, who="bob", now=world.now)
    world.turn()
    assert world.state.phase is Phase.PAUSED
    world.state = commands.resume(world.plan, world.state, who="bob", now=world.now, accept=True)
    for _ in range(10):
        world.turn()
        for name in world.state.members[1:]:
            world.devices[name].obey()
    assert world.state.phase is Phase.COMPLETED


def test_abort_leaves_everything_as_it_stands() -> None:
    world = World.of(make_plan(), 10)
    world.run(1)
    world.state = commands.abort(world.plan, world.state, who="bob", now=world.now)
    world.run(5)
    assert len(world.updated()) == 2
    assert all(device.told in ([NEW], []) for device in world.devices.values())
    assert is_finished(world.state)
    with pytest.raises(UsageError, match="aborted"):
        commands.resume(world.plan, world.state, who="bob", now=world.now)


def test_an_emergency_stop_takes_back_a_completed_rollout() -> None:
    world = World.of(make_plan(), 6)
    world.run()
    assert world.state.phase is Phase.COMPLETED
    world.state = commands.stop(world.plan, world.state, who="bob", now=world.now, reason="smoke")
    world.run(3)
    assert world.state.phase is Phase.ROLLED_BACK
    assert all(device.told == [NEW, OLD] for device in world.devices.values())
    assert {device.active for device in world.devices.values()} == {"1.0.0"}


def test_a_stop_between_intent_and_order_leaves_the_device_untouched() -> None:
    world = World.of(make_plan(), 6)
    world.think()
    assert world.state.count(Status.ORDERING) == 2
    world.state = commands.stop(world.plan, world.state, who="bob", now=world.now)
    world.run(3)
    assert not world.updated()
    assert world.state.count(Status.SKIPPED) == 2


def test_devices_without_a_version_before_are_told_to_run_nothing() -> None:
    world = World.of(make_plan(), 3)
    for device in world.devices.values():
        device.ordered, device.active, device.phase = None, "", BundlePhase.IDLE
    world.run(2)
    told = world.updated()
    world.state = commands.stop(world.plan, world.state, who="bob", now=world.now)
    world.run(5)
    assert world.state.phase is Phase.ROLLED_BACK
    assert all(world.devices[name].told == [NEW, None] for name in told)


def test_what_somebody_else_orders_stands() -> None:
    other = replace(OLD, version="1.5.0")
    world = World.of(make_plan(), 4)
    world.run(1)
    taken = world.state.members[0]
    world.devices[taken].order_version += 1
    world.devices[taken].ordered = other
    world.state = commands.stop(world.plan, world.state, who="bob", now=world.now)
    world.run(5)
    assert world.state.devices[taken].status is Status.OVERRIDDEN
    assert world.devices[taken].ordered == other


def test_an_order_of_another_bundle_between_intent_and_order_does_no_harm() -> None:
    world = World.of(make_plan(), 4)
    done = world.think()
    other = done.actions[0].device
    world.devices[other].order_version += 1
    world.run()
    assert world.devices[other].told == [NEW]
    assert world.state.phase is Phase.COMPLETED


def test_only_so_many_are_in_flight() -> None:
    world = World.of(make_plan(Stage(name="all", percent=100, criteria=QUICK), max_in_flight=3), 10)
    most = 0
    for _ in range(30):
        world.turn()
        most = max(most, sum(d.follows < d.order_version for d in world.devices.values()))
        for device in world.devices.values():
            device.obey()
    assert most == 3
    assert world.state.phase is Phase.COMPLETED


def test_a_version_that_was_refused_before_is_tried_again_and_taken_back_to_what_serves() -> None:
    world = World.of(make_plan(), 2)
    for device in world.devices.values():
        device.ordered, device.order_version = NEW, 2
        device.refuse()
    world.run(1)
    assert all(device.told == [NEW] for device in world.devices.values())
    world.state = commands.stop(world.plan, world.state, who="bob", now=world.now)
    world.run(3)
    assert all(device.told == [NEW, OLD] for device in world.devices.values())


def test_a_few_early_errors_do_not_fail_a_stage_that_waits_for_more() -> None:
    criteria = Criteria(min_seconds=0.0, min_requests=1_000, max_error_share=0.01)
    world = World.of(rollback_plan(stages=(Stage(name="a", percent=100, criteria=criteria),)), 1)
    world.devices["d000"].health = Health(requests=2, errors=1)
    world.run(5)
    assert world.state.phase is Phase.RUNNING


def test_what_was_told_and_taken_back_unseen_is_not_told_again() -> None:
    world = World.of(make_plan(), 4)
    done = world.think()
    device = world.devices[done.actions[0].device]
    world.act(done.actions[0])
    # Killed before it was seen; meanwhile somebody goes back by hand.
    device.order_version, device.ordered = device.order_version + 1, OLD
    world.run(3)
    assert device.told == [NEW]
    assert world.state.devices[done.actions[0].device].status is Status.OVERRIDDEN
