"""Read a `.tflite` file into plain data; nothing in it is believed before it is checked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.tflite_source.model import Model, Operator, Quantization, Tensor
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.files import require_file
from edgekit_runtime.graph.tflite_bounds import check_tflite_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMPY: Final = frozenset({
    "float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32",
    "int64", "uint64", "bool",
})  # fmt: skip
# Values a byte, and whether they are signed.
_PACKED: Final = {"int4": (2, True), "uint4": (2, False), "int2": (4, True)}
_CUSTOM: Final = "CUSTOM"
_OWN_METADATA: Final = "edgekit."
_AFFINE_DETAILS: Final = 0
_MAX_MODEL_BYTES: Final = 2**31 - 1


def read_model(path: Path) -> Model:
    """Read the main graph of a `.tflite` file.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If it is damaged, or larger than 2 GiB.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    require_file(path, kind="a .tflite model")
    if path.stat().st_size > _MAX_MODEL_BYTES:
        raise UnsupportedModelError(
            "the model is larger than 2 GiB, which an ONNX file cannot be",
            where=str(path),
            fix="convert a smaller model",
        )
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
    data = path.read_bytes()
    check_tflite_bytes(data, where=str(path))
    return _Reader(schema, data, str(path)).model()


class _Reader:
    def __init__(self, schema: Any, data: bytes, where: str) -> None:
        self._schema = schema
        self._data = data
        self._where = where
        self._root = schema.Model.GetRootAs(data)
        self._types = _members(schema.TensorType)
        self._builtins = _members(schema.BuiltinOperator)
        self._tables = _members(schema.BuiltinOptions)

    def model(self) -> Model:
        graph = self._root.Subgraphs(0)
        inputs = [int(graph.Inputs(i)) for i in range(graph.InputsLength())]
        outputs = [int(graph.Outputs(i)) for i in range(graph.OutputsLength())]
        if len(set(inputs)) != len(inputs):
            raise UnsupportedModelError(
                "this TFLite file is damaged: it names one input twice",
                where=self._where,
                fix="convert or copy the model again",
            )
        names = self._names(graph, {*inputs, *outputs})
        tensors = [self._tensor(graph.Tensors(i), i, name) for i, name in enumerate(names)]
        return Model(
            name=_text(graph.Name()) or "main",
            description=_text(self._root.Description()),
            notes=self._notes(),
            inputs=tuple(tensors[i] for i in inputs),
            outputs=tuple(tensors[i] for i in outputs),
            operators=tuple(
                self._operator(graph.Operators(i), i, tensors)
                for i in range(graph.OperatorsLength())
            ),
        )

    def _notes(self) -> dict[str, str]:
        entries = [self._root.Metadata(i) for i in range(self._root.MetadataLength())]
        return {
            _text(entry.Name()): bytes(self._content(entry.Buffer())).decode("utf-8", "replace")
            for entry in entries
            if _text(entry.Name()).startswith(_OWN_METADATA)
        }

    def _names(self, graph: Any, border: set[int]) -> list[str]:
        """Unique names; where two tensors share one, the border keeps it."""
        wanted = {
            index: _text(graph.Tensors(index).Name()) or f"tensor {index}"
            for index in range(graph.TensorsLength())
        }
        names = dict.fromkeys(wanted, "")
        taken: set[str] = set()
        for index in sorted(wanted, key=lambda number: (number not in border, number)):
            name = wanted[index]
            names[index] = name if name not in taken else f"{name}#{index}"
            taken.add(names[index])
        return list(names.values())

    def _tensor(self, tensor: Any, index: int, name: str) -> Tensor:
        shape = [int(tensor.Shape(i)) for i in range(tensor.ShapeLength())]
        signature = [int(tensor.ShapeSignature(i)) for i in range(tensor.ShapeSignatureLength())]
        free = signature if len(signature) == len(shape) else shape
        dtype = self._types.get(tensor.Type(), f"type {tensor.Type()}").lower()
        content = self._content(tensor.Buffer())
        values, fault = None, ""
        if tensor.Sparsity() is not None:
            fault = "its values are stored in sparse form"
        elif tensor.ExternalBuffer():
            fault = "its values are stored in another file"
        elif content or (0 in shape and dtype in _NUMPY and -1 not in free):
            values, fault = _values(content, dtype, shape)
        quantization, unknown = _quantization(tensor, len(shape))
        return Tensor(
            index=index,
            name=name,
            dtype=_stored_type(dtype),
            shape=tuple(
                None if -1 in {size, wanted} and values is None else size
                for size, wanted in zip(shape, free, strict=True)
            ),
            data=values,
            quantization=quantization,
            variable=bool(tensor.IsVariable()),
            fault=fault or unknown,
        )

    def _content(self, index: int) -> bytes:
        buffer = self._root.Buffers(index)
        if buffer.Offset() > 1:
            return self._data[buffer.Offset() : buffer.Offset() + buffer.Size()]
        return memoryview(buffer.DataAsNumpy()).tobytes() if buffer.DataLength() else b""

    def _operator(self, operator: Any, number: int, tensors: list[Tensor]) -> Operator:
        code = self._root.OperatorCodes(operator.OpcodeIndex())
        builtin = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        name = self._builtins.get(builtin, f"BUILTIN_{builtin}")
        if name == _CUSTOM:
            # Two words: no custom operator is taken for a builtin one of its name.
            name = f"custom {_text(code.CustomCode())}"
        inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
        outputs = tuple(tensors[operator.Outputs(i)] for i in range(operator.OutputsLength()))
        kind, table = operator.BuiltinOptionsType(), operator.BuiltinOptions()
        options = self._schema.BuiltinOptionsCreator(kind, table) if kind and table else None
        return Operator(
            code=name,
            name=outputs[0].name if outputs else f"operator {number}",
            inputs=tuple(tensors[i] if i >= 0 else None for i in inputs),
            outputs=outputs,
            options_table=self._tables.get(kind, "") if options else "",
            options=dict(vars(options)) if options else {},
        )


