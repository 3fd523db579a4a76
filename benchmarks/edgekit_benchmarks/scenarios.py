"""MLPerf's scenarios: how a model serves one user, several, a heap of work, or a queue.

LoadGen (`mlcommons-loadgen`) sends the queries and judges the answers, as in a submission to MLPerf
Inference; it runs in a process of its own, `loadgen`. Here its times are the user's: MLPerf asks
for ten minutes a scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.job import read_line
from edgekit_benchmarks.loadgen import LoadJob
from edgekit_benchmarks.process import command_of, run_process
from edgekit_runtime.errors import EnvironmentLackError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit_benchmarks.measure import Measurement

_COMMAND: Final = command_of("loadgen")
# Of what one stream manages without a pause; the first load that keeps the limit is the answer.
_LOADS: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# A queue that is half full makes one in a hundred wait about three times as long as it is served.
_PATIENCE: Final = 4.0
# Waking the thread that serves the queue takes a tenth of it.
_LEAST_LIMIT_MS: Final = 1.0
_NS_PER_MS: Final = 1e6


class Scenario(StrEnum):
    """MLPerf Inference Rules, section 4."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    OFFLINE = "offline"
    SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLoad:
    """What the server scenario asks for.

    Attributes:
        queries_per_s: The mean rate at which queries come, at random; None to look for the highest
            of nine loads that keeps the limit.
        p99_ms: What ninety-nine in a hundred must be answered within; None for four times the
            median of one inference, and at least a millisecond.
    """

    queries_per_s: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioRun:
    """One scenario, as LoadGen saw it.

    Attributes:
        scenario: Which.
        threads: How many one inference might use.
        latency_ms: What MLPerf reports: the 90th percentile of single stream, the 99th of multi
            stream and server; None for offline.
        samples_per_s: What it reports for offline and server; for the streams, what came of it.
        median_ms: Half of the queries were answered within it.
        p99_ms: Ninety-nine in a hundred were.
        samples_per_query: How many come at once.
        queries: How many were sent.
        target_per_s: The server's load; None for the others.
        limit_ms: The server's limit for the 99th percentile; None for the others.
        kept: Whether that limit held; true for the others.
        valid: Whether the run is valid by all of LoadGen's rules but for the time.
        why: What LoadGen says of a run that is not.
        loadgen: Its version.
    """

    scenario: Scenario
    threads: int
    latency_ms: float | None
    samples_per_s: float
    median_ms: float
    p99_ms: float
    samples_per_query: int
    queries: int
    target_per_s: float | None
    limit_ms: float | None
    kept: bool
    valid: bool
    why: str
    loadgen: str

    @property
    def figure(self) -> str:
        """What MLPerf reports of this scenario, in words."""
        match self.scenario:
            case Scenario.SINGLE_STREAM:
                return f"90th percentile {self.latency_ms:.4g} ms"
            case Scenario.MULTI_STREAM:
                return f"99th percentile {self.latency_ms:.4g} ms of {self.samples_per_query}"
            case Scenario.OFFLINE:
                return f"{self.samples_per_s:.4g} a second"
            case Scenario.SERVER:
                word = "within" if self.kept else "NOT within"
                return f"{self.samples_per_s:.4g} a second, 99th percentile {word} " + (
                    f"{self.limit_ms:.3g} ms"
                )

    def to_json(self) -> dict[str, object]:
        """The run as a JSON object."""
        return asdict(self)


def check_scenarios(scenarios: Iterable[Scenario], load: ServerLoad) -> None:
    """Refuse what cannot be run, before anything is.

    Raises:
        UsageError: If the server's load makes no sense, or there is one without a server.
        EnvironmentLackError: If LoadGen is not installed.
    """
    chosen = set(scenarios)
    asked = [value for value in (load.queries_per_s, load.p99_ms) if value is not None]
    if any(value <= 0 for value in asked):
        raise UsageError("the server's queries a second and its limit must be above 0")
    if asked and Scenario.SERVER not in chosen:
        raise UsageError(
            "a server's load was given, but not its scenario", fix="add --scenario server"
        )
    if chosen and find_spec("mlperf_loadgen") is None:
        raise EnvironmentLackError(
            "MLPerf's scenarios need its LoadGen, which is not installed",
            where="extra 'loadgen'",
            fix='pip install "edgekit[loadgen]"',
        )


