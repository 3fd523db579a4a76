"""Keep some samples away from the calibration, so that it can be judged by what it did not see."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration.calibration_set import CalibrationSet
from edgekit_converters.calibration.source import Chunk
from edgekit_converters.calibration.survey import sample_digests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.calibration.source import SampleSource
    from edgekit_runtime.tensors import TensorSpec

# Every so many samples of the excerpt.
_EVERY: Final = 4
_LEAST_SAMPLES: Final = 8


def hold_out(
    calibration: CalibrationSet, specs: Sequence[TensorSpec]
) -> tuple[CalibrationSet, CalibrationSet] | None:
    """Part some of the samples from the others; what equals one of them goes with it.

    Args:
        calibration: All of them.
        specs: The model's inputs, as they were when it was loaded.

    Returns:
        What is left to calibrate with, and what is held out; None where there are too few.
    """
    samples = calibration.samples
    if samples.count < _LEAST_SAMPLES:
        return None
    # At random: the data may have a period of its own.
    chosen = np.random.default_rng(samples.count).permutation(samples.count)[::_EVERY]
    digests = sample_digests(samples.arrays, specs)
    apart = np.isin(digests, digests[chosen])
    if apart.all():
        return None
    held = _part(calibration, apart, digests)
    rest = _part(calibration, ~apart, digests)
    if calibration.count > samples.count:
        away = np.isin(calibration.digests, held.digests)
        rest = dataclasses.replace(
            rest,
            count=int((~away).sum()),
            labels=None if calibration.labels is None else calibration.labels[~away],
            digests=calibration.digests[~away],
            source=_Without(calibration.source, held.digests, specs),
        )
    return rest, held


def excerpt_of(calibration: CalibrationSet, specs: Sequence[TensorSpec]) -> CalibrationSet:
    """The few samples that are in memory, as a set of their own."""
    samples = calibration.samples
    everything = np.ones(samples.count, np.bool_)
    return _part(calibration, everything, sample_digests(samples.arrays, specs))


def _part(
    whole: CalibrationSet, picked: NDArray[np.bool_], digests: NDArray[np.uint64]
) -> CalibrationSet:
    """The samples of the excerpt that were picked, all of them in memory."""
    labels = whole.samples.labels
    samples = dataclasses.replace(
        whole.samples,
        arrays={name: array[picked] for name, array in whole.samples.arrays.items()},
        labels=None if labels is None else labels[picked],
        count=int(picked.sum()),
    )
    return dataclasses.replace(
        whole,
        samples=samples,
        count=samples.count,
        labels=samples.labels,
        digests=digests[picked],
    )


class _Without:
    """A source that leaves some samples out."""

    def __init__(
        self, source: SampleSource, away: NDArray[np.uint64], specs: Sequence[TensorSpec]
    ) -> None:
        self._source = source
        self._away = away
        self._specs = specs

    @property
    def doubts(self) -> tuple[str, ...]:
        """See `SampleSource`."""
        return self._source.doubts

    def chunks(self) -> Iterator[Chunk]:
        """See `SampleSource`."""
        for chunk in self._source.chunks():
            kept = ~np.isin(sample_digests(chunk.arrays, self._specs), self._away)
            if kept.any():
                arrays: dict[str, Any] = {n: array[kept] for n, array in chunk.arrays.items()}
                yield Chunk(
                    arrays=arrays, labels=None if chunk.labels is None else chunk.labels[kept]
                )

    def sha256(self) -> str | None:
        """See `SampleSource`."""
        return self._source.sha256()
