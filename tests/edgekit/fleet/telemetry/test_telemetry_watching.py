from __future__ import annotations

import json

import pytest

from edgekit.fleet.store.database import Database
from edgekit.fleet.store.settings import write_setting
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit.fleet.telemetry.notices import Notice
from edgekit.fleet.telemetry.watching import SETTING, AlarmWatch
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch

NOW = 1_800_000_000.0


def report(ledger: Ledger, number: int, *, errors: int, now: float) -> None:
    model = ModelCounts(requests=1_000, errors=errors)
    window = Window(start=now - 60, end=now, bundle="digits", version="2.0.0", model=model)
    row = json.dumps(window.to_json()).encode()
    ledger.take([("d1", pack_batch("d1", "0" * 16, 0, [(number, row)]))], now=now)


def test_an_alarm_rings_once_whoever_watches_next(database: Database) -> None:
    ledger = Ledger(database, look_seconds=0.0)
    told: list[Notice] = []
    report(ledger, 1, errors=500, now=NOW)
    first = AlarmWatch("plant-7", ledger, database, tell=told.append)
    first.turn(NOW)
    kinds = [notice.kind for notice in told]
    assert kinds
    assert set(kinds) == {"alarm.began"}
    # Another replica, or the same after a restart, knows which last.
    second = AlarmWatch("plant-7", Ledger(database, look_seconds=0.0), database, tell=told.append)
    assert second.alarms == first.alarms
    second.turn(NOW + 61)
    assert [notice.kind for notice in told] == kinds
    second.turn(NOW + 4 * 3_600)
    assert "alarm.ended" in [notice.kind for notice in told]
    assert AlarmWatch("plant-7", ledger, database, tell=told.append).alarms == second.alarms


def test_a_damaged_list_of_alarms_is_said(database: Database) -> None:
    write_setting(database, SETTING, [{"kind": "noise"}])
    with pytest.raises(VerificationError, match="list of alarms is damaged"):
        AlarmWatch("plant-7", Ledger(database), database, tell=lambda _notice: None)
