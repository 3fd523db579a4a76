from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgekit.fleet.access import Access, Role
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.audit import read_audit
from edgekit.fleet.broker import RunningBroker
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.activity import events_of
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import Fleet
from edgekit.fleet.folder_changes import FolderChange, note_change
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import Phase
from edgekit.fleet.service.leading import FleetService
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.leases import LEASE_SECONDS, Lease
from edgekit.fleet.store.telemetry import recent_counts
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState
from edgekit_runtime.reports import Phase as BundlePhase
from edgekit_runtime.telemetry import ModelCounts, Window

DEVICES = ("d1", "d2", "d3")


class Running:
    """A service in a thread of its own."""

    def __init__(self, fleet: Fleet, database: Database, broker: RunningBroker) -> None:
        self.service = FleetService(fleet, database, broker.address)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self.service.run, args=[lambda: not self._stop.is_set()]
        )

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within a minute: {what}")
        time.sleep(0.05)


def state(fleet: Fleet, device: str, version: str, *, phase: BundlePhase = BundlePhase.ACTIVE):
    return DeviceState(
        device=device,
        online=True,
        order_version=device_order(fleet, device).version,
        bundles={"digits": BundleState(phase=phase, active=version)},
    )


def say(fleet: Fleet, broker: RunningBroker, *reports: object) -> None:
    topics = Topics(fleet.id)
    messages = []
    for report in reports:
        if isinstance(report, DeviceState):
            messages.append((topics.state(report.device), report.to_json()))
        elif isinstance(report, DeviceEvent):
            messages.append((topics.events(report.device), report.to_json()))
        else:
            messages.append(report)
    with connected_to(broker.address) as connection:
        connection.publish(messages)


def test_what_devices_say_is_written_down(fleet: Fleet, database, mosquitto) -> None:
    import json

    window = Window(
        start=1.0, end=2.0, bundle="digits", version="1.0.0", model=ModelCounts(requests=7)
    )
    batch = {
        "device": "d1",
        "stream": "0" * 16,
        "dropped": 0,
        "records": [{"sequence": 1, "window": window.to_json()}],
    }
    topics = Topics(fleet.id)
    event = DeviceEvent(device="d1", sequence=1, time=1.0, kind="update.active", bundle="digits")
    inventory = Inventory(database, actor="test")
    with Running(fleet, database, mosquitto) as running:
        wait_until(lambda: running.service.leads, "it leads")
        say(fleet, mosquitto, state(fleet, "d1", "1.0.0"), event)
        wait_until(lambda: len(inventory.all()) == 1, "d1 is known")
        message = json.dumps(batch).encode()
        say(
            fleet,
            mosquitto,
            (topics.telemetry("d1"), message),
            (topics.telemetry("d1"), message),
            (topics.telemetry("d2"), message),
            (topics.state("d3"), b"no state"),
            (topics.state("d4"), state(fleet, "d1", "6.6.6").to_json()),
        )
        wait_until(lambda: bool(recent_counts(database, since=0)), "telemetry was added up")
    assert recent_counts(database, since=0)["digits", "1.0.0"].requests == 7
    assert [device.id for device in inventory.all()] == ["d1"]
    assert inventory.get("d1").bundles["digits"]["active"] == "1.0.0"
    assert [item.kind for item in events_of(database, "d1")] == ["update.active"]


