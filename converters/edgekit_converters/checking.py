"""Hold what was made against its source: opened in its own engine, compared on probes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.blame import (
    blame_litert,
    blame_onnx,
    wrong_inside_litert,
    wrong_inside_onnx,
)
from edgekit_converters.intake import Intake, Integers
from edgekit_converters.integer_border import seen_as_floats
from edgekit_converters.parity import Comparison, Probe, compare, probes_for, user_probes
from edgekit_converters.reordered import Borders, ReorderedSession
from edgekit_converters.report import Precision
from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import GateFailedError, UnsupportedModelError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import Session, open_session

if TYPE_CHECKING:
    from edgekit_converters.litert.compile import CompiledFile
    from edgekit_converters.request import PlannedArtifact
    from edgekit_converters.samples import Samples

_HALF_ERROR_TO_WARN: Final = 0.01
_STEPS_ALLOWED: Final = 2
_TABULAR: Final = frozenset({SourceKind.PICKLE, SourceKind.SKOPS})
_CATEGORIES: Final = (
    "if its columns are whole numbers, such as categories, say so with --input-shape "
    "features:1,COLUMNS:int64; else "
)


class ArtifactCheck:
    """Compares artifacts with the source that they were made from.

    Attributes:
        warnings: What was noticed on the way, for the report.
    """

    def __init__(
        self,
        source: Intake,
        *,
        kind: SourceKind,
        where: str,
        tolerance: float,
        samples: Samples | None,
        compiled: CompiledFile | None,
        scratch: Path,
    ) -> None:
        """Take in what artifacts are compared with.

        Args:
            source: What is right.
            kind: What the source was.
            where: The source as the user named it.
            tolerance: The largest relative error that a float artifact may have.
            samples: The user's own data to compare on, if there is some.
            compiled: The source in LiteRT, where it has such a form.
            scratch: A folder for what is not needed in memory.
        """
        self._source = source
        self._kind = kind
        self._where = where
        self._tolerance = tolerance
        self._samples = samples
        self._compiled = compiled
        self._scratch = scratch
        self.warnings: list[str] = []

    def axes(self, target: ModelFormat) -> Borders:
        """The inputs and outputs of a target whose axes are not in the source's order."""
        compiled = self._compiled if target is ModelFormat.LITERT else None
        return compiled.borders if compiled else {}

    def open(self, target: ModelFormat, path: Path) -> Session:
        """Load what was made, to be fed and read as the source is.

        Raises:
            GateFailedError: If the engine refuses it: that is a failure of the conversion.
        """
        axes = self.axes(target)
        try:
            session = seen_as_floats(open_session(path), path, self._source.session)
            return self._source.present(ReorderedSession(session, axes) if axes else session)
        except UnsupportedModelError as error:
            raise GateFailedError(
                f"{path.name} was made, but {error.what}",
                where=self._where,
                fix="nothing was published; convert in another precision, or report the model",
            ) from error

    def compare(self, artifact: PlannedArtifact, path: Path) -> Comparison:
        """Compare an artifact as closely as its precision allows.

        Raises:
            GateFailedError: If a float artifact does not compute what the source does, or any
                fails in its engine.
        """
        if artifact.precision is not Precision.FLOAT32:
            return self._check_reduced(artifact, path)
        if self._source.integers is not Integers.NONE:
            return self._check_integers(artifact, path)
        return self._check_float(artifact, path)

    def _run(
        self,
        artifact: PlannedArtifact,
        path: Path,
        probes: Iterable[Probe],
        *,
        tolerance: float | None = None,
    ) -> Comparison:
        self._source.wake()
        session = self.open(artifact.format, path)
        try:
            return compare(
                self._source.session, session, probes, tolerance=tolerance, where=self._where
            )
        finally:
            session.close()
            self._source.rest()

    def _check_reduced(self, artifact: PlannedArtifact, path: Path) -> Comparison:
        # An integer model has the range of its data: what lies outside says nothing about it.
        # Nor do extremes about float16, which ends at 65504.
        specs = self._source.session.inputs
        if self._samples is not None:
            probes = user_probes(specs, self._samples)
        else:
            every = probes_for(specs, None, self._source.ranges)
            probes = (probe for probe in every if probe.label.startswith("random"))
        comparison = self._run(artifact, path, probes)
        if comparison.failure:
            raise GateFailedError(
                f"{artifact.path.name} was made, but {comparison.complaint(0.0)}",
                where=self._where,
                fix="nothing was published; convert in another precision, or report the model",
            )
        # A source with integer weights is not exact itself: its engine multiplies by integers.
        exact = self._source.integers is Integers.NONE
        half = artifact.precision is Precision.FLOAT16 and exact
        if half and not comparison.within(_HALF_ERROR_TO_WARN):
            self.warnings.append(
                f"{artifact.path.name}: {comparison.complaint(_HALF_ERROR_TO_WARN)}; float16 has "
                "three digits and ends at 65504"
            )
        return comparison

    def _check_float(self, artifact: PlannedArtifact, path: Path) -> Comparison:
        tolerance = self._tolerance
        comparison = self._run(
            artifact,
            path,
            probes_for(self._source.session.inputs, self._samples, self._source.ranges),
            tolerance=tolerance,
        )
        if not comparison.within(tolerance):
            raise GateFailedError(
                f"the {artifact.format.value} model does not compute what the source does: "
                f"{comparison.complaint(tolerance)}; "
                f"{self._blame(artifact.format, comparison)}",
                where=self._where,
                fix="nothing was published; "
                + (_CATEGORIES if self._kind in _TABULAR else "")
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
            self.warnings.append(
                f"{artifact.path.name}: not compared on {', '.join(comparison.set_aside)}: there "
                "the model's answer depends on the last bits of its inputs"
            )
        return comparison

    def _check_integers(self, artifact: PlannedArtifact, path: Path) -> Comparison:
        """Compare a source that holds integers: engines round the last bit their own way.

        Two steps of an integer are allowed, and as much of a float's range.
        """
        source = self._source.session
        comparison = self._run(
            artifact, path, probes_for(source.inputs, self._samples, self._source.ranges)
        )
        kinds = {spec.name: np.dtype(spec.dtype).kind for spec in source.outputs}
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
        inputs, tolerance = comparison.worst.inputs, self._tolerance
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
        forms, tolerance = self._source.forms, self._tolerance
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
            comparison = compare(self._source.session, session, [probe], where=self._where)
        finally:
            session.close()
        return not comparison.within(self._tolerance)
