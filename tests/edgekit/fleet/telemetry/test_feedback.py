"""Feedback counts once, for what ran, and reaches whoever judges a version."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.audit import read_audit
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import Fleet
from edgekit.fleet.store.database import Database, open_fleet_database
from edgekit.fleet.telemetry import feedback as feedback_module
from edgekit.fleet.telemetry.feedback import (
    Feedback,
    VersionFeedback,
    give_feedback,
    recent_feedback,
)
from edgekit.fleet.telemetry.feedback_files import read_feedback
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.bundle.golden import save_arrays
from edgekit_runtime.errors import UsageError
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState, Phase
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch


@pytest.fixture
def running(database: Database) -> Database:
    """Two devices that have said that they run digits 2.0.0."""
    inventory = Inventory(database, actor="test")
    bundle = {"digits": BundleState(phase=Phase.ACTIVE, active="2.0.0")}
    inventory.hear(
        [DeviceState(device=d, online=True, order_version=1, bundles=bundle) for d in ("d1", "d2")],
        [],
    )
    return database


def piece(identifier: str = "r1", *, right: int = 1, wrong: int = 0, **others: str) -> Feedback:
    usual = {"device": "d1", "bundle": "digits", "version": "2.0.0"}
    return Feedback(id=identifier, right=right, wrong=wrong, **(usual | others))


def give(database: Database, *items: Feedback):
    return give_feedback(database, items, actor="alice")


def judged(database: Database, device: str = "d1") -> tuple[int, int]:
    health = Ledger(database).health(device, "digits", "2.0.0")
    return (health.feedback, health.right) if health else (0, 0)


def test_a_piece_counts_once(running: Database) -> None:
    first = give(running, piece("r1"), piece("r2", right=3, wrong=4), piece("r1"))
    assert (first.counted, first.known, first.refused) == (2, 1, ())
    again = give(running, piece("r2", right=9, wrong=9), piece("r3", right=0, wrong=1))
    assert (again.counted, again.known) == (1, 1)
    # The same id of another device is another piece.
    assert give(running, piece("r1", device="d2")).counted == 1
    assert judged(running) == (9, 4)
    assert judged(running, "d2") == (1, 1)
    found = recent_feedback(running, since=time.time() - 60)
    assert found == {("digits", "2.0.0"): VersionFeedback(right=5, wrong=5)}
    assert found["digits", "2.0.0"].share == 0.5
    with running.read() as session:
        newest = next(e for e in read_audit(session) if e.action == "feedback.given")
    assert newest.detail == {"pieces": 1, "right": 1, "wrong": 0}


def test_a_device_may_be_named_by_its_pseudonym(running: Database) -> None:
    pseudonym = Inventory(running, actor="test").get("d1").pseudonym
    assert give(running, piece("r1", device=pseudonym)).counted == 1
    assert give(running, piece("r1")).known == 1
    assert judged(running) == (1, 1)


def test_what_never_ran_is_refused_and_the_rest_counts(running: Database) -> None:
    done = give(
        running, piece("a"), piece("b", version="3.0.0"), piece("c", device="d9"),
        piece("d", bundle="letters"),
    )  # fmt: skip
    assert done.counted == 1
    assert list(done.refused) == [
        "b: d1 never said that it runs digits 3.0.0",
        "c: there is no device 'd9'",
        "d: d1 never said that it runs letters 2.0.0",
    ]
    assert Ledger(running).health("d1", "digits", "3.0.0") is None


def test_a_version_that_a_device_ran_before_may_be_judged_late(running: Database) -> None:
    event = DeviceEvent(
        device="d1", sequence=1, time=1.0, kind="update.active", bundle="digits", version="1.9.0"
    )
    Inventory(running, actor="test").hear([], [event])
    window = Window(start=1, end=2, bundle="digits", version="1.8.0", model=ModelCounts(requests=1))
    row = (1, json.dumps(window.to_json()).encode())
    Ledger(running).take([("d1", pack_batch("d1", "0" * 16, 0, [row]))], now=time.time())
    done = give(running, *(piece(v, version=v) for v in ("1.9.0", "1.8.0", "1.7.0")))
    assert (done.counted, len(done.refused)) == (2, 1)


@pytest.mark.parametrize(("right", "wrong"), [(0, 0), (-1, 2), (1_000_000, 1)])
def test_numbers_that_are_none_are_refused_whole(running: Database, right: int, wrong: int) -> None:
    with pytest.raises(UsageError, match="are no feedback"):
        give(running, piece("a"), piece("b", right=right, wrong=wrong))
    assert judged(running) == (0, 0)


def test_what_is_remembered_is_bounded(running: Database, monkeypatch) -> None:
    monkeypatch.setattr(feedback_module, "MAX_ITEMS", 2)
    with pytest.raises(UsageError, match="more than 2"):
        give(running, piece("a"), piece("b"), piece("c"))
    give(running, piece("a"))
    later = datetime.now(UTC) + timedelta(days=31)
    give_feedback(running, [piece("b")], actor="alice", clock=lambda: later)
    assert recent_feedback(running, since=0)["digits", "2.0.0"].right == 1


def test_a_failure_counts_nothing_and_the_same_counts_afterwards(
    running: Database, monkeypatch
) -> None:
    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(feedback_module, "count_feedback", power_cut)
        with pytest.raises(KeyboardInterrupt):
            give(running, piece("a"))
    assert give(running, piece("a")).counted == 1
    assert judged(running) == (1, 1)


def test_counts_are_read_from_csv_and_json_lines(tmp_path: Path) -> None:
    table = tmp_path / "f.csv"
    table.write_text(
        "device,bundle,version,right,wrong,id\nd1,digits,2.0.0,7,2,\nd2,digits,2.0.0,1,0,x\n"
    )
    first, second = read_feedback(table)
    assert (first.device, first.right, first.wrong, second.id) == ("d1", 7, 2, "x")
    assert read_feedback(table)[0].id == first.id
    table.write_text(table.read_text().replace("7,2", "7,3"))
    assert read_feedback(table)[0].id != first.id
    lines = tmp_path / "f.jsonl"
    item = {"device": "d1", "bundle": "digits", "version": "2.0.0", "right": False, "id": "r1"}
    lines.write_text(json.dumps(item) + "\n\n")
    assert read_feedback(lines) == (piece("r1", right=0, wrong=1),)


def sample(folder: Path, name: str, **outputs: np.ndarray) -> str:
    (folder / "d1").mkdir(parents=True, exist_ok=True)
    arrays = {"input:x": np.zeros((1, 2), np.float32)}
    arrays |= {f"output:{key}": value for key, value in outputs.items()}
    (folder / "d1" / name).write_bytes(save_arrays(arrays))
    return name


def test_labels_are_compared_with_what_the_model_said(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    one = sample(folder, "00000000000000000001-my-digits-2.0.0-rc.1-random.npz", y=scores)
    two = sample(
        folder, "00000000000000000002-my-digits-2.0.0-rc.1-low-confidence.npz",
        y=np.array([2], np.int64),
    )  # fmt: skip
    table = tmp_path / "labels.csv"
    table.write_text(f"device,sample,label\nd1,{one},rose\nd1,{two},1\n")
    found = read_feedback(
        table, samples=folder, class_names=lambda _b, _v: ("daisy", "rose", "tulip")
    )
    assert [(f.bundle, f.version, f.right, f.wrong) for f in found] == [
        ("my-digits", "2.0.0-rc.1", 1, 0),
        ("my-digits", "2.0.0-rc.1", 0, 1),
    ]
    assert len({f.id for f in found}) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty|empty"),
        ("device,bundle,version,right,wrong\n", "it is empty"),
        (
            "device,bundle,version,right,wrong\nd1,digits,2,7,x\n",
            "line 2.version.*line 2.wrong|wrong",
        ),
        ("device,bundle,version,right,wrong\nd1,digits,2.0.0,0,0\n", "line 2.right: is 0"),
        (
            "device,bundle,version,right,wrong,colour\nd1,digits,2.0.0,1,0,red\n",
            "colour: is unknown",
        ),
        ("device,sample,label\nd1,x.npz,3\n", "needs the folder of the samples"),
        ("device,bundle,version,right,wrong\n../d,digits,2.0.0,1,0\n", "line 2.device"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_feedback(path)


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("1-digits-2.0.0-random.npz", "rose", "no class number, and no name"),
        ("2-digits-random.npz", "1", "names no bundle and version"),
        ("3-digits-2.0.0-random.npz", "1", "cannot be read"),
        ("../1-digits-2.0.0-random.npz", "1", "names no bundle and version"),
    ],
)
def test_what_is_wrong_with_a_label_is_said(
    tmp_path: Path, name: str, label: str, message: str
) -> None:
    folder = tmp_path / "samples"
    sample(folder, "1-digits-2.0.0-random.npz", y=np.ones((1, 3), np.float32))
    path = tmp_path / "f.csv"
    path.write_text(f"device,sample,label\nd1,{name},{label}\n")
    with pytest.raises(UsageError, match=message):
        read_feedback(path, samples=folder)


def test_the_command_counts_and_says_what_it_refused(fleet: Fleet, tmp_path: Path) -> None:
    with contextlib.closing(open_fleet_database(fleet, None)) as database:
        bundle = {"digits": BundleState(phase=Phase.ACTIVE, active="2.0.0")}
        state = DeviceState(device="d1", online=True, order_version=1, bundles=bundle)
        Inventory(database, actor="test").hear([state], [])
    table = tmp_path / "f.csv"
    table.write_text("device,bundle,version,right,wrong\nd1,digits,2.0.0,7,2\n")
    arguments = ["fleet", "feedback", str(table), "--fleet", str(fleet.path)]
    first = CliRunner().invoke(edgekit, arguments)
    assert (first.exit_code, first.output) == (0, "1 counted, 0 were known, 0 refused\n")
    table.write_text(table.read_text() + "d2,digits,2.0.0,1,0\n")
    second = CliRunner().invoke(edgekit, [*arguments, "--json"])
    assert second.exit_code == 1
    found = json.loads(second.output)
    assert (found["counted"], found["known"]) == (1, 0)
    assert found["refused"][0].endswith("there is no device 'd2'")


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    for name, data in (("a.jsonl", b"{"), ("b.csv", b"\xff\xfe\x00"), ("c.jsonl", b"[1]\n")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError):
            read_feedback(tmp_path / name)
