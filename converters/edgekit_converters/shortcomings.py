"""What a conversion falls short of, and why."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from edgekit_converters.diagnosis import QuantizationDiagnosis, Subject, diagnose
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.samples import batch_size

if TYPE_CHECKING:
    from edgekit_converters.accuracy import Metric
    from edgekit_converters.calibration import CalibrationSet
    from edgekit_converters.goal import AccuracyGoal
    from edgekit_converters.reduced import ReducedForms
    from edgekit_converters.tuning import Tuned
    from edgekit_runtime.tensors import TensorSpec

# Every value of the model is compared on them, and all values of a batch are held at once.
_DIAGNOSED_BATCHES: Final = 8
_BATCH_BYTES: Final = 1 << 18
_MOST_SAMPLES: Final = 16


def diagnosis_of(
    reduced: ReducedForms,
    scheme: Scheme,
    calibration: CalibrationSet,
    specs: Sequence[TensorSpec],
) -> QuantizationDiagnosis | None:
    """Which layers the plain scheme breaks, before any repair; None where it has no fixed ranges.

    Args:
        reduced: Has the model and its plan.
        scheme: As it was asked for.
        calibration: Of whose excerpt some batches are looked at.
        specs: The model's inputs.
    """
    if not scheme.needs_ranges or not reduced.has_onnx_form:
        return None
    model = reduced.float_model()
    plan = reduced.plan(scheme)
    fitting = batch_size(specs, preferred=calibration.samples.fitting(_BATCH_BYTES, _MOST_SAMPLES))
    batches = [
        batch for batch, _ in islice(calibration.samples.batches(fitting), _DIAGNOSED_BATCHES)
    ]
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
    if goal.max_latency_ms is not None:
        allowed += f" within {goal.max_latency_ms:g} ms"
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
            parts.append(
                f"{tuned.scheme}: {tuned.search.verdict(allowed)}; "
                f"as written, in the engines, {100 * tuned.drop:.2f} %"
            )
        else:
            parts.append(f"{tuned.scheme} loses {100 * tuned.drop:.2f} %, allowed are {allowed}")
    return "; ".join(parts)
