"""What a conversion made, and what is known about it."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from edgekit_converters.quantize.scheme import Scheme

if TYPE_CHECKING:
    from edgekit_converters.accuracy import PairedAccuracy
    from edgekit_converters.diagnosis import QuantizationDiagnosis
    from edgekit_converters.litert.layout import BorderLayout
    from edgekit_converters.parity import OutputParity
    from edgekit_converters.sources.kind import SourceKind
    from edgekit_converters.tuning import Tuned
    from edgekit_runtime.formats import ModelFormat

_TOOLS: Final = (
    "edgekit", "onnx", "onnxruntime", "ai-edge-litert", "numpy", "torch",
    "onnxscript", "scikit-learn", "skl2onnx", "skops", "xgboost", "xgboost-cpu", "lightgbm",
    "keras", "tensorflow", "tensorflow-cpu", "tf2onnx",
)  # fmt: skip


#: The metric that needs no labels.
AGREEMENT: Final = "agreement"


class Precision(StrEnum):
    """The arithmetic of an artifact."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_WEIGHTS = "int8-weights"
    INT16X8 = "int16x8"
    INT4_WEIGHTS = "int4-weights"
    MIXED = "mixed"

    @classmethod
    def of(cls, scheme: Scheme) -> Precision:
        """What a scheme is called here."""
        return cls.FLOAT16 if scheme is Scheme.FP16 else cls(scheme.value)

    @property
    def scheme(self) -> Scheme | None:
        """How the source is quantized for it; None where it is not."""
        if self is Precision.FLOAT32:
            return None
        return Scheme.FP16 if self is Precision.FLOAT16 else Scheme(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One file that a conversion made.

    Attributes:
        path: As the user gave it.
        format: What the file is.
        precision: What it computes in.
        size_bytes: Of the file.
        sha256: Of the file.
        parity: The largest errors of each output against the source.
        probes: How many inputs were compared for it.
        paired: Its figures and the source's on the same samples, where there is data.
        latency_ms: Predicted on the device that was named, where one was.
        latency_kind: What that figure is: "predicted", "estimate only" and so on.
        axes: The inputs and outputs whose axes are in another order than the source's: axis i is
            the source's axis `axes[name][i]`.
    """

    path: str
    format: ModelFormat
    precision: Precision
    size_bytes: int
    sha256: str
    parity: tuple[OutputParity, ...]
    probes: int
    paired: PairedAccuracy | None = None
    latency_ms: float | None = None
    latency_kind: str = ""
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """What was measured with labels; None where there are none."""
        return self.paired.after if self.paired and self.paired.metric != AGREEMENT else None

    @property
    def agreement(self) -> float | None:
        """Share of samples that get the source's answer, 0 to 1."""
        return self.paired.agreement if self.paired else None

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "path": self.path,
            "format": self.format.value,
            "precision": self.precision.value,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "parity": [output.to_json() for output in self.parity],
            "probes": self.probes,
            "accuracy": self.paired.to_json() if self.paired else None,
            "predicted_latency_ms": self.latency_ms,
            "latency_kind": self.latency_kind or None,
            "axes": {name: list(order) for name, order in self.axes.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How the accuracy of all artifacts was measured.

    Attributes:
        metric: Its name.
        origin: On what: evaluation data, calibration samples that were held out, or all of them.
        samples: How many.
        dataset_sha256: Of the file with them.
        how: What the figures say about other hardware, a paragraph.
    """

    metric: str
    origin: str
    samples: int
    dataset_sha256: str
    how: str

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeReport:
    """How one scheme was reached.

    Attributes:
        tuned: What was tried, and the plan that came of it.
        method: How ranges were chosen before any repair.
        diagnosis: Why the plain scheme loses what it does, where that is over the budget.
    """

    tuned: Tuned
    method: str
    diagnosis: QuantizationDiagnosis | None = None

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        tuned = self.tuned
        plan = tuned.plan
        return {
            "scheme": tuned.scheme.value,
            "met": tuned.met,
            "interrupted": tuned.interrupted,
            "repairs": list(tuned.repairs),
            "range_method": self.method if tuned.scheme.needs_ranges else None,
            "plan": plan
            and {
                "scheme": plan.scheme.value,
                "io": plan.io,
                "keep_float": sorted(plan.keep_float),
                "wide": sorted(plan.wide),
                "ranges": {
                    name: [span.low, span.high] for name, span in sorted(plan.ranges.items())
                },
            },
            "plain": [
                {
                    "path": str(one.artifact.path),
                    "accuracy": one.paired.to_json() if one.paired else None,
                    "predicted_latency_ms": one.latency_ms,
                }
                for one in tuned.plain
            ],
            "search": tuned.search.to_json() if tuned.search else None,
            "diagnosis": self.diagnosis.to_json() if self.diagnosis else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """A finished conversion.

    Attributes:
        source: The source's path as the user gave it.
        source_kind: What it turned out to be.
        source_sha256: Of the source; see `identify` for those that are not one file.
        source_size_bytes: The same.
        exporter: What wrote the source's ONNX form; "" where it is ONNX, or needs none.
        reference: What ran the source, so that its own answers were compared.
        layout: What the inputs and outputs with four axes of LiteRT artifacts look like.
        artifacts: What was made.
        warnings: Sentences that the user should read.
        tools: The versions of what took part.
        calibration_sha256: Of the calibration data, where it was given.
        evaluation: How accuracy was measured, where it was.
        schemes: How each scheme was reached.
        device: The board that latency was predicted for.
        shortfall: What of the goal is missed, a sentence; "" where all holds.
        published: Whether the artifacts are where their paths say.
    """

    source: str
    source_kind: SourceKind
    source_sha256: str
    source_size_bytes: int
    exporter: str
    reference: str
    layout: BorderLayout
    artifacts: tuple[Artifact, ...]
    warnings: tuple[str, ...]
    tools: Mapping[str, str]
    calibration_sha256: str | None
    evaluation: Evaluation | None = None
    schemes: tuple[SchemeReport, ...] = ()
    device: str | None = None
    shortfall: str = ""
    published: bool = True

    def to_json(self) -> dict[str, object]:
        """As a JSON object; numbers that JSON does not have are null."""
        document = _finite(self._to_json())
        assert isinstance(document, dict)  # noqa: S101 - for the type checker
        return document

    def _to_json(self) -> dict[str, object]:
        return {
            "source": {
                "path": self.source,
                "kind": self.source_kind.value,
                "sha256": self.source_sha256,
                "size_bytes": self.source_size_bytes,
                "exporter": self.exporter,
                "reference": self.reference,
            },
            "layout": self.layout.value,
            "calibration_sha256": self.calibration_sha256,
            "evaluation": self.evaluation.to_json() if self.evaluation else None,
            "device": self.device,
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
            "quantization": [scheme.to_json() for scheme in self.schemes],
            "shortfall": self.shortfall or None,
            "published": self.published,
            "warnings": list(self.warnings),
            "tools": dict(self.tools),
        }


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def tool_versions() -> dict[str, str]:
    """The versions of the installed packages that a conversion may use."""
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
