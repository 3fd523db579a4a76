"""Limits that a model must keep, and a comparison with an earlier result: pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.predict import CONFIDENCE, normal_quantile
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit_benchmarks.bench import ModelBench
    from edgekit_benchmarks.measure import Measurement
    from edgekit_benchmarks.predict import Prediction
    from edgekit_benchmarks.results import RecordedRun

# Published runs state no 99th percentile. Of those on a Raspberry Pi that state the 90th, nineteen
# in twenty have it within 1.18 times the median; a prediction has nothing else to go by.
_TAIL: Final = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the user allows; None where anything goes.

    Attributes:
        latency_ms: Of the median.
        p99_ms: Of the 99th percentile.
        memory_mb: Of the whole process at its peak, in millions of bytes.
        size_mb: Of the model's file.
        confidence: How sure a prediction must be to keep a limit.
    """

    latency_ms: float | None = None
    p99_ms: float | None = None
    memory_mb: float | None = None
    size_mb: float | None = None
    confidence: float = CONFIDENCE

    @property
    def any(self) -> bool:
        """Whether there is any limit."""
        return any(
            limit is not None
            for limit in (self.latency_ms, self.p99_ms, self.memory_mb, self.size_mb)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One limit against one figure.

    Attributes:
        model: The file.
        what: "latency", "p99", "memory", "size" or "regression".
        on: Where: "measured here", or a board's name.
        figure: What was found, in the limit's unit.
        limit: What was allowed.
        unit: "ms", "MB" or "%".
        passed: Whether the limit was kept.
        reason: One sentence.
    """

    model: str
    what: str
    on: str
    figure: float
    limit: float
    unit: str
    passed: bool
    reason: str

    def to_json(self) -> dict[str, object]:
        """The verdict as a JSON object."""
        return asdict(self)


def check_limits(limits: Limits) -> None:
    """Refuse limits that make no sense.

    Raises:
        UsageError: Naming every one.
    """
    faults = [
        f"{name} is {value:g}, and must be above 0"
        for name, value in (
            ("max-latency-ms", limits.latency_ms),
            ("max-p99-ms", limits.p99_ms),
            ("max-memory-mb", limits.memory_mb),
            ("max-size-mb", limits.size_mb),
        )
        if value is not None and not value > 0
    ]
    if faults:
        raise UsageError("; ".join(faults), fix="give limits above 0")
    normal_quantile(limits.confidence)


def judge(bench: ModelBench, limits: Limits) -> list[Verdict]:
    """Every limit against every figure of one model, measured and predicted."""
    verdicts = []
    if limits.size_mb is not None:
        verdicts.append(
            _verdict(bench.model, "size", "the file", bench.file_bytes / 1e6, limits.size_mb, "MB")
        )
    for measurement in bench.measurements:
        verdicts += _judge_measured(bench.model, measurement, limits)
    for prediction in bench.predictions:
        verdicts += _judge_predicted(bench, prediction, limits)
    return verdicts


def _judge_measured(model: str, measurement: Measurement, limits: Limits) -> list[Verdict]:
    on = f"measured here, {_threads(measurement.threads)}"
    verdicts = []
    if limits.latency_ms is not None:
        figure = measurement.latency.median_ms
        verdicts.append(_verdict(model, "latency", on, figure, limits.latency_ms, "ms"))
    if limits.p99_ms is not None:
        figure = measurement.latency.p99_ms
        verdicts.append(_verdict(model, "p99", on, figure, limits.p99_ms, "ms"))
    memory = measurement.memory
    if limits.memory_mb is not None:
        if memory.peak_bytes is None or memory.baseline_bytes is None:
            raise UsageError(
                "memory was not measured on this system, so a limit for it cannot be judged",
                where="--max-memory-mb",
                fix="measure on Linux, or leave the limit out",
            )
        figure = (memory.peak_bytes + memory.baseline_bytes) / 1e6
        verdicts.append(_verdict(model, "memory", on, figure, limits.memory_mb, "MB"))
    return verdicts


def _judge_predicted(bench: ModelBench, prediction: Prediction, limits: Limits) -> list[Verdict]:
    on = f"{prediction.board}, {prediction.kind}, {_threads(prediction.threads)}"
    sure = f"with {limits.confidence:.0%} confidence"
    at_most = prediction.at_most_ms(limits.confidence)
    verdicts = []
    if limits.latency_ms is not None:
        verdicts.append(
            _verdict(bench.model, "latency", on, at_most, limits.latency_ms, "ms", sure)
        )
    if limits.p99_ms is not None:
        verdicts.append(
            _verdict(bench.model, "p99", on, at_most * _TAIL, limits.p99_ms, "ms", sure)
        )
    memory = bench.memory_on(prediction)
    if limits.memory_mb is not None and memory is not None:
        figure = memory.needed_bytes / 1e6
        verdicts.append(_verdict(bench.model, "memory", on, figure, limits.memory_mb, "MB"))
    return verdicts


def check_baseline(models: Sequence[Path], baseline: Sequence[RecordedRun]) -> None:
    """Refuse a baseline of other models, before anything runs.

    Raises:
        UsageError: Naming every model that it does not have.
    """
    names = sorted({run.model for run in baseline})
    missing = [model.name for model in models if model.name not in names]
    if missing:
        raise UsageError(
            f"the baseline has no measurement of {', '.join(missing)} "
            f"(it has {', '.join(names) or 'nothing'})",
            where="--baseline",
            fix="compare with a result of the same models, or make a new baseline with --json",
        )


def compare_with_baseline(
    benches: Sequence[ModelBench], baseline: Sequence[RecordedRun], *, most_regression: float
) -> list[Verdict]:
    """Compare medians with those of an earlier result, by their confidence intervals.

    A model fails only where even the quickest median that its runs allow is slower, by more than
    the share, than the slowest that the baseline's runs allow: chance does not fail it.

    Args:
        benches: What was measured now.
        baseline: What was measured before.
        most_regression: The share by which a median may grow: 0.1 for a tenth.

    Raises:
        UsageError: If the baseline has no measurement of one of the models, with this engine and
            thread count.
    """
    verdicts = []
    faults = []
    for bench in benches:
        for now in bench.measurements:
            before = _same_setting(now, baseline)
            if before is None:
                faults.append(f"{now.model} with {now.engine} on {_threads(now.threads)}")
                continue
            verdicts.append(_regression(bench.model, now, before, most_regression))
    if faults:
        raise UsageError(
            f"the baseline has no measurement of {'; '.join(faults)}",
            where="--baseline",
            fix="compare with a result of the same model file, engine and thread count, or make "
            "a new baseline with --json",
        )
    return verdicts


def _same_setting(now: Measurement, baseline: Sequence[RecordedRun]) -> RecordedRun | None:
    """The newest run of the same model, or of the same name where the file changed on purpose."""
    found = [
        run
        for run in baseline
        if (run.model, run.runtime, run.threads, run.reference_kernels, run.provider)
        == (now.model, now.runtime, now.threads, now.reference_kernels, now.provider)
    ]
    return found[-1] if found else None


def _regression(
    model: str, now: Measurement, before: RecordedRun, most_regression: float
) -> Verdict:
    change = now.latency.median_ms / before.median_ms - 1
    certain = now.latency.median_low_ms / before.median_high_ms - 1
    possible = now.latency.median_high_ms / before.median_low_ms - 1
    passed = certain <= most_regression
    reason = (
        f"median {now.latency.median_ms:.4g} ms, before {before.median_ms:.4g} ms: {change:+.1%}, "
        f"between {certain:+.1%} and {possible:+.1%} by the 95 % intervals of both medians"
    )
    if now.sha256 != before.sha256:
        reason += "; the file is another one than before"
    if now.runtime_version != before.runtime_version:
        reason += f"; {now.runtime} was {before.runtime_version}, is {now.runtime_version}"
    return Verdict(
        model=model,
        what="regression",
        on=f"measured here, {_threads(now.threads)}",
        figure=round(certain * 100, 2),
        limit=most_regression * 100,
        unit="%",
        passed=passed,
        reason=reason,
    )


def _verdict(
    model: str, what: str, on: str, figure: float, limit: float, unit: str, sure: str = ""
) -> Verdict:
    passed = figure <= limit
    relation = "within" if passed else "over"
    reason = f"{figure:.4g} {unit} {sure + ' ' if sure else ''}is {relation} {limit:.4g} {unit}"
    return Verdict(
        model=model,
        what=what,
        on=on,
        figure=figure,
        limit=limit,
        unit=unit,
        passed=passed,
        reason=reason,
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
