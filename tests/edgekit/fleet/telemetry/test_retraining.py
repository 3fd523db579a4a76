"""Calls for retraining: one for a storm, and with it the samples that devices have kept."""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.requests import RequestBook
from edgekit.fleet.store.database import Database
from edgekit.fleet.telemetry import retraining
from edgekit.fleet.telemetry.alarm_limits import FLEET_LIMITS, read_limits
from edgekit.fleet.telemetry.ledger import Ledger, count_feedback
from edgekit.fleet.telemetry.messenger import Messenger
from edgekit.fleet.telemetry.notices import Notice, Target
from edgekit.fleet.telemetry.retraining import (
    RetrainingCalls,
    RetrainingSettings,
    read_retraining,
)
from edgekit.fleet.telemetry.watching import AlarmWatch
from edgekit_runtime.errors import UsageError
from edgekit_runtime.requests import DeviceReply
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts, Window, pack_batch

NOW = 1_800_000_000.0
HOUR = 3_600.0


def clock() -> datetime:
    return datetime.fromtimestamp(NOW, UTC)


def call(bundle: str = "digits", version: str = "2.0.0", *devices: str) -> Notice:
    data: dict[str, Any] = {"bundle": bundle, "version": version, "devices": list(devices)}
    return Notice(kind="retrain", fleet="plant-7", time=NOW, text="train again", data=data)


class Told(list[Notice]):
    """Calls that went out, by whichever replica."""

    def calls(self, database: Database, **settings: float) -> RetrainingCalls:
        return RetrainingCalls(
            database,
            RetrainingSettings(**settings),  # type: ignore[arg-type]
            tell=self.append,
            clock=clock,
        )


@pytest.fixture
def told() -> Told:
    return Told()


def answer(database: Database, device: str, names: list[str], *, ok: bool = True) -> None:
    """Be a device that answers its newest request."""
    book = RequestBook(database, actor="test", clock=clock)
    asked = book.of(device)[0]
    parts = [
        {"sample": n, "piece": 0, "pieces": 1, "data": base64.b64encode(n.encode()).decode()}
        for n in names
    ] or [{"error": "the owner does not allow samples"}]
    book.take(
        DeviceReply(
            device=device, number=asked.number, ok=ok, part=i, parts=len(parts), result=part
        )
        for i, part in enumerate(parts)
    )


def test_a_storm_is_one_call(database: Database, told: Told) -> None:
    calls = told.calls(database)
    for second in range(100):
        calls.take(call(version=f"2.0.{second % 3}"), now=NOW + second)
    calls.take(call("letters"), now=NOW + 1)
    assert [notice.data["bundle"] for notice in told] == ["digits", "letters"]
    # Another replica, or the same after a restart.
    again = told.calls(database)
    again.take(call(), now=NOW + 23 * HOUR)
    assert len(told) == 2
    again.take(call(), now=NOW + 24 * HOUR)
    assert len(told) == 3


def test_the_samples_of_the_version_come_with_the_call(database: Database, told: Told) -> None:
    inventory = Inventory(database, actor="test")
    for device in ("d1", "d2", "d3"):
        inventory.add(device, {})
    calls = told.calls(database, samples=5, wait_seconds=600)
    calls.take(call("digits", "2.0.0", "d1", "d2", "d3", "gone"), now=NOW)
    assert told == []
    (asked,) = RequestBook(database, actor="test", clock=clock).of("d1")
    assert (asked.arguments, asked.created_by) == ({"most": 5}, "retraining")
    own, other = "1-digits-2.0.0-random.npz", "2-letters-1.0.0-random.npz"
    answer(database, "d1", [own, other])
    answer(database, "d2", [], ok=False)
    calls.turn(NOW + 10)
    assert told == []
    # The rest is not waited for longer; another replica has taken over meanwhile.
    told.calls(database, samples=5).turn(NOW + 601)
    calls.turn(NOW + 700)
    (notice,) = told
    assert notice.files == {f"d1/{own}": own.encode()}
    taken = {item["device"]: item["samples"] for item in notice.data["collected"]}  # type: ignore[attr-defined]
    assert taken == {"d1": 1, "d2": 0, "d3": 0}
    assert json.loads(notice.to_json())["data"]["collected"][0]["device"] == "d1"


def test_when_all_have_answered_nobody_waits(database: Database, told: Told) -> None:
    inventory = Inventory(database, actor="test")
    for device in ("d1", "d2"):
        inventory.add(device, {})
    calls = told.calls(database, samples=1)
    calls.take(call("digits", "2.0.0", "d1", "d2"), now=NOW)
    answer(database, "d1", ["1-digits-2.0.0-random.npz"])
    with database.write() as session:
        from edgekit.fleet.store.tables import DeviceRow

        session.delete(session.get_one(DeviceRow, "d2"))
    calls.turn(NOW + 10)
    assert [set(notice.files) for notice in told] == [{"d1/1-digits-2.0.0-random.npz"}]


