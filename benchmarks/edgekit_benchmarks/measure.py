"""Measure a model on this machine, in a fresh process per call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edgekit_benchmarks.job import InputUsed, Job, ModelMemory, Observation, read_answer, read_line
from edgekit_benchmarks.latency import LatencyStatistics, describe_latencies, quantile
from edgekit_benchmarks.machine import (
    MachineFacts,
    others_share,
    read_cpu_time,
    read_machine,
    warnings_about,
    warnings_between,
)
from edgekit_benchmarks.memory_limit import MemoryLimit, limit_memory
from edgekit_benchmarks.operators import OperatorTime
from edgekit_benchmarks.process import command_of, run_process, unwatched
from edgekit_benchmarks.worker import MOST_RUNS
from edgekit_runtime.errors import (
    EnvironmentLackError,
    GateFailedError,
    UnsupportedModelError,
    UsageError,
)
from edgekit_runtime.files import require_file, sha256_of
from edgekit_runtime.formats import ModelFormat, detect_format

MEASURED_HERE: Final = "measured here"
WORKER_COMMAND: Final = command_of("worker")
_OPERATORS_COMMAND: Final = command_of("operators")
_MEMORY_INCLUDES: Final = (
    "peak resident memory of a fresh process above Python, numpy and the imported engine: "
    "the model, its activations, the engine's working memory, and one set of inputs and outputs"
)
_MEMORY_UNKNOWN: Final = "not measured: this system does not let a process reset its memory peak"
_FULL_CORE: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """What the model needed beyond an engine that is loaded and idle.

    Attributes:
        peak_bytes: The peak minus the baseline; None where it was not measured.
        baseline_bytes: The runtime: resident memory with Python, numpy and the engine imported,
            before the model.
        engine_bytes: How much of the peak is neither of the two below: the engine's code and
            tables that this model was the first to need.
        model_bytes: What loading adds and keeps: the weights as the engine lays them out.
        mapped_bytes: How much of that is pages of the file, which the system may drop and read
            again.
        first_activations_bytes: What the first inference adds at its peak: the arena, the
            engine's scratch memory, and the outputs.
        activations_bytes: What is added once the second one has run as well.
        includes: What `peak_bytes` counts, or why there is none.
    """

    peak_bytes: int | None
    baseline_bytes: int | None
    engine_bytes: int | None = None
    model_bytes: int | None = None
    mapped_bytes: int | None = None
    first_activations_bytes: int | None = None
    activations_bytes: int | None = None
    includes: str

    @property
    def own(self) -> ModelMemory | None:
        """What the model needs of its own, or None where that was not told apart."""
        if (
            self.model_bytes is None
            or self.mapped_bytes is None
            or self.first_activations_bytes is None
            or self.activations_bytes is None
        ):
            return None
        return ModelMemory(
            model_bytes=self.model_bytes,
            mapped_bytes=self.mapped_bytes,
            first_activations_bytes=self.first_activations_bytes,
            activations_bytes=self.activations_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedRun:
    """A model that survived a memory limit.

    Attributes:
        limit_bytes: What the whole process might hold.
        how: Who saw to it.
    """

    limit_bytes: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A model as it ran on this machine.

    Attributes:
        model: The file's name.
        sha256: Of the file.
        file_bytes: Its size.
        format: ONNX or TFLite.
        runtime: The engine that ran it.
        runtime_version: The installed version of that engine.
        threads: How many threads one inference might use.
        load_ms: From the file to a session that can run, the engine being imported already.
        first_ms: The first inference.
        warm_up_runs: Untimed runs between the first and the timed ones.
        latency: Of the timed runs.
        percentiles_ms: From the quickest to the slowest, in hundredths of the timed runs.
        memory: Peak memory and what it includes.
        limit: The memory limit that it ran under and survived; None without one.
        curve: The course under sustained load, seconds and median milliseconds.
        reference_kernels: Whether the engine's plain kernels ran, without graph optimisation.
        provider: onnxruntime's execution provider that was asked for; None for the processor.
        inputs: What was fed.
        inputs_from: The user's file, or "generated".
        machine: Where.
        warnings: What makes the figures less certain.
        measured_at: When, in UTC.
        kind: What every figure here is.
    """

    model: str
    sha256: str
    file_bytes: int
    format: ModelFormat
    runtime: str
    runtime_version: str
    threads: int
    load_ms: float
    first_ms: float
    warm_up_runs: int
    latency: LatencyStatistics
    percentiles_ms: tuple[float, ...]
    memory: PeakMemory
    limit: LimitedRun | None
    curve: tuple[tuple[float, float], ...]
    reference_kernels: bool
    provider: str | None
    inputs: tuple[InputUsed, ...]
    inputs_from: str
    machine: MachineFacts
    warnings: tuple[str, ...]
    measured_at: datetime
    kind: str = field(default=MEASURED_HERE, init=False)

    @property
    def engine(self) -> str:
        """The engine, its version, and what it ran the operators on, for people."""
        if self.reference_kernels:
            how = ", plain kernels"
        elif self.provider:
            how = f", {self.provider}"
        else:
            how = " with XNNPACK" if self.runtime == "litert" else ""
        return f"{self.runtime} {self.runtime_version}{how}"

    def to_json(self) -> dict[str, object]:
        """The measurement as a JSON object."""
        document = asdict(self)
        document["format"] = self.format.value
        document["measured_at"] = self.measured_at.isoformat(timespec="seconds")
        return document


