from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.fleet.devices.activity import alarms_of
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import delete_device
from edgekit.fleet.store.alarms import note_alarms
from edgekit.fleet.store.database import Database
from edgekit.fleet.telemetry.alarms import Alarm, watch_version
from edgekit.fleet.telemetry.health import Health, Limits

LIMITS = Limits(max_error_share=0.01)


@pytest.fixture
def lasting(database: Database) -> tuple[Alarm, Alarm]:
    """Of all devices of a version together, and of the one of them that it comes from."""
    Inventory(database, actor="test").add("oven-1")
    found = watch_version(
        "digits",
        "1.0.0",
        {"oven-1": Health(requests=1_000, errors=900)},
        LIMITS,
        device_limits=LIMITS,
    )
    fleet, device = (replace(alarm, began=5.0, seen=5.0) for alarm in found)
    assert (fleet.device, device.device) == ("", "oven-1")
    return fleet, device


def test_an_alarm_lasts_until_it_is_not_seen_any_more(
    database: Database, lasting: tuple[Alarm, Alarm]
) -> None:
    assert note_alarms(database, lasting, now=10.0) == 2
    assert note_alarms(database, lasting, now=20.0) == 0
    changed = replace(lasting[0], text="digits 1.0.0: more errors")
    assert note_alarms(database, (changed, lasting[1]), now=30.0) == 1
    assert note_alarms(database, (changed,), now=40.0) == 1
    first, second = alarms_of(database, newest=5)
    assert (first.device, first.ended, first.detail["text"]) == (None, None, changed.text)
    assert (second.device, second.began, second.ended) == ("oven-1", 5.0, 40.0)
    # It comes again: another row, and the first stays over.
    note_alarms(database, (changed, lasting[1]), now=50.0)
    assert [alarm.ended for alarm in alarms_of(database, newest=5)] == [None, None, 40.0]


def test_its_text_does_not_name_the_device_that_it_is_about(
    database: Database, lasting: tuple[Alarm, Alarm]
) -> None:
    assert "oven-1" in lasting[1].text
    note_alarms(database, lasting, now=10.0)
    texts = [str(alarm.detail) for alarm in alarms_of(database, newest=5)]
    assert len(texts) == 2
    for text in texts:
        assert "requests failed" in text
        assert "oven-1" not in text


def test_a_device_that_was_deleted_meanwhile_begins_none(
    database: Database, lasting: tuple[Alarm, Alarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    note_alarms(database, lasting, now=10.0)
    delete_device(database, "oven-1", actor="test")

    def no_write() -> None:
        raise AssertionError("a second in which nothing changes is written down")

    # It lasts for minutes still, and is asked for every second.
    monkeypatch.setattr(Database, "write", lambda _database: no_write())
    assert note_alarms(database, lasting, now=20.0) == 0
    assert [alarm.device for alarm in alarms_of(database, newest=5)] == [None]
