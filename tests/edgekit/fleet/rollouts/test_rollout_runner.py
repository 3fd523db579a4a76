"""Against a real broker, with devices that speak the real protocol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.fleet.broker import RunningBroker, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.order_store import OrderStore
from edgekit.fleet.ordering import device_order, order_device
from edgekit.fleet.rollouts import commands
from edgekit.fleet.rollouts.fleet_view import FleetView
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.runner import RolloutRunner, RunnerSettings
from edgekit.fleet.rollouts.state import Phase, RolloutState, Status
from edgekit.fleet.simulation.behaviour import Behaviour, device_name
from edgekit.fleet.simulation.crowd import Crowd
from edgekit.fleet.simulation.fetching import FetchPlan
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.telemetry.listener import FleetListener
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.orders import BundleOrder
from tests.edgekit.fleet.rollouts.conftest import GATES, ReadyFleet, release

QUICK = Criteria(min_seconds=0.0, max_failed_share=0.5, min_installed_share=0.5)
FAST = Behaviour(fetch_seconds=0.1, prove_seconds=0.05, telemetry_seconds=0.0)
STAGES = (
    Stage(name="canary", count=3, criteria=QUICK),
    Stage(name="half", percent=50.0, criteria=QUICK),
    Stage(name="all", percent=100.0, criteria=QUICK),
)


def make_plan(*stages: Stage, **changes: object) -> RolloutPlan:
    usual = RolloutPlan(
        id="r1",
        order=BundleOrder(bundle="double", version="2.0.0", gates=GATES),
        query="",
        stages=stages or STAGES,
        created_by="ada",
        created=time.time(),
        device_timeout_seconds=60.0,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def runner_of(
    fleet: Fleet,
    store: RolloutTable,
    listener: FleetListener,
    broker: RunningBroker,
    *,
    view: FleetView | None = None,
    **settings: Any,
) -> RolloutRunner:
    """A runner of `make_plan`'s rollout that turns quickly, and hears while it waits."""
    seen = view or FleetView(listener.topics)

    def hear(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for message in listener.take(timeout_s=left):
                if not message.topic.endswith("/telemetry"):
                    seen.take(message.topic, message.payload)
                message.done()

    return RolloutRunner(
        fleet,
        store,
        "r1",
        view=seen,
        ear=listener,
        broker=broker.address,
        settings=RunnerSettings(wait=hear, turn_seconds=0.05, **settings),
    )


def drive(
    fleet: Fleet,
    store: RolloutTable,
    broker: RunningBroker,
    *,
    until: Callable[[RolloutState], bool] = lambda _state: False,
    seconds: float = 60.0,
) -> RolloutState:
    deadline = time.monotonic() + seconds
    with FleetListener(fleet.id, broker.address, name="control") as listener:
        view = FleetView(listener.topics)
        runner = runner_of(fleet, store, listener, broker, view=view)
        state = runner.run(
            goes_on=lambda: time.monotonic() < deadline and not until(runner.stored.state)
        )
        assert not view.faulty, view.faults
        return state


@pytest.fixture
def store(database: Database) -> RolloutTable:
    return RolloutTable(database)


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def settle(crowd: Crowd, version: str) -> None:
    """Wait until every device runs a version."""
    wait_until(lambda: crowd.figures().phases == {f"double {version} (active)": len(crowd.names)})


def test_a_rollout_to_the_end(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker
) -> None:
    fleet = ready_fleet(12)
    store.create(make_plan())
    fetch = FetchPlan(everything=0.2, index=True)
    with Crowd.of_fleet(fleet, mosquitto.address, count=12, behaviour=FAST, fetch=fetch) as crowd:
        settle(crowd, "1.0.0")
        state = drive(fleet, store, mosquitto)
        assert state.phase is Phase.COMPLETED, state
        assert crowd.figures().phases == {"double 2.0.0 (active)": 12}
        assert crowd.figures().refused == 0
        # Of two versions all fetch the index, and two devices everything.
        assert crowd.figures().chunks >= 12 * 2 + 2 * 4
    assert {device_order(fleet, name).version for name in crowd.names} == {2}
    order = [state.devices[name].stage for name in state.members]
    assert order == sorted(order)
    assert Counter(order) == {0: 3, 1: 3, 2: 6}


def test_a_bad_canary_goes_back_and_nobody_else_is_touched(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker
) -> None:
    fleet = ready_fleet(10)
    strict = replace(QUICK, max_failed_share=0.0)
    store.create(make_plan(Stage(name="canary", count=3, criteria=strict), *STAGES[1:]))
    behaviour = replace(FAST, roll_back=1.0, only_version="2.0.0")
    with Crowd.of_fleet(fleet, mosquitto.address, count=10, behaviour=behaviour) as crowd:
        settle(crowd, "1.0.0")
        state = drive(fleet, store, mosquitto)
        assert state.phase is Phase.ROLLED_BACK
        assert "stage canary" in state.reason
        assert "held NaN or infinity" in state.reason
        settle(crowd, "1.0.0")
    versions = {name: device_order(fleet, name).version for name in crowd.names}
    canaries = set(state.members[:3])
    # 1.0.0 at first; of the canaries those that were told 2.0.0 were told 1.0.0 again.
    assert {name for name, version in versions.items() if version > 1} <= canaries
    assert all(versions[name] == 3 for name, d in state.devices.items() if d.status is
               Status.RESTORED)  # fmt: skip
    assert state.count(Status.RESTORED) >= 1


def test_a_damaged_order_keeps_no_other_device_from_going_on_nor_from_going_back(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker
) -> None:
    fleet = ready_fleet(4)
    store.create(make_plan(STAGES[2]))
    orders, damaged = OrderStore(fleet), device_name(1)
    kept = orders.get(damaged)
    assert kept is not None
    orders.put({damaged: replace(kept[1], targets=b"{}")})
    with Crowd.of_fleet(fleet, mosquitto.address, count=4, behaviour=FAST) as crowd:
        settle(crowd, "1.0.0")
        state = drive(fleet, store, mosquitto, until=lambda s: s.count(Status.ACTIVE) == 3)
        assert state.count(Status.ACTIVE) == 3, state
        assert state.devices[damaged].status is Status.ORDERING
        found = store.load("r1")
        stopped = commands.stop(found.plan, found.state, who="bob", now=time.time())
        store.save("r1", stopped, revision=found.revision)
        state = drive(fleet, store, mosquitto, until=lambda s: s.count(Status.RESTORED) == 3)
        assert state.count(Status.RESTORED) == 3, state
        settle(crowd, "1.0.0")
    # Nothing was built upon what nobody has signed.
    assert orders.get(damaged)[1].targets == b"{}"  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_at_any_instant_nothing_is_lost_and_nothing_told_twice(
    ready_fleet: ReadyFleet,
    store: RolloutTable,
    database: Database,
    mosquitto: RunningBroker,
) -> None:
    fleet = ready_fleet(30)
    store.create(make_plan(max_in_flight=4))
    code = (
        "import sys; from pathlib import Path\n"
        "from edgekit.fleet.folder import Fleet\n"
        "from edgekit.fleet.service.single import drive_rollout\n"
        "from edgekit.fleet.store.database import open_database\n"
        "fleet = Fleet.open(Path(sys.argv[1]))\n"
        "database = open_database(sys.argv[2])\n"
        "print('drives', flush=True)\n"
        "drive_rollout(fleet, database, 'r1', fleet.broker, turn_seconds=0.02)\n"
    )
    where = database.engine.url.render_as_string(hide_password=False)
    with Crowd.of_fleet(fleet, mosquitto.address, count=30, behaviour=FAST) as crowd:
        settle(crowd, "1.0.0")
        killed = 0
        for delay in (0.6, 0.75, 0.9, 1.1):
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(fleet.path), where],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "drives\n"
            time.sleep(delay)
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert killed >= 2
        state = drive(fleet, store, mosquitto)
        assert state.phase is Phase.COMPLETED, state
        assert crowd.figures().phases == {"double 2.0.0 (active)": 30}
    assert {device_order(fleet, name).version for name in crowd.names} == {2}


