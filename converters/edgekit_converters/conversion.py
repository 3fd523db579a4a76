"""One conversion under way: what has been made so far, so that nothing is made twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.checking import ArtifactCheck
from edgekit_converters.evaluation import (
    Accuracy,
    EvaluationSet,
    agreement,
    evaluate_top1,
    predict_classes,
)
from edgekit_converters.intake import Intake, take_in
from edgekit_converters.litert.compile import CompiledFile, compile_to_file
from edgekit_converters.parity import Comparison
from edgekit_converters.reduced import ReducedForms
from edgekit_converters.report import Artifact, ConversionReport, Precision, tool_versions
from edgekit_converters.request import ConversionPlan, ConversionRequest, PlannedArtifact
from edgekit_converters.samples import Samples, read_samples
from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.files import sha256_of
from edgekit_runtime.formats import ModelFormat

_DROP_TO_WARN: Final = 0.02
_AGREEMENT_TO_WARN: Final = 0.95


class Conversion:
    """Makes and judges the artifacts of a request, one after the other, in a folder of its own."""

    def __init__(
        self,
        request: ConversionRequest,
        plan: ConversionPlan,
        staging: Path,
        progress: Callable[[str], None],
    ) -> None:
        """Read the source and the data, and bring the source into the forms that are needed.

        Args:
            request: What to make of what.
            plan: What that leads to.
            staging: Where artifacts lie until they are published.
            progress: Told one plain sentence a step.

        Raises:
            EdgekitError: As `convert_model` says.
        """
        self._request = request
        self._plan = plan
        self._staging = staging
        self._progress = progress
        self._where = str(request.source)
        self._source_accuracy: Accuracy | None = None
        # Apart from the artifacts, whose names are the user's.
        self._scratch = staging / "scratch"
        self._scratch.mkdir()
        self._source: Intake = take_in(request, plan, self._scratch, progress)
        self._warnings = list(self._source.warnings)
        self._session = self._source.session
        examples = (
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
        # First of all, so that operators that LiteRT lacks are named before anything is made.
        self._compiled = self._compile()
        self._check = ArtifactCheck(
            self._source,
            kind=plan.source_kind,
            where=self._where,
            tolerance=request.max_error,
            samples=self._samples() or examples,
            compiled=self._compiled,
            scratch=self._scratch,
        )
        forms = self._source.forms
        self._reduced = ReducedForms(
            normalised=forms.normalised if forms else None,
            source=request.source,
            compiled=self._compiled,
            calibration=self._calibration,
            scratch=self._scratch,
            keep_float=request.keep_float,
            io=request.io,
            method=request.range_method,
            layout=request.layout,
            progress=progress,
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
        scheme = artifact.precision.scheme
        if scheme is None:
            self._write_float(artifact.format, path)
        else:
            self._progress(f"quantizing {name}")
            self._note(artifact, self._reduced.write(artifact.format, scheme, path))
        self._progress(f"checking {name}")
        return self._describe(artifact, path, self._check.compare(artifact, path))

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
            warnings=(*self._warnings, *self._check.warnings),
            tools=tool_versions(),
            calibration_sha256=calibration.samples.sha256 if calibration else None,
        )

    def _load_calibration(self) -> CalibrationSet | None:
        if self._request.calibration is None:
            return None
        calibration = CalibrationSet.load(
            self._request.calibration, self._session.inputs, ranges=self._source.ranges
        )
        self._warnings += calibration.warnings
        return calibration

    def _compile(self) -> CompiledFile | None:
        forms = self._source.forms
        if forms is None or all(a.format is not ModelFormat.LITERT for a in self._plan.artifacts):
            return None
        self._progress("converting to LiteRT")
        try:
            return compile_to_file(
                forms.normalised.load(),
                self._scratch / "float.tflite",
                where=self._where,
                description="converted by edgekit",
                layout=self._request.layout,
            )
        except UnsupportedModelError as error:
            if self._plan.source_kind is not SourceKind.TFLITE:
                raise
            self._warnings.append(f"the file is quantized as it is ({error.what})")
            return None

    def _write_float(self, target: ModelFormat, path: Path) -> None:
        if target is ModelFormat.ONNX:
            if self._source.forms is not None:
                path.write_bytes(self._source.forms.normalised.load().SerializeToString())
        elif self._compiled is not None:
            shutil.copyfile(self._compiled.path, path)

    def _samples(self) -> Samples | None:
        """The user's data, before others what the quantizer has not seen."""
        if self._evaluation is not None:
            return self._evaluation.samples
        return self._calibration.samples if self._calibration else None

    def _note(self, artifact: PlannedArtifact, remarks: tuple[str, ...]) -> None:
        self._warnings += [f"{artifact.path.name}: {remark}" for remark in remarks]

    def _describe(self, artifact: PlannedArtifact, path: Path, comparison: Comparison) -> Artifact:
        source_accuracy, accuracy, agreed = self._judge(artifact, path)
        name = artifact.path.name
        size = path.stat().st_size
        if artifact.precision is not Precision.FLOAT32 and size >= self._source.size_bytes:
            self._warnings.append(
                f"{name}: {artifact.precision.scheme} does not make this model smaller; it is so "
                "small that scales and names outweigh what the weights save"
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
            precision=self._precision(artifact),
            size_bytes=size,
            sha256=sha256_of(path),
            parity=comparison.outputs,
            probes=comparison.probes,
            accuracy=accuracy,
            source_accuracy=source_accuracy,
            agreement=agreed,
            axes=self._check.axes(artifact.format),
        )

    def _precision(self, artifact: PlannedArtifact) -> Precision:
        kept = self._source.quantized and artifact.precision is Precision.FLOAT32
        return Precision.INT8 if kept else artifact.precision

    def _judge(
        self, artifact: PlannedArtifact, path: Path
    ) -> tuple[Accuracy | None, Accuracy | None, float | None]:
        samples = self._samples()
        if samples is None:
            return None, None, None
        session = self._check.open(artifact.format, path)
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