def _ignore(_text: str) -> None:
    """The default for `progress`."""


def _now() -> datetime:
    return datetime.now(UTC)


def measure(
    model: Path,
    *,
    threads: int = 1,
    runs: int = 50,
    min_seconds: float = 1.0,
    runtime: str | None = None,
    inputs: Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    reference_kernels: bool = False,
    provider: str | None = None,
    sustained_seconds: float = 0.0,
    memory_limit_bytes: int | None = None,
    timeout_s: float = 600.0,
    progress: Callable[[str], None] = _ignore,
    now: Callable[[], datetime] = _now,
    command: Sequence[str] = WORKER_COMMAND,
) -> Measurement:
    """Run a model in a process of its own and say how long it took and what memory it needed.

    The timed inferences are at least `runs`, and go on for at least `min_seconds`, up to 100,000.

    Args:
        model: An `.onnx` or `.tflite` file.
        threads: How many threads one inference may use.
        runs: The fewest timed inferences.
        min_seconds: The shortest time to spend on them.
        runtime: The engine for a `.tflite` file: "litert" or "tflite-runtime".
        inputs: An `.npz` with samples along the first axis; without it, inputs are made up.
        input_shapes: Full shapes, by name, of inputs with free axes other than the first.
        reference_kernels: Use the engine's plain kernels and no graph optimisation.
        provider: onnxruntime's execution provider, such as "xnnpack"; None for the processor.
        sustained_seconds: After the timed runs, go on at full load for so long and note the course.
        memory_limit_bytes: What the whole process may hold, Python and the engine included.
        timeout_s: After this long the process is ended; the sustained time comes on top.
        progress: Told one plain sentence a step.
        now: The clock.
        command: The program that measures.

    Raises:
        UsageError: If a number makes no sense, a file is missing, or the inputs do not fit.
        UnsupportedModelError: If the engine refuses the model, fails on it, or crashes.
        EnvironmentLackError: If the engine is missing, the process was killed, or time ran out.
        GateFailedError: If the memory limit was exceeded.
    """
    check_settings(threads=threads, runs=runs, min_seconds=min_seconds, timeout_s=timeout_s)
    model_format = detect_format(model)
    provider = _provider_of(model_format, provider)
    if inputs is not None:
        require_file(inputs, kind="the inputs, an .npz file")
    machine = read_machine()
    progress(f"measuring {model.name} on {threads} thread{'s' if threads > 1 else ''}")
    job = Job(
        model=model.resolve(),
        runtime=runtime,
        threads=threads,
        runs=runs,
        min_seconds=min_seconds,
        inputs=inputs.resolve() if inputs else None,
        input_shapes=dict(input_shapes or {}),
        reference_kernels=reference_kernels,
        provider=provider,
        curve_seconds=sustained_seconds,
    )
    before = read_cpu_time()
    timeout_s += sustained_seconds
    limited = None
    if memory_limit_bytes is None:
        seen = _run_worker(job, command=command, timeout_s=timeout_s)
    else:
        with limit_memory(memory_limit_bytes) as limit:
            seen = _run_limited(job, limit, memory_limit_bytes, command, timeout_s)
            limited = LimitedRun(limit_bytes=memory_limit_bytes, how=limit.how)
    others = others_share(before, read_cpu_time(), seen.process_seconds)
    warnings = [
        *warnings_about(machine, threads=threads),
        *warnings_between(machine, read_machine(), others=others),
    ]
    if threads == 1 and seen.cpu_share < _FULL_CORE:
        warnings.append(
            f"the process got {seen.cpu_share:.0%} of a core while it was timed; "
            "others wanted it too"
        )
    return Measurement(
        model=model.name,
        sha256=sha256_of(model),
        file_bytes=model.stat().st_size,
        format=model_format,
        runtime=seen.runtime,
        runtime_version=seen.runtime_version,
        threads=threads,
        load_ms=seen.load_ms,
        first_ms=seen.first_ms,
        warm_up_runs=seen.warm_up_runs,
        latency=describe_latencies(seen.latencies_ms),
        percentiles_ms=_percentiles(seen.latencies_ms),
        memory=_memory(seen),
        limit=limited,
        curve=seen.curve,
        reference_kernels=reference_kernels,
        provider=provider,
        inputs=seen.inputs,
        inputs_from=inputs.name if inputs else "generated",
        machine=machine,
        warnings=tuple(warnings),
        measured_at=now(),
    )


