"""The data that comes with a conversion: what to calibrate with, and what to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration.held_out import excerpt_of, hold_out
from edgekit_converters.calibration.mistakes import likely_mistake
from edgekit_converters.calibration.preprocessing import bundle_steps
from edgekit_converters.evaluation import EvaluationSet, choose_metric
from edgekit_converters.judging import Judge
from edgekit_converters.report import AGREEMENT

if TYPE_CHECKING:
    from edgekit_converters.intake import Intake
    from edgekit_converters.request import ConversionRequest
    from edgekit_converters.samples import Samples
    from edgekit_runtime.bundle.manifest import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenData:
    """Checked data.

    Attributes:
        calibration: Without what is held out to judge by.
        judge: Knows the evaluation data, or what takes its place; None without any data.
        warnings: What is odd about it, for the report.
    """

    calibration: CalibrationSet | None
    judge: Judge | None
    warnings: tuple[str, ...]


def read_given(request: ConversionRequest, source: Intake) -> GivenData:
    """Read a request's data, and decide what is judged by what.

    That is the evaluation data; without it, where a metric or a budget is asked for, samples that
    are held out of the calibration; else an excerpt of those that are calibrated with.

    Raises:
        UsageError: If the data does not fit the model, or the labels do not fit the metric.
        EnvironmentLackError: If a package is missing that reads such data.
    """
    warnings: list[str] = []
    calibration = _read_calibration(request, source, warnings)
    if request.evaluation is not None:
        dataset = _read_evaluation(request, source, calibration, warnings)
        metric = choose_metric(request.goal.metric, dataset)
        return GivenData(
            calibration=calibration,
            judge=Judge(source, dataset, metric),
            warnings=tuple(warnings),
        )
    if calibration is None:
        return GivenData(calibration=None, judge=None, warnings=tuple(warnings))
    goal, specs = request.goal, source.session.inputs
    data, origin = excerpt_of(calibration, specs), "calibration samples"
    parts = hold_out(calibration, specs) if goal.budget or goal.metric else None
    if parts is not None:
        calibration, data = parts
        origin = "held-out calibration samples"
    elif goal.budget is not None:
        warnings.append(
            "there are too few calibration samples to hold some out: accuracy is judged on the "
            "samples that it was calibrated with, and looks better than it is"
        )
    dataset = EvaluationSet.of(data, specs, origin=origin)
    if goal.metric is not None and data.numbering:
        warnings.append(data.numbering)
    # The user gave it to calibrate with: unless a metric was named, its labels may be anything.
    metric = choose_metric(goal.metric or AGREEMENT, dataset)
    asked = goal.metric is not None or goal.budget is not None
    return GivenData(
        calibration=calibration,
        judge=Judge(source, dataset, metric, asked=asked),
        warnings=tuple(warnings),
    )


def _read_calibration(
    request: ConversionRequest, source: Intake, warnings: list[str]
) -> CalibrationSet | None:
    path = request.calibration
    if path is None:
        return None
    calibration = CalibrationSet.load(
        path, source.session.inputs, steps=_steps(request, path), ranges=source.ranges
    )
    warnings += calibration.warnings
    _look_for_mistakes(source, calibration.samples, warnings, kind="calibration")
    return calibration


def _read_evaluation(
    request: ConversionRequest,
    source: Intake,
    calibration: CalibrationSet | None,
    warnings: list[str],
) -> EvaluationSet:
    path = request.evaluation
    assert path is not None  # noqa: S101 - the caller asked
    dataset = EvaluationSet.load(
        path, source.session.inputs, steps=_steps(request, path), ranges=source.ranges
    )
    warnings += dataset.remarks
    _look_for_mistakes(source, dataset.samples, warnings, kind="evaluation")
    shared = calibration.overlap(dataset.data.digests) if calibration else 0
    if shared:
        warnings.append(
            f"{shared} of the {dataset.data.count} evaluation samples are among the calibration "
            "data: accuracy on them looks better than it is"
        )
    return dataset


def _steps(request: ConversionRequest, data: Path) -> tuple[Step, ...] | None:
    """The bundle's preprocessing, for data that is not in the model's own numbers yet."""
    bundle = request.preprocessing
    return bundle_steps(bundle) if bundle is not None and data.is_dir() else None


def _look_for_mistakes(source: Intake, samples: Samples, warnings: list[str], *, kind: str) -> None:
    mistake = likely_mistake(source.session, samples, kind=kind)
    source.rest()
    if mistake:
        warnings.append(mistake)
