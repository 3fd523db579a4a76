from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgekit.fleet.audit import read_audit
from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import delete_device, export_device
from edgekit.fleet.experiments.shadow import ShadowSettings, ShadowVerdict
from edgekit.fleet.export import export_fleet
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.registry.retirement import _require_unordered
from edgekit.fleet.release import release_bundle
from edgekit.fleet.rollouts.plan import RolloutPlan, Stage
from edgekit.fleet.service.shadowing import Shadows
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.store.shadows import ShadowTable
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.errors import GateFailedError, UsageError
from edgekit_runtime.orders import BundleOrder, Gates
from edgekit_runtime.reports import BundleState, DeviceState, Phase, ShadowPhase, ShadowState
from edgekit_runtime.shadow import ShadowCounts
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch

DEVICES = [f"d{number}" for number in range(8)]
SETTINGS = ShadowSettings(rate=0.5, min_agreement=0.9)
GATES = Gates(min_requests=7)


class World:
    """A fleet whose devices run 1.0.0, and report of 2.0.0 beside it."""

    def __init__(self, fleet: Fleet, database, broker: RunningBroker) -> None:
        self.fleet, self.database, self.broker = fleet, database, broker
        self.now = datetime.now(UTC)
        self.ledger = Ledger(database)
        self.table = ShadowTable(database, clock=lambda: self.now)
        self.shadows = Shadows(
            fleet, database, broker.address, look_seconds=0.0, clock=lambda: self.now
        )
        self.sequence = 0

    def ask(self, name: str = "s1", query: str = "", version: str = "2.0.0") -> None:
        self.table.create(
            name,
            bundle="digits",
            version=version,
            query=query,
            settings=SETTINGS,
            who="alice",
        )

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.shadows.turn()

    def report(self, device: str, *, agreed: int, compared: int = 100, run: str = "s1") -> None:
        self.sequence += 1
        now = self.now.timestamp()
        counts = ShadowCounts(run=run, active="1.0.0", compared=compared, agreed=agreed)
        window = Window(
            start=now - 50, end=now, bundle="digits", version="2.0.0", shadows=(counts,)
        )
        text = json.dumps(window.to_json()).encode()
        batch = (device, pack_batch(device, "0" * 16, 0, [(self.sequence, text)]))
        # Delivered twice, it counts once.
        self.ledger.take([batch, batch], now=now)

    def order(self, device: str) -> BundleOrder:
        (order,) = device_order(self.fleet, device).bundles
        return order


@pytest.fixture
def world(fleet: Fleet, database, make_bundle, tmp_path: Path) -> Iterator[World]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        release_bundle(fleet, make_bundle(version))
    serving = {"digits": BundleState(phase=Phase.ACTIVE, active="1.0.0")}
    refused = {"digits": BundleState(phase=Phase.REJECTED, active="1.0.0", reason="slow")}
    Inventory(database, actor="test").hear(
        DeviceState(device=d, online=True, bundles=serving if d != DEVICES[-1] else refused)
        for d in DEVICES
    )
    for device in DEVICES[:-1]:
        order_bundle(fleet, device, BundleOrder(bundle="digits", version="1.0.0", gates=GATES))
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        yield World(fleet, database, broker)


def test_devices_are_told_once_and_what_they_serve_stays(world: World) -> None:
    world.ask(query="id != d0")
    world.turn()
    assert [item.device for item in world.table.devices("s1")] == DEVICES[1:-1]
    order = world.order("d1")
    assert (order.version, order.gates) == ("1.0.0", GATES)
    assert order.shadow is not None
    assert (order.shadow.run, order.shadow.version, order.shadow.rate) == ("s1", "2.0.0", 0.5)
    assert order.shadow.length > 0
    assert world.order("d0").shadow is None
    # Somebody orders something else: that stands.
    order_bundle(world.fleet, "d1", BundleOrder(bundle="digits", version="3.0.0"))
    world.turn()
    assert world.order("d1").shadow is None
    assert device_order(world.fleet, "d2").version == 2


def test_devices_are_looked_for_now_and_then(world: World, looked: list[str]) -> None:
    seldom = Shadows(world.fleet, world.database, world.broker.address, look_seconds=3_600)
    world.ask(query="id = nobody")
    for _ in range(5):
        seldom.turn()
    assert looked == ["labels"]


def test_reports_are_added_up_judged_and_audited(world: World) -> None:
    world.ask()
    world.turn()
    for _ in range(10):
        for device in DEVICES[:-1]:
            world.report(device, agreed=99)
        world.now += timedelta(minutes=1)
    # More than any device is given: it lies.
    world.report("d0", agreed=0, compared=1_000_000)
    # Of another run, or of a device that takes no part: left out.
    world.report("d0", agreed=0, run="other")
    world.report(DEVICES[-1], agreed=0)
    result = world.table.result("s1")
    assert (result.total.compared, result.total.agreed) == (7_000, 6_930)
    assert result.verdict is ShadowVerdict.AGREES
    assert result.of_devices
    assert world.table.get("s1").result["compared"] == 0
    world.turn()
    assert world.table.get("s1").result["compared"] == 7_000
    with world.database.read() as session:
        actions = [entry.action for entry in read_audit(session, subject="shadow run s1")]
    assert actions == ["shadow.answered", "shadow.created"]
    # It serves nobody: health of 2.0.0 knows nothing of it.
    assert world.ledger.health("d0", "digits", "2.0.0") is None