def test_a_rollout_of_the_database_is_driven_to_its_end(
    fleet: Fleet, database, mosquitto, make_bundle
) -> None:
    for version in ("1.0.0", "2.0.0"):
        release_bundle(fleet, make_bundle(version))
    for device in DEVICES:
        order_bundle(fleet, device, BundleOrder(bundle="digits", version="1.0.0"))
    publish(fleet, mosquitto.address)
    say(fleet, mosquitto, *(state(fleet, device, "1.0.0") for device in DEVICES))
    plane = ControlPlane(fleet=fleet, database=database)
    inventory = plane.inventory(Access(name="test", role=Role.ADMIN))
    for device in DEVICES[:2]:
        inventory.add(device, {"site": "berlin"})
    quick = Criteria(min_seconds=0.0, max_drift=0.0)
    plan = RolloutPlan(
        id="r1",
        order=BundleOrder(bundle="digits", version="2.0.0"),
        query="site=berlin",
        stages=(
            Stage(name="canary", count=1, criteria=quick),
            Stage(name="all", percent=100.0, criteria=quick),
        ),
        created_by="test",
        created=time.time(),
    )
    plane.rollouts.create(plan)
    with Running(fleet, database, mosquitto):

        def follow() -> bool:
            """Be the devices: do what is ordered."""
            for device in DEVICES:
                order = device_order(fleet, device)
                if order.version > followed[device]:
                    followed[device] = order.version
                    say(fleet, mosquitto, state(fleet, device, order.bundles[0].version))
            return plane.rollouts.load("r1").state.phase is Phase.COMPLETED

        followed = {device: device_order(fleet, device).version for device in DEVICES}
        wait_until(follow, "the rollout is completed")
    assert [device_order(fleet, device).bundles[0].version for device in DEVICES] == [
        "2.0.0",
        "2.0.0",
        "1.0.0",
    ]


def test_of_two_replicas_one_works_and_the_other_takes_over(
    fleet: Fleet, database, mosquitto
) -> None:
    inventory = Inventory(database, actor="test")
    with Running(fleet, database, mosquitto) as first:
        wait_until(lambda: first.service.leads, "the first leads")
        with Running(fleet, database, mosquitto) as second:
            say(fleet, mosquitto, state(fleet, "d1", "1.0.0"))
            wait_until(lambda: len(inventory.all()) == 1, "d1 is known")
            assert not second.service.leads
            first.__exit__()
            # Said while nobody heard: the broker kept it.
            say(fleet, mosquitto, state(fleet, "d2", "1.0.0"))
            wait_until(lambda: len(inventory.all()) == 2, "d2 is known")
            assert second.service.leads


def test_a_database_that_is_away_for_a_while_loses_nothing(
    fleet: Fleet, database, mosquitto, monkeypatch
) -> None:
    from contextlib import contextmanager

    inventory = Inventory(database, actor="test")
    whole = Database.write
    gone = threading.Event()

    @contextmanager
    def write(self):
        if gone.is_set() and threading.current_thread().name != "MainThread":
            raise EnvironmentLackError("the database cannot be used: gone")
        with whole(self) as session:
            yield session

    monkeypatch.setattr(Database, "write", write)
    with Running(fleet, database, mosquitto) as running:
        wait_until(lambda: running.service.leads, "it leads")
        gone.set()
        say(fleet, mosquitto, state(fleet, "d1", "1.0.0"))
        wait_until(lambda: not running.service.leads, "it noticed")
        assert inventory.all() == ()
        gone.clear()
        wait_until(lambda: len(inventory.all()) == 1, "d1 is known")


def test_a_lease_is_held_by_one_and_is_over_by_itself(database) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime(2026, 11, 25, tzinfo=UTC)
    clock = [now]
    first, second = (Lease(database, "x", clock=lambda: clock[0]) for _ in range(2))
    assert first.take()
    assert not second.take()
    clock[0] += timedelta(seconds=LEASE_SECONDS / 2)
    assert first.take()
    clock[0] += timedelta(seconds=LEASE_SECONDS - 1)
    assert not second.take()
    clock[0] += timedelta(seconds=2)
    assert second.take()
    assert not first.take()
    first.give_back()
    assert not first.take()
    second.give_back()
    assert first.take()


def test_what_was_changed_without_the_database_is_recorded_meanwhile(
    fleet: Fleet, database, mosquitto
) -> None:
    def recorded() -> list[str]:
        with database.read() as session:
            return [entry.action for entry in read_audit(session)]

    with Running(fleet, database, mosquitto) as running:
        wait_until(lambda: running.service.leads, "it leads")
        note_change(fleet, FolderChange(action="release.added", subject="x@1.0.0"), actor="cli:eve")
        wait_until(lambda: recorded() == ["release.added"], "the log has it")
