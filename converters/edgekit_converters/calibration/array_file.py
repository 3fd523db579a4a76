"""Arrays that numpy saved, read a part at a time; nothing that such a file holds is executed."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration.source import Chunk, as_input, samples_per_chunk
from edgekit_converters.samples import ArrayLayout, layout_faults, misfit, name_arrays
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_MEMBER_SUFFIX: Final = ".npy"
_ZIP_MAGIC: Final = b"PK"
_UNREADABLE: Final = (
    OSError, ValueError, EOFError, KeyError, SyntaxError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class ArrayFile:
    """An `.npz` with an array an input, or an `.npy` for a model with one input.

    No more of it is in memory than a chunk, compressed or not, and the samples are not mapped
    either: mapped pages count as the process's memory.
    """

    doubts: tuple[str, ...] = ()

    def __init__(
        self, path: Path, specs: Sequence[TensorSpec], *, kind: str = "calibration"
    ) -> None:
        """Read what the file says of its arrays.

        Args:
            path: The file.
            specs: The model's inputs.
            kind: What the data is for, for errors.

        Raises:
            UsageError: If it is damaged, holds Python objects, or does not fit the model.
        """
        self._path = path
        self._kind = kind
        self._specs = tuple(specs)
        with self._opened() as file:
            archive = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        self._archive = archive
        with self._opened() as file:
            layouts = self._layouts(file)
        self._inputs, self._label = name_arrays(list(layouts), specs)
        named = {name: layouts[key] for name, key in self._inputs.items()}
        labels = None if self._label is None else layouts[self._label].shape
        faults = layout_faults(named, specs, labels=labels)
        if labels == ():
            faults.append(f"{self._label!r} must be one label a sample")
        if faults:
            raise misfit(faults, specs, kind=kind, where=str(path))
        sample_bytes = sum(
            prod(named[spec.name].shape[1:])
            * max(named[spec.name].dtype.itemsize, np.dtype(spec.dtype).itemsize)
            for spec in specs
        )
        self._chunk = samples_per_chunk(sample_bytes)

    def chunks(self) -> Iterator[Chunk]:
        """See `SampleSource`."""
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._opened())
            readers = {}
            for key in (*self._inputs.values(), *([self._label] if self._label else [])):
                with self._explained():
                    member = stack.enter_context(self._member(file, key))
                    readers[key] = _rows(member, self._chunk)
            while True:
                with self._explained():
                    parts = {key: next(reader, None) for key, reader in readers.items()}
                arrays = {
                    spec.name: as_input(part, spec)
                    for spec in self._specs
                    if (part := parts[self._inputs[spec.name]]) is not None
                }
                if not arrays:
                    return
                yield Chunk(arrays=arrays, labels=parts[self._label] if self._label else None)

    def sha256(self) -> str:
        """See `SampleSource`."""
        return sha256_of(self._path)

    def _layouts(self, file: IO[bytes]) -> dict[str, ArrayLayout]:
        if not self._archive:
            return {"": _header(file)[0]}
        with zipfile.ZipFile(file) as archive:
            names = [n for n in archive.namelist() if n.endswith(_MEMBER_SUFFIX)]
        layouts = {}
        for name in names:
            key = name.removesuffix(_MEMBER_SUFFIX)
            with self._member(file, key) as part:
                layouts[key] = _header(part)[0]
        return layouts

    @contextlib.contextmanager
    def _member(self, file: IO[bytes], key: str) -> Iterator[IO[bytes]]:
        if not self._archive:
            yield file
            return
        # Every array has a reader of its own, and they take turns.
        with zipfile.ZipFile(self._path) as archive, archive.open(key + _MEMBER_SUFFIX) as part:
            yield part

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with self._explained(), self._path.open("rb") as file:
            yield file

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except _UNREADABLE as error:
            raise UsageError(
                f"these are no readable {self._kind} data: {' '.join(str(error).split())[:200]}",
                where=str(self._path),
                fix="save them with numpy.savez(path, INPUT_NAME=array), without pickled objects",
            ) from error


def _header(file: IO[bytes]) -> tuple[ArrayLayout, bool]:
    """The layout of the array that begins here, and whether its columns are stored together."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of the array format is for named fields")
    if dtype.hasobject:
        raise ValueError("Python objects are not loaded")
    return ArrayLayout(shape=shape, dtype=dtype), by_column and len(shape) > 1


def _rows(file: IO[bytes], most: int) -> Iterator[NDArray[Any]]:
    layout, by_column = _header(file)
    count, shape = layout.shape[0], layout.shape[1:]
    if by_column:
        # A sample's numbers lie far apart: there is no reading it without the others.
        whole = _exactly(file, prod(layout.shape) * layout.dtype.itemsize)
        array = np.frombuffer(whole, layout.dtype).reshape(layout.shape, order="F")
        for start in range(0, count, most):
            yield array[start : start + most]
        return
    for start in range(0, count, most):
        size = min(most, count - start)
        content = _exactly(file, size * prod(shape) * layout.dtype.itemsize)
        yield np.frombuffer(content, layout.dtype).reshape(size, *shape)


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError(f"it ends {size - len(content)} bytes too early")
    return content
