"""Rollouts whose broker is gone for an hour, whose control plane dies, whose database is no use."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, select

from edgekit.fleet.broker import RunningBroker, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import device_order, order_device
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import Phase, RolloutState, Status
from edgekit.fleet.service.leading import FleetService, ServiceSettings
from edgekit.fleet.service.single import drive_rollout, who_works
from edgekit.fleet.simulation.behaviour import Behaviour, device_name
from edgekit.fleet.simulation.crowd import Crowd
from edgekit.fleet.store import database as store
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.store.tables import TelemetryStreamRow
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.orders import BundleOrder, Gates
from tests.simulators.background_work import running, wait_until
from tests.simulators.databases import sqlite_database

DEVICES = 8
GATES = Gates(min_seconds=0.0)
FAST = Behaviour(fetch_seconds=0.2, prove_seconds=0.1, telemetry_seconds=0.0)
REPLICA = (
    "import sys; from pathlib import Path\n"
    "from edgekit.fleet.folder import BrokerAddress, Fleet\n"
    "from edgekit.fleet.service.leading import FleetService, ServiceSettings\n"
    "from edgekit.fleet.store.database import open_database\n"
    "settings = ServiceSettings(turn_seconds=0.05)\n"
    "broker = BrokerAddress('127.0.0.1', int(sys.argv[3]))\n"
    "fleet, database = Fleet.open(Path(sys.argv[1])), open_database(sys.argv[2])\n"
    "FleetService(fleet, database, broker, settings=settings).run(lambda: True)\n"
)


@pytest.fixture
def crowd(
    fleet: Fleet, mosquitto: RunningBroker, make_bundle: Callable[..., Path]
) -> Iterator[Crowd]:
    """Devices that run 1.0.0, of a fleet that has released 2.0.0."""
    for version in ("1.0.0", "2.0.0"):
        release_bundle(fleet, make_bundle(version))
    order = BundleOrder(bundle="digits", version="1.0.0", gates=GATES)
    for number in range(DEVICES):
        order_device(fleet, device_name(number), [order])
    publish(fleet, mosquitto.address)
    behaviour = replace(FAST, telemetry_seconds=0.5)
    with Crowd.of_fleet(fleet, mosquitto.address, count=DEVICES, behaviour=behaviour) as devices:
        wait_until(lambda: serving(devices) == {"digits 1.0.0 (active)": DEVICES}, "1.0.0 serves")
        yield devices


def serving(crowd: Crowd) -> dict[str, int]:
    return crowd.figures().phases


def roll_out(database: Database, *, now: float) -> Callable[[], RolloutState]:
    """Make a rollout that takes a few turns, and give the way to look at it."""
    quick = Criteria(min_seconds=0.0)
    table = RolloutTable(database)
    table.create(
        RolloutPlan(
            id="r1",
            order=BundleOrder(bundle="digits", version="2.0.0", gates=GATES),
            query="",
            stages=(
                Stage(name="canary", count=2, criteria=quick),
                Stage(name="all", percent=100.0, criteria=quick),
            ),
            created_by="ada",
            created=now,
            device_timeout_seconds=7_200.0,
            max_in_flight=2,
        )
    )
    return lambda: table.load("r1").state


def test_a_broker_that_is_gone_for_an_hour_delays_a_rollout_and_no_more(
    fleet: Fleet, database: Database, crowd: Crowd, mosquitto: RunningBroker, tmp_path: Path
) -> None:
    gone = timedelta()
    settings = ServiceSettings(clock=lambda: datetime.now(UTC) + gone, turn_seconds=0.05)
    look = roll_out(database, now=time.time())
    with running(FleetService(fleet, database, mosquitto.address, settings=settings).run):
        wait_until(lambda: look().count(Status.ACTIVE) > 0, "the canary runs it")
        mosquitto.stop()
        gone = timedelta(hours=1)
        time.sleep(1.0)
        with start_broker(tmp_path / "broker", port=mosquitto.port, prefer="mosquitto"):
            wait_until(lambda: look().phase is Phase.COMPLETED, "it is completed")
            wait_until(lambda: serving(crowd) == {"digits 2.0.0 (active)": DEVICES}, "2.0.0 serves")
    decisions = [decision.what for decision in look().decisions]
    assert decisions == ["begin", "stage canary passed", "stage all passed", "complete"]
    assert {device_order(fleet, name).version for name in crowd.names} == {2}


def test_of_two_replicas_the_one_that_drives_is_killed(
    fleet: Fleet, database: Database, crowd: Crowd, mosquitto: RunningBroker
) -> None:
    address = database.engine.url.render_as_string(hide_password=False)
    settings = ServiceSettings(turn_seconds=0.05)
    other = FleetService(fleet, database, mosquitto.address, settings=settings)
    look = roll_out(database, now=time.time())
    first = subprocess.Popen(
        [sys.executable, "-c", REPLICA, str(fleet.path), address, str(mosquitto.port)]
    )
    try:
        wait_until(lambda: bool(look().devices), "the first drives")
        with running(other.run):
            time.sleep(0.3)
            assert not other.leads
            first.send_signal(signal.SIGKILL)
            first.wait()
            wait_until(lambda: other.leads, "the other takes over")
            wait_until(lambda: look().phase is Phase.COMPLETED, "it is completed")
    finally:
        first.kill()
        first.wait()
    assert serving(crowd) == {"digits 2.0.0 (active)": DEVICES}
    assert {device_order(fleet, name).version for name in crowd.names} == {2}


def test_a_command_watches_what_another_process_drives(
    fleet: Fleet, database: Database, crowd: Crowd, mosquitto: RunningBroker
) -> None:
    settings = ServiceSettings(turn_seconds=0.05)
    serving_it = FleetService(fleet, database, mosquitto.address, settings=settings)
    told: list[str] = []
    assert who_works(database) == ""
    with running(serving_it.run):
        wait_until(lambda: serving_it.leads, "it leads")
        look = roll_out(database, now=time.time())
        state = drive_rollout(
            fleet,
            database,
            "r1",
            mosquitto.address,
            on_decision=lambda _plan, decision: told.append(decision.what),
        )
        assert serving_it.leads
        assert f"process {os.getpid()} " in who_works(database)
    assert state.phase is look().phase is Phase.COMPLETED
    assert told == ["begin", "stage canary passed", "stage all passed", "complete"]
    assert {device_order(fleet, name).version for name in crowd.names} == {2}


@contextlib.contextmanager
def locked(database: Database) -> Iterator[None]:
    """Another program writes into it, for longer than anybody waits."""
    other = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


@contextlib.contextmanager
def full(database: Database) -> Iterator[None]:
    """SQLite gets no page more, as where the disk is full."""

    def give_nothing(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count=1")

    def give(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count=1000000")

    event.listen(database.engine, "checkout", give_nothing)
    try:
        # What it has given back before is used first.
        with database.write() as session:
            session.connection().exec_driver_sql("CREATE TABLE filled (data BLOB)")
    except EnvironmentLackError as error:
        assert "database or disk is full" in str(error)  # noqa: PT017 - the other way is a fault
    else:
        raise AssertionError("there is room")
    try:
        yield
    finally:
        event.remove(database.engine, "checkout", give_nothing)
        event.listen(database.engine, "checkout", give)


@pytest.mark.parametrize(
    ("fault", "said"), [(locked, "database is locked"), (full, "database or disk is full")]
)
def test_a_file_that_cannot_be_written_for_a_while_delays_a_rollout_and_no_more(
    fault: Callable[[Database], AbstractContextManager[None]],
    said: str,
    fleet: Fleet,
    crowd: Crowd,
    mosquitto: RunningBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store, "_BUSY_MS", 300)
    with sqlite_database(tmp_path / "database") as database:
        settings = ServiceSettings(turn_seconds=0.05)
        service = FleetService(fleet, database, mosquitto.address, settings=settings)
        look = roll_out(database, now=time.time())
        with running(service.run):
            wait_until(lambda: look().count(Status.ACTIVE) > 0, "the canary runs it")
            with fault(database):
                wait_until(lambda: said in caplog.text, "the log says what is wrong")
                assert look().phase is Phase.RUNNING
            wait_until(lambda: look().phase is Phase.COMPLETED, "it is completed")
            wait_until(lambda: serving(crowd) == {"digits 2.0.0 (active)": DEVICES}, "2.0.0 serves")
            crowd.stop()
            measured = {name: crowd.device(name).telemetry_sequence for name in crowd.names}
            wait_until(lambda: counted(database) == measured, "all that was measured is counted")
    assert {device_order(fleet, name).version for name in crowd.names} == {2}


def counted(database: Database) -> dict[str, int]:
    """By device, how many of its records were counted: none of them is missing."""
    with database.read() as session:
        rows = session.scalars(select(TelemetryStreamRow)).all()
        return {row.device_id: row.last for row in rows if not row.missing}
