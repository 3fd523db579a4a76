from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli import edgekit
from edgekit.fleet.broker import start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.publisher import publish
from edgekit.fleet.release import release_bundle
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
    assert (listed["id"], listed["a"], listed["b"]) == ("e1", "1.0.0", "2.0.0")
    assert "e1" in run(released, "list").output


@pytest.mark.parametrize(
    ("versions", "what"),
    [
        (("1.0.0", "3.0.0"), "digits 3.0.0 is released, but not published"),
        (("8.0.0", "9.0.0"), "digits 8.0.0 and 9.0.0 are not released"),
        (("1.0.0", "1.0.0"), "both versions are the same"),
    ],
)
def test_versions_that_devices_could_not_get_are_refused(
    released: Fleet, versions: tuple[str, str], what: str
) -> None:
    error = run(released, "start", "e1", "digits", *versions, *START[5:]).exception
    assert isinstance(error, EdgekitError)
    assert what in error.what
    assert json.loads(run(released, "list", "--json").output) == []
