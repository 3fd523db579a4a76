from __future__ import annotations

import json
import re
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select, text

from edgekit.cli import edgekit
from edgekit.fleet.audit import read_audit, verify_audit
from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.connection import BrokerConnection, connected_to
from edgekit.fleet.devices.forgetting import forget_in_rollout, forget_in_setting, renaming
from edgekit.fleet.devices.groups import list_groups, save_group
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import delete_device, erase_device, export_device
from edgekit.fleet.devices.requests import RequestBook
from edgekit.fleet.devices.retention import (
    apply_retention,
    change_retention,
    read_retention,
)
from edgekit.fleet.experiments.ab import Metric, Question
from edgekit.fleet.experiments.assignment import Arm
from edgekit.fleet.experiments.shadow import ShadowSettings
from edgekit.fleet.folder import Fleet
from edgekit.fleet.order_store import OrderStore
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import publish_order
from edgekit.fleet.repositories import ordered_devices
from edgekit.fleet.rollouts.engine import roll_back, step
from edgekit.fleet.rollouts.observations import UNSEEN, Observation
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import Decision, DeviceProgress, RolloutState, Status
from edgekit.fleet.rollouts.state import Phase as RolloutPhase
from edgekit.fleet.store.database import open_fleet_database
from edgekit.fleet.store.experiments import ExperimentTable
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.store.settings import read_setting, write_setting
from edgekit.fleet.store.shadows import ShadowTable
from edgekit.fleet.store.tables import (
    AlarmRow,
    Base,
    CertificateRow,
    EnrolmentTokenRow,
    EventRow,
    FeedbackRow,
    ShadowDeviceRow,
    TelemetryFaultRow,
    TelemetrySlotRow,
    TelemetryStreamRow,
)
from edgekit.fleet.telemetry.alarms import Alarm, Change
from edgekit.fleet.telemetry.health import Harm
from edgekit.fleet.telemetry.notices import alarm_notices
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.orders import BundleOrder
from edgekit_runtime.protocol import Topics
from edgekit_runtime.requests import DeviceReply, RequestKind
from tests.simulators.background_work import wait_until


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


def plan(**changes: object) -> RolloutPlan:
    usual: dict[str, object] = {
        "id": "r1",
        "order": BundleOrder(bundle="digits", version="1.0.0"),
        "query": "id in (d1, 'd2')",
        "stages": (Stage(name="canary", count=1), Stage(name="all", percent=100.0)),
        "created_by": "alice",
        "created": 0.0,
    }
    return RolloutPlan(**(usual | changes))


def alarm(device: str) -> Alarm:
    return Alarm(
        kind=Harm.DRIFT,
        bundle="digits",
        version="1.0.0",
        device=device,
        text=f"digits 1.0.0 on {device}: input:x has drifted",
        devices=(device,),
        began=1.0,
        seen=1.0,
    )


def rows_of(device: str, now: float) -> list[Base]:
    """What would take a broker, an authority and a day to come about."""
    version = {"device_id": device, "bundle": "digits", "version": "1.0.0"}
    moments = {"created": now, "created_by": "alice", "expires": now + 9}
    return [
        telemetry(device, now),
        TelemetryFaultRow(device_id=device, kind="flood", count=1, last=1e12),
        TelemetryStreamRow(
            device_id=device, stream="0" * 16, last=1, missing=[], dropped=0, seen=now
        ),
        FeedbackRow(**version, id="f", received=now, right=1, wrong=0),
        AlarmRow(**version, began=0.0, ended=None, kind="drift", detail={}),
        EnrolmentTokenRow(id=device, device_id=device, secret_sha256="", labels={}, **moments),
        CertificateRow(
            serial=device[1:],
            device_id=device,
            key_sha256="",
            begins=0.0,
            ends=1.0,
            revoked=1.0,
            pem="",
        ),
        ShadowDeviceRow(run="s1", device_id=device, told=now, reported=None, counts=[]),
    ]


