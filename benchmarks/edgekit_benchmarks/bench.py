"""Put what was measured here and what is predicted for boards side by side, model by model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.features import Counting, count_features, count_macs
from edgekit_benchmarks.footprint import (
    DeviceMemory,
    Footprint,
    compare_activations,
    memory_on,
    plan_footprint,
)
from edgekit_benchmarks.gates import Verdict, check_baseline, compare_with_baseline, judge
from edgekit_benchmarks.layers import ModelLayers, list_layers
from edgekit_benchmarks.measure import (
    Measurement,
    measure,
    measure_operators,
    measure_plain_memory,
)
from edgekit_benchmarks.operators import OperatorTime
from edgekit_benchmarks.plan import Plan, check_plan
from edgekit_benchmarks.predict import Prediction, predict
from edgekit_benchmarks.profile import Profile, load_profiles
from edgekit_benchmarks.results import FORMAT, FORMAT_VERSION, Counts, RecordedRun, read_results
from edgekit_benchmarks.scenarios import ScenarioRun, run_scenario
from edgekit_benchmarks.timeline import Step, live_steps
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.formats import ModelFormat, detect_format

if TYPE_CHECKING:
    from edgekit_runtime.graph.model import Graph

_RUNTIMES: Final = {ModelFormat.ONNX: "onnxruntime", ModelFormat.LITERT: "litert"}
# What a model computes in, by how it is quantized: float16 weights are widened before they are
# used, and dynamic quantization keeps activations in float.
_COMPUTES_IN: Final = {"int8": "int8"}


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

    def memory_on(self, prediction: Prediction) -> DeviceMemory | None:
        """What it needs of that board's memory; None if it cannot be read as a graph."""
        return memory_on(self.footprint, prediction.ram_mb) if self.footprint else None

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
    check_plan(models, plan)
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
