"""The metrics by which answers are judged, and the functions that users bring."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.accuracy.labels import as_classes, as_numbers, checked_classes
from edgekit_converters.accuracy.ranking import among_first, area_under_curve
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Answers = Mapping[str, "NDArray[Any]"]
PerSample = Callable[[Answers, "NDArray[Any]"], "NDArray[np.float64]"]
Whole = Callable[[Answers, "NDArray[Any]"], float]

_FIVE: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure for all answers of a model.

    Attributes:
        name: As the user gave it.
        higher_is_better: Whether more is better.
        is_share: Whether it is a share, 0 to 1, whose drop is told in points; the drop of others
            is relative to the float model's value.
        labels: "needed", or "float answers" where the float model's answers take their place.
        per_sample: What each sample adds to the mean, where the figure is one.
        whole: The figure, where it is no mean.
    """

    name: str
    higher_is_better: bool
    is_share: bool
    labels: str = "needed"
    per_sample: PerSample | None = None
    whole: Whole | None = None

    def value(self, answers: Answers, labels: NDArray[Any]) -> float:
        """The figure.

        Args:
            answers: The model's outputs by name, in the model's order, samples first.
            labels: One entry a sample.

        Raises:
            UsageError: If labels and answers do not fit together, or a user's function fails.
        """
        if self.per_sample is not None:
            return float(self.per_sample(answers, labels).mean())
        if self.whole is None:  # pragma: no cover - a metric has one of the two
            raise ValueError(f"{self.name} measures nothing")
        return self.whole(answers, labels)

    def drop(self, before: float, after: float) -> float:
        """What was lost: points as a share of one, or the part of the float model's value.

        Infinite where the figure is no number any more, or the float model's was zero.
        """
        if not math.isfinite(after):
            return math.inf
        lost = before - after if self.higher_is_better else after - before
        if self.is_share:
            return lost
        if math.isclose(before, 0.0, abs_tol=1e-12):
            return 0.0 if lost <= 0 else math.inf
        return lost / abs(before)


def metric_named(name: str) -> Metric:
    """The metric of a name, or of a user's function.

    A function is given as `module:function`. It gets the model's outputs, a dict of arrays by
    name, and the labels; it gives a number, the higher the better, unless the function has an
    attribute `lower_is_better` that is true.

    Raises:
        UsageError: If there is no such metric or function.
    """
    found = _METRICS.get(name)
    if found is not None:
        return found
    if ":" not in name:
        raise UsageError(
            f"there is no metric {name!r}",
            where="metric",
            fix=f"choose one of {', '.join(sorted(_METRICS))}, or give module:function",
        )
    function = _import(name)
    return Metric(
        name=name,
        higher_is_better=not getattr(function, "lower_is_better", False),
        is_share=bool(getattr(function, "is_share", False)),
        whole=lambda answers, labels: _call(name, function, answers, labels),
    )


def _import(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise UsageError(
            f"the metric {name!r} cannot be imported: {error}",
            where="metric",
            fix="give module:function, the module on Python's path (PYTHONPATH)",
        ) from error
    if not callable(found):
        raise UsageError(f"{name!r} is no function", where="metric")
    function: Callable[..., Any] = found
    return function


def _call(name: str, function: Callable[..., Any], answers: Answers, labels: Any) -> float:
    try:
        value = float(function(dict(answers), labels))
    except Exception as error:
        raise UsageError(
            f"the metric {name!r} failed: {' '.join(str(error).split())[:300] or error!r}",
            where="metric",
            fix="it gets the outputs as a dict of arrays and the labels, and gives a number",
        ) from error
    if not math.isfinite(value):
        raise UsageError(f"the metric {name!r} gave {value}", where="metric")
    return value


def _first(answers: Answers) -> NDArray[Any]:
    return next(iter(answers.values()))


def _top1(answers: Answers, labels: NDArray[Any]) -> NDArray[np.float64]:
    scores = _first(answers)
    return np.asarray(as_classes(scores) == checked_classes(labels, scores), np.float64)


def _top5(answers: Answers, labels: NDArray[Any]) -> NDArray[np.float64]:
    scores = _first(answers)
    return among_first(scores, checked_classes(labels, scores), _FIVE)


def _agreement(answers: Answers, labels: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(as_classes(_first(answers)) == as_classes(labels), np.float64)


def _mae(answers: Answers, labels: NDArray[Any]) -> NDArray[np.float64]:
    computed, wanted = as_numbers(_first(answers), labels)
    return np.asarray(np.abs(computed - wanted).mean(axis=1))


def _mse(answers: Answers, labels: NDArray[Any]) -> NDArray[np.float64]:
    computed, wanted = as_numbers(_first(answers), labels)
    return np.asarray(np.square(computed - wanted).mean(axis=1))


def _auc(answers: Answers, labels: NDArray[Any]) -> float:
    return area_under_curve(_first(answers), checked_classes(labels, _first(answers)))


_METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric(name="top1", higher_is_better=True, is_share=True, per_sample=_top1),
        Metric(name="top5", higher_is_better=True, is_share=True, per_sample=_top5),
        Metric(name="auc", higher_is_better=True, is_share=True, whole=_auc),
        Metric(name="mae", higher_is_better=False, is_share=False, per_sample=_mae),
        Metric(name="mse", higher_is_better=False, is_share=False, per_sample=_mse),
        Metric(
            name="agreement",
            higher_is_better=True,
            is_share=True,
            labels="float answers",
            per_sample=_agreement,
        ),
    )
}
