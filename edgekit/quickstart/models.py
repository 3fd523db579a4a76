"""Steps 1 to 3: convert, benchmark, make bundles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.bundling.create import BundleRequest, create_bundle
from edgekit.quickstart.figures import PredictionFigures, VariantFigures
from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_runtime.errors import GateFailedError
from edgekit_runtime.formats import ModelFormat

if TYPE_CHECKING:
    from edgekit.quickstart.assets import DigitsAssets
    from edgekit_converters.report import Artifact

Say = Callable[[str], None]
LABELS: Final = tuple(str(digit) for digit in range(10))
LICENCES: Final = ("Apache-2.0", "CC-BY-4.0")
_FAMILY: Final = {ModelFormat.ONNX: "ONNX", ModelFormat.LITERT: "LiteRT"}
# The best first: what a device takes if it can.
_ORDER: Final = (
    (ModelFormat.LITERT, Precision.INT8),
    (ModelFormat.ONNX, Precision.INT8),
    (ModelFormat.LITERT, Precision.FLOAT32),
)
_BENCH_SECONDS: Final = 0.3
_BENCH_RUNS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One version of the model in all its variants, the best first."""

    version: str
    source: Path
    artifacts: tuple[Artifact, ...]


def convert_digits(
    version: str, source: Path, assets: DigitsAssets, folder: Path, *, say: Say
) -> Converted:
    """Make ONNX int8, LiteRT float and LiteRT int8, checked and evaluated."""
    report = convert_model(
        ConversionRequest(
            source=source,
            output=folder,
            targets=(ModelFormat.ONNX, ModelFormat.LITERT),
            precisions=(Precision.FLOAT32, Precision.INT8),
            calibration=assets.calibration,
            evaluation=assets.test,
        ),
    )
    by_kind = {(artifact.format, artifact.precision): artifact for artifact in report.artifacts}
    chosen = tuple(by_kind[kind] for kind in _ORDER)
    for warning in report.warnings:
        say(f"warning: {warning}")
    return Converted(version=version, source=source, artifacts=chosen)


def title(artifact: Artifact) -> str:
    """For people: "LiteRT int8"."""
    precision = "float" if artifact.precision is Precision.FLOAT32 else artifact.precision.value
    return f"{_FAMILY[artifact.format]} {precision}"


def bench_digits(
    converted: Converted, *, profiles: Sequence[str] = (), say: Say
) -> tuple[tuple[VariantFigures, ...], tuple[PredictionFigures, ...]]:
    """Measure every variant here, each in a fresh process, and predict it for boards."""
    from edgekit_benchmarks.bench import bench_models

    report = bench_models(
        [Path(artifact.path) for artifact in converted.artifacts],
        profiles=profiles,
        runs=_BENCH_RUNS,
        min_seconds=_BENCH_SECONDS,
    )
    variants, predictions = [], []
    for artifact, entry in zip(converted.artifacts, report.models, strict=True):
        measured = entry.measurement
        if measured is None or artifact.accuracy is None:
            raise GateFailedError("a variant was not measured", where=artifact.path)
        variants.append(
            VariantFigures(
                model=f"digits {converted.version}",
                variant=title(artifact),
                file=Path(artifact.path).name,
                size_bytes=artifact.size_bytes,
                accuracy=artifact.accuracy,
                median_ms=measured.latency.median_ms,
                p90_ms=measured.latency.p90_ms,
                peak_memory_bytes=measured.memory.peak_bytes,
            )
        )
        say(
            f"digits {converted.version} as {title(artifact)}: median "
            f"{measured.latency.median_ms:.3g} ms, p90 {measured.latency.p90_ms:.3g} ms, "
            f"{measured.kind}"
        )
        predictions += [
            PredictionFigures(
                board=prediction.board,
                variant=title(artifact),
                kind=prediction.kind,
                latency_ms=prediction.latency_ms,
                low_ms=prediction.low_ms,
                high_ms=prediction.high_ms,
                provenance="; ".join((*prediction.reasons, prediction.provenance)),
            )
            for prediction in entry.predictions
        ]
    return tuple(variants), tuple(predictions)


def bundle_digits(
    converted: Converted,
    assets: DigitsAssets,
    output: Path,
    *,
    measured: Sequence[VariantFigures] = (),
    golden_samples: int = 16,
    version: str | None = None,
) -> Path:
    """Put all variants into one bundle, with golden samples from the held-out digits."""
    create_bundle(
        BundleRequest(
            name="digits",
            version=version or converted.version,
            models=tuple(Path(artifact.path) for artifact in converted.artifacts),
            data=assets.test,
            output=output,
            labels=LABELS,
            golden_samples=golden_samples,
            source=converted.source,
            licences=LICENCES,
            description="Handwritten digits, 8x8 grey pixels",
            ram_bytes={
                figures.file: figures.peak_memory_bytes
                for figures in measured
                if figures.peak_memory_bytes is not None
            },
        )
    )
    return output
