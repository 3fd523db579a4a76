"""What a conversion made, and what is known about it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from edgekit_converters.quantize.scheme import Scheme

if TYPE_CHECKING:
    from edgekit_converters.evaluation import Accuracy
    from edgekit_converters.litert.layout import BorderLayout
    from edgekit_converters.parity import OutputParity
    from edgekit_converters.sources.kind import SourceKind
    from edgekit_runtime.formats import ModelFormat

_TOOLS: Final = (
    "edgekit", "onnx", "onnxruntime", "ai-edge-litert", "numpy", "torch",
    "onnxscript", "scikit-learn", "skl2onnx", "skops", "xgboost", "xgboost-cpu", "lightgbm",
    "keras", "tensorflow", "tensorflow-cpu", "tf2onnx",
)  # fmt: skip


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
        accuracy: On the evaluation data, where there is some.
        source_accuracy: The source's, on the same samples.
        agreement: Share of samples that get the source's answer, 0 to 1; on the evaluation data,
            or else on the calibration data.
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
    accuracy: Accuracy | None
    source_accuracy: Accuracy | None
    agreement: float | None
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "source_accuracy": self.source_accuracy.to_json() if self.source_accuracy else None,
            "agreement": self.agreement,
            "axes": {name: list(order) for name, order in self.axes.items()},
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

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
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
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
            "warnings": list(self.warnings),
            "tools": dict(self.tools),
        }


def tool_versions() -> dict[str, str]:
    """The versions of the installed packages that a conversion may use."""
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
