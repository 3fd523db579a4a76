from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli import edgekit
from edgekit.fleet.audit import read_audit
from edgekit.fleet.broker import start_broker
from edgekit.fleet.experiments.ab import Answer, Looked
from edgekit.fleet.experiments.assignment import Arm
from edgekit.fleet.folder import Fleet
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.store.database import open_fleet_database
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.experiments import ExperimentTable
from edgekit_runtime.errors import EdgekitError

START = ("start", "e1", "digits", "1.0.0", "2.0.0", "--metric", "errors", "--margin", "0.02")


@pytest.fixture
def released(fleet: Fleet, make_bundle: Callable[..., Path], tmp_path: Path) -> Iterator[Fleet]:
    """A fleet with two versions published, and one that is only released."""
    for version in ("1.0.0", "2.0.0"):
        release_bundle(fleet, make_bundle(version, model=version.encode()))
    with start_broker(tmp_path / "broker") as running:
        publish(fleet, running.address)
        release_bundle(fleet, make_bundle("3.0.0", model=b"3.0.0"))
        yield fleet


def run(fleet: Fleet, *words: str) -> Result:
    return CliRunner().invoke(edgekit, ["fleet", "experiment", *words, "--fleet", str(fleet.path)])


def test_an_experiment_is_begun_and_listed(released: Fleet) -> None:
    made = run(released, *START, "--most-days", "2", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["question"]["most_seconds"] == 172_800
    (listed,) = json.loads(run(released, "list", "--json").output)
    assert (listed["id"], listed["version_a"], listed["version_b"]) == ("e1", "1.0.0", "2.0.0")
    assert "finding devices" in run(released, "list").output


def test_an_experiment_is_shown_and_stopped(released: Fleet) -> None:
    said = run(released, *START).output
    assert (
        said == "e1: digits 1.0.0 against 2.0.0. 0 devices match now. Next: edgekit fleet serve\n"
    )
    with closing(open_fleet_database(released)) as database:
        table = ExperimentTable(database)
        table.begin("e1", {"oven-2": Arm.B, "oven-1": Arm.A})
        table.note_told("e1")
        table.save("e1", Looked(a=0.25, devices_a=1, looks=1))
    shown = run(released, "show", "e1").output
    assert shown.startswith("e1: digits, errors, running. not enough is known of the errors yet.")
    assert "1.0.0: 25.00% on 1 device\n2.0.0: not heard of yet\n" in shown
    assert shown.splitlines()[-2:] == [
        "oven-1  a          1.0.0",
        "oven-2  b          2.0.0",
    ]
    stopped = json.loads(run(released, "stop", "e1", "--json").output)
    assert (stopped["state"], stopped["devices"]) == ("over", {"oven-1": "a", "oven-2": "b"})
    # Stopped is stopped, however often; and whoever was looking meanwhile changes nothing.
    again = run(released, "stop", "e1").output
    assert "stopped before it was decided: not enough is known of the errors. Its" in again
    with closing(open_fleet_database(released)) as database:
        ExperimentTable(database).save("e1", Looked(looks=2))
        assert ExperimentTable(database).get("e1").looked.answer is Answer.STOPPED
        with database.read() as session:
            entries = read_audit(session, subject="experiment e1")
    assert [entry.action for entry in entries] == ["experiment.stopped", "experiment.created"]
    error = run(released, "show", "e9").exception
    assert isinstance(error, NotFoundError)


def test_an_answer_that_was_given_is_not_stopped(released: Fleet) -> None:
    run(released, *START)
    with closing(open_fleet_database(released)) as database:
        ExperimentTable(database).save("e1", Looked(answer=Answer.NO_DIFFERENCE))
    error = run(released, "stop", "e1").exception
    assert isinstance(error, EdgekitError)
    assert "the experiment is over already: no difference" in error.what


@pytest.mark.parametrize(
    ("versions", "what"),
    [
        (("1.0.0", "3.0.0"), "digits 3.0.0 is released, but not published"),
        (("8.0.0", "9.0.0"), "digits 8.0.0 and 9.0.0 are not released"),
        (("1.0.0", "1.0.0"), "both versions are the same"),
        (("1.0.0", "2.0.0", "--margin", "1"), "the margin is 1, and no shares differ by more"),
    ],
)
def test_versions_that_devices_could_not_get_are_refused(
    released: Fleet, versions: tuple[str, ...], what: str
) -> None:
    words = (*versions[:2], *START[5:], *versions[2:])
    error = run(released, "start", "e1", "digits", *words).exception
    assert isinstance(error, EdgekitError)
    assert what in error.what
    assert json.loads(run(released, "list", "--json").output) == []