def run_scenario(
    model: Path,
    scenario: Scenario,
    measured: Measurement,
    *,
    load: ServerLoad,
    queries: int,
    min_seconds: float,
    inputs: Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    timeout_s: float = 600.0,
    progress: Callable[[str], None],
) -> ScenarioRun:
    """Run a model in one scenario, with the engine and settings of a measurement.

    Args:
        model: The file.
        scenario: Which.
        measured: How it ran one inference after the other: where LoadGen's guesses come from.
        load: For the server.
        queries: The fewest to send.
        min_seconds: The shortest time to go on for.
        inputs: As for `measure`.
        input_shapes: As for `measure`.
        timeout_s: The longest that one run may take.
        progress: Told one plain sentence a step.

    Raises:
        EdgekitError: As `measure`.
    """

    def run(target_per_s: float | None = None, limit_ms: float | None = None) -> ScenarioRun:
        at = f" at {target_per_s:.4g} a second" if target_per_s else ""
        progress(f"running {model.name} as MLPerf's {scenario.value}{at}")
        job = LoadJob(
            model=model.resolve(),
            runtime=None if measured.runtime == "onnxruntime" else measured.runtime,
            threads=measured.threads,
            runs=queries,
            min_seconds=min_seconds,
            inputs=inputs.resolve() if inputs else None,
            input_shapes=dict(input_shapes or {}),
            reference_kernels=measured.reference_kernels,
            provider=measured.provider,
            scenario=scenario.value,
            expected_ms=measured.latency.median_ms,
            target_per_s=target_per_s,
            limit_ms=limit_ms,
        )
        document = read_line(run_process(job, command=_COMMAND, timeout_s=timeout_s))
        return read_log(document["log"], job)

    if scenario is not Scenario.SERVER:
        return run()
    limit_ms = load.p99_ms or max(_LEAST_LIMIT_MS, _PATIENCE * measured.latency.median_ms)
    if load.queries_per_s is not None:
        return run(load.queries_per_s, limit_ms)
    return _highest(lambda share: run(share * measured.latency.throughput_per_s, limit_ms), _LOADS)


def _highest(run: Callable[[float], ScenarioRun], loads: Sequence[float]) -> ScenarioRun:
    """The run with the highest load that keeps the limit; none does: that with the lowest."""
    found = run(loads[0])
    for load in loads[1:]:
        if found.kept:
            break
        found = run(load)
    return found


def read_log(entries: Mapping[str, object], job: LoadJob) -> ScenarioRun:
    """What LoadGen's detailed log says of a run.

    Args:
        entries: The last value of each of its keys.
        job: What was run.
    """

    def number(key: str) -> float:
        value = entries.get(key, 0.0)
        return float(value) if isinstance(value, int | float) else 0.0

    scenario = Scenario(job.scenario)
    percentile = {
        Scenario.SINGLE_STREAM: "result_90.00_percentile_latency_ns",
        Scenario.MULTI_STREAM: "result_99.00_percentile_per_query_latency_ns",
        Scenario.SERVER: "result_99.00_percentile_latency_ns",
    }.get(scenario)
    a_second = {
        Scenario.SINGLE_STREAM: "result_qps_without_loadgen_overhead",
        Scenario.OFFLINE: "result_samples_per_second",
        Scenario.SERVER: "result_completed_samples_per_sec",
    }.get(scenario)
    per_query = scenario is Scenario.MULTI_STREAM
    kind = "per_query_latency_ns" if per_query else "latency_ns"
    at_once = int(number("effective_samples_per_query") or 1)
    mean_ns = number(f"result_mean_{'query_' if per_query else ''}latency_ns")
    return ScenarioRun(
        scenario=scenario,
        threads=job.threads,
        latency_ms=number(percentile) / _NS_PER_MS if percentile else None,
        samples_per_s=number(a_second) if a_second else at_once / (mean_ns / 1e9),
        median_ms=number(f"result_50.00_percentile_{kind}") / _NS_PER_MS,
        p99_ms=number(f"result_99.00_percentile_{kind}") / _NS_PER_MS,
        samples_per_query=at_once,
        queries=int(number("result_query_count")),
        target_per_s=job.target_per_s,
        limit_ms=job.limit_ms,
        kept=entries.get("result_perf_constraints_met", True) is True,
        valid=entries.get("result_validity") == "VALID",
        why=_reason(entries),
        loadgen=str(entries.get("loadgen_version", "")).partition(" ")[0],
    )


def _reason(entries: Mapping[str, object]) -> str:
    if entries.get("result_validity") == "VALID":
        return ""
    said = (entries.get(key, "") for key in ("result_invalid_reason", "early_stopping_result"))
    return " ".join(" ".join(map(str, said)).replace("*", "").split())
