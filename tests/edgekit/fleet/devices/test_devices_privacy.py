from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from edgekit.cli import edgekit
from edgekit.fleet.audit import read_audit, verify_audit
from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.privacy import delete_device, erase_device, export_device
from edgekit.fleet.devices.requests import RequestBook
from edgekit.fleet.devices.retention import (
    apply_retention,
    change_retention,
    read_retention,
)
from edgekit.fleet.folder import Fleet
from edgekit.fleet.ordering import order_device
from edgekit.fleet.repositories import ordered_devices
from edgekit.fleet.store.tables import (
    AlarmRow,
    Base,
    EventRow,
    RolloutRow,
    TelemetryFaultRow,
    TelemetrySlotRow,
)
from edgekit.fleet.watch import FleetWatcher
from edgekit_runtime.errors import UsageError
from edgekit_runtime.protocol import Topics
from edgekit_runtime.requests import DeviceReply, RequestKind


def rollout(devices: dict[str, object]) -> RolloutRow:
    return RolloutRow(
        id="r1",
        bundle="digits",
        version="1.0.0",
        status="running",
        revision=4,
        created=0.0,
        created_by="alice",
        approved_by="",
        updated=0.0,
        plan={},
        state={"members": list(devices), "devices": devices},
    )


def telemetry(device: str, received: float) -> TelemetrySlotRow:
    return TelemetrySlotRow(
        device_id=device,
        bundle="digits",
        version="1.0.0",
        slot=received,
        revision=1,
        updated=received,
        feedback=0,
        right=0,
        counts="",
    )


@pytest.fixture
def busy(inventory, state, event, watch):
    """Two devices with something in every table that knows devices."""
    inventory.hear([state("d1"), state("d2")], [event(device="d1"), event(device="d2")])
    for device in ("d1", "d2"):
        inventory.label(device, {"site": "berlin"})
    with inventory.database.write() as session:
        session.add(rollout({"d1": [0, "active"], "d2": [1, "ordered"]}))
        for device in ("d1", "d2"):
            session.add(telemetry(device, watch().timestamp()))
            session.add(TelemetryFaultRow(device_id=device, kind="flood", count=1, last=1e12))
            session.add(
                AlarmRow(
                    began=0.0,
                    ended=None,
                    kind="drift",
                    device_id=device,
                    bundle="digits",
                    version="1.0.0",
                    detail={},
                )
            )
    return inventory


def everything(database) -> str:
    with database.read() as session:
        return "\n".join(
            str(tuple(row))
            for table in Base.metadata.sorted_tables
            for row in session.execute(select(table))
        )


def test_everything_that_is_held_is_given_out(busy, fleet: Fleet) -> None:
    order_device(fleet, "d1", [])
    document = export_device(busy.database, fleet, "d1")
    assert "timestamp.json" in document["order"]
    json.dumps(document)
    for table in ("alarms", "deployments", "device_bundles", "events", "telemetry_slots"):
        assert [row["device_id"] for row in document[table]] == ["d1"], table
    assert document["device"]["labels"] == {"site": "berlin"}
    assert document["rollouts"] == [{"id": "r1", "progress": [[0, "active"]]}]
    assert [entry["action"] for entry in document["audit"]] == ["device.labelled"]
    assert "'d2'" not in str(document)
    assert export_device(busy.database, fleet, document["device"]["pseudonym"]) == document


def test_nothing_of_a_deleted_device_is_left(busy) -> None:
    pseudonym = busy.get("d1").pseudonym
    before = everything(busy.database)
    assert "'d1'" in before
    assert delete_device(busy.database, "d1", actor="bob") == ("d1", pseudonym)
    after = everything(busy.database)
    assert "'d1'" not in after
    assert after.count("'d2'") == before.count("'d2'")
    with busy.database.read() as session:
        row = session.get_one(RolloutRow, "r1")
        assert row.state == {
            "members": [pseudonym, "d2"],
            "devices": {pseudonym: [0, "active"], "d2": [1, "ordered"]},
        }
        assert row.revision == 5
        newest = read_audit(session)[0]
    assert (newest.actor, newest.action, newest.subject) == (
        "bob",
        "device.deleted",
        f"device {pseudonym}",
    )
    verify_audit(busy.database)
    with pytest.raises(UsageError, match="no device 'd1'"):
        delete_device(busy.database, "d1", actor="bob")


def test_a_device_is_erased_from_broker_and_folder_too(busy, fleet: Fleet, tmp_path, state) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    order_device(fleet, "d1", [])
    (fleet.path / "before-the-database").mkdir()
    order_device(fleet, "d2", [])
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        topics = Topics(fleet.id)
        with connected_to(broker.address) as connection:
            connection.publish([(topics.state(d), state(d).to_json()) for d in ("d1", "d2")])
        erase_device(busy.database, fleet, "d1", broker=broker.address, actor="bob")
        with FleetWatcher(fleet.id, broker.address) as watcher:
            assert watcher.wait_until_heard(["d2"], timeout_s=20)
            time.sleep(0.1)
            assert set(watcher.states) == {"d2"}
    assert ordered_devices(fleet) == ("d2",)
    assert not (fleet.path / "before-the-database").exists()
    assert [device.id for device in busy.all()] == ["d2"]


