"""Preprocessing that a model was likely trained with and the data lacks, told by its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.evaluation import predict_classes
from edgekit_converters.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.session import Session

# Every change costs as many inferences.
_TRIED_SAMPLES: Final = 64
_LEAST_SAMPLES: Final = 16
# So much better that it is no chance, and so much that it is worth a word.
_DEVIATIONS: Final = 4.0
_LEAST_GAIN: Final = 0.1
_BYTES: Final = 255.0
_COLOURS: Final = 3
_IMAGE_RANK: Final = 4

_Change = Callable[["NDArray[Any]"], "NDArray[Any]"]


def likely_mistake(session: Session, samples: Samples, *, kind: str = "calibration") -> str | None:
    """Try other preprocessing on labelled samples, and name the one that the model answers better.

    Args:
        session: The float model; its first output holds scores of classes.
        samples: With class numbers as labels; others say nothing.
        kind: What they are for.

    Returns:
        A sentence for the report, or None where the data is best as it is.
    """
    labels = samples.labels
    if (
        len(session.inputs) != 1
        or labels is None
        or labels.dtype.kind not in "iu"
        or labels.shape != (samples.count,)
        or samples.count < _LEAST_SAMPLES
    ):
        return None
    spec = session.inputs[0]
    if not spec.dtype.startswith("float"):
        return None
    picked = np.unique(np.linspace(0, samples.count - 1, _TRIED_SAMPLES).astype(int))
    array, wanted = samples.arrays[spec.name][picked], labels[picked]

    def accuracy(changed: NDArray[Any]) -> float:
        tried = Samples(
            path=samples.path,
            sha256=samples.sha256,
            arrays={spec.name: changed.astype(spec.dtype)},
            labels=None,
            count=len(changed),
        )
        return float(np.mean(predict_classes(session, tried) == wanted))

    given = accuracy(array)
    notable = max(_LEAST_GAIN, _DEVIATIONS * sqrt(0.25 / len(wanted)))
    if 1 - given < notable:
        return None
    tried = {text: accuracy(change(array)) for text, change in _changes(array)}
    if not tried:
        return None
    best = max(tried, key=lambda text: tried[text])
    gain = tried[best] - given
    if gain < notable:
        return None
    return (
        f"the model is right on {given:.0%} of the {kind} samples as they are, and on "
        f"{tried[best]:.0%} {best}: the data is likely preprocessed otherwise than for training"
    )


def _changes(array: NDArray[Any]) -> Iterator[tuple[str, _Change]]:
    low, high = float(array.min()), float(array.max())
    if low >= 0 and 1 < high <= _BYTES:
        yield "with all values divided by 255", lambda x: x / _BYTES
        yield "with 0..255 brought to -1..1", lambda x: x / (_BYTES / 2) - 1
    if low >= 0 and high <= 1:
        yield "with all values multiplied by 255", lambda x: x * _BYTES
        yield "with 0..1 brought to -1..1", lambda x: x * 2 - 1
    if -1 <= low < 0 and high <= 1:
        yield "with -1..1 brought to 0..1", lambda x: (x + 1) / 2
    if array.ndim == _IMAGE_RANK:
        for axis in (1, 3):
            if array.shape[axis] == _COLOURS:
                yield "with red and blue swapped", partial(np.flip, axis=axis)
