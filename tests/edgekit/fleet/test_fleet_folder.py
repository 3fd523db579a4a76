from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.fleet.folder import BrokerAddress, Expiries, Fleet
from edgekit_runtime.errors import EnvironmentLackError, UsageError


def test_a_fleet_opens_as_it_was_made(tmp_path: Path) -> None:
    made = Fleet.create(tmp_path / "f", "plant-7", expiries=Expiries(timestamp=3, order=9))
    assert Fleet.open(tmp_path / "f") == made
    moved = made.with_broker(BrokerAddress("broker.example", 1883))
    assert Fleet.open(tmp_path / "f") == moved
    assert moved.expiries == made.expiries


def test_settings_that_a_person_changed_are_kept_when_the_broker_is_remembered(
    tmp_path: Path,
) -> None:
    Fleet.create(tmp_path, "plant-7")
    settings = tmp_path / "fleet.toml"
    settings.write_text(settings.read_text().replace("timestamp = 7", "timestamp = 2"))
    Fleet.open(tmp_path).with_broker(BrokerAddress("localhost", 1884))
    assert Fleet.open(tmp_path).expiries.timestamp == 2


def test_a_folder_without_a_fleet_says_how_to_make_one(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="no fleet folder") as caught:
            Fleet.open(place)
        assert "edgekit fleet init" in str(caught.value.fix)


def test_every_invalid_setting_is_named(tmp_path: Path) -> None:
    Fleet.create(tmp_path, "plant-7")
    (tmp_path / "fleet.toml").write_text(
        'format = 1\nid = "/"\ncreated = "x"\nspeed = 3\n'
        '[expiry_days]\nroot = 0\nmoon = 3\n[broker]\nhost = "a b"\nport = 99999\n'
        '[public_broker]\nhost = "a b"\nport = 1\n'
    )
    with pytest.raises(UsageError) as caught:
        Fleet.open(tmp_path)
    for name in (
        "id",
        "speed",
        "expiry_days.root",
        "expiry_days.moon",
        "broker.host",
        "port",
        "public_broker.host",
    ):
        assert name in caught.value.what


def test_a_fleet_is_never_made_over_another_one_or_over_a_file(tmp_path: Path) -> None:
    Fleet.create(tmp_path / "f", "plant-7")
    with pytest.raises(UsageError, match="already"):
        Fleet.create(tmp_path / "f", "plant-8")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="folder is needed"):
        Fleet.create(tmp_path / "file", "plant-8")
    with pytest.raises(UsageError, match="fleet id"):
        Fleet.create(tmp_path / "g", "a/b")
    assert not (tmp_path / "g").exists()


def test_only_one_process_changes_a_fleet_at_a_time(fleet: Fleet) -> None:
    with (
        fleet.locked(),
        pytest.raises(EnvironmentLackError, match="another process"),
        Fleet.open(fleet.path).locked(),
    ):
        pytest.fail("the lock was taken twice")
    with fleet.locked():
        pass
