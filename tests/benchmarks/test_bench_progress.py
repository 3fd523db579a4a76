"""The progress of a bench: a bar that ends full and leaves nothing, or lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.cli.bench_progress import Progress
from edgekit_benchmarks import bench
from edgekit_benchmarks import plan as plans
from edgekit_benchmarks.bench import run_bench
from edgekit_benchmarks.plan import Plan, count_steps
from edgekit_benchmarks.scenarios import Scenario
from runtime.models import linear_model


def test_a_terminal_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(4, live=True) as progress:
        progress.say("measuring one")
        progress.advance()
        progress.advance()
        progress.say("measuring two")
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert "0/4  measuring one" in shown[1]
    assert shown[1].count("█") == 0
    assert "2/4  measuring two" in shown[-2]
    assert shown[-2].count("█") == shown[-2].count("░")
    assert shown[-1] == ""


def test_a_bar_is_cleared_on_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Progress(2, live=True) as progress:
            progress.say("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capsys.readouterr().err.endswith("\r\x1b[K")


def test_a_log_shows_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, live=False) as progress:
        progress.say("measuring one")
        progress.advance()
        progress.say("measuring two")
    assert re.findall(r"measuring \w+", capsys.readouterr().err) == [
        "measuring one",
        "measuring two",
    ]


@pytest.mark.parametrize(
    "plan",
    [
        Plan(runs=1, min_seconds=0.0, threads=(1, 2)),
        Plan(profiles=("raspberrypi4",), measure_here=False),
    ],
)
def test_every_step_is_counted(plan: Plan, tmp_path: Path) -> None:
    models = [linear_model(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    steps = []
    run_bench(models, plan, advance=lambda: steps.append(1))
    assert len(steps) == count_steps(2, plan)


def test_scenarios_are_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "run_scenario", lambda *_, **__: None)
    monkeypatch.setattr(plans, "check_scenarios", lambda *_: None)
    plan = Plan(runs=1, min_seconds=0.0, scenarios=tuple(Scenario))
    steps = []
    run_bench([linear_model(tmp_path / "a.onnx")], plan, advance=lambda: steps.append(1))
    assert len(steps) == count_steps(1, plan) == 6