def measure_operators(
    model: Path,
    *,
    threads: int,
    runtime: str | None = None,
    inputs: Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    reference_kernels: bool = False,
    provider: str | None = None,
    timeout_s: float = 600.0,
) -> tuple[OperatorTime, ...]:
    """Where the time goes in a model, operator by operator, by the engine's own profiler.

    Arguments and errors as those of `measure`; an `EnvironmentLackError` also where the engine has
    no profiler that takes the model.
    """
    job = Job(
        model=model.resolve(),
        runtime=runtime,
        threads=threads,
        runs=1,
        min_seconds=0.0,
        inputs=inputs.resolve() if inputs else None,
        input_shapes=dict(input_shapes or {}),
        reference_kernels=reference_kernels,
        provider=provider,
    )
    document = read_line(run_process(job, command=_OPERATORS_COMMAND, timeout_s=timeout_s))
    return tuple(OperatorTime(**entry) for entry in document["operators"])


def measure_plain_memory(
    model: Path,
    *,
    runtime: str | None = None,
    inputs: Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    timeout_s: float = 600.0,
) -> ModelMemory | None:
    """The memory of a model with the engine's plain kernels and no graph optimisation.

    That is an engine's plan without what its optimised kernels add or save. None where memory
    cannot be measured. Arguments and errors as those of `measure`.
    """
    job = Job(
        model=model.resolve(),
        runtime=runtime,
        threads=1,
        runs=1,
        min_seconds=0.0,
        inputs=inputs.resolve() if inputs else None,
        input_shapes=dict(input_shapes or {}),
        reference_kernels=True,
        memory_only=True,
    )
    return _run_worker(job, command=WORKER_COMMAND, timeout_s=timeout_s).memory


def check_settings(*, threads: int, runs: int, min_seconds: float, timeout_s: float) -> None:
    """Raise one `UsageError` that names every number with which nothing can be measured."""
    faults = []
    if threads < 1:
        faults.append(f"threads is {threads}, and an inference needs one")
    if not 1 <= runs <= MOST_RUNS:
        faults.append(f"runs is {runs}, not between 1 and {MOST_RUNS}")
    if not 0 <= min_seconds < timeout_s:
        faults.append(f"min_seconds is {min_seconds:g}, not between 0 and {timeout_s:g}")
    if faults:
        raise UsageError("; ".join(faults), fix="choose numbers within these bounds")


def _provider_of(model_format: ModelFormat, provider: str | None) -> str | None:
    """Its full name, or None for the processor; for TFLite left as it is, to be refused."""
    if provider is None or model_format is not ModelFormat.ONNX:
        return provider
    from edgekit_runtime.engines.onnxruntime import CPU_PROVIDER, find_provider

    found = find_provider(provider)
    return None if found == CPU_PROVIDER else found


def _run_limited(
    job: Job, limit: MemoryLimit, limit_bytes: int, command: Sequence[str], timeout_s: float
) -> Observation:
    """Run the worker under a limit, and say of its death whether that was the reason."""
    try:
        return _run_worker(
            job, command=limit.command(command), timeout_s=timeout_s, started=limit.started
        )
    except (EnvironmentLackError, UnsupportedModelError) as error:
        if not limit.exceeded():
            raise
        raise GateFailedError(
            f"the model does not run in {limit_bytes / 1e6:.4g} MB: the process was ended when it "
            f"needed more ({limit.how})",
            where=str(job.model),
            fix="allow more memory, or take a smaller model; the limit counts Python and the "
            "engine too",
        ) from error


def _run_worker(
    job: Job,
    *,
    command: Sequence[str],
    timeout_s: float,
    started: Callable[[int], None] = unwatched,
) -> Observation:
    line = run_process(job, command=command, timeout_s=timeout_s, started=started)
    try:
        return read_answer(line)
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedModelError(
            "the measuring process ended without an answer", where=str(job.model)
        ) from error


def _percentiles(latencies_ms: Sequence[float]) -> tuple[float, ...]:
    ordered = sorted(latencies_ms)
    return tuple(quantile(ordered, share / 100) for share in range(101))


def _memory(seen: Observation) -> PeakMemory:
    if seen.peak_bytes is None or seen.baseline_bytes is None:
        return PeakMemory(
            peak_bytes=None, baseline_bytes=seen.baseline_bytes, includes=_MEMORY_UNKNOWN
        )
    peak = max(0, seen.peak_bytes - seen.baseline_bytes)
    own = seen.memory
    return PeakMemory(
        peak_bytes=peak,
        baseline_bytes=seen.baseline_bytes,
        engine_bytes=max(0, peak - own.model_bytes - own.activations_bytes) if own else None,
        model_bytes=own.model_bytes if own else None,
        mapped_bytes=own.mapped_bytes if own else None,
        first_activations_bytes=own.first_activations_bytes if own else None,
        activations_bytes=own.activations_bytes if own else None,
        includes=_MEMORY_INCLUDES,
    )
