"""Batches in pieces so small that all values of a model fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from edgekit_converters.repair.simulation import Batch

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph

# Of all values of one form of the model; three forms are held.
_MOST_BYTES: Final = 64 << 20
_VALUE_BYTES: Final = 4


class Pieces:
    """The same samples, fewer at a time; read as often as the batches can be."""

    def __init__(self, batches: Iterable[Batch], graph: Graph) -> None:
        """Wrap batches for a model.

        Args:
            batches: Left as they are where the model takes no other number of samples.
            graph: The model's.
        """
        self._batches = batches
        shapes = [graph.shape(name) for name in graph.inputs]
        self._fixed = any(not shape or shape[0] is not None for shape in shapes)
        sample_bytes = sum(
            _VALUE_BYTES * math.prod(size or 1 for size in (value.shape or ())[1:])
            for name, value in graph.values.items()
            if name not in graph.constants
        )
        self._most = max(1, _MOST_BYTES // max(sample_bytes, 1))

    def __iter__(self) -> Iterator[Batch]:
        """One piece after the other."""
        for batch in self._batches:
            count = min(len(array) for array in batch.values()) if not self._fixed else 0
            if count <= self._most:
                yield batch
                continue
            for start in range(0, count, self._most):
                yield {name: array[start : start + self._most] for name, array in batch.items()}
