from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit_agent.plans import ModelPlan
from edgekit_agent.trial import TrialOutcome, judge_trial, run_trial
from edgekit_runtime.orders import Budget
from tests.simulators.tiny_bundles import (
    GOLDEN,
    affine_model,
    bundle_files,
    endless_bundle,
    greedy_model,
)

BUDGET = Budget(trial_seconds=30.0)


def slot(folder: Path, files: dict[str, bytes]) -> ModelPlan:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return ModelPlan(
        bundle="m",
        version="1.0.0",
        digest="a" * 64,
        folder=str(folder),
        variant=json.loads(files["manifest.json"])["variants"][0]["id"],
        runtime="onnxruntime",
        threads=1,
    )


def slot_of(folder: Path, model: bytes, *, expected: float = 2.0) -> ModelPlan:
    outputs = GOLDEN * np.float32(expected)
    return slot(folder, bundle_files("m", "1.0.0", [("plain", model)], expected=outputs))


def children() -> set[int]:
    return {
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


def run(plan: ModelPlan, budget: Budget = BUDGET) -> TrialOutcome:
    return run_trial(plan, budget, stop=threading.Event())


def test_a_sound_model_passes_and_is_measured(tmp_path: Path) -> None:
    outcome = run(slot_of(tmp_path, affine_model(2.0)))
    assert outcome.passed, outcome.reason
    assert 0 < outcome.latency_ms < 1000
    assert 10 << 20 < outcome.peak_bytes < 512 << 20


def test_wrong_outputs_fail_and_say_by_how_much(tmp_path: Path) -> None:
    outcome = run(slot_of(tmp_path, affine_model(2.5)))
    assert not outcome.passed
    assert "golden samples do not match: y: 3 of 3 samples differ" in outcome.reason


def test_a_file_that_is_no_model_fails(tmp_path: Path) -> None:
    assert "no ONNX or TFLite model" in run(slot_of(tmp_path, b"junk" * 10)).reason


def test_a_native_crash_fails(tmp_path: Path) -> None:
    outcomes: list[TrialOutcome] = []
    plan = slot(tmp_path, endless_bundle("m", "1.0.0"))
    before = children()
    thread = threading.Thread(target=lambda: outcomes.append(run(plan)))
    thread.start()
    while not (started := children() - before):
        time.sleep(0.01)
    os.kill(started.pop(), signal.SIGSEGV)
    thread.join(30)
    assert [outcome.reason for outcome in outcomes] == ["the process crashed (SIGSEGV)"]


def test_time_and_memory_are_limited(tmp_path: Path) -> None:
    started = time.monotonic()
    endless = run(slot(tmp_path / "a", endless_bundle("m", "1.0.0")), Budget(trial_seconds=2.0))
    assert "longer than the 2 s" in endless.reason
    assert time.monotonic() - started < 15
    greedy = run(
        slot_of(tmp_path / "b", greedy_model(500), expected=1.0), Budget(memory_bytes=250 << 20)
    )
    assert "250 MB are allowed" in greedy.reason


def test_a_slow_model_fails_its_latency_budget(tmp_path: Path) -> None:
    outcome = run(slot_of(tmp_path, affine_model(2.0)), Budget(latency_ms=1e-6))
    assert "median latency" in outcome.reason


def test_a_trial_can_be_given_up(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    outcome = run_trial(slot(tmp_path, endless_bundle("m", "1.0.0")), BUDGET, stop=stop)
    assert outcome.reason == "the trial was given up"


@pytest.mark.parametrize(
    ("result", "code", "reason"),
    [
        (b"", -11, "crashed (SIGSEGV)"),
        (b'{"passed": true}', -9, "crashed (SIGKILL)"),
        (b'{"passed": true}', 3, "ended with code 3"),
        (b"", 0, "without a result"),
        (b'{"passed": "yes"}', 0, "no proper result"),
        (b'{"passed": true, "peak_bytes": 99999999999}', 0, "MB are allowed"),
    ],
)
def test_how_a_trial_ended_is_told(result: bytes, code: int, reason: str) -> None:
    outcome = judge_trial(result, code, BUDGET, peak_bytes=1)
    assert not outcome.passed
    assert reason in outcome.reason
