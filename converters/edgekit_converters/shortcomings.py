"""What a conversion falls short of, and why."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from edgekit_converters.diagnosis import QuantizationDiagnosis, Subject, diagnose
from edgekit_converters.quantize.scheme import Scheme

if TYPE_CHECKING:
    from edgekit_converters.accuracy import Metric
    from edgekit_converters.calibration import CalibrationSet
    from edgekit_converters.goal import AccuracyGoal
    from edgekit_converters.reduced import ReducedForms
    from edgekit_converters.tuning import Tuned

# Every value of the model is compared on them.
_DIAGNOSED_BATCHES: Final = 4


def diagnosis_of(
    reduced: ReducedForms, scheme: Scheme, calibration: CalibrationSet
) -> QuantizationDiagnosis | None:
    """Which layers the plain scheme breaks, before any repair; None where it has no fixed ranges.

    Args:
        reduced: Has the model and its plan.
        scheme: As it was asked for.
        calibration: Of whose excerpt some batches are looked at.
    """
    if not scheme.needs_ranges or not reduced.has_onnx_form:
        return None
    model = reduced.float_model()
    plan = reduced.plan(scheme)
    batches = [
        batch for batch, _ in islice(calibration.samples.batches(calibration.batch_size),
                                     _DIAGNOSED_BATCHES)
    ]  # fmt: skip
    return diagnose(
        model, Subject(model=model, plan=plan), batches, statistics=reduced.statistics()
    )


def shortfall_of(outcomes: Sequence[Tuned], goal: AccuracyGoal, metric: Metric | None) -> str:
    """What of a goal is missed, in a sentence; "" where all holds."""
    budget = goal.budget
    missed = [tuned for tuned in outcomes if not tuned.met]
    if budget is None or metric is None or not missed:
        return ""
    allowed = budget.describe(metric)
    parts = []
    for tuned in missed:
        slow = [
            one.latency_ms
            for one in tuned.written
            if one.latency_ms is not None
            and goal.max_latency_ms is not None
            and one.latency_ms > goal.max_latency_ms
        ]
        if slow:
            parts.append(
                f"{tuned.scheme} is predicted to take {max(slow):.3g} ms of the "
                f"{goal.max_latency_ms:g} ms allowed"
            )
        elif tuned.search is not None and not tuned.search.met:
            parts.append(f"{tuned.scheme}: {tuned.search.verdict(allowed)}")
        else:
            parts.append(f"{tuned.scheme} loses {100 * tuned.drop:.2f} %, allowed are {allowed}")
    return "; ".join(parts)
