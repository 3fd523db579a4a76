"""Two models on the same samples: what one loses against the other, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.accuracy.labels import as_classes
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.accuracy.metric import Answers, Metric

_RESAMPLED: Final = 1000
_SEED: Final = 20240229
_INTERVAL: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedAccuracy:
    """A metric of two models on the same samples.

    Attributes:
        metric: Its name.
        samples: How many.
        before: Of the float model.
        after: Of the quantized one.
        drop: What was lost, as `Metric.drop` tells it; below zero: gained.
        low: With 95 % certainty the drop on such samples is not below this; None where the
            metric is no mean over samples.
        high: Nor above this.
        lost: Samples whose answer was better in float, None as above.
        gained: Samples whose answer is better quantized.
        agreement: Share of the samples for which both name the same class.
    """

    metric: str
    samples: int
    before: float
    after: float
    drop: float
    low: float | None
    high: float | None
    lost: int | None
    gained: int | None
    agreement: float

    def to_json(self) -> dict[str, object]:
        """The figures; null stands for what is no number."""
        return {
            "metric": self.metric,
            "samples": self.samples,
            "float": finite_or_none(self.before),
            "quantized": finite_or_none(self.after),
            "drop": finite_or_none(self.drop),
            "drop_low": self.low,
            "drop_high": self.high,
            "lost_samples": self.lost,
            "gained_samples": self.gained,
            "agreement": self.agreement,
        }


def compare_answers(
    metric: Metric, before: Answers, after: Answers, labels: NDArray[Any] | None
) -> PairedAccuracy:
    """Measure two models by the same labels.

    Args:
        metric: What to measure.
        before: The float model's outputs by name, samples along the first axis.
        after: The quantized model's, for the same samples.
        labels: One entry a sample; None where the metric takes the float model's answers.

    Raises:
        UsageError: If the metric needs labels and there are none, they do not fit, or the two
            have not the same number of samples.
    """
    first, second = next(iter(before.values())), next(iter(after.values()))
    if len(first) != len(second):
        raise UsageError(f"{len(first)} answers cannot be paired with {len(second)}")
    if metric.labels == "float answers":
        labels = as_classes(first)
    elif labels is None:
        raise UsageError(
            f"{metric.name} needs labels, and the evaluation data has none",
            where="labels",
            fix="add an array 'labels', or measure agreement, which needs none",
        )
    value_before, value_after = metric.value(before, labels), metric.value(after, labels)
    drop = metric.drop(value_before, value_after)
    low = high = lost = gained = None
    if metric.per_sample is not None:
        sign = 1.0 if metric.higher_is_better else -1.0
        changes = sign * (metric.per_sample(before, labels) - metric.per_sample(after, labels))
        lost, gained = int((changes > 0).sum()), int((changes < 0).sum())
        scale = 1.0 if metric.is_share or not value_before else 1 / abs(value_before)
        if np.isfinite(changes).all():
            low, high = (float(end) * scale for end in _interval(changes))
    return PairedAccuracy(
        metric=metric.name,
        samples=len(first),
        before=value_before,
        after=value_after,
        drop=drop,
        low=low,
        high=high,
        lost=lost,
        gained=gained,
        agreement=float(np.mean(as_classes(first) == as_classes(second))),
    )


def finite_or_none(value: float) -> float | None:
    """A figure as JSON has it, which knows neither infinity nor NaN."""
    return value if math.isfinite(value) else None


def _interval(changes: NDArray[np.float64]) -> tuple[float, float]:
    """Where the mean would lie on other such samples: the percentile bootstrap."""
    random = np.random.default_rng(_SEED)
    means = [
        changes[random.integers(0, len(changes), len(changes))].mean() for _ in range(_RESAMPLED)
    ]
    low, high = np.percentile(means, _INTERVAL)
    return float(low), float(high)
