from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli import edgekit
from edgekit.fleet.broker import start_broker
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import Fleet
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.store.database import open_fleet_database
from edgekit.fleet.store.shadows import ShadowTable
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.reports import DeviceState


@pytest.fixture
def released(fleet: Fleet, make_bundle: Callable[..., Path], tmp_path: Path) -> Iterator[Fleet]:
    """A fleet with two bundles published, and one that is only released."""
    for name in ("digits", "bells"):
        release_bundle(fleet, make_bundle("2.0.0", name=name))
    with start_broker(tmp_path / "broker") as running:
        publish(fleet, running.address)
        release_bundle(fleet, make_bundle("2.1.0", name="bells", model=b"new"))
        yield fleet


START = ("start", "s1", "digits", "2.0.0", "--devices", "site=berlin")


def run(fleet: Fleet, *words: str) -> Result:
    return CliRunner().invoke(edgekit, ["fleet", "shadow", *words, "--fleet", str(fleet.path)])


def test_a_run_is_begun_listed_shown_and_stopped(released: Fleet) -> None:
    fleet = released
    options = ("--rate", "0.5", "--hours", "2", "--memory-mb", "100", "--min-agreement", "0.9")
    made = run(fleet, *START, *options, "--json")
    assert made.exit_code == 0, made.output
    settings = json.loads(made.output)["settings"]
    assert (settings["rate"], settings["seconds"], settings["min_agreement"]) == (0.5, 7200, 0.9)
    assert settings["memory_bytes"] == 100 << 20
    listed = run(fleet, "list").output
    assert "nothing was compared yet" in listed
    assert "finding devices" in listed
    shown = run(fleet, "show", "s1")
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("s1: digits 2.0.0, finding devices. nothing was compared yet.")
    with closing(open_fleet_database(fleet)) as database:
        Inventory(database, actor="test").hear([DeviceState(device="oven-1", online=True)])
        ShadowTable(database).choose("s1", ["oven-1"])
    assert "oven-1  not told yet" in run(fleet, "show", "s1").output
    assert "being stopped" in run(fleet, "stop", "s1").output
    assert "oven-1  told no more" in run(fleet, "show", "s1").output
    assert json.loads(run(fleet, "list", "--json").output)[0]["state"] == "being stopped"


def test_what_makes_no_sense_is_refused(released: Fleet) -> None:
    fleet = released
    assert run(fleet, *START).exit_code == 0
    for words, what in (
        (START, "already"),
        (("start", "s2", "digits", "2.0.0"), "has not ended"),
        (("start", "s2", "bells", "2.0.0", "--alpha", "0.7"), "alpha: is above 0.5"),
        (("start", "s2", "bells", "2.0.1"), "bells 2.0.1 is not released"),
        (("start", "s2", "bells", "2.1.0"), "bells 2.1.0 is released, but not published"),
        (("start", "s2", "b c", "x"), "b c x is not released"),
        (("show", "nothing"), "no shadow run"),
        (("stop", "nothing"), "no shadow run"),
    ):
        error = run(fleet, *words).exception
        assert isinstance(error, EdgekitError), words
        assert what in error.what
