"""The samples that tell a quantizer which values flow through a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.samples import Samples, batch_size, read_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_FEW_SAMPLES: Final = 32
# Small enough that a batch's activations fit where the model runs, large enough to be quick.
_BATCH_SAMPLES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Checked calibration samples, and what is doubtful about them.

    Attributes:
        samples: At least one.
        batch_size: How many samples one run of the model takes.
        warnings: Sentences for the report.
    """

    samples: Samples
    batch_size: int
    warnings: tuple[str, ...]

    @classmethod
    def load(cls, path: Path, specs: Sequence[TensorSpec]) -> CalibrationSet:
        """Read an `.npz` or `.npy` file; see `read_samples` for its form and the errors."""
        samples = read_samples(path, specs, kind="calibration")
        return cls(
            samples=samples,
            batch_size=batch_size(specs, preferred=_BATCH_SAMPLES),
            warnings=tuple(_doubts(samples)),
        )

    def batches(self) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Every sample, in batches that the model takes."""
        for batch, _ in self.samples.batches(self.batch_size):
            yield batch


def _doubts(samples: Samples) -> Iterator[str]:
    if samples.count < _FEW_SAMPLES:
        yield (
            f"only {samples.count} calibration sample(s): the ranges of activations may be too "
            f"narrow; {_FEW_SAMPLES} or more, from everywhere in the data, are better"
        )
    if samples.labels is not None and samples.count > 1 and len(np.unique(samples.labels)) == 1:
        yield "all calibration samples are of one class: choose them from all classes"