@pytest.fixture
def busy(inventory, state, event, watch):
    """Two devices with something in every table that knows devices, and in what names them."""
    database = inventory.database
    inventory.hear([state("d1"), state("d2")], [event(device="d1"), event(device="d2")])
    table = RolloutTable(database, clock=watch)
    table.create(plan())
    begun = RolloutState(
        phase=RolloutPhase.RUNNING,
        reason="watched: id=d1",
        members=("d1", "d2"),
        devices={"d1": DeviceProgress(stage=0, status=Status.ACTIVE, after=1)},
        decisions=(Decision(time=1.0, who="bob", what="pause", reason="no luck with id = d1"),),
    )
    table.save("r1", begun, revision=1)
    asked = {"bundle": "digits", "query": "id=d1 or id=d2", "who": "alice"}
    experiments = ExperimentTable(database, clock=watch)
    question = Question(metric=Metric.ERRORS, margin=0.1)
    experiments.create("e1", version_a="1.0.0", version_b="2.0.0", question=question, **asked)
    experiments.begin("e1", {"d1": Arm.A, "d2": Arm.B})
    experiments.note_told("e1")
    ShadowTable(database, clock=watch).create(
        "s1", version="2.0.0", settings=ShadowSettings(), **asked
    )
    save_group(database, "both", "id=d1 or id=d2", actor="alice", clock=watch)
    book = RequestBook(database, actor="bob", clock=watch)
    for device in ("d1", "d2"):
        inventory.label(device, {"site": "berlin"})
        number = book.ask(device, RequestKind.LOGS).number
        book.take([DeviceReply(device=device, number=number, ok=True, result={"lines": ["x"]})])
        with database.write() as session:
            session.add_all(rows_of(device, watch().timestamp()))
    write_setting(database, "alarms", [alarm(device).to_json() for device in ("d1", "d2")])
    (_, call) = alarm_notices("plant-7", Change.BEGAN, replace(alarm(""), devices=("d1", "d2")))
    waiting = {"until": 9.0, "asked": [["d1", 1], ["d2", 1]], "notice": call.to_document()}
    write_setting(database, "retraining", {"called": {}, "waiting": [waiting]})
    return inventory


def everything(database) -> str:
    with database.read() as session:
        return "\n".join(
            str(tuple(row))
            for table in Base.metadata.sorted_tables
            for row in session.execute(select(table))
        )


def mentions(text: str, device: str) -> int:
    """How often a device's id stands there, also within a query or a sentence."""
    return len(re.findall(rf"(?<![\w.-]){device}(?![\w.-])", text))


def test_everything_that_is_held_is_given_out(busy, fleet: Fleet) -> None:
    order_device(fleet, "d1", [])
    document = export_device(busy.database, fleet, "d1")
    assert "timestamp.json" in document["order"]
    json.dumps(document)
    tables = {table.name for table in Base.metadata.sorted_tables if "device_id" in table.columns}
    assert len(tables) > 10
    for table in tables:
        assert [row["device_id"] for row in document[table]] == ["d1"], table
    assert document["device"]["labels"] == {"site": "berlin"}
    assert document["rollouts"] == [{"id": "r1", "progress": [[0, "active", 1, -1, 0.0, 0.0, ""]]}]
    assert document["experiments"] == [{"id": "e1", "group": "a"}]
    assert document["groups"] == [{"name": "both", "query": "id=d1 or id=d2"}]
    assert {entry["action"] for entry in document["audit"]} == {"device.labelled", "request.made"}
    assert export_device(busy.database, fleet, document["device"]["pseudonym"]) == document
    del document["groups"]
    assert mentions(str(document), "d2") == 0


def test_nothing_of_a_deleted_device_is_left(busy, watch) -> None:
    pseudonym, other = busy.get("d1").pseudonym, busy.get("d2").pseudonym
    before = everything(busy.database)
    assert mentions(before, "d1") > 20
    assert delete_device(busy.database, "d1", actor="bob", clock=watch) == ("d1", pseudonym)
    after = everything(busy.database)
    assert mentions(after, "d1") == 0
    assert mentions(after, "d2") == mentions(before, "d2")
    stored = RolloutTable(busy.database).load("r1")
    assert stored.revision == 3
    assert stored.plan.query == f"id in ({pseudonym}, 'd2')"
    assert stored.state.members == (pseudonym, "d2")
    assert stored.state.reason == f"watched: id={pseudonym}"
    experiment = ExperimentTable(busy.database).get("e1")
    assert experiment.arms == {pseudonym: Arm.A, "d2": Arm.B}
    assert list_groups(busy.database)[0].query == f"id={pseudonym} or id=d2"
    (left,) = read_setting(busy.database, "alarms", [])
    assert left["device"] == "d2"
    (waiting,) = read_setting(busy.database, "retraining", {})["waiting"]
    assert waiting["asked"] == [["d2", 1]]
    assert len(waiting["notice"]["data"]["samples"]) == 1
    with busy.database.read() as session:
        entries = read_audit(session)
    newest = entries[0]
    assert (newest.actor, newest.action, newest.subject) == (
        "bob",
        "device.deleted",
        f"device {pseudonym}",
    )
    # From the start, and not only since it was deleted.
    for entry in entries:
        assert mentions(f"{entry.subject} {entry.detail}", "d[12]") == 0
    queries = [entry.detail["query"] for entry in entries if "query" in entry.detail]
    assert f"id in ({pseudonym}, '{other}')" in queries
    assert queries.count(f"id={pseudonym} or id={other}") == 2
    verify_audit(busy.database)
    with pytest.raises(UsageError, match="no device 'd1'"):
        delete_device(busy.database, "d1", actor="bob")


