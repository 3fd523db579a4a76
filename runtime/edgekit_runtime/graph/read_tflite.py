"""Read a TFLite file through LiteRT's own schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit_runtime.extras import require
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.model import Attribute, Graph, Operator, Tensor
from edgekit_runtime.graph.tflite_bounds import check_tflite_bytes
from edgekit_runtime.tensors import TensorQuantization, TensorSpec

_CUSTOM = "CUSTOM"
# Metadata entries are raw bytes; some hold a text, such as a version or JSON.
_TEXT_BYTES = 4096


def read_tflite(path: Path) -> Graph:
    """Read a TFLite model; see `edgekit_runtime.graph.read.read_graph` for the errors."""
    data = path.read_bytes()
    check_tflite_bytes(data, where=str(path))
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="tflite")
    model = schema.Model.GetRootAs(data)
    reader = _Reader(schema, model)
    main = model.Subgraphs(0)
    names = _unique_names(main)
    tensors = {name: reader.tensor(main.Tensors(i), name) for i, name in enumerate(names)}
    inner: list[Operator] = []
    for index in range(1, model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        inner += reader.operators(graph, _unique_names(graph))
    return Graph(
        format=ModelFormat.LITERT,
        version=model.Version(),
        opsets={},
        producer="",
        description=_text(model.Description()),
        metadata=reader.metadata(),
        inputs=tuple(
            reader.spec(main.Tensors(main.Inputs(i)), names[main.Inputs(i)])
            for i in range(main.InputsLength())
        ),
        outputs=tuple(
            reader.spec(main.Tensors(main.Outputs(i)), names[main.Outputs(i)])
            for i in range(main.OutputsLength())
        ),
        operators=tuple(reader.operators(main, names)),
        inner_operators=tuple(inner),
        tensors=tensors,
    )


class _Reader:
    """The parts of one model, turned into ours."""

    def __init__(self, schema: Any, model: Any) -> None:
        self._schema = schema
        self._model = model
        self._types = _names_of(schema.TensorType)
        self._builtins = _names_of(schema.BuiltinOperator)

    def metadata(self) -> dict[str, str]:
        entries = {}
        for index in range(self._model.MetadataLength()):
            entry = self._model.Metadata(index)
            buffer = self._model.Buffers(entry.Buffer())
            size = buffer.DataLength()
            words = bytes(buffer.DataAsNumpy()).rstrip(b"\0") if 0 < size <= _TEXT_BYTES else b""
            readable = words.isascii() and words.decode("ascii").isprintable() and words
            entries[_text(entry.Name())] = _text(words) if readable else f"{size} bytes"
        return entries

    def tensor(self, tensor: Any, name: str) -> Tensor:
        buffer = self._model.Buffers(tensor.Buffer())
        stored = buffer.DataLength() or (buffer.Size() if buffer.Offset() > 1 else 0)
        quantization = tensor.Quantization()
        return Tensor(
            name=name,
            dtype=self._dtype(tensor),
            shape=_shape(tensor),
            constant_bytes=stored or None,
            scales=quantization.ScaleLength() if quantization else 0,
        )

    def spec(self, tensor: Any, name: str) -> TensorSpec:
        quantization = tensor.Quantization()
        affine = None
        if quantization and quantization.ScaleLength() == 1:
            zero_point = quantization.ZeroPoint(0) if quantization.ZeroPointLength() else 0
            affine = TensorQuantization(
                scale=float(quantization.Scale(0)), zero_point=int(zero_point)
            )
        length = tensor.ShapeSignatureLength()
        signature = [tensor.ShapeSignature(i) for i in range(length)] or list(_shape(tensor))
        return TensorSpec(
            name=name,
            dtype=self._dtype(tensor),
            shape=tuple(None if size < 0 else size for size in signature),
            quantization=affine,
        )

    def operators(self, graph: Any, names: list[str]) -> list[Operator]:
        found = []
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            code = self._model.OperatorCodes(operator.OpcodeIndex())
            builtin = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
            kind = self._builtins.get(builtin, f"BUILTIN_{builtin}")
            custom = kind == _CUSTOM or builtin not in self._builtins
            outputs = [operator.Outputs(i) for i in range(operator.OutputsLength())]
            found.append(
                Operator(
                    type=_text(code.CustomCode()) or kind if custom else kind,
                    name=names[outputs[0]] if outputs else f"operator {index}",
                    inputs=tuple(
                        names[operator.Inputs(i)] if operator.Inputs(i) >= 0 else ""
                        for i in range(operator.InputsLength())
                    ),
                    outputs=tuple(names[i] for i in outputs),
                    attributes=self._attributes(operator),
                    custom=custom,
                    version=code.Version(),
                )
            )
        return found

    def _attributes(self, operator: Any) -> dict[str, Attribute]:
        options = self._schema.BuiltinOptionsCreator(
            operator.BuiltinOptionsType(), operator.BuiltinOptions()
        )
        values: dict[str, Attribute] = {}
        for name, value in vars(options).items() if options else ():
            if isinstance(value, bool | int | float):
                values[name] = value
            elif isinstance(value, bytes):
                values[name] = _text(value)
            elif value is not None:
                values[name] = tuple(int(item) for item in value)
        return values

    def _dtype(self, tensor: Any) -> str:
        return self._types.get(tensor.Type(), f"type{tensor.Type()}").lower()


def _names_of(enumeration: Any) -> dict[int, str]:
    # Python 3.13 adds __firstlineno__ to every class: an integer that means nothing here.
    return {
        value: name
        for name, value in vars(enumeration).items()
        if isinstance(value, int) and not name.startswith("_")
    }


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _unique_names(graph: Any) -> list[str]:
    """A name for each tensor; the file may leave names empty or use one twice."""
    names: list[str] = []
    taken: set[str] = set()
    for index in range(graph.TensorsLength()):
        name = _text(graph.Tensors(index).Name()) or f"tensor {index}"
        if name in taken:
            name = f"{name}#{index}"
        taken.add(name)
        names.append(name)
    return names
