"""The published latencies that the package carries, each with the counts of its model."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

from edgekit_benchmarks.features import FEATURES, Counting
from edgekit_runtime.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """What a set of measurements has in common: each is calibrated by itself."""

    board: str
    runtime: str
    runtime_version: str
    threads: int
    dtype: str

    @property
    def order(self) -> tuple[str, str, str, int, str]:
        """A key to sort by."""
        return (self.board, self.runtime, self.runtime_version, self.threads, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """A model that latencies were published of.

    Attributes:
        name: As the tables name it.
        family: Models of one design, left out together.
        macs: Multiply-accumulates of one inference.
        features: The counts of `features.FEATURES`, by the way of counting.
    """

    name: str
    family: str
    macs: float
    features: dict[Counting, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One published latency.

    Attributes:
        combination: Board, runtime and setting.
        model: What ran.
        latency_ms: Mean or median, as published.
        year: When.
        source: Where it was published.
    """

    combination: Combination
    model: PublishedModel
    latency_ms: float
    year: str
    source: str


def read_measurements() -> list[Measured]:
    """The published latencies, in the order of the file.

    Raises:
        UsageError: If a row names a model without counts.
    """
    models = read_models()
    measured = []
    for row in csv.DictReader(read_text("latencies.csv").splitlines()):
        model = models.get(row["model"])
        if model is None:
            raise UsageError(f"no counts for the model {row['model']!r}", where="models.csv")
        measured.append(
            Measured(
                combination=Combination(
                    board=row["board"],
                    runtime=row["runtime"],
                    runtime_version=row["runtime_version"],
                    threads=int(row["threads"]),
                    dtype=row["dtype"],
                ),
                model=model,
                latency_ms=float(row["latency_ms"]),
                year=row["year"],
                source=row["source"],
            )
        )
    return measured


def read_models() -> dict[str, PublishedModel]:
    """The models of the published latencies, by name."""
    found: dict[str, PublishedModel] = {}
    for row in csv.DictReader(read_text("models.csv").splitlines()):
        features = tuple(float(row[name]) for name in FEATURES)
        model = found.setdefault(
            row["model"],
            PublishedModel(
                name=row["model"], family=row["family"], macs=float(row["macs"]), features={}
            ),
        )
        model.features[Counting(row["counting"])] = features
    return found


def read_text(name: str) -> str:
    """A file of the folder `measurements`."""
    folder = resources.files("edgekit_benchmarks") / "measurements"
    return (folder / name).read_text(encoding="utf-8")