def test_what_was_signed_and_not_sent_is_sent_after_a_restart(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker
) -> None:
    fleet = ready_fleet(4)
    store.create(make_plan(Stage(name="all", percent=100.0, criteria=QUICK)))
    with Crowd.of_fleet(fleet, mosquitto.address, count=4, behaviour=FAST) as crowd:
        settle(crowd, "1.0.0")
        drive(fleet, store, mosquitto, until=lambda state: bool(state.devices))
        # As if it was killed between the director's signature and the broker's answer.
        name = device_name(2)
        stored = store.load("r1")
        devices = {
            **stored.state.devices,
            name: replace(stored.state.devices[name], status=Status.ORDERING, after=1),
        }
        store.save("r1", replace(stored.state, devices=devices), revision=stored.revision)
        if device_order(fleet, name).version == 1:
            order_device(fleet, name, [stored.plan.order])
        state = drive(fleet, store, mosquitto)
        assert state.phase is Phase.COMPLETED
        assert crowd.figures().phases == {"double 2.0.0 (active)": 4}
    assert device_order(fleet, name).version == 2


def test_pause_and_stop_from_another_process_are_heeded(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker
) -> None:
    fleet = ready_fleet(8)
    patient = replace(QUICK, min_seconds=3_600.0)
    store.create(make_plan(Stage(name="canary", count=2, criteria=patient), *STAGES[1:]))
    with Crowd.of_fleet(fleet, mosquitto.address, count=8, behaviour=FAST) as crowd:
        settle(crowd, "1.0.0")
        drive(fleet, store, mosquitto, until=lambda state: state.count(Status.ACTIVE) == 2)
        stored = store.load("r1")
        stopped = commands.stop(
            stored.plan, stored.state, who="bob", now=time.time(), reason="smoke"
        )
        store.save("r1", stopped, revision=stored.revision)
        state = drive(fleet, store, mosquitto)
        assert (state.phase, state.reason) == (Phase.ROLLED_BACK, "smoke")
        settle(crowd, "1.0.0")
    assert sum(device_order(fleet, name).version == 3 for name in crowd.names) == 2
    assert sum(device_order(fleet, name).version == 1 for name in crowd.names) == 6