def test_a_query_for_a_device_that_is_not_known_yet_names_nobody_in_the_log(database) -> None:
    save_group(database, "new", 'id="d9" or id in (d8,"d7") and not grid=d6', actor="alice")
    with database.read() as session:
        (entry,) = read_audit(session)
    expected = 'id="unknown" or id in (unknown,"unknown") and not grid=d6'
    assert entry.detail == {"query": expected}
    assert list_groups(database)[0].query == 'id="d9" or id in (d8,"d7") and not grid=d6'


SEEN = Observation(order_version=1, ordered=BundleOrder(bundle="digits", version="0.9.0"))


@pytest.mark.parametrize("place", range(3))
def test_a_rollout_under_way_expects_nothing_of_a_deleted_device(place: int) -> None:
    canary = Stage(name="canary", count=2, criteria=Criteria(min_seconds=0.0))
    planned = plan(query="", stages=(canary, Stage(name="all", percent=100.0)))
    seen = {f"d{number}": SEEN for number in range(3)}
    state = step(planned, RolloutState(), seen, 1.0).state
    assert state.count(Status.ORDERING) == 2
    gone = state.members[place]
    state = forget_in_rollout(planned, state, gone, "p", 2.0)
    assert gone not in str(state)
    assert state.devices["p"].stage == (0, 0, 1)[place]
    # Somebody who is not there is seen as nobody, and what she was told as nothing.
    after = dict.fromkeys(state.members, SEEN) | {"p": UNSEEN}
    done = step(planned, roll_back(state, "enough", 3.0), after, 3.0)
    assert done.state.phase is RolloutPhase.ROLLED_BACK
    assert "p" not in {action.device for action in done.actions}
    told = step(planned, state, after, 3.0)
    assert "p" not in {action.device for action in told.actions}
    ended = replace(state, phase=RolloutPhase.COMPLETED)
    kept = forget_in_rollout(planned, ended, state.members[0], "q", 4.0)
    assert kept.devices.get("q") == state.devices.get(state.members[0])


def test_a_device_may_be_called_like_anything_else() -> None:
    """Only where a device stands another name is put in its place."""
    planned = plan(query="active=active", order=BundleOrder(bundle="active", version="1.0.0"))
    progress = DeviceProgress(stage=0, status=Status.ACTIVE)
    state = RolloutState(
        phase=RolloutPhase.COMPLETED, members=("active",), devices={"active": progress}
    )
    assert forget_in_rollout(planned, state, "active", "p", 1.0) == RolloutState(
        phase=RolloutPhase.COMPLETED, members=("p",), devices={"p": progress}
    )
    assert renaming("active", "p")(planned.query) == "active=active"
    kept = replace(alarm("d1"), bundle="active", text="active 1.0.0: errors").to_json()
    assert forget_in_setting([kept], "active", "p") == [kept | {"text": "p 1.0.0: errors"}]


