"""A command that the fleet names is run after each change of the broker's files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgekit.fleet import broker_changes
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.broker_address import BrokerAddress
from edgekit.fleet.broker_changes import tell_broker
from edgekit.fleet.broker_setup import (
    BrokerPlan,
    add_broker,
    broker_folder,
    install_revocations,
    new_fleet,
    renew_certificates,
)
from edgekit.fleet.devices.certificates import revoke_device
from edgekit.fleet.devices.enrolment import Application, create_enrolment_token, take_in
from edgekit.fleet.folder import SETTINGS, Fleet
from edgekit.fleet.store.database import Database
from edgekit_agent.identity.keys import make_key, signing_request
from edgekit_runtime.errors import EnvironmentLackError, UsageError

CODE = (
    "import os, pathlib, sys\n"
    "if pathlib.Path(sys.argv[1], 'broken').exists(): sys.exit('no such broker')\n"
    "with pathlib.Path(sys.argv[1], 'told').open('a') as file: file.write(os.getcwd() + '\\n')\n"
)


def made_with(folder: Path, *command: str) -> Fleet:
    new_fleet(folder / "fleet", "plant-7", BrokerPlan())
    settings = folder / "fleet" / SETTINGS
    settings.write_text(
        settings.read_text() + f"\n[broker_files]\nchanged = {json.dumps(command)}\n"
    )
    return Fleet.open(folder / "fleet")


@pytest.fixture
def told_fleet(tmp_path: Path) -> Fleet:
    return made_with(tmp_path, sys.executable, "-c", CODE, str(tmp_path))


def told(folder: Path) -> list[str]:
    path = folder / "told"
    return path.read_text().splitlines() if path.exists() else []


def test_it_is_run_after_each_change_in_the_brokers_folder(
    told_fleet: Fleet, tmp_path: Path
) -> None:
    authority = FleetAuthority.load(told_fleet)
    authority.revoke([5])
    install_revocations(authority)
    assert told(tmp_path) == [str(broker_folder(told_fleet))]
    # The same again is no change.
    install_revocations(authority)
    assert len(told(tmp_path)) == 1
    renew_certificates(authority)
    assert len(told(tmp_path)) == 2
    add_broker(told_fleet, BrokerPlan(hosts=("other.example",)))
    assert len(told(tmp_path)) == 3


def test_a_device_that_is_revoked_is_told_of_again_where_that_failed(
    told_fleet: Fleet, database: Database, tmp_path: Path
) -> None:
    _, token = create_enrolment_token(database, device="oven-1", actor="test")
    make_key(tmp_path / "key")
    request = signing_request(tmp_path / "key", device="oven-1", fleet="plant-7")
    applied = Application(token=token, device="oven-1", fleet="plant-7", request=request)
    take_in(database, told_fleet, applied)
    (tmp_path / "broken").touch()
    with pytest.raises(EnvironmentLackError, match=r"the broker was not told: .*no such broker"):
        revoke_device(database, told_fleet, "oven-1", actor="test")
    assert len(FleetAuthority.load(told_fleet).revoked()) == 1
    (tmp_path / "broken").unlink()
    revoke_device(database, told_fleet, "oven-1", actor="test")
    assert len(told(tmp_path)) == 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("/no/such/program",), "No such file"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "took more than"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "it ended with 3"),
    ],
)
def test_a_command_that_does_not_work_is_said(
    command: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_changes, "_COMMAND_SECONDS", 2.0)
    fleet = made_with(tmp_path, *command)
    with pytest.raises(EnvironmentLackError, match=reason) as caught:
        tell_broker(fleet, broker_folder(fleet))
    assert "[broker_files]" in str(caught.value.fix)


def test_there_is_no_shell(tmp_path: Path) -> None:
    fleet = made_with(tmp_path, "echo", f"; touch {tmp_path / 'shell'}", "$(id)")
    assert tell_broker(fleet, broker_folder(fleet))
    assert not (tmp_path / "shell").exists()


def test_without_a_command_or_a_folder_nothing_is_run(tmp_path: Path) -> None:
    new_fleet(tmp_path / "fleet", "plant-7", BrokerPlan())
    fleet = Fleet.open(tmp_path / "fleet")
    assert not tell_broker(fleet, broker_folder(fleet))
    named = made_with(tmp_path / "other", "false")
    assert not tell_broker(named, tmp_path / "nowhere")


def test_the_setting_stays_when_others_are_written(told_fleet: Fleet) -> None:
    told_fleet.with_broker(BrokerAddress("broker.example.com", 8883))
    again = Fleet.open(told_fleet.path)
    assert again.broker_command == told_fleet.broker_command
    assert again.broker is not None


@pytest.mark.parametrize("text", ["changed = []", "changed = 'x'", "changed = ['']", "chang = []"])
def test_a_setting_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    new_fleet(tmp_path / "fleet", "plant-7", BrokerPlan())
    settings = tmp_path / "fleet" / SETTINGS
    settings.write_text(settings.read_text() + f"\n[broker_files]\n{text}\n")
    with pytest.raises(UsageError, match="broker_files"):
        Fleet.open(tmp_path / "fleet")
