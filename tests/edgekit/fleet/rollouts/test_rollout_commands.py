"""`edgekit fleet rollout`, as a person uses it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields as fields_of
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgekit.cli.fleet import fleet as fleet_group
from edgekit.fleet.broker import RunningBroker, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.publisher import publish
from edgekit.fleet.rollouts.plan import Criteria
from edgekit.fleet.simulation.behaviour import Behaviour
from edgekit.fleet.simulation.crowd import Crowd
from edgekit_runtime.errors import EdgekitError, GateFailedError, UsageError
from edgekit_runtime.orders import Gates
from tests.edgekit.fleet.rollouts.conftest import ReadyFleet, release

START = ("rollout", "start", "double@2.0.0", "--by", "ada")


def invoke(folder: Path, *arguments: str) -> Result:
    place = () if "--dry-run" in arguments else ("--fleet", str(folder))
    return CliRunner().invoke(fleet_group, [*arguments, *place])


def ask(folder: Path, *arguments: str) -> str:
    result = invoke(folder, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(folder: Path, *arguments: str) -> EdgekitError:
    result = invoke(folder, *arguments)
    assert isinstance(result.exception, EdgekitError), result.exception
    return result.exception


@pytest.fixture
def quiet_fleet(tmp_path: Path) -> Iterator[Path]:
    """A fleet without devices: 2.0.0 is published, 3.0.0 only released."""
    made = Fleet.create(tmp_path / "fleet", "plant-7")
    init_keys(made)
    release(made, "2.0.0", tmp_path)
    with start_broker(tmp_path / "broker") as running:
        publish(made, running.address)
        release(made, "3.0.0", tmp_path)
        yield made.path


def test_a_plan_can_be_looked_at_written_down_and_taken_again(
    quiet_fleet: Path, tmp_path: Path
) -> None:
    options = (
        *("--group", "site=berlin", "--stage", "canary=3", "--stage", "50%", "--stage", "100%"),
        *("--min-requests", "100", "--max-error-share", "0.02", "--stage-deadline", "9000"),
        *("--approve-from", "50%", "--window", "mon-fri 22:00-04:00", "--comparable-by", "arch"),
        *("--gate-requests", "5", "--on-failure", "pause"),
    )
    text = ask(quiet_fleet, *START, *options, "--dry-run")
    plan = json.loads(text)
    assert [stage["needs_approval"] for stage in plan["stages"]] == [False, True, True]
    assert plan["stages"][0]["criteria"]["deadline_seconds"] == 9000
    assert plan["order"]["gates"]["min_requests"] == 5
    path = tmp_path / "plan.json"
    path.write_text(text)
    said = ask(quiet_fleet, "rollout", "start", "--plan", str(path), "--no-run")
    assert said.startswith("rollout double-2.0.0: double 2.0.0, stages canary (3), 50% (50 %)")
    stored = json.loads(ask(quiet_fleet, "rollout", "status", "double-2.0.0", "--json"))
    assert stored["plan"] == plan
    assert stored["state"]["phase"] == "new"


def test_people_decide_and_it_is_on_record(quiet_fleet: Path) -> None:
    ask(quiet_fleet, *START, "--no-run", "--stage", "a=1", "--stage", "b=2", "--approve-from", "a")
    own = refused(quiet_fleet, "rollout", "approve", "double-2.0.0", "--by", "ada")
    assert isinstance(own, GateFailedError)
    said = ask(quiet_fleet, "rollout", "approve", "double-2.0.0", "--by", "bob")
    assert said == "double-2.0.0: approve stage a, by bob; it is new now\n"
    ask(quiet_fleet, "rollout", "approve", "double-2.0.0", "--by", "bob", "--stage", "b")
    ask(quiet_fleet, "rollout", "abort", "double-2.0.0", "--by", "eve", "--reason", "not today")
    shown = ask(quiet_fleet, "rollout", "status", "double-2.0.0")
    assert "made by ada: aborted, not today" in shown
    assert "bob: approve stage b" in shown
    rows = json.loads(ask(quiet_fleet, "rollout", "status", "--json"))
    assert [(row["rollout"], row["phase"]) for row in rows] == [("double-2.0.0", "aborted")]
    assert "aborted" in ask(quiet_fleet, "rollout", "status")
    for command in ("pause", "resume", "abort", "approve"):
        assert "aborted" in refused(quiet_fleet, "rollout", command, "double-2.0.0").what


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("rollout", "start"), "no bundle is named"),
        (("rollout", "start", "double"), "'double' names no version"),
        (("rollout", "start", "double@9.0.0"), "double 9.0.0 is not released"),
        (("rollout", "start", "double@3.0.0"), "double 3.0.0 is released, but not published"),
        ((*START, "--stage", "many"), "'many' is no stage"),
        ((*START, "--stage", "5", "--stage", "3"), "each count must be larger"),
        ((*START, "--approve-from", "x"), "there is no stage 'x'"),
        ((*START, "--group", "site="), "the query cannot be read"),
        ((*START, "--window", "always"), "'always' is no window"),
        ((*START, "--stage", "nan%"), "'nan%' is no stage"),
        ((*START, "--stage", "0"), "'0' is no stage"),
        (("rollout", "start", "double@2.0"), "'2.0' is no semantic version"),
        (("rollout", "start", "--plan", __file__), "the plan is no JSON"),
        ((*START, "--max-drift", "1", "--plan", __file__), "BUNDLE, --max-drift would be overloo"),
        ((*START, "--stage-deadline", "60"), "deadline_seconds: is shorter than min_seconds"),
        (("rollout", "run", "nothing"), "there is no rollout 'nothing'"),
        (("rollout", "status", "nothing"), "there is no rollout 'nothing'"),
    ],
)
def test_what_cannot_be_is_said(quiet_fleet: Path, arguments: tuple[str, ...], what: str) -> None:
    error = refused(quiet_fleet, *arguments, *(("--broker", "127.0.0.1:9") * ("run" in arguments)))
    assert isinstance(error, UsageError)
    assert what in error.what


def test_what_a_person_may_not_decide_now_is_said_with_what_they_may(quiet_fleet: Path) -> None:
    ask(quiet_fleet, *START, "--no-run")
    error = refused(quiet_fleet, "rollout", "pause", "double-2.0.0")
    assert error.what == "the rollout is new, not running"
    assert error.fix == "end it: edgekit fleet rollout abort double-2.0.0"
    error = refused(quiet_fleet, "rollout", "approve", "double-2.0.0", "--by", "bob")
    assert error.what == "no stage waits for approval"
    ask(quiet_fleet, "rollout", "stop", "double-2.0.0")
    error = refused(quiet_fleet, "rollout", "stop", "double-2.0.0")
    assert error.what == "the rollout is rolled back already"


def test_a_rollout_that_failed_is_one_document(quiet_fleet: Path) -> None:
    """No device is known: it is aborted."""
    result = invoke(quiet_fleet, *START, "--json")
    assert result.exit_code == 1
    state = json.loads(result.stdout)["state"]
    assert (state["phase"], state["reason"]) == ("aborted", "no device is known")
    again = invoke(quiet_fleet, "rollout", "run", "double-2.0.0")
    assert isinstance(again.exception, GateFailedError)
    assert again.exception.what == "the rollout is aborted: no device is known"
    assert "rollout double-2.0.0 is aborted already" in again.stderr


@pytest.mark.parametrize(
    ("command", "usual", "names"),
    [
        ("rollout start", Criteria(), {"--stage-deadline": "deadline_seconds"}),
        ("rollout start", Gates(), {"--gate-requests": "min_requests"}),
        ("rollout start", Gates(), {"--gate-seconds": "min_seconds"}),
        ("order", Gates(), {}),
    ],
)
def test_help_says_what_is_usual(command: str, usual: Criteria | Gates, names: dict) -> None:
    found = fleet_group
    for word in command.split():
        found = found.commands[word]  # type: ignore[attr-defined]
    fields = {f"--{field.name.replace('_', '-')}": field.name for field in fields_of(usual)}
    fields = fields | names if isinstance(usual, Criteria) or command == "order" else names
    told = [
        (getattr(usual, fields[option.opts[0]]), option.help)
        for option in found.params
        if option.opts[0] in fields and isinstance(option, click.Option)
    ]
    assert told
    for value, text in told:
        said = str(text).partition("[default: ")[2].removesuffix("]")
        if said == "no limit":
            assert value == (1 if "share" in str(text) else 0)
        else:
            assert float(said) == value


def test_from_the_first_command_to_the_emergency_stop(
    ready_fleet: ReadyFleet, mosquitto: RunningBroker
) -> None:
    fleet = ready_fleet(4)
    command = [sys.executable, "-m", "edgekit", "fleet", "rollout"]
    place = ["--fleet", str(fleet.path)]
    options = ["--stage", "canary=1", "--stage", "100%", "--gate-seconds", "0"]
    behaviour = Behaviour(fetch_seconds=0.1, prove_seconds=0.1, telemetry_seconds=0.5)
    with Crowd.of_fleet(fleet, mosquitto.address, count=4, behaviour=behaviour) as crowd:
        started = subprocess.Popen(
            [*command, "start", "double@2.0.0", "--min-seconds", "2", *options, *place],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert started.stdout is not None
        lines = [started.stdout.readline() for _ in range(3)]
        assert "stage canary passed" in lines[2]
        # Ctrl-C leaves it as it is, and `run` goes on.
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 0
        started.stdout.close()
        done = subprocess.run(
            [*command, "run", "double-2.0.0", *place],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "complete" in done.stdout
        assert crowd.figures().phases == {"double 2.0.0 (active)": 4}
        stopped = subprocess.run(
            [*command, "stop", "double-2.0.0", "--by", "eve", "--reason", "smoke", *place],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert stopped.returncode == 0, stopped.stderr
        assert "rolled back  4 devices are back" in stopped.stdout
        assert "rollback, by eve; it is rolling back now" in stopped.stdout
        deadline = time.monotonic() + 20
        while crowd.figures().phases != {"double 1.0.0 (active)": 4}:
            assert time.monotonic() < deadline, crowd.figures()
            time.sleep(0.05)