def test_a_device_is_erased_from_broker_and_folder_too(
    busy, fleet: Fleet, tmp_path, state, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    order_device(fleet, "d1", [])
    (fleet.path / "before-the-database").mkdir()
    order_device(fleet, "d2", [])
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        topics = Topics(fleet.id)
        with connected_to(broker.address) as connection:
            connection.publish([(topics.state(d), state(d).to_json()) for d in ("d1", "d2")])
            for device in ("d1", "d2"):
                publish_order(fleet, connection, device)
        remove = OrderStore.remove

        def remove_late(store: OrderStore, device: str) -> None:
            """While the order is there, somebody sends it."""
            with connected_to(broker.address) as connection:
                publish_order(fleet, connection, device)
            remove(store, device)

        monkeypatch.setattr(OrderStore, "remove", remove_late)
        erase_device(busy.database, fleet, "d1", broker=broker.address, actor="bob")
        kept: list[str] = []
        listening = BrokerConnection(
            broker.address,
            topics=(f"{topics.base}/#",),
            on_message=lambda topic, _payload: kept.append(topic),
        )
        wait_until(lambda: {topics.state("d2"), topics.order("d2")} <= set(kept), "d2 is heard")
        time.sleep(0.1)
        listening.close()
        assert not [topic for topic in kept if "/d1/" in topic]
    assert ordered_devices(fleet) == ("d2",)
    assert not (fleet.path / "before-the-database").exists()
    assert [device.id for device in busy.all()] == ["d2"]


def test_no_file_holds_a_deleted_devices_id_while_the_database_is_in_use(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, state, event
) -> None:
    """Also with a SQLite that was not built to overwrite what is deleted."""
    connect = sqlite3.dbapi2.connect

    def connect_as_elsewhere(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.execute("PRAGMA secure_delete=OFF")
        return connection

    monkeypatch.setattr(sqlite3.dbapi2, "connect", connect_as_elsewhere)
    database = open_fleet_database(fleet)
    try:
        inventory = Inventory(database, actor="alice")
        names = [f"oven-{number:03}" for number in range(40)]
        inventory.hear([state(name) for name in names], [event(device=name) for name in names])
        save_group(database, "one", "id=oven-007", actor="alice")
        order_device(fleet, "oven-007", [])
        with database.write() as session:
            rows = rows_of("oven-007", 1.0)
            session.add_all(row for row in rows if not isinstance(row, ShadowDeviceRow))

        def files_with(name: str) -> list[str]:
            files = [path for path in fleet.path.rglob("*") if path.is_file()]
            return sorted(path.name for path in files if name.encode() in path.read_bytes())

        assert {"fleet.db-wal", "orders.db"} <= set(files_with("oven-007"))
        # As time does: what is there is written into the file itself as well.
        database.wipe_log()
        assert files_with("oven-007") == ["fleet.db", "orders.db"]
        erase_device(database, fleet, "oven-007", broker=None, actor="bob")
        assert files_with("oven-007") == []
        assert files_with("oven-008") == ["fleet.db"]
    finally:
        database.close()


def test_who_reads_for_too_long_is_named_where_a_deletion_cannot_end(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.store.database._BUSY_MS", 50)
    database = open_fleet_database(fleet)
    try:
        Inventory(database, actor="alice").add("oven-007")
        with database.read() as session:
            assert session.scalar(text("SELECT count(*) FROM devices")) == 1
            with pytest.raises(EnvironmentLackError, match="still stands in the log of writes"):
                erase_device(database, fleet, "oven-007", broker=None, actor="bob")
        database.wipe_log()
        assert (fleet.path / "fleet.db-wal").stat().st_size == 0
    finally:
        database.close()


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


def test_feedback_is_forgotten_though_no_more_of_it_comes(busy, watch) -> None:
    def kept() -> int:
        with busy.database.read() as session:
            return len(session.scalars(select(FeedbackRow)).all())

    watch.goes_on(days=29)
    apply_retention(busy.database, clock=watch)
    assert kept() == 2
    watch.goes_on(days=2)
    apply_retention(busy.database, clock=watch)
    assert kept() == 0


def test_what_devices_answered_is_kept_no_longer_than_asked_for(busy, watch) -> None:
    book = RequestBook(busy.database, actor="bob", clock=watch)
    asked = book.ask("d1", RequestKind.SAMPLES, {"most": 1}, hours=24.0)
    result = {"sample": "1-digits-1.0.0-random.npz", "piece": 0, "pieces": 1, "data": "eA=="}
    book.take([DeviceReply(device="d1", number=asked.number, ok=True, result=result)])
    watch.goes_on(days=29)
    waiting = book.ask("d1", RequestKind.LOGS, hours=24.0 * 60)
    assert apply_retention(busy.database, clock=watch).answers == 0
    watch.goes_on(days=2)
    # And what `busy` was asked.
    assert apply_retention(busy.database, clock=watch).answers == 3
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
