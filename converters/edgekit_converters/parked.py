"""Keep in a file what is not needed for now: a large model takes no memory until it is loaded.

Weights are written and read one by one, so that neither way holds them twice.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Kept = TypeVar("_Kept")
_LEAST_BYTES: Final = 1 << 12
_EXTERNAL: Final = 1


class ParkedModel:
    """An `onnx.ModelProto` in a file, its large initialisers in another, as ONNX refers to them."""

    def __init__(self, model: Any, path: Path) -> None:
        """Write a model.

        Args:
            model: It loses its large initialisers: nothing else can be done with it afterwards.
            path: Where to; what is there is replaced.
        """
        self._path = path
        self._kind = type(model)
        weights = path.absolute().with_suffix(".weights")
        with weights.open("wb") as file:
            for tensor in model.graph.initializer:
                content = tensor.raw_data
                if len(content) >= _LEAST_BYTES:
                    _refer(tensor, weights, file.tell(), len(content))
                    file.write(content)
        path.write_bytes(model.SerializeToString())

    def load(self) -> Any:
        """The model as it was; the files stay."""
        model = self.sketch()
        for tensor in model.graph.initializer:
            if is_stored(tensor):
                restore(tensor)
        return model

    def sketch(self) -> Any:
        """The model with its large initialisers left in the file: see `is_stored`."""
        return self._kind.FromString(self._path.read_bytes())


def is_stored(tensor: Any) -> bool:
    """Whether the values of a `TensorProto` are in a file."""
    return bool(tensor.data_location == _EXTERNAL)


def restore(tensor: Any) -> None:
    """Read the values of a stored tensor into it."""
    path, offset, length = _place(tensor)
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def stored_array(tensor: Any) -> NDArray[np.generic] | None:
    """The values of a stored tensor, None where numpy itself lacks their type."""
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    path, offset, length = _place(tensor)
    count = math.prod(tensor.dims)
    if not dtype.isbuiltin or length != count * dtype.itemsize:
        return None
    return np.fromfile(path, dtype, count=count, offset=offset).reshape(tensor.dims)


def _refer(tensor: Any, path: Path, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = _EXTERNAL
    for key, value in (("location", path), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _place(tensor: Any) -> tuple[Path, int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Path(entries["location"]), int(entries["offset"]), int(entries["length"])


class Parked(Generic[_Kept]):
    """Any plain data in a file."""

    def __init__(self, data: _Kept, path: Path) -> None:
        """Write what can be pickled; `path` is replaced."""
        self._path = path
        with path.open("wb") as file:
            pickle.dump(data, file, protocol=pickle.HIGHEST_PROTOCOL)

    def load(self) -> _Kept:
        """The data as they were; the file stays."""
        with self._path.open("rb") as file:
            data: _Kept = pickle.load(file)  # noqa: S301 - written by this process
        return data
