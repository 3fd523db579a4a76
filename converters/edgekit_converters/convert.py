"""Convert a model: the one entry point, from a file to checked, published files and a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit_converters.blame import (
    blame_litert,
    blame_onnx,
    wrong_inside_litert,
    wrong_inside_onnx,
)
from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.evaluation import (
    Accuracy,
    EvaluationSet,
    agreement,
    evaluate_top1,
    predict_classes,
)
from edgekit_converters.half import to_float16, write_half_litert
from edgekit_converters.intake import take_in
from edgekit_converters.litert.compile import CompiledFile, compile_to_file
from edgekit_converters.parity import Comparison, Probe, compare, probes_for, user_probes
from edgekit_converters.publish import publish, staging_for
from edgekit_converters.quantize.litert import quantize_litert
from edgekit_converters.quantize.onnx import quantize_onnx
from edgekit_converters.reordered import Borders, ReorderedSession, reorder_calibration
from edgekit_converters.report import Artifact, ConversionReport, Precision, tool_versions
from edgekit_converters.request import (
    ConversionPlan,
    ConversionRequest,
    PlannedArtifact,
    plan_conversion,
)
from edgekit_converters.samples import Samples, read_samples
from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import GateFailedError, UnsupportedModelError
from edgekit_runtime.files import sha256_of
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import Session, open_session

__all__ = ["ConversionReport", "ConversionRequest", "Precision", "convert_model"]

_DROP_TO_WARN: Final = 0.02
_AGREEMENT_TO_WARN: Final = 0.95
_HALF_ERROR_TO_WARN: Final = 0.01
_STEPS_ALLOWED: Final = 2
_TABULAR: Final = frozenset({SourceKind.PICKLE, SourceKind.SKOPS})
_CATEGORIES: Final = (
    "if its columns are whole numbers, such as categories, say so with --input-shape "
    "features:1,COLUMNS:int64; else "
)


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
        try:
            artifacts = tuple(work.make(artifact) for artifact in plan.artifacts)
            report = work.report(artifacts)
        finally:
            work.close()
        staged_report = staging / "report.json"
        staged_report.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        moves = [(work.staged(artifact), artifact.path) for artifact in plan.artifacts]
        progress(f"publishing {len(moves)} file(s) in {plan.folder}")
        publish([*moves, (staged_report, plan.report)], staging=staging)
    return report


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
        self._where = str(request.source)
        self._compiled: CompiledFile | None = None
        self._source_accuracy: Accuracy | None = None
        # Apart from the artifacts, whose names are the user's.
        self._scratch = staging / "scratch"
        self._scratch.mkdir()
        self._source = take_in(request, plan, self._scratch, progress)
        self._warnings = list(self._source.warnings)
        self._session = self._source.session
        self._examples = (
            read_samples(request.options.example, self._session.inputs, kind="example")
            if request.options.example
            else None
        )
        self._calibration = self._load_calibration()
        self._evaluation = (
            EvaluationSet.load(request.evaluation, self._session.inputs)
            if request.evaluation
            else None
        )
        forms = self._source.forms
        if forms is not None and any(a.format is ModelFormat.LITERT for a in plan.artifacts):
            # First of all, so that operators that LiteRT lacks are named before anything is made.
            progress("converting to LiteRT")
            self._compiled = compile_to_file(
                forms.normalised.load(),
                self._scratch / "float.tflite",
                where=self._where,
                description="converted by edgekit",
                layout=request.layout,
            )

    def close(self) -> None:
        """Let go of the source, and of the process that may hold it."""
        self._session.close()

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
            check = self._check_integers if self._source.quantized else self._check_float
            comparison = check(artifact)
        else:
            self._progress(f"quantizing {name}")
            self._write_reduced(artifact, path)
            self._progress(f"checking {name}")
            comparison = self._compare_reduced(artifact)
        return self._describe(artifact, path, comparison)

    def report(self, artifacts: tuple[Artifact, ...]) -> ConversionReport:
        """Everything that is known at the end."""
        calibration = self._calibration
        runtime = self._session.runtime
        return ConversionReport(
            source=str(self._request.source),
            source_kind=self._plan.source_kind,
            source_sha256=self._source.sha256,
            source_size_bytes=self._source.source_bytes,
            exporter=self._source.exporter,
            reference=f"{runtime.name} {runtime.version}",
            layout=self._request.layout,
            artifacts=artifacts,
            warnings=tuple(self._warnings),
            tools=tool_versions(),
            calibration_sha256=calibration.samples.sha256 if calibration else None,
        )

    def _load_calibration(self) -> CalibrationSet | None:
        if self._request.calibration is None:
            return None
        calibration = CalibrationSet.load(self._request.calibration, self._session.inputs)
        self._warnings += calibration.warnings
        return calibration

    def _write_float(self, target: ModelFormat, path: Path) -> None:
        if target is ModelFormat.ONNX:
            if self._source.forms is not None:
                path.write_bytes(self._source.forms.normalised.load().SerializeToString())
        elif self._compiled is not None:
            shutil.copyfile(self._compiled.path, path)

    def _write_reduced(self, artifact: PlannedArtifact, path: Path) -> None:
        """Write an artifact in less than float32."""
        target, source = artifact.format, self._request.source
        if target is ModelFormat.ONNX:
            source = self._scratch / "float.onnx"
            self._write_float(target, source)
        elif self._compiled is not None:
            source = self._compiled.path
        if artifact.precision is Precision.INT8 and self._calibration is not None:
            calibration = reorder_calibration(self._calibration, self._axes(target))
            quantize = quantize_onnx if target is ModelFormat.ONNX else quantize_litert
            quantize(source, path, calibration, where=self._where)
        elif target is ModelFormat.ONNX and self._source.forms is not None:
            half = to_float16(self._source.forms.normalised.load(), where=self._where)
            path.write_bytes(half.model.SerializeToString())
            self._warnings += half.warnings
        else:
            self._warnings += write_half_litert(source, path, where=self._where)

    def _axes(self, target: ModelFormat) -> Borders:
        """The inputs and outputs of a target whose axes are not in the source's order."""
        compiled = self._compiled if target is ModelFormat.LITERT else None
        return compiled.borders if compiled else {}

    def _compare(
        self, artifact: PlannedArtifact, probes: Iterable[Probe], *, tolerance: float | None = None
    ) -> Comparison:
        self._source.wake()
        session = self._open(artifact)
        try:
            return compare(self._session, session, probes, tolerance=tolerance, where=self._where)
        finally:
            session.close()
            self._source.rest()

    def _open(self, artifact: PlannedArtifact) -> Session:
        """Load what was made; that the runtime refuses it is a failure of the conversion."""
        path = self.staged(artifact)
        axes = self._axes(artifact.format)
        try:
            session = open_session(path)
            return self._source.present(ReorderedSession(session, axes) if axes else session)
        except UnsupportedModelError as error:
            raise GateFailedError(
                f"{path.name} was made, but {error.what}",
                where=self._where,
                fix="nothing was published; convert in another precision, or report the model",
            ) from error

    def _compare_reduced(self, artifact: PlannedArtifact) -> Comparison:
        # An integer model has the range of its data: what lies outside says nothing about it.
        # Nor do extremes about float16, which ends at 65504.
        samples, specs = self._samples() or self._examples, self._session.inputs
        if samples is not None:
            probes = user_probes(specs, samples)
        else:
            every = probes_for(specs, None, self._source.ranges)
            probes = (probe for probe in every if probe.label.startswith("random"))
        comparison = self._compare(artifact, probes)
        if comparison.failure:
            raise GateFailedError(
                f"{artifact.path.name} was made, but {comparison.complaint(0.0)}",
                where=self._where,
                fix="nothing was published; convert in another precision, or report the model",
            )
        if artifact.precision is Precision.FLOAT16 and not comparison.within(_HALF_ERROR_TO_WARN):
            self._warnings.append(
                f"{artifact.path.name}: {comparison.complaint(_HALF_ERROR_TO_WARN)}; float16 has "
                "three digits and ends at 65504"
            )
        return comparison

    def _samples(self) -> Samples | None:
        """The user's data, before others what the quantizer has not seen."""
        if self._evaluation is not None:
            return self._evaluation.samples
        return self._calibration.samples if self._calibration else None

    def _check_float(self, artifact: PlannedArtifact) -> Comparison:
        samples = self._samples() or self._examples
        tolerance = self._request.max_error
        comparison = self._compare(
            artifact,
            probes_for(self._session.inputs, samples, self._source.ranges),
            tolerance=tolerance,
        )
        if not comparison.within(tolerance):
            raise GateFailedError(
                f"the {artifact.format.value} model does not compute what the source does: "
                f"{comparison.complaint(tolerance)}; "
                f"{self._blame(artifact.format, comparison)}",
                where=self._where,
                fix="nothing was published; "
                + (_CATEGORIES if self._plan.source_kind in _TABULAR else "")
                + "report the model, or allow a larger error",
            )
        inside = self._wrong_inside(artifact.format, comparison.first)
        if inside:
            raise GateFailedError(
                f"the {artifact.format.value} model gives the source's outputs on all that was "
                f"tried, but is wrong inside: first at {inside}",
                where=self._where,
                fix="nothing was published; report the model, or allow a larger error",
            )
        if comparison.set_aside:
            self._warnings.append(
                f"{artifact.path.name}: not compared on {', '.join(comparison.set_aside)}: there "
                "the model's answer depends on the last bits of its inputs"
            )
        return comparison

    def _check_integers(self, artifact: PlannedArtifact) -> Comparison:
        """Compare the ONNX form of a quantized `.tflite`: engines round the last bit their own way.

        Two steps of an integer are allowed, and as much of a float's range.
        """
        samples = self._samples() or self._examples
        comparison = self._compare(
            artifact, probes_for(self._session.inputs, samples, self._source.ranges)
        )
        kinds = {spec.name: np.dtype(spec.dtype).kind for spec in self._session.outputs}
        off = [
            output
            for output in comparison.outputs
            if (
                output.max_relative_error > _STEPS_ALLOWED / 100
                if kinds[output.name] == "f"
                else output.max_abs_error > _STEPS_ALLOWED
            )
        ]
        if off:
            raise GateFailedError(
                f"the {artifact.format.value} model does not compute what the source does: "
                f"{comparison.complaint(0.0)}",
                where=self._where,
                fix="nothing was published; report the model",
            )
        return comparison

    def _blame(self, target: ModelFormat, comparison: Comparison) -> str:
        """Where a converted model parts from its source, in words."""
        forms, exporter = self._source.forms, self._source.exporter
        inputs, tolerance = comparison.worst.inputs, self._request.max_error
        if forms is None:
            return "the source has no nodes to compare"
        original = forms.original.load()
        if exporter and self._export_differs(original, comparison.worst):
            return f"so is the ONNX that {exporter} wrote of it"
        if target is ModelFormat.LITERT and self._compiled is not None:
            return blame_litert(original, self._compiled.load(), inputs, tolerance)
        return blame_onnx(original, forms.normalised.load(), inputs, tolerance)

    def _wrong_inside(self, target: ModelFormat, probe: Probe) -> str:
        """The node whose error the outputs hide, "" if there is none."""
        forms, tolerance = self._source.forms, self._request.max_error
        if forms is None:
            return ""
        if target is ModelFormat.LITERT and self._compiled is not None:
            lowered = self._compiled.sketch()
            return wrong_inside_litert(forms.original.sketch(), lowered, probe.inputs, tolerance)
        original, normalised = forms.original.sketch(), forms.normalised.sketch()
        return wrong_inside_onnx(original, normalised, probe.inputs, tolerance)

    def _export_differs(self, model: Any, probe: Probe) -> bool:
        path = self._scratch / "export.onnx"
        path.write_bytes(model.SerializeToString())
        session = self._source.present(open_session(path))
        try:
            comparison = compare(self._session, session, [probe], where=self._where)
        finally:
            session.close()
        return not comparison.within(self._request.max_error)

    def _describe(self, artifact: PlannedArtifact, path: Path, comparison: Comparison) -> Artifact:
        source_accuracy, accuracy, agreed = self._judge(artifact)
        name = artifact.path.name
        size = path.stat().st_size
        if artifact.precision is Precision.INT8 and size >= self._source.size_bytes:
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
            precision=Precision.INT8 if self._source.quantized else artifact.precision,
            size_bytes=size,
            sha256=sha256_of(path),
            parity=comparison.outputs,
            probes=comparison.probes,
            accuracy=accuracy,
            source_accuracy=source_accuracy,
            agreement=agreed,
            axes=self._axes(artifact.format),
        )

    def _judge(
        self, artifact: PlannedArtifact
    ) -> tuple[Accuracy | None, Accuracy | None, float | None]:
        samples = self._samples()
        if samples is None:
            return None, None, None
        session = self._open(artifact)
        try:
            if self._evaluation is None:
                answers = [predict_classes(model, samples) for model in (self._session, session)]
                return None, None, agreement(*answers)
            source = self._source_accuracy or evaluate_top1(self._session, self._evaluation)
            self._source_accuracy = source
            accuracy = evaluate_top1(session, self._evaluation)
            return source, accuracy, agreement(source.predictions, accuracy.predictions)
        finally:
            session.close()