def test_what_comes_is_bounded(
    database: Database, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    Inventory(database, actor="test").add("d1", {})
    monkeypatch.setattr(retraining, "MAX_SAMPLE_BYTES", 60)
    calls = told.calls(database, samples=9)
    calls.take(call("digits", "2.0.0", "d1"), now=NOW)
    answer(database, "d1", [f"{n}-digits-2.0.0-random.npz" for n in range(9)])
    calls.turn(NOW + 10)
    assert len(told[0].files) == 2


def test_a_drift_calls_once_while_it_flaps(database: Database) -> None:
    told: list[Notice] = []
    ledger = Ledger(database, look_seconds=0.0)
    calls = RetrainingCalls(database, RetrainingSettings(), tell=told.append)
    watch = AlarmWatch("plant-7", ledger, database, tell=told.append, calls=calls)
    drifted = FeatureCounts(expected=(0.5, 0.5), counts=(1_000, 0), ordered=True)
    for turn in range(3):
        now = NOW + turn * 3 * HOUR
        counts = ModelCounts(requests=1_000, features={"input:light": drifted})
        window = Window(start=now - 9, end=now, bundle="digits", version="2.0.0", model=counts)
        row = (turn + 1, json.dumps(window.to_json()).encode())
        ledger.take([("d1", pack_batch("d1", "0" * 16, 0, [row]))], now=now)
        watch.turn(now)
        # The alarm ends, and begins anew with the next batch.
        watch.turn(now + 2.5 * HOUR)
    kinds = [notice.kind for notice in told]
    assert kinds.count("retrain") == 1
    assert kinds.count("alarm.began") >= 3


def test_a_command_finds_the_samples_in_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = (
        "import json, os, pathlib, sys; f = pathlib.Path(os.environ['EDGEKIT_SAMPLES']);"
        "found = {p.relative_to(f).as_posix(): p.read_text() for p in f.rglob('*.npz')};"
        f"pathlib.Path({str(out)!r}).write_text(json.dumps([str(f), found]))"
    )
    messenger = Messenger(
        [Target(kinds=("retrain",), argv=(sys.executable, "-c", code))], fleet="x"
    )
    files = {"d1/1-digits.npz": b"one", "../2.npz": b"out", "d2/a/b.npz": b"deep"}
    messenger.tell(Notice(kind="retrain", fleet="x", time=NOW, text="t", files=files))
    messenger.close()
    folder, found = json.loads(out.read_text())
    assert found == {"d1/1-digits.npz": "one"}
    assert not Path(folder).exists()
    assert messenger.lost == 0


def test_the_settings_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notices.toml"
    assert read_retraining(path) == RetrainingSettings()
    path.write_text("[retraining]\ncooldown_hours = 2\nsamples = 5\nwait_minutes = 0.5\n")
    assert read_retraining(path) == RetrainingSettings(
        cooldown_seconds=7_200.0, samples=5, wait_seconds=30.0
    )
    path.write_text("[retraining]\ncooldown_hours = -1\nsamples = 5000\nmore = 1\n")
    with pytest.raises(UsageError) as caught:
        read_retraining(path)
    for field in ("cooldown_hours", "samples", "more"):
        assert f"retraining.{field}" in caught.value.what


def test_alarms_ring_at_the_limits_that_the_owner_has_set(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "notices.toml"
    assert read_limits(path) == FLEET_LIMITS
    path.write_text("[alarms]\nmin_accuracy = 0.9\nmin_feedback = 20\n")
    limits = read_limits(path)
    told: list[Notice] = []
    ledger = Ledger(database, look_seconds=0.0)
    watch = AlarmWatch("plant-7", ledger, database, tell=told.append, limits=limits)
    for turn, answers in enumerate(((8, 2), (8, 2))):
        with database.write() as session:
            count_feedback(session, {("d1", "digits", "2.0.0"): answers}, now=NOW + 61 * turn)
        watch.turn(NOW + 61 * turn)
        assert len(told) == turn
    (notice,) = told
    assert (notice.kind, notice.data["kind"]) == ("alarm.began", "accuracy")
    assert "16 of 20 answers with feedback were right" in notice.text
    path.write_text("[alarms]\nmin_accuracy = 2\nmin_feedback = 0\nmore = 1\n")
    with pytest.raises(UsageError) as caught:
        read_limits(path)
    for field in ("min_accuracy", "min_feedback", "more"):
        assert f"alarms.{field}" in caught.value.what
