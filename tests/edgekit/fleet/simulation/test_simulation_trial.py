from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgekit.cli.simulate import simulate
from edgekit.fleet.broker import find_mosquitto
from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
from edgekit.fleet.rollouts.state import Phase, Status
from edgekit.fleet.simulation.behaviour import Behaviour, device_name
from edgekit.fleet.simulation.fetching import Fetches, FetchPlan
from edgekit.fleet.simulation.trial import TrialSettings, try_rollout
from edgekit_runtime.errors import UsageError
from edgekit_runtime.orders import BundleOrder, Gates

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
CALM = Criteria(min_seconds=30.0, min_requests=50, max_failed_share=0.2, min_installed_share=0.7)


def make_plan(*sizes: float, query: str = "", criteria: Criteria = CALM) -> RolloutPlan:
    canary = Stage(name="canary", count=5, criteria=criteria)
    rest = [Stage(name=f"{size:g}", percent=size, criteria=criteria) for size in sizes]
    return RolloutPlan(
        id="trial",
        order=BundleOrder(bundle="model", version="1.0.0", gates=Gates(min_seconds=5.0)),
        query=query,
        stages=(canary, *rest),
        created_by="ada",
        created=0.0,
        device_timeout_seconds=120.0,
    )


@needs_mosquitto
def test_a_version_that_goes_wrong_in_live_use_is_taken_back_from_the_canaries() -> None:
    report = try_rollout(
        make_plan(100.0),
        TrialSettings(
            devices=25,
            behaviour=Behaviour(
                degrade=1.0, fetch_seconds=5.0, requests_per_second=10.0, telemetry_seconds=20.0
            ),
            speed=40.0,
            most_seconds=60.0,
        ),
    )
    assert report.state.phase is Phase.ROLLED_BACK, report.state
    assert "stage canary" in report.state.reason
    assert "input:x" in report.state.reason
    assert report.state.count(Status.RESTORED) == 5
    assert len(report.state.devices) == 5
    assert report.crowd.phases == {"model 0.0.1 (active)": 25}
    assert report.wrong == ()


@needs_mosquitto
@pytest.mark.parametrize("answers", [0, 1, 3])
def test_before_the_rollout_it_ends_as_soon_as_it_is_told_to(answers: int) -> None:
    """While orders are signed, while devices connect, and while they install."""
    asked = iter([True] * answers)
    begun = []
    with pytest.raises(KeyboardInterrupt):
        try_rollout(
            make_plan(100.0),
            TrialSettings(devices=5, behaviour=Behaviour(fetch_seconds=60.0), speed=1.0),
            on_decision=lambda _plan, decision: begun.append(decision),
            goes_on=lambda: next(asked, False),
        )
    assert not begun
    assert not multiprocessing.active_children()


FETCH = FetchPlan(everything=0.04, index=True)


@needs_mosquitto
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_five_hundred_devices_in_three_stages() -> None:
    decisions = []
    report = try_rollout(
        make_plan(25.0, 100.0, query="site in (berlin, oslo, porto)"),
        TrialSettings(
            devices=500,
            behaviour=Behaviour(
                reject=0.02,
                roll_back=0.02,
                vanish=0.02,
                fetch_seconds=10.0,
                telemetry_seconds=60.0,
            ),
            fetch=FETCH,
            bundle_bytes=600 << 10,
            speed=30.0,
            most_seconds=200.0,
        ),
        on_decision=lambda _plan, decision: decisions.append(decision.what),
    )
    state = report.state
    assert state.phase is Phase.COMPLETED, state.reason
    assert decisions == [
        "begin", "stage canary passed", "stage 25 passed", "stage 100 passed", "complete",
    ]  # fmt: skip
    # None is lost: every device of the group has an end, and its own record says the same.
    assert set(state.devices) == set(state.members)
    assert 300 < len(state.members) < 450
    assert state.count(Status.ACTIVE, Status.FAILED, Status.VANISHED) == len(state.members)
    assert state.count(Status.FAILED) > 0
    assert 0 < state.count(Status.VANISHED) <= report.crowd.vanished
    assert report.wrong == ()
    assert report.crowd.refused == 0
    assert report.crowd.phases["model 1.0.0 (active)"] == state.count(Status.ACTIVE)
    # Some devices fetch the whole version, if they are told to; the others its index.
    fetching = [device_name(n) for n in range(500) if FETCH.of(n) is Fetches.EVERYTHING]
    installed = sum(state.devices[name].status is Status.ACTIVE for name in fetching
                    if name in state.devices)  # fmt: skip
    assert 0 < installed * (600 << 10) < report.crowd.chunk_bytes < 40 * (700 << 10)
    assert report.crowd.chunks > 2 * len(state.devices)
    # However many fetch them: 600 KB in chunks of 64 KB or so, and each was published once.
    assert 9 < len(report.published) < report.crowd.chunks
    assert set(report.published.values()) == {1}


@needs_mosquitto
def test_the_command() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edgekit", "fleet", "simulate", "--devices", "6", "--json"),
            *("--stage", "canary=2", "--stage", "100%", "--min-seconds", "20"),
            *("--gate-seconds", "5", "--fetch-seconds", "2", "--speed", "40"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    document = json.loads(done.stdout)
    assert document["phase"] == "completed"
    assert document["statuses"] == {"active": 6}
    assert document["served"] == {"model 1.0.0 (active)": 6}
    assert document["wrong"] == []
    # So few fetch everything: 256 KB of each, in chunks of 64 KB.
    assert document["chunks_fetched"] > 6 * 4
    assert document["bytes_fetched"] > 6 * (256 << 10)
    assert document["chunks_fetched"] > document["chunks_published"] == document["chunks"] > 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--attach", ".", "--stage", "5", "--speed", "3"], "--speed, --stage would do nothing"),
        (["--fetch", "some"], "does not say what to fetch"),
        (["--disagree", "0.1"], "--disagree would do nothing"),
        (["--samples", "1", "--disagree", "0"], "--disagree, --samples would do nothing"),
        (["--reject", "0.7", "--vanish", "0.7"], "all together at most 1"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(simulate, arguments)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)


def test_time_cannot_stand_still() -> None:
    result = CliRunner().invoke(simulate, ["--speed", "0"])
    assert result.exit_code == 2
    assert "'0' is not a factor, above 0 to 1,000" in result.output
