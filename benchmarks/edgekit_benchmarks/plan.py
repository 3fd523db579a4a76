"""What a bench is to do with every model, and what of it cannot be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_benchmarks.gates import Limits, check_limits
from edgekit_benchmarks.measure import check_settings
from edgekit_benchmarks.scenarios import Scenario, ServerLoad, check_scenarios
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file
from edgekit_runtime.formats import ModelFormat, detect_format

_MOST_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done with every model.

    Attributes:
        profiles: Names of boards, or of families of boards, to predict for.
        measure_here: Whether to run the models on this machine.
        threads: How many threads one inference may use, here and on the boards; each in turn.
        runs: The fewest timed inferences.
        min_seconds: The shortest time to spend on them.
        sustained_seconds: For how long to go on at full load afterwards and note the course.
        memory_limit_bytes: What the measured process may hold; None for no limit.
        runtime: The engine for `.tflite` files, here and on the boards; None for the first that
            is installed, and LiteRT on the boards.
        reference_kernels: Whether to use the engine's plain kernels and no graph optimisation.
        provider: onnxruntime's execution provider for ONNX models; None for the processor.
        operators: Whether to find out where the time goes, operator by operator.
        scenarios: MLPerf's scenarios to run as well.
        server_load: What the server scenario asks for.
        explain_memory: Whether to find out why an engine takes other memory than was planned, by
            a run with its plain kernels.
        inputs: An `.npz` to feed instead of made-up values.
        input_shapes: Full shapes, by name, of inputs with free axes other than the first.
        limits: What must be kept.
        baseline: Results to compare with.
        most_regression: By what share a median may be above the baseline's.
        timeout_s: The longest that one model may take.
    """

    profiles: Sequence[str] = ()
    measure_here: bool = True
    threads: Sequence[int] = (1,)
    runs: int = 50
    min_seconds: float = 1.0
    sustained_seconds: float = 0.0
    memory_limit_bytes: int | None = None
    runtime: str | None = None
    reference_kernels: bool = False
    provider: str | None = None
    operators: bool = False
    scenarios: Sequence[Scenario] = ()
    server_load: ServerLoad = field(default_factory=ServerLoad)
    explain_memory: bool = False
    inputs: Path | None = None
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    limits: Limits = field(default_factory=Limits)
    baseline: Path | None = None
    most_regression: float = 0.1
    timeout_s: float = 600.0


def count_steps(models: int, plan: Plan) -> int:
    """How many times `run_bench` calls `advance` for so many models."""
    if not plan.measure_here:
        return models
    threads = len(plan.threads)
    return models * (threads + threads * len(plan.scenarios) + 1)


def check_plan(models: Sequence[Path], plan: Plan) -> None:
    """Refuse what cannot be done, before anything is.

    Raises:
        UsageError: If there is nothing to do, or a setting makes no sense.
        EnvironmentLackError: If what a setting asks for is not installed.
    """
    if not models:
        raise UsageError("there is no model to bench", fix="give at least one model file")
    if not plan.profiles and not plan.measure_here:
        raise UsageError("there is nothing to do", fix="measure here, or name a device profile")
    if not plan.threads:
        raise UsageError("there is no thread count", fix="give one, such as --threads 1")
    if not 0 <= plan.sustained_seconds <= _MOST_SECONDS:
        raise UsageError(
            f"sustained load for {plan.sustained_seconds:g} s is not between 0 and a day"
        )
    if plan.baseline and not plan.measure_here:
        raise UsageError(
            "a baseline is compared with what is measured, and nothing is",
            where="--baseline",
            fix="leave out --predict-only",
        )
    if plan.most_regression < 0:
        raise UsageError("a regression of less than nothing cannot be allowed")
    if plan.inputs is not None:
        require_file(plan.inputs, kind="the inputs, an .npz file")
    check_limits(plan.limits)
    check_scenarios(plan.scenarios, plan.server_load)
    if plan.scenarios and not plan.measure_here:
        raise UsageError(
            "MLPerf's scenarios are run, not predicted",
            where="--scenario",
            fix="leave out --predict-only",
        )
    for threads in plan.threads if plan.measure_here else ():
        check_settings(
            threads=threads,
            runs=plan.runs,
            min_seconds=plan.min_seconds,
            timeout_s=plan.timeout_s,
        )
    if plan.provider is not None:
        _check_provider(models, plan.provider)


def _check_provider(models: Sequence[Path], provider: str) -> None:
    from edgekit_runtime.engines.onnxruntime import find_provider

    if not any(detect_format(model) is ModelFormat.ONNX for model in models):
        raise UsageError(
            "execution providers are onnxruntime's, and no model is ONNX",
            where="--provider",
            fix="leave it out",
        )
    find_provider(provider)
