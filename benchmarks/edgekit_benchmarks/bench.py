"""Put what was measured here and what is predicted for boards side by side, model by model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.features import Counting, count_features, count_macs
from edgekit_benchmarks.footprint import Footprint, compare_activations, plan_footprint
from edgekit_benchmarks.gates import (
    Limits,
    Verdict,
    check_baseline,
    check_limits,
    compare_with_baseline,
    judge,
)
from edgekit_benchmarks.layers import ModelLayers, list_layers
from edgekit_benchmarks.measure import (
    Measurement,
    check_settings,
    measure,
    measure_operators,
    measure_plain_memory,
)
from edgekit_benchmarks.operators import OperatorTime
from edgekit_benchmarks.predict import Prediction, predict
from edgekit_benchmarks.profile import Profile, load_profiles
from edgekit_benchmarks.results import FORMAT, FORMAT_VERSION, Counts, RecordedRun, read_results
from edgekit_benchmarks.scenarios import (
    Scenario,
    ScenarioRun,
    ServerLoad,
    check_scenarios,
    run_scenario,
)
from edgekit_benchmarks.timeline import Step, live_steps
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError
from edgekit_runtime.files import require_file
from edgekit_runtime.formats import ModelFormat, detect_format

if TYPE_CHECKING:
    from edgekit_runtime.graph.model import Graph

_RUNTIMES: Final = {ModelFormat.ONNX: "onnxruntime", ModelFormat.LITERT: "litert"}
# What a model computes in, by how it is quantized: float16 weights are widened before they are
# used, and dynamic quantization keeps activations in float.
_COMPUTES_IN: Final = {"int8": "int8"}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBench:
    """One model.

    Attributes:
        model: The file as it was given.
        file_bytes: Its size.
        measurements: What it did here, one for each thread count; empty where only predictions
            were asked for.
        predictions: One for each board and thread count.
        operators: Where the time goes here, with the first thread count; empty unless asked for.
        scenarios: How it did in MLPerf's scenarios, one for each of them and thread count.
        footprint: The memory and flash that it needs, planned; None if it cannot be read as a
            graph.
        steps: The memory of its activations over its operators; empty likewise.
        counts: What it computes; None likewise.
        notes: What a reader of these figures must know about this model.
    """

    model: str
    file_bytes: int
    measurements: tuple[Measurement, ...]
    predictions: tuple[Prediction, ...]
    operators: tuple[OperatorTime, ...]
    scenarios: tuple[ScenarioRun, ...]
    footprint: Footprint | None
    steps: tuple[Step, ...]
    counts: Counts | None
    notes: tuple[str, ...]

    @property
    def measurement(self) -> Measurement | None:
        """The first measurement, or None."""
        return self.measurements[0] if self.measurements else None

    def to_json(self) -> dict[str, object]:
        """The model's figures as a JSON object."""
        return {
            "model": self.model,
            "file_bytes": self.file_bytes,
            "measurements": [measurement.to_json() for measurement in self.measurements],
            "predictions": [prediction.to_json() for prediction in self.predictions],
            "operators": [found.to_json() for found in self.operators],
            "scenarios": [found.to_json() for found in self.scenarios],
            "footprint": self.footprint.to_json() if self.footprint else None,
            "live_bytes": [step.live_bytes for step in self.steps],
            "counts": self.counts.to_json() if self.counts else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Every model, in the order in which they were given, and what was judged of them."""

    models: tuple[ModelBench, ...]
    verdicts: tuple[Verdict, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every limit was kept."""
        return all(verdict.passed for verdict in self.verdicts)

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object, as `results_schema.json` describes it."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "models": [entry.to_json() for entry in self.models],
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "passed": self.passed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A model before anything ran."""

    path: Path
    format: ModelFormat
    graph: Graph | None
    layers: ModelLayers | None
    dtype: str
    notes: tuple[str, ...]


def _ignore(_text: str) -> None:
    """The default for `progress`."""


def _uncounted() -> None:
    """The default for `advance`."""


def count_steps(models: int, plan: Plan) -> int:
    """How many times `run_bench` calls `advance` for so many models."""
    if not plan.measure_here:
        return models
    threads = len(plan.threads)
    return models * (threads + threads * len(plan.scenarios) + 1)


def bench_models(
    models: Sequence[Path],
    *,
    profiles: Sequence[str] = (),
    runs: int = 50,
    min_seconds: float = 1.0,
    progress: Callable[[str], None] = _ignore,
) -> BenchReport:
    """Measure models on this machine and predict them for boards, all else as usual.

    See `run_bench` for the errors, and `Plan` for the arguments.
    """
    plan = Plan(profiles=profiles, runs=runs, min_seconds=min_seconds)
    return run_bench(models, plan, progress=progress)


def run_bench(
    models: Sequence[Path],
    plan: Plan,
    *,
    progress: Callable[[str], None] = _ignore,
    advance: Callable[[], None] = _uncounted,
) -> BenchReport:
    """Measure models on this machine, and predict them for boards.

    Everything that can be refused without running a model is refused before any is run.

    Args:
        models: `.onnx` and `.tflite` files.
        plan: What to do with them.
        progress: Told one plain sentence a step.
        advance: Called `count_steps` times, evenly where the work is.

    Raises:
        UsageError: If there is no model or nothing to do, a profile or file does not exist, or a
            setting makes no sense.
        UnsupportedModelError: If a file is no model, or the engine refuses it or fails on it.
        EnvironmentLackError: If an engine or the package that reads a format is missing.
        GateFailedError: If the memory limit that a model runs under is exceeded.
    """
    _check(models, plan)
    boards = _boards(plan.profiles)
    baseline = read_results(plan.baseline) if plan.baseline else ()
    if plan.baseline:
        check_baseline(models, baseline)
    # A measurement alone needs no package that reads graphs.
    read = [_read(model, plan, needed=bool(boards)) for model in models]
    predicted = [_predict(entry, boards, plan) for entry in read]
    done = tuple(
        _bench(entry, predictions, plan, position, len(read), progress, advance)
        for position, (entry, predictions) in enumerate(zip(read, predicted, strict=True))
    )
    return BenchReport(models=done, verdicts=_judge(done, plan, baseline))


def _check(models: Sequence[Path], plan: Plan) -> None:
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


def _boards(names: Sequence[str]) -> tuple[Profile, ...]:
    # A family and one of its boards name that board once.
    found = {profile.name: profile for name in names for profile in load_profiles(name)}
    return tuple(found.values())


def _runtime_for(model_format: ModelFormat, runtime: str | None) -> str:
    """`runtime` chooses among the engines for TFLite; for ONNX there is one."""
    if model_format is ModelFormat.LITERT and runtime:
        return runtime
    return _RUNTIMES[model_format]


def _read(model: Path, plan: Plan, *, needed: bool) -> _Read:
    model_format = detect_format(model)
    from edgekit_runtime.graph.read import read_graph
    from edgekit_runtime.graph.summary import describe_quantization

    try:
        graph = read_graph(model, shapes=plan.input_shapes)
    except EnvironmentLackError:
        if needed:
            raise
        return _Read(
            path=model, format=model_format, graph=None, layers=None, dtype="float32", notes=()
        )
    kind = describe_quantization(graph).kind
    dtype = _COMPUTES_IN.get(kind, "float32")
    notes = list(graph.assumptions)
    if kind != dtype and needed:
        notes.append(f"priced as {dtype}: this model's quantization is {kind}")
    return _Read(
        path=model,
        format=model_format,
        graph=graph,
        layers=list_layers(graph),
        dtype=dtype,
        notes=tuple(notes),
    )


def _predict(entry: _Read, boards: Sequence[Profile], plan: Plan) -> tuple[Prediction, ...]:
    if entry.layers is None:
        return ()
    return tuple(
        predict(
            entry.layers,
            board,
            runtime=_runtime_for(entry.format, plan.runtime),
            dtype=entry.dtype,
            threads=threads,
            with_layers=True,
        )
        for board in boards
        for threads in plan.threads
    )


def _bench(
    entry: _Read,
    predictions: tuple[Prediction, ...],
    plan: Plan,
    position: int,
    count: int,
    progress: Callable[[str], None],
    advance: Callable[[], None],
) -> ModelBench:
    engine = _runtime_for(entry.format, plan.runtime)
    numbered = f"[{position + 1}/{count}] " if count > 1 else ""
    measurements = []
    for threads in plan.threads if plan.measure_here else ():
        measurements.append(_measure(entry, plan, threads, lambda text: progress(numbered + text)))
        advance()
    file_bytes = entry.path.stat().st_size
    used = measurements[0].runtime if measurements else engine
    footprint = (
        plan_footprint(entry.graph, file_bytes=file_bytes, engine=used) if entry.graph else None
    )
    scenarios = []
    for measurement in measurements:
        for scenario in plan.scenarios:
            scenarios.append(
                run_scenario(
                    entry.path,
                    scenario,
                    measurement,
                    load=plan.server_load,
                    queries=plan.runs,
                    min_seconds=plan.min_seconds,
                    inputs=plan.inputs,
                    input_shapes=plan.input_shapes,
                    timeout_s=plan.timeout_s,
                    progress=lambda text: progress(numbered + text),
                )
            )
            advance()
    operators, operator_notes = _operators(entry, plan, measurements)
    notes = (*entry.notes, *operator_notes, *_memory_notes(entry, footprint, measurements, plan))
    advance()
    return ModelBench(
        model=str(entry.path),
        file_bytes=file_bytes,
        measurements=tuple(measurements),
        predictions=predictions,
        operators=operators,
        scenarios=tuple(scenarios),
        footprint=footprint,
        steps=live_steps(entry.graph) if entry.graph else (),
        counts=_counts(entry),
        notes=notes,
    )


def _measure(
    entry: _Read, plan: Plan, threads: int, progress: Callable[[str], None]
) -> Measurement:
    return measure(
        entry.path,
        threads=threads,
        runs=plan.runs,
        min_seconds=plan.min_seconds,
        runtime=plan.runtime if entry.format is ModelFormat.LITERT else None,
        inputs=plan.inputs,
        input_shapes=plan.input_shapes,
        reference_kernels=plan.reference_kernels,
        provider=plan.provider if entry.format is ModelFormat.ONNX else None,
        sustained_seconds=plan.sustained_seconds,
        memory_limit_bytes=plan.memory_limit_bytes,
        timeout_s=plan.timeout_s,
        progress=progress,
    )


def _operators(
    entry: _Read, plan: Plan, measurements: Sequence[Measurement]
) -> tuple[tuple[OperatorTime, ...], tuple[str, ...]]:
    """The profiler's times, scaled so that they add up to the median that was measured.

    The model itself ran; where only the profiler does not take it, a note says so.
    """
    if not plan.operators or not measurements:
        return (), ()
    measurement = measurements[0]
    try:
        found = measure_operators(
            entry.path,
            threads=measurement.threads,
            runtime=measurement.runtime,
            inputs=plan.inputs,
            input_shapes=plan.input_shapes,
            reference_kernels=plan.reference_kernels,
            provider=measurement.provider,
            timeout_s=plan.timeout_s,
        )
    except (EnvironmentLackError, UnsupportedModelError) as error:
        return (), (f"no times of its operators: {error.what}",)
    total = sum(operator.milliseconds for operator in found)
    scale = measurement.latency.median_ms / total if total else 0.0
    return tuple(
        replace(operator, milliseconds=operator.milliseconds * scale) for operator in found
    ), ()


def _memory_notes(
    entry: _Read, footprint: Footprint | None, measurements: Sequence[Measurement], plan: Plan
) -> tuple[str, ...]:
    if footprint is None or not measurements:
        return ()
    measurement = measurements[0]
    own = measurement.memory.own
    if own is None:
        return ()
    plain = None
    if plan.explain_memory:
        plain = measure_plain_memory(
            entry.path,
            runtime=measurement.runtime if plan.runtime else None,
            inputs=plan.inputs,
            input_shapes=plan.input_shapes,
            timeout_s=plan.timeout_s,
        )
    return compare_activations(footprint, own, engine=measurement.runtime, plain=plain)


def _counts(entry: _Read) -> Counts | None:
    if entry.layers is None:
        return None
    layers = entry.layers.layers
    return Counts(
        dtype=entry.dtype,
        macs=count_macs(layers),
        features={counting: count_features(layers, counting) for counting in Counting},
    )


def _judge(
    models: Sequence[ModelBench], plan: Plan, baseline: Sequence[RecordedRun]
) -> tuple[Verdict, ...]:
    verdicts = [verdict for entry in models for verdict in judge(entry, plan.limits)]
    if plan.baseline:
        verdicts += compare_with_baseline(models, baseline, most_regression=plan.most_regression)
    return tuple(verdicts)
