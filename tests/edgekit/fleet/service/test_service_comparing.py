from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgekit.fleet.audit import read_audit
from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import delete_device
from edgekit.fleet.experiments.ab import Answer, Metric, Question
from edgekit.fleet.experiments.assignment import Arm
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import ordered_devices
from edgekit.fleet.service.comparing import Comparisons
from edgekit.fleet.store.experiments import ExperimentTable
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.errors import UsageError
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.reports import DeviceState
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch

DEVICES = [f"d{number:02d}" for number in range(24)]
QUESTION = Question(metric=Metric.ERRORS, margin=0.05)


class World:
    """A fleet whose devices measure what they are told to."""

    def __init__(self, fleet: Fleet, database, broker: RunningBroker) -> None:
        self.fleet, self.database, self.broker = fleet, database, broker
        self.now = datetime.now(UTC)
        self.ledger = Ledger(database, look_seconds=0.0)
        self.table = ExperimentTable(database, clock=lambda: self.now)
        self.comparisons = Comparisons(
            fleet,
            database,
            broker.address,
            ledger=self.ledger,
            look_seconds=0.0,
            clock=lambda: self.now,
        )
        self._sequence = 0

    def ask(self, name: str = "e1", question: Question = QUESTION, query: str = "") -> None:
        self.table.create(
            name,
            bundle="digits",
            version_a="1.0.0",
            version_b="2.0.0",
            query=query,
            question=question,
            who="alice",
        )

    def measure(self, errors: dict[str, int]) -> None:
        """Every device answers 200 requests with the version it was told, so many of them wrong."""
        self.now += timedelta(minutes=1)
        self._sequence += 1
        now = self.now.timestamp()
        messages = []
        for device in DEVICES:
            version = device_order(self.fleet, device).bundles[0].version
            wrong = errors[version] + int(device[1:]) % 3
            model = ModelCounts(requests=200, errors=wrong)
            window = Window(start=now - 50, end=now, bundle="digits", version=version, model=model)
            text = json.dumps(window.to_json()).encode()
            messages.append((device, pack_batch(device, "0" * 16, 0, [(self._sequence, text)])))
        self.ledger.take(messages, now=now)


@pytest.fixture
def world(fleet: Fleet, database, make_bundle, tmp_path: Path) -> Iterator[World]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    for version in ("1.0.0", "2.0.0"):
        release_bundle(fleet, make_bundle(version))
    Inventory(database, actor="test").hear(DeviceState(device=d, online=True) for d in DEVICES)
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        yield World(fleet, database, broker)


def test_a_real_difference_is_decided_for_the_better(world: World) -> None:
    world.ask()
    for _ in range(3):
        world.comparisons.turn()
    versions = Counter(device_order(world.fleet, d).bundles[0].version for d in DEVICES)
    assert versions == {"1.0.0": 12, "2.0.0": 12}
    for _ in range(40):
        world.measure({"1.0.0": 40, "2.0.0": 4})
        world.comparisons.turn()
        if world.table.get("e1").looked.answer is not Answer.UNDECIDED:
            break
    looked = world.table.get("e1").looked
    assert looked.answer is Answer.B_BETTER
    assert (looked.devices_a, looked.devices_b) == (12, 12)
    with world.database.read() as session:
        actions = [entry.action for entry in read_audit(session, subject="experiment e1")]
    assert actions == ["experiment.answered", "experiment.created"]
    # Answered: nobody looks any more, and nobody is told anything.
    world.measure({"1.0.0": 0, "2.0.0": 0})
    world.comparisons.turn()
    assert world.table.get("e1").looked == looked


def test_no_difference_that_matters_is_said_to_be_none(world: World) -> None:
    world.ask()
    for _ in range(3):
        world.comparisons.turn()
    for _ in range(60):
        world.measure({"1.0.0": 10, "2.0.0": 10})
        world.comparisons.turn()
        if world.table.get("e1").looked.answer is not Answer.UNDECIDED:
            break
    assert world.table.get("e1").looked.answer is Answer.NO_DIFFERENCE


def test_groups_are_chosen_once_and_each_device_is_told_once(world: World) -> None:
    world.ask()
    for _ in range(3):
        world.comparisons.turn()
    arms = world.table.get("e1").arms
    somebody = next(device for device, arm in arms.items() if arm is Arm.B)
    order_bundle(world.fleet, somebody, BundleOrder(bundle="digits", version="1.0.0"))
    Inventory(world.database, actor="test").add("late")
    for _ in range(3):
        world.comparisons.turn()
    assert world.table.get("e1").arms == arms
    assert device_order(world.fleet, somebody).bundles[0].version == "1.0.0"
    orders = [device_order(world.fleet, d).version for d in DEVICES if d != somebody]
    assert set(orders) == {1}


