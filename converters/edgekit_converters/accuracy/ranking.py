"""Figures that depend on the order of scores alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def among_first(scores: NDArray[Any], labels: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Whether the right class is among the largest scores, 1 or 0 a sample.

    Ties count against the model: quantized scores have many.

    Raises:
        UsageError: If the model has no more classes than that.
    """
    flat = scores.reshape(len(scores), -1)
    if flat.shape[1] <= count:
        raise UsageError(
            f"top{count} says nothing about a model with {flat.shape[1]} class(es)",
            where="metric",
            fix="choose top1",
        )
    own = np.take_along_axis(flat, labels[:, None], axis=1)
    better = (flat >= own).sum(axis=1) - 1
    return np.asarray(better < count, np.float64)


def area_under_curve(scores: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The area under the receiver operating characteristic, of the classes' mean where many.

    A model with one score has the second class's; one with two, the difference. Equal scores
    count one half, as in Mann and Whitney's U.

    Raises:
        UsageError: If the labels are of one class.
    """
    flat = scores.reshape(len(scores), -1).astype(np.float64)
    if flat.shape[1] <= 2:  # noqa: PLR2004 - two classes
        score = flat[:, 0] if flat.shape[1] == 1 else flat[:, 1] - flat[:, 0]
        return _area(score, labels > 0)
    present = [number for number in range(flat.shape[1]) if (labels == number).any()]
    return float(np.mean([_area(flat[:, number], labels == number) for number in present]))


def _area(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        raise UsageError(
            "the labels are of one class, auc needs two",
            where="labels",
            fix="evaluate on samples of all classes",
        )
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]
    return float((ranks[positive].sum() - yes * (yes + 1) / 2) / (yes * no))