def _values(
    content: bytes | NDArray[Any], dtype: str, shape: list[int]
) -> tuple[NDArray[Any] | None, str]:
    """A constant's array, or the reason why there is none."""
    count = math.prod(shape)
    if dtype in _PACKED:
        per_byte, signed = _PACKED[dtype]
        raw = np.frombuffer(content, dtype=np.uint8)
        if -(-count // per_byte) != raw.size or count < 0:
            return None, f"its {raw.size} bytes do not fill its shape {shape}"
        return _unpack(raw, per_byte, signed=signed)[:count].reshape(shape), ""
    if dtype not in _NUMPY:
        return None, f"its values are of type {dtype}"
    kind = np.dtype(dtype)
    if count < 0 or count * kind.itemsize != len(content):
        return None, f"its {len(content)} bytes do not fill its shape {shape}"
    return np.frombuffer(content, dtype=kind).reshape(shape), ""


def _unpack(raw: NDArray[np.uint8], per_byte: int, *, signed: bool) -> NDArray[Any]:
    """The values of packed bytes, the first in the lowest bits (TFLite: `UnpackDenseInt4`)."""
    bits = 8 // per_byte
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    parts: NDArray[np.uint8] = (raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    values = parts.reshape(-1)
    if not signed:
        return values
    half = np.uint8(1 << (bits - 1))
    return (values ^ half).astype(np.int8) - np.int8(half)


def _stored_type(dtype: str) -> str:
    if dtype in _PACKED:
        return "int8" if _PACKED[dtype][1] else "uint8"
    return dtype


def _quantization(tensor: Any, rank: int) -> tuple[Quantization | None, str]:
    found = tensor.Quantization()
    if found is None:
        return None, ""
    if found.DetailsType() != _AFFINE_DETAILS:
        return None, "its scales are of a kind that ONNX cannot say: blocks or a custom rule"
    count = found.ScaleLength()
    if not count:
        return None, ""
    scales = np.array([found.Scale(i) for i in range(count)], dtype=np.float32)
    points = [found.ZeroPoint(i) for i in range(found.ZeroPointLength())] or [0]
    axis = int(found.QuantizedDimension())
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        # Old converters write one zero for "not quantized".
        return (None, "") if count == 1 else (None, "its scales are not positive numbers")
    if count > 1 and not 0 <= axis < rank:
        return None, f"its scales run along axis {axis} of {rank}"
    zero_points = np.broadcast_to(np.array(points, dtype=np.int64), (count,))
    return Quantization(scales=scales, zero_points=zero_points, axis=axis), ""


def _members(enumeration: Any) -> dict[int, str]:
    # Python 3.13 adds __firstlineno__ to every class: an integer that means nothing here.
    return {
        value: name
        for name, value in vars(enumeration).items()
        if isinstance(value, int) and not name.startswith("_")
    }


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
