"""Count a model's values in the bins of its references: in fixed memory, a few µs a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_agent.telemetry.references import INPUT, LARGEST, Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of a large tensor, so many values at an even distance: a picture has 150,000.
MOST_VALUES: Final = 256


class ValueCounter:
    """Counts the values of requests and answers; used by one thread at a time."""

    def __init__(self, references: Mapping[str, Reference]) -> None:
        """Count what these are about."""
        self.counts: dict[str, NDArray[np.int64]] = {
            name: np.zeros(len(reference.expected), np.int64)
            for name, reference in references.items()
        }
        self._bounds = {
            name: np.asarray(reference.bounds) for name, reference in references.items()
        }
        # Of each, values that are no number: they fall into no bin. No zeros.
        self.nonfinite: dict[str, int] = {}
        self._turn = 0

    def count(
        self,
        inputs: Mapping[str, NDArray[np.generic]],
        outputs: Mapping[str, NDArray[np.generic]],
    ) -> None:
        """Take one request and its answer in."""
        self._turn += 1
        for feature, counts in self.counts.items():
            kind, _, name = feature.partition(":")
            array = (inputs if kind == INPUT else outputs).get(name)
            if array is None or not array.size or array.dtype.kind not in "biuf":
                continue
            places = (
                _rows_of_numbers(array).argmax(axis=1)
                if kind == LARGEST and array.ndim
                else self._bounds[feature].searchsorted(self._numbers(feature, array))
            )
            found = np.bincount(places, minlength=len(counts))
            if len(found) == len(counts):
                np.add(counts, found, out=counts)

    def _numbers(self, feature: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The values that are counted now; those that are no number are only noted."""
        values = self._some(array)
        if values.dtype.kind != "f":
            return values
        finite = np.isfinite(values)
        if not finite.all():
            self.nonfinite[feature] = self.nonfinite.get(feature, 0) + int((~finite).sum())
            values = values[finite]
        return values

    def _some(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        flat = array.reshape(-1)
        step = -(-flat.size // MOST_VALUES)
        # Another place to begin each time: in the end every value has had its turn.
        return flat[self._turn * 7919 % step :: step] if step > 1 else flat


def _rows_of_numbers(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The rows along the last axis; of those with NaN or infinity no entry is the largest."""
    rows = array.reshape(-1, array.shape[-1])
    if rows.dtype.kind != "f":
        return rows
    finite = np.isfinite(rows).all(axis=1)
    return rows if finite.all() else rows[finite]
