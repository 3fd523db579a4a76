"""What every kind of calibration data gives: samples in chunks, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some samples that follow each other.

    Attributes:
        arrays: By input name, each of the input's dtype; the same number of samples along the
            first axis, at least one.
        labels: One a sample, where the data has labels: class numbers, class names or targets.
    """

    arrays: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.arrays.values())))


class SampleSource(Protocol):
    """Calibration data that can be read."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is odd about how it is kept, in sentences; known when it has been read once."""
        ...

    def chunks(self) -> Iterator[Chunk]:
        """All samples, from the first one.

        Raises:
            UsageError: Where the data is damaged or does not fit the model.
        """
        ...

    def sha256(self) -> str | None:
        """Of what is stored, as lower-case hex; None where nothing is."""
        ...


def samples_per_chunk(sample_bytes: int) -> int:
    """How many samples make a chunk of a megabyte; at least one."""
    return max(1, _CHUNK_BYTES // max(1, sample_bytes))


def as_input(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """An array in the dtype that an input takes."""
    return np.ascontiguousarray(array, dtype=np.dtype(spec.dtype))
