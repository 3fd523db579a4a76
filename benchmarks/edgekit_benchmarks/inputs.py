"""Inputs for a model that is to be measured: made up to fit it, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_runtime.arrays import read_arrays
from edgekit_runtime.engines.checks import describe
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

# Whole numbers in a float model's input are nearly always indices; 0 and 1 fit every table.
_LARGEST_INDEX: Final = 1
_BYTE_TYPES: Final = ("int8", "uint8")
_SEED: Final = 20240101


def resolve_shapes(
    specs: Sequence[TensorSpec], given: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """The full shape of every input: a free first axis is a batch of one, others must be given.

    Args:
        specs: The model's inputs.
        given: Shapes that the user chose, by input name.

    Raises:
        UsageError: Naming every fault: an unknown input, a shape that does not fit, an axis whose
            size is free and was not given.
    """
    known = {spec.name for spec in specs}
    faults = [f"the model has no input {name!r}" for name in given if name not in known]
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        shape = tuple(given.get(spec.name, _with_batch_of_one(spec.shape)))
        if not _fits(shape, spec.shape):
            faults.append(
                f"{describe(shape)} does not fit {spec.name!r}, which is {describe(spec.shape)}"
            )
        free = [axis for axis, size in enumerate(shape) if size is None]
        if free:
            faults.append(
                f"the size of {spec.name!r} {describe(spec.shape)} along axis {free} is free"
            )
        shapes[spec.name] = tuple(size for size in shape if size is not None)
    if faults:
        wanted = ", ".join(f"{spec.name}: {describe(spec.shape)}" for spec in specs)
        raise UsageError(
            "; ".join(faults), fix=f"give a full shape for each such input; the model has {wanted}"
        )
    return shapes


def make_inputs(
    specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.generic]]:
    """Made-up values, the same each time: floats in [0, 1), bytes of any value, indices 0 and 1.

    Raises:
        UsageError: If an input holds something that cannot be made up, such as text.
    """
    rng = np.random.default_rng(_SEED)
    return {spec.name: _values(spec, shapes[spec.name], rng) for spec in specs}


def is_index(spec: TensorSpec) -> bool:
    """Whether an input's values are whole numbers that stand for themselves."""
    try:
        kind = np.dtype(spec.dtype).kind
    except TypeError:
        return False
    return kind in "iu" and spec.quantization is None and spec.dtype not in _BYTE_TYPES


def load_inputs(
    path: Path, specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.generic]]:
    """The first samples of an `.npz` file, which has samples along the first axis of each array.

    As many samples are taken as the batch of `shapes` asks for. One array serves a model with one
    input, whatever its name; arrays that belong to no input, such as labels, are left alone.

    Raises:
        UsageError: Naming every fault: an input without an array, a shape or type that does not
            fit, too few samples, a file that is no `.npz`.
    """
    arrays = read_arrays(path, kind="inputs")
    if len(specs) == 1 and len(arrays) == 1:
        arrays = {specs[0].name: next(iter(arrays.values()))}
    faults = []
    inputs: dict[str, NDArray[np.generic]] = {}
    for spec in specs:
        shape = shapes[spec.name]
        array = arrays.get(spec.name)
        if array is None:
            faults.append(f"there is no array for the input {spec.name!r}")
            continue
        taken = array[: shape[0]] if shape and array.ndim else array
        if taken.shape != shape:
            faults.append(f"{spec.name!r} has shape {describe(array.shape)}, not {describe(shape)}")
        elif not np.can_cast(array.dtype, np.dtype(spec.dtype), casting="same_kind"):
            faults.append(f"{spec.name!r} is {array.dtype.name}, not {spec.dtype}")
        else:
            inputs[spec.name] = np.ascontiguousarray(taken).astype(spec.dtype, copy=False)
    if faults:
        wanted = ", ".join(
            f"{spec.name}: {spec.dtype}{describe(shapes[spec.name])}" for spec in specs
        )
        raise UsageError(
            f"the inputs do not fit the model: {'; '.join(faults)}",
            where=str(path),
            fix=f"give an .npz with these arrays, samples along the first axis: {wanted}",
        )
    return inputs


def _values(
    spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.generic]:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if is_index(spec):
        return rng.integers(0, _LARGEST_INDEX, shape, dtype=dtype, endpoint=True)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    raise UsageError(
        f"values of type {spec.dtype} cannot be made up",
        where=f"input {spec.name!r}",
        fix="measure a model whose inputs are numbers",
    )


def _with_batch_of_one(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    return (1, *shape[1:]) if shape and shape[0] is None else tuple(shape)


def _fits(shape: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        have is None or (have >= 1 and want in {None, have})
        for have, want in zip(shape, wanted, strict=True)
    )
