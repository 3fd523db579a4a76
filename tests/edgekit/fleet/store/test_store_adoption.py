"""What an edgekit that kept rollouts and measurements as files has left in a fleet's folder."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgekit.fleet.folder import Fleet
from edgekit.fleet.rollouts.engine import step
from edgekit.fleet.rollouts.state import Phase
from edgekit.fleet.store.adoption import adopt_files
from edgekit.fleet.store.database import Database, open_fleet_database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch
from tests.edgekit.fleet.rollouts.worlds import World, make_plan

NOW = 1_800_000_000.0
WINDOW = Window(
    start=NOW - 10, end=NOW, bundle="digits", version="2.0.0", model=ModelCounts(requests=10)
)


@pytest.fixture
def old_fleet(tmp_path: Path) -> Fleet:
    """A folder with a rollout under way, one that was only made, and what devices measured."""
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    plan = make_plan()
    begun = step(plan, World.of(plan, 5).state, World.of(plan, 5).observe(), 5.0).state
    for name, state in (("r1", begun), ("r2", None)):
        place = fleet.path / "rollouts" / name
        place.mkdir(parents=True)
        document = plan.to_json() | {"id": name}
        (place / "plan.json").write_text(json.dumps(document))
        if state is not None:
            (place / "state.json").write_text(f"7\n{json.dumps(state.to_json())}\n")
    with closing(sqlite3.connect(fleet.path / "telemetry.db")) as ledger:
        ledger.executescript(
            "CREATE TABLE slots (device, bundle, version, slot, feedback, right, counts);"
            "CREATE TABLE streams (device, stream, last, dropped, seen);"
        )
        ledger.execute(
            "INSERT INTO slots VALUES ('d1', 'digits', '2.0.0', ?, 4, 3, ?)",
            (NOW, json.dumps(WINDOW.to_json())),
        )
        ledger.execute("INSERT INTO streams VALUES ('d1', ?, 7, 0, ?)", ("0" * 16, NOW))
        ledger.commit()
    (fleet.path / "alarms.json").write_text("[]")
    return fleet


def test_old_files_are_taken_into_the_database_once(old_fleet: Fleet, database: Database) -> None:
    adopt_files(old_fleet, database)
    table = RolloutTable(database)
    assert set(table.names()) == {"r1", "r2"}
    assert (table.load("r1").revision, table.load("r1").state.phase) == (7, Phase.RUNNING)
    assert len(table.load("r1").state.members) == 5
    assert (table.load("r2").revision, table.load("r2").state.phase) == (1, Phase.NEW)
    ledger = Ledger(database)
    health = ledger.health("d1", "digits", "2.0.0")
    assert health is not None
    assert (health.requests, health.feedback, health.right) == (10, 4, 3)
    # What was counted then does not count again now.
    text = json.dumps(WINDOW.to_json()).encode()
    batch = pack_batch("d1", "0" * 16, 0, [(number, text) for number in (6, 7, 8)])
    taken = ledger.take([("d1", batch)], now=NOW + 60)
    assert (taken.records, taken.duplicates) == (1, 2)
    kept = {place.name for place in (old_fleet.path / "before-the-database").iterdir()}
    assert kept == {"rollouts", "telemetry.db", "alarms.json"}
    assert not any((old_fleet.path / name).exists() for name in kept)
    adopt_files(old_fleet, database)
    assert table.load("r1").revision == 7


def test_killed_between_database_and_folder_it_is_taken_in_again(
    old_fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_path: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        with pytest.raises(KeyboardInterrupt):
            adopt_files(old_fleet, database)
    table = RolloutTable(database)
    state = table.load("r1").state
    assert table.save("r1", state, revision=7) == 8
    adopt_files(old_fleet, database)
    # What has happened in the database meanwhile stands.
    assert table.load("r1").revision == 8
    health = Ledger(database).health("d1", "digits", "2.0.0")
    assert health is not None
    assert health.requests == 10


def test_while_an_earlier_edgekit_drives_it_is_refused(old_fleet: Fleet) -> None:
    with (old_fleet.path / "rollouts" / "r2" / ".driver").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentLackError, match="earlier edgekit is driving") as caught:
            open_fleet_database(old_fleet)
    assert "Ctrl-C" in str(caught.value.fix)
    assert (old_fleet.path / "rollouts" / "r1").is_dir()
    open_fleet_database(old_fleet).close()
    assert not (old_fleet.path / "rollouts").exists()


@pytest.mark.parametrize("content", [b"", b"7", b"x\n{}", b"7\n{", b'7\n{"format": "x"}'])
def test_a_damaged_file_is_said_and_nothing_is_moved(old_fleet: Fleet, content: bytes) -> None:
    place = old_fleet.path / "rollouts" / "r1" / "state.json"
    place.write_bytes(content)
    with pytest.raises(VerificationError) as caught:
        open_fleet_database(old_fleet)
    assert caught.value.fix
    assert place.read_bytes() == content


def test_a_fleet_has_one_database(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    open_fleet_database(fleet).close()
    open_fleet_database(fleet, str(fleet.path / "fleet.db")).close()
    open_fleet_database(fleet).close()
    other = str(tmp_path / "other.db")
    open_fleet_database(fleet, other).close()
    with pytest.raises(UsageError, match="another one") as caught:
        open_fleet_database(fleet)
    assert other in str(caught.value.fix)
    open_fleet_database(fleet, other).close()
    open_fleet_database(fleet, str(fleet.path / "fleet.db")).close()
    open_fleet_database(fleet).close()
