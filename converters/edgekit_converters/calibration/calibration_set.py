"""The samples that tell a quantizer which values flow through a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration.doubts import doubts_of
from edgekit_converters.calibration.labels import LabelNumbers
from edgekit_converters.calibration.open_source import open_source
from edgekit_converters.calibration.survey import survey
from edgekit_converters.samples import Samples, batch_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.calibration.source import SampleSource
    from edgekit_converters.input_ranges import InputRange
    from edgekit_runtime.bundle.manifest import Step
    from edgekit_runtime.tensors import TensorSpec

# Small enough that a batch's activations fit where the model runs, large enough to be quick.
_BATCH_SAMPLES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Checked samples of any number, and what is doubtful about them.

    Attributes:
        samples: An excerpt of a few megabytes, spread evenly over the data; all of it where it is
            small. At least one sample.
        count: How many samples there are in all.
        labels: Of all of them, numbers, where the data has labels.
        batch_size: How many samples one run of the model takes.
        warnings: Sentences for the report, those that are about labels apart.
        numbering: How names of classes were numbered, a sentence; "" where they were not.
        digests: A hash of each sample.
        source: Where all samples are read from.
    """

    samples: Samples
    count: int
    labels: NDArray[Any] | None
    batch_size: int
    warnings: tuple[str, ...]
    numbering: str
    digests: NDArray[np.uint64]
    source: SampleSource

    @classmethod
    def load(
        cls,
        path: Path,
        specs: Sequence[TensorSpec],
        *,
        steps: Sequence[Step] | None = None,
        ranges: Mapping[str, InputRange] | None = None,
        kind: str = "calibration",
    ) -> CalibrationSet:
        """Read calibration data once, from end to end, and check it against a model.

        Args:
            path: An `.npz` or `.npy` file, a table (`.csv`, `.tsv`, `.parquet`), a folder of
                images or of WAV files, or `package.module:function`.
            specs: The model's inputs; their first axis is the batch.
            steps: A bundle's preprocessing, for images and sound; None: as the folder's
                `preprocessing.json` says.
            ranges: Of inputs that may hold certain whole numbers only; see `input_ranges`.
            kind: What the data is for, for errors.

        Raises:
            UsageError: If the data is damaged, empty, or does not fit the model.
            EnvironmentLackError: If a package is missing that reads such data.
        """
        source = open_source(path, specs, steps=steps, kind=kind)
        found = survey(source, specs, where=str(path), ranges=ranges, kind=kind)
        numbers = LabelNumbers(found.every_label)
        return cls(
            samples=Samples(
                path=path,
                sha256=source.sha256() or found.sha256(),
                arrays=found.arrays,
                labels=numbers.of(found.labels),
                count=len(next(iter(found.arrays.values()))),
            ),
            count=found.count,
            labels=numbers.of(found.every_label),
            batch_size=batch_size(specs, preferred=_BATCH_SAMPLES),
            warnings=(*source.doubts, *doubts_of(found, specs)),
            numbering=numbers.remark,
            digests=found.digests,
            source=source,
        )

    def batches(self) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Every sample, in batches that the model takes; a short last one repeats its last sample.

        Raises:
            UsageError: If the data has changed since it was checked, and is damaged.
        """
        if self.count == self.samples.count:
            return (batch for batch, _ in self.samples.batches(self.batch_size))
        return _regrouped(self.source, self.batch_size)

    def overlap(self, others: NDArray[np.uint64]) -> int:
        """How many of some samples are among these, byte for byte.

        Args:
            others: The digests of data to evaluate on, say, for the same model.
        """
        return int(np.isin(others, self.digests).sum())


def _regrouped(source: SampleSource, size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """A source's samples in batches of exactly so many."""
    waiting: dict[str, NDArray[Any]] = {}
    for chunk in source.chunks():
        joined = {
            name: np.concatenate([waiting[name], array]) if waiting else array
            for name, array in chunk.arrays.items()
        }
        count = len(next(iter(joined.values())))
        for start in range(0, count - size + 1, size):
            yield {name: array[start : start + size] for name, array in joined.items()}
        rest = count - count % size
        # A copy, so that the chunk itself can go.
        waiting = {name: array[rest:].copy() for name, array in joined.items()}
        if rest == count:
            waiting = {}
    if waiting:
        left = len(next(iter(waiting.values())))
        indices = np.minimum(np.arange(size), left - 1)
        yield {name: array[indices] for name, array in waiting.items()}
