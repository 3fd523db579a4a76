"""Convert a model: the one entry point, from a file to checked, published files and a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.divergence import first_divergence, litert_values, onnx_values
from edgekit_converters.evaluation import (
    Accuracy,
    EvaluationSet,
    agreement,
    evaluate_top1,
    predict_classes,
)
from edgekit_converters.graph import read_graph
from edgekit_converters.litert.compile import CompiledModel, compile_to_litert
from edgekit_converters.normalise import infer_shapes, normalise
from edgekit_converters.onnx_source import doubtful_weights, quantized_operators, read_onnx
from edgekit_converters.parity import Arrays, Comparison, compare, probes_for, user_probes
from edgekit_converters.publish import publish, staging_for
from edgekit_converters.quantize.litert import quantize_litert, quantized_tensors
from edgekit_converters.quantize.onnx import quantize_onnx
from edgekit_converters.quantize.outcome import refuse_quantized
from edgekit_converters.report import Artifact, ConversionReport, Precision, tool_versions
from edgekit_converters.request import (
    ConversionPlan,
    ConversionRequest,
    PlannedArtifact,
    plan_conversion,
)
from edgekit_converters.samples import Samples
from edgekit_runtime.errors import GateFailedError, UnsupportedModelError
from edgekit_runtime.files import sha256_of
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import Session, open_session

__all__ = ["ConversionReport", "ConversionRequest", "Precision", "convert_model"]

_DROP_TO_WARN: Final = 0.02
_ARRAY_TYPES: Final = frozenset(np.dtype(code).name for code in "?bBhHiIlLqQefd")
_AGREEMENT_TO_WARN: Final = 0.95


def _ignore(_: str) -> None:
    """The default for `progress`."""


def convert_model(
    request: ConversionRequest, *, progress: Callable[[str], None] = _ignore
) -> ConversionReport:
    """Make every artifact that is asked for, check each, and publish all of them, or none.

    Args:
        request: What to make of what.
        progress: Told one plain sentence a step.

    Returns:
        The report that is also written as JSON beside the artifacts.

    Raises:
        UsageError: If the request, a path or the given data cannot be used.
        UnsupportedModelError: If the source is no model, or has operators that a target lacks;
            they are all named.
        GateFailedError: If a float artifact does not compute what the source does; the first
            node that differs is named.
        EnvironmentLackError: If a package is missing or the output cannot be written.
    """
    plan = plan_conversion(request)
    with staging_for(plan.folder) as staging:
        work = _Work(request, plan, staging, progress)
        artifacts = tuple(work.make(artifact) for artifact in plan.artifacts)
        report = work.report(artifacts)
        staged_report = staging / "report.json"
        staged_report.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        moves = [(work.staged(artifact), artifact.path) for artifact in plan.artifacts]
        progress(f"publishing {len(moves)} file(s) in {plan.folder}")
        publish([*moves, (staged_report, plan.report)], staging=staging)
    return report


@dataclass(frozen=True, slots=True)
class _OnnxSource:
    """An ONNX source in its original and its normalised form."""

    original: Any
    normalised: Any


class _Work:
    """One conversion under way: what has been made so far, so that nothing is made twice."""

    def __init__(
        self,
        request: ConversionRequest,
        plan: ConversionPlan,
        staging: Path,
        progress: Callable[[str], None],
    ) -> None:
        self._request = request
        self._plan = plan
        self._staging = staging
        self._progress = progress
        self._warnings: list[str] = []
        self._where = str(request.source)
        self._compiled: CompiledModel | None = None
        self._source_accuracy: Accuracy | None = None
        progress(f"reading {request.source}")
        self._onnx = self._read_onnx() if plan.source_format is ModelFormat.ONNX else None
        if self._onnx is None:
            # Refused before an engine is asked to run it and before any data is judged by it.
            refuse_quantized(quantized_tensors(request.source), where=self._where)
        self._session = open_session(request.source)
        _refuse_other_than_arrays(self._session, self._where)
        self._calibration = self._load_calibration()
        self._evaluation = (
            EvaluationSet.load(request.evaluation, self._session.inputs)
            if request.evaluation
            else None
        )
        if self._onnx is not None and any(a.format is ModelFormat.LITERT for a in plan.artifacts):
            # First of all, so that operators that LiteRT lacks are named before anything is made.
            progress("converting to LiteRT")
            self._compiled = compile_to_litert(
                self._onnx.normalised, where=self._where, description="converted by edgekit"
            )

    def staged(self, artifact: PlannedArtifact) -> Path:
        """Where an artifact lies until it is published."""
        return self._staging / artifact.path.name

    def make(self, artifact: PlannedArtifact) -> Artifact:
        """Write one artifact and compare it with the source."""
        path = self.staged(artifact)
        name = f"{artifact.format.value} {artifact.precision.value}"
        if artifact.precision is Precision.FLOAT32:
            self._write_float(artifact.format, path)
            self._progress(f"checking {name}")
            comparison = self._check_float(artifact, path)
        else:
            self._progress(f"quantizing {name}")
            self._write_int8(artifact.format, path)
            self._progress(f"checking {name}")
            comparison = self._compare_int8(path)
        return self._describe(artifact, path, comparison)

    def report(self, artifacts: tuple[Artifact, ...]) -> ConversionReport:
        """Everything that is known at the end."""
        source = self._request.source
        calibration = self._calibration
        return ConversionReport(
            source=str(source),
            source_sha256=sha256_of(source),
            source_size_bytes=source.stat().st_size,
            artifacts=artifacts,
            warnings=tuple(self._warnings),
            tools=tool_versions(),
            calibration_sha256=calibration.samples.sha256 if calibration else None,
        )

    def _read_onnx(self) -> _OnnxSource:
        original = read_onnx(self._request.source)
        self._warnings += doubtful_weights(original)
        refuse_quantized(quantized_operators(original), where=self._where)
        return _OnnxSource(original, normalise(original, where=self._where))

    def _load_calibration(self) -> CalibrationSet | None:
        if self._request.calibration is None:
            return None
        calibration = CalibrationSet.load(self._request.calibration, self._session.inputs)
        self._warnings += calibration.warnings
        return calibration

    def _write_float(self, target: ModelFormat, path: Path) -> None:
        if target is ModelFormat.ONNX:
            if self._onnx is not None:
                path.write_bytes(self._onnx.normalised.SerializeToString())
        elif self._compiled is not None:
            path.write_bytes(self._compiled.content)

    def _write_int8(self, target: ModelFormat, path: Path) -> None:
        if self._calibration is None:
            return
        source = self._request.source
        if self._onnx is not None:
            source = self._staging / f"float{target.suffix}"
            self._write_float(target, source)
        quantize = quantize_onnx if target is ModelFormat.ONNX else quantize_litert
        quantize(source, path, self._calibration, where=self._where)

    def _compare(self, path: Path, probes: Iterable[Arrays]) -> Comparison:
        artifact = self._open(path)
        try:
            return compare(self._session, artifact, probes)
        finally:
            artifact.close()

    def _open(self, path: Path) -> Session:
        """Load what was made; that the runtime refuses it is a failure of the conversion."""
        try:
            return open_session(path)
        except UnsupportedModelError as error:
            raise GateFailedError(
                f"{path.name} was made, but {error.what}",
                where=self._where,
                fix="nothing was published; convert in another precision, or report the model",
            ) from error

    def _compare_int8(self, path: Path) -> Comparison:
        # An integer model has the range of its data: what lies outside says nothing about it.
        samples = self._samples()
        specs = self._session.inputs
        return self._compare(path, user_probes(specs, samples) if samples else ())

    def _samples(self) -> Samples | None:
        """The user's data, before others what the quantizer has not seen."""
        if self._evaluation is not None:
            return self._evaluation.samples
        return self._calibration.samples if self._calibration else None

    def _check_float(self, artifact: PlannedArtifact, path: Path) -> Comparison:
        comparison = self._compare(path, probes_for(self._session.inputs, self._samples()))
        if comparison.max_relative_error > self._request.max_error:
            worst = max(comparison.outputs, key=lambda output: output.max_relative_error)
            node = self._find_divergence(artifact.format, path, comparison)
            raise GateFailedError(
                f"the {artifact.format.value} model does not compute what the source does: output "
                f"{worst.name!r} is off by {worst.max_relative_error:.3g} relative, allowed "
                f"{self._request.max_error:.3g}; "
                + (f"first at {node}" if node else "no single node is off by more than that"),
                where=self._where,
                fix="nothing was published; report the model, or allow a larger error",
            )
        return comparison

    def _find_divergence(
        self, target: ModelFormat, path: Path, comparison: Comparison
    ) -> str | None:
        if self._onnx is None:
            return None
        if target is ModelFormat.LITERT and self._compiled is not None:
            graph, reference = self._compiled.graph, self._onnx.normalised
            computed = litert_values(path, self._compiled, comparison.worst)
        else:
            reference = self._onnx.original
            graph = read_graph(infer_shapes(_copy(reference), self._where))
            names = [name for node in graph.nodes for name in node.outputs]
            computed = onnx_values(self._onnx.normalised, comparison.worst, names)
        expected = onnx_values(reference, comparison.worst, computed)
        return first_divergence(graph, expected, computed, self._request.max_error)

    def _describe(self, artifact: PlannedArtifact, path: Path, comparison: Comparison) -> Artifact:
        session = self._open(path)
        source_accuracy, accuracy, agreed = self._judge(session)
        session.close()
        name = artifact.path.name
        size = path.stat().st_size
        if artifact.precision is Precision.INT8 and size >= self._request.source.stat().st_size:
            self._warnings.append(
                f"{name}: int8 does not make this model smaller; it is so small that scales and "
                "names outweigh what the weights save"
            )
        if accuracy and source_accuracy and source_accuracy.value - accuracy.value > _DROP_TO_WARN:
            self._warnings.append(
                f"{name}: top-1 accuracy fell from {source_accuracy.value:.2%} to "
                f"{accuracy.value:.2%} on {accuracy.samples} samples"
            )
        elif agreed is not None and agreed < _AGREEMENT_TO_WARN:
            self._warnings.append(f"{name}: only {agreed:.1%} of its answers are the source's")
        return Artifact(
            path=str(artifact.path),
            format=artifact.format,
            precision=artifact.precision,
            size_bytes=size,
            sha256=sha256_of(path),
            parity=comparison.outputs,
            probes=comparison.probes,
            accuracy=accuracy,
            source_accuracy=source_accuracy,
            agreement=agreed,
        )

    def _judge(self, session: Session) -> tuple[Accuracy | None, Accuracy | None, float | None]:
        if self._evaluation is not None:
            source = self._source_accuracy or evaluate_top1(self._session, self._evaluation)
            self._source_accuracy = source
            accuracy = evaluate_top1(session, self._evaluation)
            return source, accuracy, agreement(source.predictions, accuracy.predictions)
        samples = self._samples()
        if samples is not None:
            answers = [predict_classes(model, samples) for model in (self._session, session)]
            return None, None, agreement(*answers)
        return None, None, None


def _refuse_other_than_arrays(session: Session, where: str) -> None:
    strange = [
        f"{spec.name!r} is {spec.dtype}"
        for spec in (*session.inputs, *session.outputs)
        if spec.dtype not in _ARRAY_TYPES
    ]
    if strange:
        raise UnsupportedModelError(
            f"the model has inputs or outputs that are no arrays of numbers: {', '.join(strange)}",
            where=where,
            fix="export it with plain tensors; for scikit-learn, with the option zipmap=False",
        )


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy
