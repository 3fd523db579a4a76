"""A `.tflite` file whose tensors can be read when it has run: integers as floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.model_file import read_model, text_of
from edgekit_converters.quantize.to_litert.flat import FlatGraph, FlatModel
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.graph.tflite_bounds import check_tflite_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.repair.simulation import Batch

_THREADS: Final = 2
_INTEGERS: Final = frozenset({"int8", "uint8", "int16", "int4"})
_CHANGES_OF_TYPE: Final = frozenset({"DEQUANTIZE", "QUANTIZE"})
# What quantizers add to a tensor's name for its integer form.
_SUFFIXES: Final = ("/quantized", "_quantized", "_int8")


class WatchedLitert:
    """A file's first graph; tensors go by their names."""

    def __init__(self, content: bytes) -> None:
        """Load it.

        Raises:
            UnsupportedModelError: If it is damaged, or LiteRT refuses it.
            EnvironmentLackError: If LiteRT is not installed.
        """
        schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
        litert: Any = require("ai_edge_litert.interpreter", extra="tflite")
        check_tflite_bytes(content, where="")
        self._graph: FlatGraph = FlatModel(schema, read_model(schema, content)).graphs[0]
        self._numbers: dict[str, int] = {}
        for number, tensor in enumerate(self._graph.tensors):
            self._numbers.setdefault(text_of(tensor.name), number)
        #: The tensors that have a name of their own, integer forms under that of the float.
        self.names: frozenset[str] = frozenset(self._numbers)
        # What only stands between a constant and those that read it.
        self._stored = {
            operator.outputs[0]: operator.inputs[0]
            for operator in self._graph.operators
            if self._graph.flat.code_of(operator) == "DEQUANTIZE"
        }
        #: The inputs' and the outputs' names, in the file's order.
        self.inputs = tuple(map(self._name, self._graph.inputs))
        self.outputs = tuple(map(self._name, self._graph.outputs))
        try:
            # Delegates keep what is computed inside of them to themselves.
            self._interpreter: Any = litert.Interpreter(
                model_content=content,
                num_threads=_THREADS,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=(
                    litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                ),
            )
        except (ValueError, RuntimeError) as error:
            raise _refused(error) from error

    def values(self, batch: Batch, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run once, and give some tensors as floats; what is not computed is left out.

        Args:
            batch: The model's inputs, by name or, where these differ, in their order; images may
                have the channels first or last.
            names: Of tensors.

        Raises:
            UnsupportedModelError: If the engine fails.
        """
        run = self._interpreter
        details = run.get_input_details()
        named = all(detail["name"] in batch for detail in details)
        arrays = [batch[d["name"]] for d in details] if named else list(batch.values())
        given = [_fitting(a, d) for a, d in zip(arrays, details, strict=True)]
        try:
            for detail, array in zip(details, given, strict=True):
                if tuple(detail["shape"]) != array.shape:
                    run.resize_tensor_input(detail["index"], array.shape)
            run.allocate_tensors()
            for detail, array in zip(details, given, strict=True):
                run.set_tensor(detail["index"], _entering(array, detail))
            run.invoke()
        except (ValueError, RuntimeError) as error:
            raise _refused(error) from error
        shown = {d["index"]: d for d in run.get_tensor_details()}
        found = {}
        for name in names:
            number = self._numbers.get(name)
            if number is None or number not in shown:
                continue
            try:
                array = run.get_tensor(number)
            except ValueError:
                # Nothing computes it any more.
                continue
            found[name] = _as_floats(array, self._affine(number))
        return found

    def steps(self) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """The operators but for changes of type: their codes, what they read, what they make."""
        return [
            (
                self._graph.flat.code_of(operator),
                tuple(map(self._name, operator.inputs)),
                tuple(map(self._name, operator.outputs)),
            )
            for operator in self._graph.operators
            if self._graph.flat.code_of(operator) not in _CHANGES_OF_TYPE
        ]

    def constants(self) -> Mapping[str, NDArray[np.float32]]:
        """The constants that stand for floats."""
        found = {}
        for name, number in self._numbers.items():
            array = self._graph.array(number)
            affine = self._affine(number)
            if array is not None and (array.dtype == np.float32 or affine[0].size):
                found[name] = _as_floats(array, affine)
        return found

    def constant(self, name: str) -> tuple[NDArray[np.float32], bool] | None:
        """A constant as floats, and whether it is stored as integers; None where there is none."""
        for tried in (name, *(name + suffix for suffix in _SUFFIXES)):
            number = self._numbers.get(tried)
            number = self._stored.get(number, number) if number is not None else None
            array = self._graph.array(number) if number is not None else None
            if number is not None and array is not None:
                floats = _as_floats(array, self._affine(number))
                return floats, array.dtype.kind == "i"
        return None

    def range_of(self, name: str) -> tuple[float, float] | None:
        """What the integers of a tensor can stand for; None where it is float."""
        number = self._integer_form(name)
        if number is None:
            return None
        scale, zero, _ = self._affine(number)
        if scale.size != 1:
            return None
        ends = np.iinfo(self._graph.dtype(number))
        low, high = ((end - int(zero[0])) * float(scale[0]) for end in (ends.min, ends.max))
        return low, high

    def is_wide(self, name: str) -> bool:
        """Whether a tensor's integers have 16 bits."""
        number = self._integer_form(name)
        return number is not None and self._graph.dtype(number) == "int16"

    def _name(self, number: int) -> str:
        return text_of(self._graph.tensors[number].name) if number >= 0 else ""

    def _integer_form(self, name: str) -> int | None:
        for tried in (name, *(name + suffix for suffix in _SUFFIXES)):
            number = self._numbers.get(tried)
            if number is not None and self._graph.dtype(number) in _INTEGERS:
                return number
        return None

    def _affine(self, number: int) -> tuple[NDArray[Any], NDArray[Any], int]:
        found = self._graph.tensors[number].quantization
        if found is None or found.scale is None or not len(found.scale):
            return np.zeros(0), np.zeros(0), 0
        scale = np.asarray(found.scale, np.float64)
        zero = np.zeros(scale.shape) if found.zeroPoint is None else np.asarray(found.zeroPoint)
        return scale, zero, int(found.quantizedDimension)


def _fitting(array: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    """An input in the order of axes that the file takes."""
    wanted = tuple(detail["shape"])
    if array.ndim != len(wanted) or array.ndim < 3 or array.shape[1:] == wanted[1:]:  # noqa: PLR2004
        return array
    last = np.moveaxis(array, 1, -1)
    if last.shape[1:] == wanted[1:]:
        return np.ascontiguousarray(last)
    return array


def _entering(array: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(detail["dtype"])
    if array.dtype.kind != "f" or dtype.kind not in "iu":
        return np.asarray(array, dtype=dtype, order="C")
    scale, zero = detail["quantization"]
    ends = np.iinfo(dtype)
    scaled = np.rint(array / (scale or 1.0)) + zero
    return np.asarray(np.clip(scaled, ends.min, ends.max), dtype)


def _as_floats(
    array: NDArray[Any], affine: tuple[NDArray[Any], NDArray[Any], int]
) -> NDArray[np.float32]:
    scale, zero, axis = affine
    if array.dtype.kind not in "iu" or not scale.size:
        return array.astype(np.float32)
    shape = [-1 if at == axis else 1 for at in range(array.ndim)] if scale.size > 1 else []
    return np.asarray((array - zero.reshape(shape)) * scale.reshape(shape), np.float32)


def _refused(error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"LiteRT failed on the model: {' '.join(str(error).split())[:300]}",
        fix="check that the model runs on the data, or report the model",
    )