def test_a_version_that_is_not_released_pauses_the_rollout(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker
) -> None:
    fleet = ready_fleet(3)
    store.create(make_plan(order=BundleOrder(bundle="double", version="9.0.0")))
    with Crowd.of_fleet(fleet, mosquitto.address, count=3, behaviour=FAST) as crowd:
        settle(crowd, "1.0.0")
        state = drive(fleet, store, mosquitto, until=lambda state: state.phase is Phase.PAUSED)
    assert "double 9.0.0 is not released" in state.reason
    assert {device_order(fleet, name).version for name in crowd.names} == {1}


def test_other_bundles_of_a_device_stay(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker, tmp_path: Path
) -> None:
    fleet = ready_fleet(1)
    release(fleet, "1.0.0", tmp_path, name="other")
    both = [BundleOrder(bundle=name, version="1.0.0", gates=GATES) for name in ("double", "other")]
    order_device(fleet, device_name(0), both)
    store.create(make_plan(Stage(name="all", percent=100.0, criteria=QUICK)))
    with Crowd.of_fleet(fleet, mosquitto.address, count=1, behaviour=FAST):
        drive(
            fleet,
            store,
            mosquitto,
            until=lambda state: bool(state.count(Status.ORDERED)),
            seconds=10,
        )
    told = {item.bundle: item.version for item in device_order(fleet, device_name(0)).bundles}
    assert told == {"double": "2.0.0", "other": "1.0.0"}


def test_a_broker_that_is_away_delays_and_loses_nothing(
    ready_fleet: ReadyFleet, store: RolloutTable, mosquitto: RunningBroker, tmp_path: Path
) -> None:
    fleet = ready_fleet(6)
    store.create(make_plan(Stage(name="all", percent=100.0, criteria=QUICK)))
    with Crowd.of_fleet(fleet, mosquitto.address, count=6, behaviour=FAST) as crowd:
        settle(crowd, "1.0.0")
        with FleetListener(fleet.id, mosquitto.address, name="control") as listener:
            runner = runner_of(fleet, store, listener, mosquitto)
            runner.run(goes_on=lambda: not runner.stored.state.members)
            mosquitto.stop()
            runner.turn()
            with start_broker(
                tmp_path / "broker", port=mosquitto.port, prefer="mosquitto"
            ) as again:
                assert again.port == mosquitto.port
                deadline = time.monotonic() + 60
                state = runner.run(goes_on=lambda: time.monotonic() < deadline)
                assert state.phase is Phase.COMPLETED, state
                wait_until(lambda: crowd.figures().phases == {"double 2.0.0 (active)": 6})
    assert {device_order(fleet, name).version for name in crowd.names} == {2}


class FlakyStore(RolloutTable):
    """A store that is away for a while, like a database that is started again."""

    away = 0

    def save(self, rollout: str, state: RolloutState, *, revision: int) -> int:
        if self.away:
            self.away -= 1
            raise EnvironmentLackError("the database does not answer")
        return super().save(rollout, state, revision=revision)


def test_a_store_that_is_away_delays_and_loses_nothing(
    ready_fleet: ReadyFleet,
    database: Database,
    mosquitto: RunningBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgekit.fleet.rollouts.runner._RETRY_SECONDS", 0.1)
    fleet = ready_fleet(3)
    store = FlakyStore(database)
    store.create(make_plan(Stage(name="all", percent=100.0, criteria=QUICK)))
    store.away = 5
    with Crowd.of_fleet(fleet, mosquitto.address, count=3, behaviour=FAST) as crowd:
        settle(crowd, "1.0.0")
        state = drive(fleet, store, mosquitto)
    assert state.phase is Phase.COMPLETED
    assert store.away == 0
    assert {device_order(fleet, name).version for name in crowd.names} == {2}


def test_states_that_the_broker_swallowed_are_asked_for(
    ready_fleet: ReadyFleet,
    store: RolloutTable,
    mosquitto: RunningBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker drops what exceeds its queue and says nothing; the retained state is still there."""
    monkeypatch.setattr("edgekit.fleet.rollouts.runner._PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("edgekit.fleet.rollouts.runner._ASK_AGAIN_SECONDS", 0.2)
    fleet = ready_fleet(3)
    store.create(make_plan(Stage(name="all", percent=100.0, criteria=QUICK)))
    with (
        Crowd.of_fleet(fleet, mosquitto.address, count=3, behaviour=FAST) as crowd,
        FleetListener(fleet.id, mosquitto.address, name="control") as listener,
    ):
        settle(crowd, "1.0.0")
        runner = runner_of(fleet, store, listener, mosquitto)
        runner.run(goes_on=lambda: not runner.stored.state.members)
        runner.turn()
        settle(crowd, "2.0.0")
        time.sleep(0.3)
        swallowed = listener.take(timeout_s=1.0)
        assert swallowed
        for message in swallowed:
            message.done()
        deadline = time.monotonic() + 30
        state = runner.run(goes_on=lambda: time.monotonic() < deadline)
    assert state.phase is Phase.COMPLETED, state
