"""Labels and answers, brought to the same form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALF: Final = 0.5
_NO_CLASS: Final = -1


def as_classes(scores: NDArray[Any]) -> NDArray[np.int64]:
    """The class that each sample's answer names.

    Scores are judged by their largest; a single score is a probability, and above one half it
    names class one; integers are class numbers already. An answer with NaN names none: -1.
    """
    if scores.dtype.kind in "iu" and (scores.ndim == 1 or scores.shape[-1] == 1):
        return scores.reshape(-1).astype(np.int64)
    flat = scores.reshape(scores.shape[0], -1) if scores.ndim else scores.reshape(1, 1)
    if flat.shape[1] == 1:
        found = (flat[:, 0] > _HALF).astype(np.int64)
    else:
        found = flat.argmax(axis=1).astype(np.int64)
    # The largest of scores is a NaN where there is one, whatever its class.
    return np.asarray(np.where(np.isnan(flat).any(axis=1), _NO_CLASS, found), np.int64)


def checked_classes(labels: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.int64]:
    """Labels that are class numbers of a model with these scores.

    Raises:
        UsageError: If they are not one integer a sample, or name a class that the model lacks.
    """
    if labels.shape != (len(scores),) or labels.dtype.kind not in "iub":
        raise UsageError(
            f"the labels must be {len(scores)} class numbers, not "
            f"{labels.dtype.name}{list(labels.shape)}",
            where="labels",
            fix="save one integer a sample, counted from zero",
        )
    classes = _class_count(scores)
    if labels.size and (labels.min() < 0 or (classes is not None and labels.max() >= classes)):
        raise UsageError(
            f"the labels go from {labels.min()} to {labels.max()}, the model has "
            f"{classes if classes is not None else 'no negative'} classes",
            where="labels",
            fix="number the classes from zero, as the model was trained",
        )
    return labels.astype(np.int64)


def as_numbers(
    answers: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Answers and labels as rows of numbers, one row a sample.

    Raises:
        UsageError: If they do not hold the same count of numbers a sample, or labels are not
            finite.
    """
    computed = answers.reshape(len(answers), -1).astype(np.float64)
    if labels.dtype.kind not in "iubf" or len(labels) != len(answers):
        wanted = None
    else:
        wanted = labels.reshape(len(labels), -1).astype(np.float64)
    if wanted is None or wanted.shape != computed.shape or not np.isfinite(wanted).all():
        raise UsageError(
            f"the labels {labels.dtype.name}{list(labels.shape)} are not what the model's first "
            f"output {list(answers.shape)} could be",
            where="labels",
            fix="save finite numbers in the shape of the model's first output",
        )
    return computed, wanted


def _class_count(scores: NDArray[Any]) -> int | None:
    if scores.dtype.kind in "iu" and (scores.ndim == 1 or scores.shape[-1] == 1):
        return None
    count = scores.reshape(len(scores), -1).shape[1]
    return 2 if count == 1 else count
