"""Keep an accuracy budget: try a scheme as it is, then look for the cheapest repair that holds.

Candidates are compared where integers are computed exactly; those that hold are written in all
formats and judged again in their own engines. Those figures decide.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.repair.search import Judges, SearchLimits, search
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_converters.accuracy import PairedAccuracy
    from edgekit_converters.calibration import CalibrationSet
    from edgekit_converters.goal import AccuracyGoal
    from edgekit_converters.predicting import PredictedLatency
    from edgekit_converters.quantize.plan import QuantizationPlan
    from edgekit_converters.reduced import ReducedForms
    from edgekit_converters.repair.attempts import Candidate, SearchResult
    from edgekit_converters.request import PlannedArtifact

_SEARCHED: Final = frozenset({Scheme.INT8, Scheme.MIXED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One artifact of a scheme, as it was judged.

    Attributes:
        artifact: What it is.
        paired: Its figures in its own engine; None where there is no data to judge by.
        latency_ms: Predicted on the device, where there is one.
        remarks: Sentences of its writer.
    """

    artifact: PlannedArtifact
    paired: PairedAccuracy | None
    latency_ms: float | None
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What became of one scheme.

    Attributes:
        scheme: As it was asked for.
        written: Its artifacts.
        plan: How they were quantized; None where the source has no ONNX form.
        repairs: What was done beside the plain scheme.
        met: Whether the goal is kept in all formats; True where there is none.
        interrupted: Whether the user stopped the search.
        search: What was tried, where a search was needed.
        plain: The figures of the plain scheme, where they were not good enough.
    """

    scheme: Scheme
    written: tuple[Written, ...]
    plan: QuantizationPlan | None
    repairs: tuple[str, ...] = ()
    met: bool = True
    interrupted: bool = False
    search: SearchResult | None = None
    plain: tuple[Written, ...] = ()

    @property
    def drop(self) -> float:
        """The largest drop of its artifacts."""
        return largest_drop(self.written)


def largest_drop(written: Sequence[Written]) -> float:
    """Of some artifacts; none where there is no data to judge by."""
    return max((one.paired.drop for one in written if one.paired), default=0.0)


class Tuner:
    """Writes the artifacts of a scheme so that they keep a goal, as far as that can be."""

    def __init__(
        self,
        *,
        reduced: ReducedForms,
        goal: AccuracyGoal,
        judge: Callable[[PlannedArtifact, Path], PairedAccuracy | None],
        drop_of: Callable[[Any], float],
        calibration: CalibrationSet | None,
        latency: PredictedLatency | None,
        scratch: Path,
        clock: Callable[[], float],
        progress: Callable[[str], None],
    ) -> None:
        """Take in the tools.

        Args:
            reduced: Writes.
            goal: What to keep.
            judge: Measures a file in its own engine.
            drop_of: What a simulated quantized model loses.
            calibration: To search with.
            latency: Predicts.
            scratch: A folder for candidates.
            clock: Seconds, from anywhere.
            progress: Told one plain sentence a step.
        """
        self._reduced = reduced
        self._goal = goal
        self._judge = judge
        self._drop_of = drop_of
        self._calibration = calibration
        self._latency = latency
        self._scratch = scratch
        self._clock = clock
        self._progress = progress

    def tune(self, scheme: Scheme, files: Mapping[PlannedArtifact, Path]) -> Tuned:
        """Write a scheme's artifacts, repaired where that is needed and can be done.

        Args:
            scheme: What is asked for.
            files: Where each artifact is to be written.
        """
        written = tuple(self._plain(scheme, artifact, path) for artifact, path in files.items())
        plan = self._reduced.plan(scheme) if self._reduced.has_onnx_form else None
        tuned = Tuned(scheme=scheme, written=written, plan=plan, met=self._holds(written))
        self._tell(tuned)
        if tuned.met or scheme not in _SEARCHED or self._goal.budget is None:
            return tuned
        if plan is None:
            self._progress("no repair can be tried: the file has no ONNX form")
            return tuned
        return self._search(tuned, plan, files)

    def _plain(self, scheme: Scheme, artifact: PlannedArtifact, path: Path) -> Written:
        self._progress(f"quantizing {artifact.format.value} {artifact.precision.value}")
        remarks = self._reduced.write(artifact.format, scheme, path)
        latency_ms = None
        if self._latency is not None and self._reduced.has_onnx_form:
            model = self._reduced.float_model()
            latency_ms = self._latency.of_plan(model, self._reduced.plan(scheme), artifact.format)
        return Written(
            artifact=artifact,
            paired=self._judge(artifact, path),
            latency_ms=latency_ms,
            remarks=remarks,
        )

    def _search(
        self, plain: Tuned, plan: QuantizationPlan, files: Mapping[PlannedArtifact, Path]
    ) -> Tuned:
        calibration, budget = self._calibration, self._goal.budget
        assert calibration is not None  # noqa: S101 - the scheme needs it
        assert budget is not None  # noqa: S101 - asked before
        self._progress(
            f"plain {plain.scheme} loses {100 * plain.drop:.2f} %, allowed "
            f"{100 * budget.drop:g} %: searching for repairs; Ctrl-C keeps the best so far"
        )
        confirmed: list[tuple[Candidate, tuple[Written, ...]]] = []

        def confirm(candidate: Candidate) -> float:
            written = tuple(self._repaired(candidate, artifact) for artifact in files)
            confirmed.append((candidate, written))
            return largest_drop(written)

        try:
            found = search(
                self._reduced.float_model(),
                RepeatedBatches(calibration),
                Judges(
                    drop_of=self._drop_of,
                    confirm=confirm,
                    clock=self._clock,
                    latency_of=self._latency_of(files),
                    progress=self._progress,
                ),
                SearchLimits(
                    drop=budget.drop,
                    seconds=self._goal.search_seconds,
                    max_latency_ms=self._goal.max_latency_ms,
                ),
                template=dataclasses.replace(plan, ranges={}, scheme=Scheme.INT8),
                method=self._reduced.method,
                statistics=self._reduced.statistics(),
            )
        except KeyboardInterrupt:
            # Before anything was tried: the plain scheme is the best so far.
            return dataclasses.replace(plain, interrupted=True)
        except UnsupportedModelError as error:
            self._progress(f"no repair can be tried: {error.what}")
            return plain
        best = found.best.candidate
        self._progress(f"writing {best.label}")
        known = next((written for candidate, written in confirmed if candidate is best), None)
        # The files of a later candidate may be in its place.
        written = tuple(self._repaired(best, artifact, known) for artifact in files)
        tried = Tuned(
            scheme=plain.scheme,
            written=written,
            plan=best.plan,
            repairs=best.repairs,
            met=self._holds(written),
            interrupted=found.ending == "interrupted",
            search=found,
            plain=plain.written,
        )
        self._tell(tried)
        if self._rank(tried) <= self._rank(plain):
            return dataclasses.replace(plain, search=found, interrupted=tried.interrupted)
        for artifact, path in files.items():
            shutil.copyfile(self._candidate_file(artifact), path)
        return tried

    def _repaired(
        self,
        candidate: Candidate,
        artifact: PlannedArtifact,
        known: Sequence[Written] | None = None,
    ) -> Written:
        """Write a candidate, and judge it where its figures are not known already."""
        path = self._candidate_file(artifact)
        remarks = self._reduced.write_candidate(artifact.format, candidate, path)
        for written in known or ():
            if written.artifact == artifact:
                return written
        latency_ms = None
        if self._latency is not None:
            latency_ms = self._latency.of_plan(candidate.model, candidate.plan, artifact.format)
        return Written(
            artifact=artifact,
            paired=self._judge(artifact, path),
            latency_ms=latency_ms,
            remarks=remarks,
        )

    def _latency_of(
        self, files: Collection[PlannedArtifact]
    ) -> Callable[[Candidate], float] | None:
        """The latency of a candidate in the slowest of its formats."""
        latency = self._latency
        if latency is None:
            return None
        targets = [artifact.format for artifact in files]

        def latency_of(candidate: Candidate) -> float:
            return max(
                latency.of_plan(candidate.model, candidate.plan, target) for target in targets
            )

        return latency_of

    def _rank(self, tuned: Tuned) -> tuple[bool, bool, float]:
        return (tuned.met, self._fast(tuned.written), -tuned.drop)

    def _holds(self, written: Sequence[Written]) -> bool:
        budget = self._goal.budget
        if budget is None:
            return True
        return self._fast(written) and all(
            one.paired is not None and budget.holds(one.paired.drop) for one in written
        )

    def _fast(self, written: Sequence[Written]) -> bool:
        most = self._goal.max_latency_ms
        return most is None or all(
            one.latency_ms is None or one.latency_ms <= most for one in written
        )

    def _tell(self, tuned: Tuned) -> None:
        if self._goal.budget is None:
            return
        for one in tuned.written:
            if one.paired is not None:
                drop = 100 * one.paired.drop
                self._progress(f"{one.artifact.path.name} in its own engine: drop {drop:.2f} %")

    def _candidate_file(self, artifact: PlannedArtifact) -> Path:
        return self._scratch / f"candidate-{artifact.path.name}"


class RepeatedBatches(Collection[Mapping[str, "NDArray[np.generic]"]]):
    """Calibration data as batches that can be gone through again and again, read each time."""

    def __init__(self, calibration: CalibrationSet) -> None:
        """Nothing is read yet."""
        self._calibration = calibration

    def __iter__(self) -> Iterator[Mapping[str, NDArray[np.generic]]]:
        return self._calibration.batches()

    def __len__(self) -> int:
        size = self._calibration.batch_size
        return (self._calibration.count + size - 1) // size

    def __contains__(self, batch: object) -> bool:
        return any(batch is one for one in self)
