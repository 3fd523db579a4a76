"""Keep in a file what is not needed for now: a large model takes no memory until it is loaded.

Weights are written and read one by one, so that neither way holds them twice, and a model may pass
the 2 GiB at which a single protobuf message ends.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, TypeVar

_Kept = TypeVar("_Kept")
# Of pieces, and of the bytes in the next piece.
_NUMBER: Final = struct.Struct("<Q")


class ParkedModel:
    """An `onnx.ModelProto` in a file: how many initialisers, each of them, and all the rest."""

    def __init__(self, model: Any, path: Path) -> None:
        """Write a model.

        Args:
            model: It loses its initialisers: nothing else can be done with it afterwards.
            path: Where to; what is there is replaced.
        """
        self._path = path
        self._kind = type(model)
        with path.open("wb") as file:
            file.write(_NUMBER.pack(len(model.graph.initializer)))
            for tensor in model.graph.initializer:
                _write(file, tensor)
            model.graph.ClearField("initializer")
            _write(file, model)

    def load(self) -> Any:
        """The model as it was; the file stays."""
        model = self._kind()
        with self._path.open("rb") as file:
            for _ in range(_number(file)):
                model.graph.initializer.add().MergeFromString(file.read(_number(file)))
            model.MergeFromString(file.read(_number(file)))
        return model


def _write(file: BinaryIO, message: Any) -> None:
    content = message.SerializeToString()
    file.write(_NUMBER.pack(len(content)))
    file.write(content)


def _number(file: BinaryIO) -> int:
    (number,) = _NUMBER.unpack(file.read(_NUMBER.size))
    return int(number)


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
