"""A model with integer inputs and outputs, fed and read as its float source is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.extras import require
from edgekit_runtime.formats import ModelFormat, detect_format
from edgekit_runtime.tensors import TensorQuantization, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.session import RuntimeInfo, Session


_INTEGERS: Final = frozenset({"int8", "int16"})


def seen_as_floats(session: Session, path: Path, source: Session) -> Session:
    """A session that takes and gives floats wherever the source does.

    Args:
        session: An artifact, perhaps with integers at its border.
        path: Its file.
        source: What it was made from.
    """
    floats = {s.name for s in (*source.inputs, *source.outputs) if s.dtype == "float32"}
    border = (*session.inputs, *session.outputs)
    integers = [spec for spec in border if spec.name in floats and spec.dtype in _INTEGERS]
    if not integers:
        return session
    known = {spec.name: spec.quantization for spec in integers if spec.quantization}
    if detect_format(path) is ModelFormat.ONNX:
        known = _of_onnx(path, [spec.name for spec in integers])
    return FloatBorderSession(session, known)


class FloatBorderSession:
    """Rounds what it is given to the integers of a session, and tells what its answers mean."""

    def __init__(self, session: Session, integers: Mapping[str, TensorQuantization]) -> None:
        """Wrap a session.

        Args:
            session: The model with integers.
            integers: How to read them, by the name of the input or output.
        """
        self._session = session
        self._integers = integers
        self._dtypes = {spec.name: spec.dtype for spec in session.inputs}
        self.inputs = tuple(self._as_float(spec) for spec in session.inputs)
        self.outputs = tuple(self._as_float(spec) for spec in session.outputs)

    @property
    def runtime(self) -> RuntimeInfo:
        """The engine of the wrapped session."""
        return self._session.runtime

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run one inference; see `Session.run`."""
        given = {
            name: _rounded(array, self._integers[name], self._dtypes[name])
            if name in self._integers
            else array
            for name, array in inputs.items()
        }
        return {
            name: _real(array, self._integers[name]) if name in self._integers else array
            for name, array in self._session.run(given).items()
        }

    def close(self) -> None:
        """Let go of the wrapped session."""
        self._session.close()

    def _as_float(self, spec: TensorSpec) -> TensorSpec:
        if spec.name not in self._integers:
            return spec
        return dataclasses.replace(spec, dtype="float32", quantization=None)


def _rounded(values: NDArray[Any], how: TensorQuantization, dtype: str) -> NDArray[np.generic]:
    kind = np.dtype(dtype)
    integers = np.rint(values / np.float32(how.scale)) + how.zero_point
    return np.asarray(np.clip(integers, np.iinfo(kind).min, np.iinfo(kind).max), kind)


def _real(integers: NDArray[Any], how: TensorQuantization) -> NDArray[np.generic]:
    centred = integers.astype(np.float32) - np.float32(how.zero_point)
    return np.asarray(centred * np.float32(how.scale), np.float32)


def _of_onnx(path: Path, names: Sequence[str]) -> dict[str, TensorQuantization]:
    """What the nodes that enter and leave the integers say of them."""
    onnx: Any = require("onnx", extra="convert")
    graph = onnx.load_model(str(path), load_external_data=False).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if name in names:
            scale, zero = (onnx.numpy_helper.to_array(constants[at]) for at in node.input[1:3])
            found[name] = TensorQuantization(scale=float(scale), zero_point=int(zero))
    return found
