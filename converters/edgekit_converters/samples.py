"""Read arrays of samples that a user gives, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.arrays import read_arrays
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

#: What the array, or the column, of the labels may be called.
LABEL_NAMES: Final = ("labels", "y")


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

    def fitting(self, most_bytes: int, most: int) -> int:
        """How many samples take no more than so many bytes: from one to `most`."""
        sample_bytes = sum(int(array[0].nbytes) for array in self.arrays.values())
        return min(max(most_bytes // max(sample_bytes, 1), 1), most)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLayout:
    """What is known of an array before its values are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_samples(path: Path, specs: Sequence[TensorSpec], *, kind: str) -> Samples:
    """Read an `.npz` or `.npy` file whole.

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
    inputs, label = name_arrays(list(arrays), specs)
    named = {name: arrays[key] for name, key in inputs.items()}
    labels = None if label is None else arrays[label]
    layouts = {name: ArrayLayout(shape=a.shape, dtype=a.dtype) for name, a in named.items()}
    faults = layout_faults(layouts, specs, labels=None if labels is None else labels.shape)
    faults += [
        f"{spec.name!r} holds NaN or infinity"
        for spec in specs
        if spec.name in named and not all_finite(named[spec.name])
    ]
    if faults:
        raise misfit(faults, specs, kind=kind, where=str(path))
    return Samples(
        path=path,
        sha256=sha256_of(path),
        arrays={spec.name: named[spec.name].astype(spec.dtype, copy=False) for spec in specs},
        labels=labels,
        count=next(iter(named.values())).shape[0],
    )


def name_arrays(
    keys: Sequence[str], specs: Sequence[TensorSpec]
) -> tuple[dict[str, str], str | None]:
    """Which array is for which input, and which one holds the labels.

    Returns:
        The array's key by the input's name, unknown ones under their own; and the labels' key.
    """
    inputs = {spec.name for spec in specs}
    label = next((key for key in LABEL_NAMES if key in keys and key not in inputs), None)
    rest = [key for key in keys if key != label]
    if len(specs) == 1 and len(rest) == 1:
        return {specs[0].name: rest[0]}, label
    return {key: key for key in rest}, label


def layout_faults(
    layouts: Mapping[str, ArrayLayout],
    specs: Sequence[TensorSpec],
    *,
    labels: tuple[int, ...] | None = None,
) -> list[str]:
    """Everything that keeps arrays from fitting a model, as far as their layouts tell.

    Args:
        layouts: By the input's name; samples along the first axis.
        specs: The model's inputs.
        labels: The labels' shape, where there are any.
    """
    inputs = {spec.name for spec in specs}
    faults = [f"there is no array for the input {name!r}" for name in inputs - layouts.keys()]
    faults += [f"the model has no input {name!r}" for name in layouts.keys() - inputs]
    for spec in specs:
        if spec.name in layouts:
            faults += _faults_of(spec, layouts[spec.name])
    counts = {layout.shape[0] for layout in layouts.values() if layout.shape}
    if labels:
        counts.add(labels[0])
    if len(counts) > 1:
        faults.append(f"the arrays hold different numbers of samples: {sorted(counts)}")
    return faults


def all_finite(array: NDArray[Any]) -> bool:
    """Whether there is no NaN and no infinity."""
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def misfit(
    faults: Sequence[str], specs: Sequence[TensorSpec], *, kind: str, where: str
) -> UsageError:
    """The error that names all faults, and says what the model takes."""
    wanted = ", ".join(f"{spec.name}: {spec.dtype}{_text(spec)}" for spec in specs)
    return UsageError(
        f"the {kind} data does not fit the model: {'; '.join(sorted(faults))}",
        where=where,
        fix=f"give an .npz with these arrays, samples along the first axis: {wanted}",
    )


def batch_size(specs: Sequence[TensorSpec], *, preferred: int) -> int:
    """How many samples one run of a model takes: `preferred` where its batch axis is free."""
    fixed = [spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None]
    return fixed[0] if fixed else preferred


def _faults_of(spec: TensorSpec, layout: ArrayLayout) -> list[str]:
    faults = []
    shape = layout.shape
    if not shape or len(shape) != len(spec.shape) or not _fits(shape[1:], spec):
        faults.append(
            f"{spec.name!r} has shape {list(shape)}, not {_text(spec)}{_other_order(spec, shape)}"
        )
    elif shape[0] == 0:
        faults.append(f"{spec.name!r} holds no samples")
    if not np.can_cast(layout.dtype, np.dtype(spec.dtype), casting="same_kind"):
        faults.append(f"{spec.name!r} is {layout.dtype.name}, not {spec.dtype}")
    return faults


def _fits(sample: tuple[int, ...], spec: TensorSpec) -> bool:
    wanted = spec.shape[1:]
    return len(sample) == len(wanted) and all(
        want in {None, have} for want, have in zip(wanted, sample, strict=True)
    )


def _other_order(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    """The likely mistake, where the array would fit in another form."""
    if _fits(shape, spec):
        return ": it is one sample, the axis of samples is missing"
    if len(shape) == len(spec.shape) and len(shape) > 2:  # noqa: PLR2004 - nothing to exchange
        first, last = (shape[-1], *shape[1:-1]), (*shape[2:], shape[1])
        rank = len(shape)
        if _fits(first, spec):
            order = (0, rank - 1, *range(1, rank - 1))
            return f": its channels are last and the model takes them first; transpose by {order}"
        if _fits(last, spec):
            order = (0, *range(2, rank), 1)
            return f": its channels are first and the model takes them last; transpose by {order}"
    return ""


def _text(spec: TensorSpec) -> str:
    return "[" + ", ".join(["samples", *(str(size or "?") for size in spec.shape[1:])]) + "]"
