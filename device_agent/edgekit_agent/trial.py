"""Prove a candidate in a process of its own, within a time limit and a memory limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from edgekit_agent.doors import describe_exit
from edgekit_agent.memory import peak_memory_bytes
from edgekit_agent.plans import ModelPlan, TrialPlan
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import Budget

_POLL_SECONDS: Final = 0.02
_MAX_RESULT_BYTES: Final = 65_536
_MEGABYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """How a trial ended.

    Attributes:
        passed: Whether the candidate may go live.
        reason: Why not; empty if it may.
        latency_ms: Median over the golden samples.
        peak_bytes: Peak resident memory of the process, engine included.
    """

    passed: bool
    reason: str = ""
    latency_ms: float = 0.0
    peak_bytes: int = 0


def run_trial(model: ModelPlan, budget: Budget, *, stop: threading.Event) -> TrialOutcome:
    """Load a model and run its golden samples elsewhere; returns when that has ended.

    Args:
        model: What to prove.
        budget: What it may use.
        stop: Set by another thread to give the trial up.
    """
    reports_read, reports_write = os.pipe()
    life_read, life_write = os.pipe()
    plan = TrialPlan(model=model, reports=reports_write, life=life_read)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit_agent.trial_worker", plan.to_json()],
        pass_fds=(reports_write, life_read),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    os.close(reports_write)
    os.close(life_read)
    try:
        reason, peak = _watch(process, budget, started, stop)
    finally:
        # Whatever happens here, no trial stays behind.
        process.kill()
        process.wait()
        os.close(life_write)
        with os.fdopen(reports_read, "rb") as file:
            result = file.read(_MAX_RESULT_BYTES)
    if reason:
        return TrialOutcome(passed=False, reason=reason, peak_bytes=peak)
    return judge_trial(result, process.returncode, budget, peak_bytes=peak)


def judge_trial(result: bytes, code: int, budget: Budget, *, peak_bytes: int) -> TrialOutcome:
    """Read what the process said before it ended by itself.

    Args:
        result: Its one line.
        code: How it ended.
        budget: What it may have used.
        peak_bytes: Its largest memory, as seen from outside.
    """
    if code != 0:
        return TrialOutcome(passed=False, reason=describe_exit(code), peak_bytes=peak_bytes)
    try:
        said = _read_result(result)
    except VerificationError as error:
        return TrialOutcome(passed=False, reason=error.what, peak_bytes=peak_bytes)
    peak_bytes = max(peak_bytes, said.peak_bytes)
    reason = said.reason
    if said.passed and peak_bytes > budget.memory_bytes:
        reason = over_memory(peak_bytes, budget)
    elif said.passed and budget.latency_ms and said.latency_ms > budget.latency_ms:
        reason = (
            f"its median latency is {said.latency_ms:.3g} ms; {budget.latency_ms:g} ms are allowed"
        )
    return TrialOutcome(
        passed=not reason, reason=reason, latency_ms=said.latency_ms, peak_bytes=peak_bytes
    )


def _watch(
    process: subprocess.Popen[bytes], budget: Budget, started: float, stop: threading.Event
) -> tuple[str, int]:
    """Wait for the end; why it had to be ended, if it had to, and the peak of its memory."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, peak_memory_bytes(process.pid))
        if peak > budget.memory_bytes:
            return over_memory(peak, budget), peak
        if time.monotonic() - started > budget.trial_seconds:
            return f"it took longer than the {budget.trial_seconds:g} s that are allowed", peak
        if stop.wait(_POLL_SECONDS):
            return "the trial was given up", peak
    return "", peak


def over_memory(peak: int, budget: Budget) -> str:
    """What a process did that took more memory than it may, for people."""
    return (
        f"it used {peak / _MEGABYTE:.0f} MB of memory; "
        f"{budget.memory_bytes / _MEGABYTE:.0f} MB are allowed"
    )


def _read_result(line: bytes) -> TrialOutcome:
    try:
        reader = FieldReader(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise VerificationError("the trial process ended without a result") from error
    outcome = TrialOutcome(
        passed=reader.boolean("passed"),
        reason=reader.text("reason", default="", most=_MAX_RESULT_BYTES),
        latency_ms=reader.number("latency_ms", least=0, default=0.0),
        peak_bytes=reader.integer("peak_bytes", default=0),
    )
    if reader.faults:
        raise VerificationError("the trial process gave no proper result")
    return outcome