def test_a_device_takes_part_in_one_experiment_of_a_bundle(world: World) -> None:
    world.ask(query="id in (d00, d01, d02, d03)")
    for _ in range(3):
        world.comparisons.turn()
    world.ask("e2")
    for _ in range(3):
        world.comparisons.turn()
    first, second = (world.table.get(name).arms.keys() for name in ("e1", "e2"))
    assert first == {"d00", "d01", "d02", "d03"}
    assert second == set(DEVICES) - first
    # Stopped, it leaves its devices to others.
    world.table.stop("e1", who="bob")
    assert world.table.taking_part("digits") == second


def test_a_turn_reads_and_signs_for_some_devices_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(fleet: Fleet, device: str):
        read.append(device)
        return device_order(fleet, device)

    monkeypatch.setattr("edgekit.fleet.service.comparing.TOLD_AT_ONCE", 10)
    monkeypatch.setattr("edgekit.fleet.service.comparing.device_order", counted)
    world.ask()
    world.comparisons.turn()
    for most in (10, 20, 24):
        assert world.table.get("e1").told is None
        world.comparisons.turn()
        assert len(read) == most
    assert world.table.get("e1").told is not None
    assert sorted(read) == DEVICES
    versions = Counter(device_order(world.fleet, d).bundles[0].version for d in DEVICES)
    assert versions == {"1.0.0": 12, "2.0.0": 12}


def test_what_was_told_before_a_crash_is_sent_again_and_not_signed_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.service.comparing.TOLD_AT_ONCE", 20)
    world.ask()
    for _ in range(2):
        world.comparisons.turn()
    again = World(world.fleet, world.database, world.broker)
    for _ in range(2):
        again.comparisons.turn()
    assert again.table.get("e1").told is not None
    assert {device_order(world.fleet, d).version for d in DEVICES} == {1}


def test_an_old_experiment_goes_on_whatever_was_asked_since(world: World) -> None:
    world.ask("old", query="id = d00")
    for number in range(51):
        world.now += timedelta(seconds=1)
        world.ask(f"new{number}", query="id = nobody")
    for _ in range(2):
        world.comparisons.turn()
    assert world.table.get("old").told is not None


def test_devices_are_looked_for_now_and_then(world: World, looked: list[str]) -> None:
    seldom = Comparisons(
        world.fleet, world.database, world.broker.address, ledger=world.ledger, look_seconds=3_600
    )
    world.ask(query="id = nobody")
    for _ in range(5):
        seldom.turn()
    assert looked == ["labels"]


def test_an_experiment_that_cannot_go_on_does_not_keep_the_others(world: World) -> None:
    world.table.create(
        "broken",
        bundle="digits",
        version_a="1.0.0",
        version_b="9.9.9",
        query="id != d00 and id != d01",
        question=QUESTION,
        who="alice",
    )
    world.now += timedelta(seconds=1)
    world.ask("whole", query="id in (d00, d01)")
    for _ in range(3):
        world.comparisons.turn()
    assert world.table.get("broken").told is None
    assert world.table.get("whole").told is not None
    assert len(world.table.get("whole").arms) == 2


def test_a_deleted_device_is_gone_from_the_groups(world: World) -> None:
    world.ask()
    world.comparisons.turn()
    pseudonym = Inventory(world.database, actor="test").get("d00").pseudonym
    delete_device(world.database, "d00", actor="test")
    arms = world.table.get("e1").arms
    assert not {"d00", pseudonym} & set(arms)
    world.comparisons.turn()
    assert pseudonym not in ordered_devices(world.fleet)
    assert world.table.get("e1").told is not None
    pseudonym = Inventory(world.database, actor="test").get("d01").pseudonym
    delete_device(world.database, "d01", actor="test")
    assert world.table.get("e1").arms[pseudonym] is arms["d01"]


def test_what_makes_no_sense_is_refused(database) -> None:
    table = ExperimentTable(database)

    def ask(name: str, b: str = "2.0.0", query: str = "") -> None:
        table.create(
            name,
            bundle="digits",
            version_a="1.0.0",
            version_b=b,
            query=query,
            question=QUESTION,
            who="alice",
        )

    for arguments in ({"name": "a/b"}, {"name": "e", "b": "1.0.0"}, {"name": "e", "query": "x="}):
        with pytest.raises(UsageError):
            ask(**arguments)
    ask("e")
    with pytest.raises(UsageError, match="already"):
        ask("e")
    with pytest.raises(UsageError, match="no experiment 'f'"):
        table.get("f")