def test_what_is_too_old_is_deleted(busy, watch) -> None:
    watch.goes_on(days=31)
    with busy.database.write() as session:
        session.add(telemetry("d1", watch().timestamp()))
        session.get_one(AlarmRow, 1).ended = 0.0
    done = apply_retention(busy.database, clock=watch)
    assert (done.telemetry, done.events, done.deployments, done.alarms) == (2, 0, 0, 1)
    watch.goes_on(days=400)
    done = apply_retention(busy.database, clock=watch)
    # An alarm that lasts is not forgotten.
    assert (done.telemetry, done.events, done.deployments, done.alarms) == (1, 2, 0, 0)


def test_what_devices_answered_is_kept_no_longer_than_asked_for(busy, watch) -> None:
    book = RequestBook(busy.database, actor="bob", clock=watch)
    asked = book.ask("d1", RequestKind.SAMPLES, {"most": 1}, hours=24.0)
    result = {"sample": "1-digits-1.0.0-random.npz", "piece": 0, "pieces": 1, "data": "eA=="}
    book.take([DeviceReply(device="d1", number=asked.number, ok=True, result=result)])
    watch.goes_on(days=29)
    waiting = book.ask("d1", RequestKind.LOGS, hours=24.0 * 60)
    assert apply_retention(busy.database, clock=watch).answers == 0
    watch.goes_on(days=2)
    assert apply_retention(busy.database, clock=watch).answers == 1
    assert [item.number for item in book.of("d1")] == [waiting.number]
    # What still waits for its device is no answer.
    watch.goes_on(days=40)
    apply_retention(busy.database, clock=watch)
    assert [item.number for item in book.of("d1")] == [waiting.number]


def test_a_device_that_floods_pushes_out_its_own_events(busy, event, watch) -> None:
    change_retention(busy.database, {"events_per_device": 5}, actor="bob")
    busy.hear([], [event(number, time=7.0) for number in range(50)])
    assert apply_retention(busy.database, clock=watch).events == 46
    with busy.database.read() as session:
        rows = session.execute(select(EventRow.device_id, EventRow.sequence)).all()
    assert [row.sequence for row in rows if row.device_id == "d1"] == [45, 46, 47, 48, 49]
    assert [row.sequence for row in rows if row.device_id == "d2"] == [1]


def test_limits_that_make_no_sense_are_refused_all_at_once(database) -> None:
    with pytest.raises(UsageError) as caught:
        change_retention(database, {"telemetry_days": 0, "eggs": 3}, actor="bob")
    assert "telemetry_days" in caught.value.what
    assert "eggs: is unknown" in caught.value.what
    usual = read_retention(database)
    assert change_retention(database, {"events_days": 7}, actor="bob").events_days == 7
    assert read_retention(database).telemetry_days == usual.telemetry_days


def test_the_command_line_goes_all_the_way(fleet: Fleet, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        options = ["--fleet", str(fleet.path)]
        done = CliRunner().invoke(edgekit, ["fleet", *arguments, *options])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    run("devices", "add", "d1", "site=berlin")
    run("devices", "add", "d2", "site=rome")
    assert run("devices", "label", "site=berlin", "line=3") == "1 device labelled\n"
    assert "line=3" in run("devices", "list", "site=berlin")
    # By its id too, and where nothing matches it says so, lest a slip pass for success.
    assert run("devices", "label", "d2", "line=4") == "1 device labelled\n"
    assert "line=4" in run("devices", "list", "d2")
    assert "0 devices, 0 online" in run("devices", "list", "site=mars")
    with pytest.raises(UsageError, match="no device matches 'site=mars'"):
        run("devices", "label", "site=mars", "line=3")
    listed = json.loads(run("devices", "list", "--json"))
    assert [device["id"] for device in listed] == ["d1", "d2"]
    assert run("devices", "list", "id=d1").endswith("\n1 device, 0 online\n")
    assert run("groups", "save", "north", "site=berlin") == "north: 1 device now\n"
    assert json.loads(run("groups", "list", "--json"))[0]["devices"] == 1
    run("groups", "delete", "north")
    run("devices", "label", "id=d1", "line", "--remove")
    assert json.loads(run("devices", "export", "d1"))["device"]["labels"] == {"site": "berlin"}
    run("devices", "delete", "d1", "--yes")
    assert "telemetry_days" in run("retention", "telemetry_days=7", "--apply")
    secret = run("token", "create", "alice", "operator").strip()
    assert secret.startswith("ekt_")
    (token,) = json.loads(run("token", "list", "--json"))
    run("token", "revoke", token["id"])
    assert "yes" in run("token", "list")
    made = json.loads(run("enrolment", "create", "site=bonn", "--device", "d3", "--json"))
    assert made["token"].startswith("eke_")
    assert made["token"] not in run("enrolment", "list")
    (waiting,) = json.loads(run("enrolment", "list", "--json"))
    assert (waiting["device"], waiting["standing"]) == ("d3", "open")
    run("enrolment", "revoke", made["id"])
    assert "revoked" in run("enrolment", "list")
    head = json.loads(run("audit", "verify", "--json"))
    expected = f"{head['sequence']}:{head['digest']}"
    assert "unbroken" in run("audit", "verify", "--expect", expected)
    assert "enrolment.token_revoked" in run("audit", "list", "--newest", "1")
    with pytest.raises(UsageError, match="no label"):
        run("devices", "label", "id=d2", "line")
    with pytest.raises(UsageError, match="no change"):
        run("retention", "telemetry_days")
    with pytest.raises(UsageError, match="no certificate authority"):
        run("devices", "revoke", "d3")
