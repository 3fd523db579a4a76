"""Read what `edgekit bench --json` wrote: a baseline, or real runs to anchor a profile on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_benchmarks.features import FEATURES, Counting
from edgekit_benchmarks.profile import DTYPES
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader, open_document
from edgekit_runtime.files import require_file

FORMAT: Final = "edgekit-bench"
FORMAT_VERSION: Final = 2
# A report of a hundred models with every single latency of theirs.
MOST_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a model computes.

    Attributes:
        dtype: What it computes in.
        macs: Multiply-accumulates of one inference.
        features: The counts of `features.FEATURES`, by the way of counting.
    """

    dtype: str
    macs: float
    features: Mapping[Counting, tuple[float, ...]]

    def to_json(self) -> dict[str, object]:
        """The counts by name."""
        return {
            "dtype": self.dtype,
            "macs": self.macs,
            "features": {
                counting.value: dict(zip(FEATURES, counts, strict=True))
                for counting, counts in self.features.items()
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """One measurement out of a results file.

    Attributes:
        model: The file's name.
        sha256: Of the model.
        runtime: The engine.
        runtime_version: Its version.
        threads: How many it used.
        reference_kernels: Whether the engine's plain kernels ran.
        provider: onnxruntime's execution provider; None for the processor.
        runs: How many inferences were timed.
        median_ms: Their median.
        median_low_ms: The lower end of the median's 95 % confidence interval.
        median_high_ms: The upper end.
        p99_ms: Ninety-nine in a hundred were quicker.
        peak_bytes: Peak memory above the engine; None if it was not measured.
        board: What the machine called itself, or None.
        measured_at: When, as written.
        counts: What the model computes; None where the file could not be read as a graph.
    """

    model: str
    sha256: str
    runtime: str
    runtime_version: str
    threads: int
    reference_kernels: bool
    provider: str | None
    runs: int
    median_ms: float
    median_low_ms: float
    median_high_ms: float
    p99_ms: float
    peak_bytes: int | None
    board: str | None
    measured_at: str
    counts: Counts | None


def read_results(path: Path) -> tuple[RecordedRun, ...]:
    """Every measurement in a results file, in its order; predictions are passed over.

    Raises:
        UsageError: If the file is none, or naming every field that is missing or wrong.
    """
    require_file(path, kind="the results, a JSON file")
    reader = open_document(
        path.read_bytes(),
        name="results file",
        form=(FORMAT, FORMAT_VERSION),
        most_bytes=MOST_BYTES,
        error=UsageError,
        where=str(path),
        fix="write it again with `edgekit bench --json`",
    )
    models = reader.items("models", _read_model)
    if reader.faults:
        raise UsageError(
            f"these are no results of `edgekit bench --json`: {'; '.join(reader.faults)}",
            where=str(path),
        )
    return tuple(run for runs in models for run in runs)


def _read_model(reader: FieldReader) -> tuple[RecordedRun, ...]:
    counts = None
    if reader.raw("counts") is not None:
        counts = _read_counts(reader.nested("counts"))
    return reader.items("measurements", lambda item: _read_run(item, counts))


def _read_run(reader: FieldReader, counts: Counts | None) -> RecordedRun:
    latency = reader.nested("latency")
    memory = reader.nested("memory")
    machine = reader.nested("machine")
    board = machine.raw("board")
    return RecordedRun(
        model=reader.text("model"),
        sha256=reader.text("sha256", pattern="[0-9a-f]{64}"),
        runtime=reader.text("runtime"),
        runtime_version=reader.text("runtime_version"),
        threads=reader.integer("threads", least=1, most=1024),
        reference_kernels=reader.boolean("reference_kernels"),
        provider=reader.text("provider") if reader.raw("provider") is not None else None,
        runs=latency.integer("runs", least=1),
        median_ms=latency.number("median_ms", least=0.0),
        median_low_ms=latency.number("median_low_ms", least=0.0),
        median_high_ms=latency.number("median_high_ms", least=0.0),
        p99_ms=latency.number("p99_ms", least=0.0),
        peak_bytes=memory.integer("peak_bytes") if memory.raw("peak_bytes") is not None else None,
        board=board if isinstance(board, str) else None,
        measured_at=reader.text("measured_at"),
        counts=counts,
    )


def _read_counts(reader: FieldReader) -> Counts:
    features = reader.nested("features")
    return Counts(
        dtype=reader.text("dtype", pattern="|".join(DTYPES)),
        macs=reader.number("macs", least=0.0),
        features={
            counting: tuple(
                features.nested(counting.value).number(name, least=0.0) for name in FEATURES
            )
            for counting in Counting
        },
    )
