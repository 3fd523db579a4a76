"""What people change in a fleet's folder by commands stands in the audit log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.audit import AuditEntry, read_audit, verify_audit
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.broker_setup import BrokerPlan, add_broker
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import erase_device
from edgekit.fleet.folder import Fleet
from edgekit.fleet.folder_changes import FolderChange, note_change, record_noted
from edgekit.fleet.ordering import order_device
from edgekit.fleet.release import release_bundle
from edgekit.fleet.store.database import Database, open_fleet_database
from edgekit_runtime.sealing.keys import write_new_key

NOTES = "unrecorded-changes.jsonl"
Run = Callable[..., str]


@pytest.fixture
def run(fleet: Fleet, database: Database) -> Run:
    """Run a command with the database named."""
    address = database.engine.url.render_as_string(hide_password=False)

    def invoke(*arguments: str) -> str:
        options = ["--fleet", str(fleet.path), "--database", address]
        done = CliRunner().invoke(edgekit, [*arguments, *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return invoke


def entries(database: Database, *actions: str) -> list[AuditEntry]:
    """The oldest first."""
    with database.read() as session:
        found = read_audit(session, newest=1_000)[::-1]
    return [entry for entry in found if not actions or entry.action in actions]


def test_releases_and_orders_stand_in_the_log_with_who_made_them(
    fleet: Fleet, database: Database, run: Run, make_bundle: Callable[..., Path], monkeypatch
) -> None:
    monkeypatch.setenv("LOGNAME", "carla")
    known = Inventory(database, actor="test").add("oven-1")
    bundle = make_bundle("1.0.0")
    run("release", "add", str(bundle))
    # The same again changes nothing.
    run("release", "add", str(bundle))
    run("fleet", "order", "oven-1", "digits@1.0.0")
    run("fleet", "order", "oven-2", "digits@1.0.0")
    released, ordered, unknown = entries(database)
    assert (released.actor, released.action) == ("cli:carla", "release.added")
    assert (released.subject, set(released.detail)) == ("digits@1.0.0", {"file_sha256", "chunks"})
    assert (ordered.action, ordered.subject) == ("device.ordered", f"device {known.pseudonym}")
    assert ordered.detail == {"bundle": "digits", "version": "1.0.0", "order": 1}
    # Nobody has heard of it yet, and an order alone does not make it one of the fleet's devices.
    assert unknown.subject == "device unknown"
    assert not any("oven-" in str(entry) for entry in (released, ordered, unknown))
    assert [device.id for device in Inventory(database, actor="test").all()] == ["oven-1"]
    assert not (fleet.path / NOTES).exists()
    assert verify_audit(database).sequence == 3


def test_what_is_published_stands_in_the_log_once(
    fleet: Fleet, database: Database, run: Run, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    release_bundle(fleet, make_bundle("1.0.0"))
    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        for _ in range(2):
            run("fleet", "publish", "--broker", str(broker.address))
        (first,) = entries(database)
        assert (first.action, first.subject) == ("fleet.published", f"broker {broker.address}")
        assert first.detail["orders"] == 0
        order_device(fleet, "oven-1", [])
        run("fleet", "publish")
        run("fleet", "refresh")
        run("fleet", "publish")
    _, ordered, refreshed, again = entries(database)
    assert (ordered.action, ordered.detail["orders"]) == ("fleet.published", 1)
    assert (refreshed.action, refreshed.detail["devices"]) == ("fleet.refreshed", 1)
    assert again.detail["metadata_version"] != ordered.detail["metadata_version"]


def test_storage_and_certificates_stand_in_the_log(
    fleet: Fleet, database: Database, run: Run, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    known = Inventory(database, actor="test").add("oven-1")
    release_bundle(fleet, make_bundle("1.0.0"))
    key = tmp_path / "storage.key"
    write_new_key(key, rotate=False)
    run("fleet", "storage")
    assert entries(database) == []
    run("fleet", "storage", "--key-file", str(key))
    run("fleet", "storage", "--plain")
    encrypted, plain = entries(database, "storage.changed")
    assert str(encrypted.detail["storage"]).startswith("folder, encrypted with")
    assert (plain.detail["storage"], plain.subject) == ("folder", "storage of fleet plant-7")
    add_broker(fleet, BrokerPlan(hosts=("localhost",)))
    run("fleet", "authority", "issue", "oven-1", "--out", str(tmp_path / "oven-1"))
    run("fleet", "authority", "revoke", str(tmp_path / "oven-1" / "device.pem"))
    run("fleet", "authority", "renew")
    issued, revoked, renewed = entries(database)[2:]
    assert (issued.action, issued.subject) == ("certificate.issued", f"device {known.pseudonym}")
    assert (revoked.action, revoked.detail["serials"]) == (
        "certificate.revoked",
        [issued.detail["serial"]],
    )
    assert int(str(issued.detail["serial"]), 16) in FleetAuthority.load(fleet).revoked()
    assert (renewed.action, renewed.subject) == ("certificate.renewed", "broker of fleet plant-7")


@pytest.mark.parametrize("away", ["package", "server"])
def test_without_a_database_the_change_is_made_and_recorded_later(
    fleet: Fleet, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    options = ["--fleet", str(fleet.path)]
    with monkeypatch.context() as patched:
        if away == "package":
            patched.setitem(sys.modules, "sqlalchemy", None)
        else:
            (fleet.path / "database.txt").write_text("postgresql+psycopg://db.plant/fleet\n")
        for command in (
            ["release", "add", str(make_bundle("1.0.0")), "--json"],
            ["fleet", "order", "oven-1", "digits@1.0.0", "--json"],
        ):
            done = CliRunner().invoke(edgekit, [*command, *options], catch_exceptions=False)
            assert (done.exit_code, "not in the audit log yet" in done.stderr) == (0, True)
            assert json.loads(done.stdout)["bundle"] == "digits"
    assert (fleet.path / NOTES).read_text().count("\n") == 2
    (fleet.path / "database.txt").unlink(missing_ok=True)
    database = open_fleet_database(fleet)
    try:
        assert [e.action for e in entries(database)] == ["release.added", "device.ordered"]
    finally:
        database.close()
    assert not (fleet.path / NOTES).exists()


def test_a_note_keeps_its_time_and_who_it_was_and_a_torn_one_stops_nobody(
    fleet: Fleet, database: Database
) -> None:
    change = FolderChange(action="release.added", subject="digits@1.0.0")
    noted = datetime(2026, 11, 25, 12, tzinfo=UTC)
    note_change(fleet, change, actor="cli:carla", clock=lambda: noted)
    with (fleet.path / NOTES).open("ab") as file:
        file.write(b'\n{"at": 1.0, "act')
    note_change(fleet, FolderChange(action="fleet.refreshed"), actor="cli:carla")
    record_noted(fleet, database)
    whole, torn, later = entries(database)
    assert later.action == "fleet.refreshed"
    assert (whole.at, whole.actor) == ("2026-11-25T12:00:00Z", "cli:carla")
    assert (torn.action, torn.subject) == ("change.unreadable", "a note that was cut off")
    record_noted(fleet, database)
    assert len(entries(database)) == 3


def test_a_note_of_a_device_goes_with_the_device(fleet: Fleet, database: Database) -> None:
    known = Inventory(database, actor="test").add("oven-1")
    note_change(fleet, FolderChange(action="device.ordered", device="oven-1"), actor="cli:carla")
    erase_device(database, fleet, "oven-1", broker=None, actor="bob")
    assert [e.subject for e in entries(database)] == [f"device {known.pseudonym}"] * 2
    files = [path for path in fleet.path.rglob("*") if path.is_file()]
    assert [path for path in files if b"oven-1" in path.read_bytes()] == []
