"""`package.module:function`: the user's own code gives the samples."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration.source import Chunk, as_input
from edgekit_converters.samples import ArrayLayout, layout_faults, misfit
from edgekit_runtime.errors import EdgekitError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_MOST_SAMPLES: Final = 100_000
_PAIR: Final = 2


class Generated:
    """What a function yields: samples, or batches of them.

    Each item is an array for a model with one input, or arrays by input name; beside it, in a
    tuple, there may be the label. An array with the input's axes is a batch, one with an axis less
    is a sample. The function is called without arguments each time that the data is read.
    """

    def __init__(
        self, name: str, specs: Sequence[TensorSpec], *, kind: str = "calibration"
    ) -> None:
        """Import the function; modules are found as `python -m` finds them.

        Args:
            name: `package.module:function`.
            specs: The model's inputs.
            kind: What the data is for, for errors.

        Raises:
            UsageError: If it cannot be imported, or is none.
        """
        self._name = name
        self._kind = kind
        self._specs = tuple(specs)
        self._function = _import(name)
        self._cut = False

    @property
    def doubts(self) -> tuple[str, ...]:
        """See `SampleSource`."""
        if not self._cut:
            return ()
        return (f"{self._name} yields more than {_MOST_SAMPLES} samples: the others are left out",)

    def chunks(self) -> Iterator[Chunk]:
        """See `SampleSource`."""
        count = 0
        shapes: dict[str, tuple[int, ...]] = {}
        for number, item in enumerate(self._items(), start=1):
            chunk = self._chunk(item, number)
            for name, array in chunk.arrays.items():
                if shapes.setdefault(name, array.shape[1:]) != array.shape[1:]:
                    raise self._wrong(
                        [f"{name!r} is {list(array.shape[1:])} a sample in item {number}, and "
                         f"was {list(shapes[name])}"]
                    )  # fmt: skip
            if chunk.count:
                yield chunk
            count += chunk.count
            if count >= _MOST_SAMPLES:
                self._cut = True
                return

    def sha256(self) -> None:
        """See `SampleSource`."""
        return

    def _items(self) -> Iterator[Any]:
        try:
            made = self._function()
            if not isinstance(made, Iterable):
                raise UsageError(
                    f"the function returned {type(made).__name__}, nothing to iterate over",
                    where=self._name,
                    fix="let it yield arrays, or dicts of them by input name",
                )
            yield from made
        except EdgekitError:
            raise
        except Exception as error:
            raise UsageError(
                f"the function failed: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}",
                where=self._name,
                fix="it is called without arguments, and yields samples",
            ) from error

    def _chunk(self, item: Any, number: int) -> Chunk:
        label = None
        if isinstance(item, tuple) and len(item) == _PAIR:
            item, label = item
        if not isinstance(item, Mapping):
            if len(self._specs) != 1:
                raise self._wrong([f"item {number} is no dict of arrays by input name"])
            item = {self._specs[0].name: item}
        try:
            arrays = {str(name): np.asarray(array) for name, array in item.items()}
            labels = None if label is None else np.atleast_1d(np.asarray(label))
        except ValueError as error:
            raise self._wrong([f"item {number} holds no plain arrays: {error}"]) from error
        arrays = {name: self._as_batch(name, array) for name, array in arrays.items()}
        layouts = {n: ArrayLayout(shape=a.shape, dtype=a.dtype) for n, a in arrays.items()}
        faults = layout_faults(
            layouts, self._specs, labels=None if labels is None else labels.shape
        )
        if faults:
            raise self._wrong([f"item {number}: {fault}" for fault in faults])
        return Chunk(
            arrays={spec.name: as_input(arrays[spec.name], spec) for spec in self._specs},
            labels=labels,
        )

    def _as_batch(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        ranks = {spec.name: len(spec.shape) for spec in self._specs}
        return array[None] if array.ndim + 1 == ranks.get(name) else array

    def _wrong(self, faults: list[str]) -> EdgekitError:
        return misfit(faults, self._specs, kind=self._kind, where=self._name)


def look_here() -> None:
    """Find modules in the current folder, as `python -m` does."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _import(name: str) -> Any:
    module, _, path = name.partition(":")
    look_here()
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise UsageError(
            f"cannot import the function: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}",
            where=name,
            fix="write package.module:function, and run this in the folder that holds the package",
        ) from error
    if not callable(found):
        raise UsageError(
            f"this is {type(found).__name__}, not a function",
            where=name,
            fix="name a function that yields samples",
        )
    return found
