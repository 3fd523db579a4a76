"""Read arrays of samples that a user gives, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_runtime.arrays import read_arrays
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_LABEL_NAMES: Final = ("labels", "y")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples along the first axis of each array.

    Attributes:
        path: As the user gave it.
        sha256: Of the file.
        arrays: By input name, each of the input's dtype.
        labels: What the file holds under `labels` or `y`, if it does.
        count: How many samples there are, at least one.
    """

    path: Path
    sha256: str
    arrays: Mapping[str, NDArray[np.generic]]
    labels: NDArray[np.generic] | None
    count: int

    def batches(self, size: int) -> Iterator[tuple[dict[str, NDArray[np.generic]], int]]:
        """Batches of exactly `size` samples, each with how many of them count.

        A last batch that is too short repeats its last sample: a model may have a fixed batch.
        """
        for start in range(0, self.count, size):
            indices = np.minimum(np.arange(start, start + size), self.count - 1)
            batch = {
                name: np.ascontiguousarray(array[indices]) for name, array in self.arrays.items()
            }
            yield batch, min(size, self.count - start)


def read_samples(path: Path, specs: Sequence[TensorSpec], *, kind: str) -> Samples:
    """Read an `.npz` or `.npy` file.

    An `.npz` has one array an input, by name; one array serves a model with one input. An array
    called `labels` or `y` is not an input.

    Args:
        path: What the user named.
        specs: The model's inputs; their first axis is the batch.
        kind: "calibration" or "evaluation", for errors.

    Raises:
        UsageError: Naming every fault: missing or unknown arrays, shapes and types that do not
            fit, values that are not finite, no samples.
    """
    arrays = read_arrays(path, kind=f"{kind} data")
    inputs = {spec.name for spec in specs}
    labels = next(
        (arrays.pop(name) for name in _LABEL_NAMES if name in arrays and name not in inputs), None
    )
    if len(specs) == 1 and len(arrays) == 1:
        arrays = {specs[0].name: next(iter(arrays.values()))}
    faults = [f"there is no array for the input {name!r}" for name in inputs - arrays.keys()]
    faults += [f"the model has no input {name!r}" for name in arrays.keys() - inputs]
    for spec in specs:
        if spec.name in arrays:
            faults += _faults_of(spec, arrays[spec.name])
    counts = {array.shape[0] for array in arrays.values() if array.ndim}
    if labels is not None and labels.ndim:
        counts.add(labels.shape[0])
    if len(counts) > 1:
        faults.append(f"the arrays hold different numbers of samples: {sorted(counts)}")
    if faults:
        wanted = ", ".join(f"{spec.name}: {spec.dtype}{_text(spec)}" for spec in specs)
        raise UsageError(
            f"the {kind} data does not fit the model: {'; '.join(sorted(faults))}",
            where=str(path),
            fix=f"give an .npz with these arrays, samples along the first axis: {wanted}",
        )
    return Samples(
        path=path,
        sha256=sha256_of(path),
        arrays={spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in specs},
        labels=labels,
        count=next(iter(counts)),
    )


def batch_size(specs: Sequence[TensorSpec], *, preferred: int) -> int:
    """How many samples one run of a model takes: `preferred` where its batch axis is free."""
    fixed = [spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None]
    return fixed[0] if fixed else preferred


def _faults_of(spec: TensorSpec, array: NDArray[np.generic]) -> list[str]:
    faults = []
    fits = array.ndim == len(spec.shape) and all(
        want in {None, have} for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits or array.ndim == 0:
        faults.append(f"{spec.name!r} has shape {list(array.shape)}, not {_text(spec)}")
    elif array.shape[0] == 0:
        faults.append(f"{spec.name!r} holds no samples")
    if not np.can_cast(array.dtype, np.dtype(spec.dtype), casting="same_kind"):
        faults.append(f"{spec.name!r} is {array.dtype.name}, not {spec.dtype}")
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        faults.append(f"{spec.name!r} holds NaN or infinity")
    return faults


def _text(spec: TensorSpec) -> str:
    return "[" + ", ".join(["samples", *(str(size or "?") for size in spec.shape[1:])]) + "]"
