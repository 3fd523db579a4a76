"""One conversion under way: what has been made so far, so that nothing is made twice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from edgekit_converters.accuracy import PairedAccuracy
from edgekit_converters.checking import ArtifactCheck
from edgekit_converters.given import read_given
from edgekit_converters.hardware import doubts_of, how_judged, slower_than_float
from edgekit_converters.intake import Intake, Integers, take_in
from edgekit_converters.litert.compile import CompiledFile, compile_to_file
from edgekit_converters.predicting import PredictedLatency
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.reduced import DESCRIPTION, ReducedForms
from edgekit_converters.report import (
    AGREEMENT,
    Artifact,
    ConversionReport,
    Evaluation,
    Precision,
    SchemeReport,
    tool_versions,
)
from edgekit_converters.request import ConversionPlan, ConversionRequest, PlannedArtifact
from edgekit_converters.samples import Samples, read_samples
from edgekit_converters.shortcomings import diagnosis_of, shortfall_of
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.tuning import Tuned, Tuner, Written
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.files import sha256_of
from edgekit_runtime.formats import ModelFormat

_DROP_TO_WARN: Final = 0.02
_AGREEMENT_TO_WARN: Final = 0.95


class Conversion:
    """Makes and judges the artifacts of a request in a folder of its own."""

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
        given = read_given(request, self._source)
        self._calibration, self._judge = given.calibration, given.judge
        self._warnings += given.warnings
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
        self._schemes: list[SchemeReport] = []
        self._latency: PredictedLatency | None = None

    def close(self) -> None:
        """Let go of the source, and of the process that may hold it."""
        self._session.close()

    def staged(self, artifact: PlannedArtifact) -> Path:
        """Where an artifact lies until it is published."""
        return self._staging / artifact.path.name

    def make(self) -> ConversionReport:
        """Write every artifact, compare it with the source and judge it."""
        made = {
            artifact: self._make_float(artifact)
            for artifact in self._plan.artifacts
            if artifact.precision is Precision.FLOAT32
        }
        by_scheme: dict[Precision, dict[PlannedArtifact, Path]] = {}
        for artifact in self._plan.artifacts:
            if artifact.precision is not Precision.FLOAT32:
                by_scheme.setdefault(artifact.precision, {})[artifact] = self.staged(artifact)
        if by_scheme:
            self._latency = self._prepare_latency()
        tuner = self._tuner() if by_scheme else None
        for precision, files in by_scheme.items():
            scheme = precision.scheme
            if tuner is not None and scheme is not None:
                tuned = tuner.tune(scheme, files)
                self._account_for(tuned)
                for written in tuned.written:
                    made[written.artifact] = self._describe(written)
        return self._report(tuple(made[artifact] for artifact in self._plan.artifacts))

    def _report(self, artifacts: tuple[Artifact, ...]) -> ConversionReport:
        """Everything that is known at the end."""
        goal, runtime = self._request.goal, self._session.runtime
        outcomes = [scheme.tuned for scheme in self._schemes]
        shortfall = shortfall_of(outcomes, goal, self._judge.metric if self._judge else None)
        interrupted = any(tuned.interrupted for tuned in outcomes)
        return ConversionReport(
            source=str(self._request.source),
            source_kind=self._plan.source_kind,
            source_sha256=self._source.sha256,
            source_size_bytes=self._source.source_bytes,
            exporter=self._source.exporter,
            reference=f"{runtime.name} {runtime.version}",
            layout=self._request.layout,
            artifacts=artifacts,
            warnings=tuple(
                dict.fromkeys((*self._warnings, *self._reduced.remarks, *self._check.warnings))
            ),
            tools=tool_versions(),
            calibration_sha256=self._calibration.samples.sha256 if self._calibration else None,
            evaluation=self._evaluation(),
            schemes=tuple(self._schemes),
            device=self._request.device.name if self._request.device else None,
            shortfall=shortfall,
            published=not shortfall or goal.keep_best or interrupted,
        )

    def _samples(self) -> Samples | None:
        """The user's data, before others what the quantizer has not seen."""
        return self._judge.dataset.samples if self._judge else None

    def _evaluation(self) -> Evaluation | None:
        if self._judge is None:
            return None
        dataset = self._judge.dataset
        return Evaluation(
            metric=self._judge.metric.name,
            origin=dataset.origin,
            samples=dataset.data.count,
            dataset_sha256=dataset.samples.sha256,
            how=how_judged(),
        )

    # What is made.

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
                description=DESCRIPTION,
                layout=self._request.layout,
            )
        except UnsupportedModelError as error:
            if self._plan.source_kind is not SourceKind.TFLITE:
                raise
            self._warnings.append(f"the file is quantized as it is ({error.what})")
            return None

    def _make_float(self, artifact: PlannedArtifact) -> Artifact:
        path = self.staged(artifact)
        if artifact.format is ModelFormat.ONNX:
            if self._source.forms is not None:
                path.write_bytes(self._source.forms.normalised.load().SerializeToString())
        elif self._compiled is not None:
            shutil.copyfile(self._compiled.path, path)
        return self._describe(
            Written(artifact=artifact, paired=None, latency_ms=None, remarks=()), judged=False
        )

    def _tuner(self) -> Tuner:
        return Tuner(
            reduced=self._reduced,
            goal=self._request.goal,
            judge=self._judged,
            drop_of=self._simulated_drop,
            calibration=self._calibration,
            latency=self._latency,
            scratch=self._scratch,
            clock=time.monotonic,
            progress=self._progress,
        )

    def _prepare_latency(self) -> PredictedLatency | None:
        device = self._request.device
        if device is None or not self._reduced.has_onnx_form:
            return None
        return PredictedLatency(device, self._reduced.float_model(), self._scratch)

    def _judged(self, artifact: PlannedArtifact, path: Path) -> PairedAccuracy | None:
        """What an artifact loses in its own engine."""
        if self._judge is None:
            return None
        session = self._check.open(artifact.format, path)
        try:
            return self._judge.judge(session)
        except UsageError as error:
            if self._judge.asked:
                raise
            self._warnings.append(f"answers were not compared sample by sample: {error.what}")
            return None
        finally:
            session.close()

    def _simulated_drop(self, model: Any) -> float:
        return self._judge.judge_simulated(model).drop if self._judge else 0.0

    def _account_for(self, tuned: Tuned) -> None:
        """Say what a user should know of a scheme and of how it came to be."""
        latency = self._latency
        undecided = self._request.goal.budget is None and not self._request.keep_float
        if tuned.scheme is Scheme.MIXED and undecided:
            self._warnings.append(
                "mixed is int8 here: nothing says which layers need more; give --max-accuracy-drop "
                "to find them, or --keep-float to name them"
            )
        for written in tuned.written:
            remarks = [*written.remarks, *doubts_of(tuned.scheme, written.artifact.format)]
            if latency is not None and tuned.scheme.needs_ranges:
                remarks += slower_than_float(
                    tuned.scheme,
                    written.latency_ms,
                    latency.of_float(written.artifact.format),
                    latency.device.name,
                    latency.kind(written.artifact.format),
                )
            self._warnings += [f"{written.artifact.path.name}: {remark}" for remark in remarks]
        diagnosis = None
        wanted = self._request.diagnose or tuned.plain or not tuned.met
        if self._calibration is not None and tuned.scheme.needs_ranges and wanted:
            self._progress(f"looking for the layers that plain {tuned.scheme} breaks")
            try:
                diagnosis = diagnosis_of(
                    self._reduced, tuned.scheme, self._calibration, self._session.inputs
                )
            except UnsupportedModelError as error:
                self._warnings.append(f"its layers could not be diagnosed: {error.what}")
        self._schemes.append(
            SchemeReport(tuned=tuned, method=self._request.range_method.value, diagnosis=diagnosis)
        )

    def _describe(self, written: Written, *, judged: bool = True) -> Artifact:
        """Hold an artifact against its source, and put together what is known of it."""
        artifact = written.artifact
        path = self.staged(artifact)
        self._progress(f"checking {artifact.format.value} {artifact.precision.value}")
        comparison = self._check.compare(artifact, path)
        paired = written.paired if judged else self._judged(artifact, path)
        size = path.stat().st_size
        self._warnings += self._doubts(artifact, paired, size)
        kept = self._source.integers is Integers.ALL
        return Artifact(
            path=str(artifact.path),
            format=artifact.format,
            precision=Precision.INT8 if kept else artifact.precision,
            size_bytes=size,
            sha256=sha256_of(path),
            parity=comparison.outputs,
            probes=comparison.probes,
            paired=paired,
            latency_ms=written.latency_ms,
            latency_kind=self._latency.kind(artifact.format) if self._latency else "",
            axes=self._check.axes(artifact.format),
        )

    def _doubts(
        self, artifact: PlannedArtifact, paired: PairedAccuracy | None, size: int
    ) -> Iterator[str]:
        name, scheme = artifact.path.name, artifact.precision.scheme
        # The weights of a source that stores integers are as small as they get.
        stored = self._source.integers is not Integers.NONE
        if scheme is not None and size >= self._source.size_bytes and not stored:
            yield (
                f"{name}: {scheme} does not make this model smaller; it is so small that scales "
                "and names outweigh what the weights save"
            )
        if paired is None:
            return
        if paired.metric != AGREEMENT and paired.drop > _DROP_TO_WARN:
            yield (
                f"{name}: {paired.metric} went from {paired.before:.4g} to {paired.after:.4g} on "
                f"{paired.samples} samples; edgekit quantize-report names the layers, and "
                "--max-accuracy-drop looks for repairs"
            )
        elif paired.agreement < _AGREEMENT_TO_WARN:
            yield f"{name}: only {paired.agreement:.1%} of its answers are the source's"