def test_what_a_version_did_while_it_served_is_kept_beside(world: World) -> None:
    world.ask()
    world.turn()
    now = world.now.timestamp()
    counts = ShadowCounts(run="s1", active="1.0.0", compared=5, agreed=5)
    window = Window(
        start=now - 50,
        end=now,
        bundle="digits",
        version="2.0.0",
        model=ModelCounts(requests=3),
        shadows=(counts,),
    )
    text = json.dumps(window.to_json()).encode()
    world.ledger.take([("d0", pack_batch("d0", "0" * 16, 0, [(1, text)]))], now=now)
    health = world.ledger.health("d0", "digits", "2.0.0")
    assert health is not None
    assert health.requests == 3
    assert world.table.result("s1").total.compared == 5


def test_a_run_that_is_stopped_is_taken_back_and_its_reports_stay(world: World) -> None:
    world.ask()
    world.turn()
    world.report("d0", agreed=50)
    world.table.stop("s1", who="bob")
    world.table.stop("s1", who="eve")
    world.turn()
    assert all(world.order(device).shadow is None for device in DEVICES[:-1])
    assert world.table.get("s1").state == "ended"
    assert world.table.result("s1").total.compared == 100
    assert world.table.open() == ()
    with world.database.read() as session:
        stopped = [e.actor for e in read_audit(session) if e.action == "shadow.stopped"]
    assert stopped == ["bob"]
    found = world.table.get("s1").result
    assert (found["compared"], found["phases"]) == (100, {"over": 1, "not heard of yet": 6})
    # The next one may begin now.
    world.ask("s2")
    world.turn()
    assert world.order("d0").shadow is not None


def test_a_rollout_of_the_bundle_goes_first(world: World) -> None:
    order = BundleOrder(bundle="digits", version="3.0.0")
    RolloutTable(world.database).create(
        RolloutPlan(
            id="r1",
            order=order,
            query="",
            stages=(Stage(name="all", percent=100.0),),
            created_by="alice",
            created=world.now.timestamp(),
        )
    )
    world.ask()
    world.turn()
    assert world.order("d0").shadow is None
    assert all(item.told is None for item in world.table.devices("s1"))


def test_what_a_device_says_of_it_is_shown(world: World) -> None:
    world.ask()
    world.turn()
    inventory = Inventory(world.database, actor="test")
    said = ShadowState(run="s1", version="2.0.0", phase=ShadowPhase.ENDED, reason="it crashed")
    for device, run in (("d0", "s1"), ("d1", "another")):
        bundle = BundleState(phase=Phase.ACTIVE, active="1.0.0", shadow=replace(said, run=run))
        inventory.hear([DeviceState(device=device, online=True, bundles={"digits": bundle})])
    first, second = world.table.devices("s1")[:2]
    assert (first.phase, first.reason) == ("ended", "it crashed")
    assert (second.phase, second.reason) == ("", "")
    world.table.look("s1")
    found = world.table.get("s1").result
    assert found["ended"] == {"it crashed": 1}
    assert found["phases"] == {"ended": 1, "not heard of yet": 6}


def test_a_device_that_is_deleted_is_gone_from_a_run(world: World) -> None:
    world.ask()
    world.turn()
    world.report("d0", agreed=50)
    document = export_device(world.database, world.fleet, "d0")
    assert document["shadow_devices"][0]["counts"][0]["compared"] == 100
    delete_device(world.database, "d0", actor="test")
    assert "d0" not in [item.device for item in world.table.devices("s1")]
    world.report("d1", agreed=100)
    assert world.table.result("s1").total.agreed == 100


def test_a_version_beside_is_on_the_stick_and_is_not_retired(world: World, tmp_path: Path) -> None:
    before = export_fleet(world.fleet, tmp_path / "before", devices=["d0"]).chunks
    world.ask()
    world.turn()
    assert export_fleet(world.fleet, tmp_path / "after", devices=["d0"]).chunks > before
    with pytest.raises(GateFailedError, match="7 devices are ordered to run digits"):
        _require_unordered(world.fleet, "digits", "2.0.0")
    _require_unordered(world.fleet, "digits", "3.0.0")


def test_what_makes_no_sense_is_refused(world: World) -> None:
    with pytest.raises(UsageError):
        world.ask("a/b")
    with pytest.raises(UsageError):
        world.ask(query="x=")
    world.ask()
    with pytest.raises(UsageError, match="already"):
        world.ask()
    with pytest.raises(UsageError, match="'s1' of digits has not ended"):
        world.ask("s2")
    with pytest.raises(UsageError, match="no shadow run 'nothing'"):
        world.table.get("nothing")


def test_a_version_that_is_not_released_is_never_told(world: World) -> None:
    world.ask(version="9.9.9")
    world.turn()
    assert world.order("d0").shadow is None
    assert world.table.devices("s1")[0].told is None
    for version, reason in (("9.9.9", "is not released"), ("1.0.0", "the version that serves")):
        order = replace(world.order("d0"), shadow=SETTINGS.order("s1", version))
        with pytest.raises(UsageError, match=reason):
            order_bundle(world.fleet, "d0", order)
