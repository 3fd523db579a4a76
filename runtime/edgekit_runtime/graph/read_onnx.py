"""Read an ONNX file, with the shapes that ONNX's own inference finds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from edgekit_runtime.engines.checks import describe
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.extras import require
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.model import Attribute, Graph, Operator, Tensor, element_bits
from edgekit_runtime.tensors import TensorSpec

_STANDARD: Final = ("", "ai.onnx", "ai.onnx.ml")
_DTYPES: Final = {"float": "float32", "double": "float64"}
_EXTERNAL: Final = 1
_FIRST_IR_WITH_OPSETS: Final = 3


def read_onnx(path: Path, *, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """Read an ONNX model; see `edgekit_runtime.graph.read.read_graph` for the errors."""
    onnx: Any = require("onnx", extra="convert")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's parsers raise unrelated types
        raise _damaged(path, "it cannot be parsed; is it cut short?") from error
    graph = model.graph
    if not graph.node or not graph.output:
        raise _damaged(path, "it holds no graph; is it cut short?")
    # Written behind the graph by most exporters, and required since IR version 3.
    if not model.opset_import and model.ir_version >= _FIRST_IR_WITH_OPSETS:
        raise _damaged(path, "it names no operator set; is it cut short?")
    _check_order(graph, path)
    reader = _Reader(onnx, path)
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    specs = tuple(reader.spec(value) for value in inputs)
    outputs = tuple(reader.spec(value) for value in graph.output)
    assumptions = _bind_inputs(inputs, specs, shapes, path)
    constants = reader.constants(graph)
    inferred = reader.infer(model)
    tensors = {name: t for name, t in reader.values(inferred.graph) if name not in constants}
    inner = [o for node in graph.node for body in reader.bodies(node) for o in body]
    return Graph(
        format=ModelFormat.ONNX,
        version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        description=model.doc_string,
        metadata={entry.key: entry.value for entry in model.metadata_props},
        inputs=specs,
        outputs=outputs,
        operators=tuple(reader.operator(node) for node in graph.node),
        inner_operators=tuple(inner),
        tensors=tensors | constants,
        external_bytes=sum(file.stat().st_size for file in reader.external),
        assumptions=assumptions,
    )


class _Reader:
    """The parts of one model, turned into ours."""

    def __init__(self, onnx: Any, path: Path) -> None:
        self._onnx = onnx
        self._path = path
        self.external: set[Path] = set()

    def infer(self, model: Any) -> Any:
        """The model with the shapes that inference finds; as it is where inference fails."""
        # Outputs that declare a free batch would contradict the bound inputs.
        for value in model.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        try:
            return self._onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # noqa: BLE001 - a custom operator or an odd model; shapes stay unknown
            return model

    def constants(self, graph: Any) -> dict[str, Tensor]:
        """The stored values, each with its size checked against its shape."""
        found = {}
        nodes = [n for n in graph.node if n.op_type == "Constant" and n.output]
        stored = [(tensor.name, tensor) for tensor in graph.initializer]
        for node in nodes:
            stored += [
                (node.output[0], a.t)
                for a in node.attribute
                if a.name == "value" and a.HasField("t")
            ]
        for name, tensor in stored:
            dtype = self._dtype(tensor.data_type)
            shape = tuple(tensor.dims)
            if any(size < 0 for size in shape):
                raise _damaged(self._path, f"constant {name!r} has an impossible shape")
            size = (math.prod(shape) * element_bits(dtype) + 7) // 8
            if tensor.data_location == _EXTERNAL:
                self._check_external(tensor, name)
            elif tensor.raw_data and len(tensor.raw_data) != size:
                raise _damaged(
                    self._path,
                    f"constant {name!r} needs {size} bytes and has {len(tensor.raw_data)}",
                )
            found[name] = Tensor(name=name, dtype=dtype, shape=shape, constant_bytes=size)
        return found

    def values(self, graph: Any) -> Iterable[tuple[str, Tensor]]:
        """Every tensor that is computed, with its inferred shape."""
        for value in (*graph.input, *graph.value_info, *graph.output):
            spec = self.spec(value)
            known = not value.type.HasField("tensor_type") or value.type.tensor_type.HasField(
                "shape"
            )
            shape = spec.shape if known else None
            yield value.name, Tensor(name=value.name, dtype=spec.dtype, shape=shape)

    def spec(self, value: Any) -> TensorSpec:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            return TensorSpec(name=value.name, dtype=(kind or "unknown"), shape=())
        tensor = value.type.tensor_type
        shape = tuple(
            axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
            for axis in tensor.shape.dim
        )
        return TensorSpec(name=value.name, dtype=self._dtype(tensor.elem_type), shape=shape)

    def operator(self, node: Any) -> Operator:
        attributes = {}
        for attribute in node.attribute:
            value = self._attribute(attribute)
            if value is not None:
                attributes[attribute.name] = value
        return Operator(
            type=node.op_type,
            name=node.name or (node.output[0] if node.output else node.op_type),
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes=attributes,
            custom=node.domain not in _STANDARD,
        )

    def bodies(self, node: Any) -> Iterable[list[Operator]]:
        """The operators of each graph inside a node, and of the graphs inside those."""
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else []
            for body in (*graphs, *attribute.graphs):
                yield [self.operator(inner) for inner in body.node]
                for inner in body.node:
                    yield from self.bodies(inner)

    def _attribute(self, attribute: Any) -> Attribute | None:
        kinds = self._onnx.AttributeProto
        value: Attribute | None = None
        match attribute.type:
            case kinds.INT:
                value = int(attribute.i)
            case kinds.FLOAT:
                value = float(attribute.f)
            case kinds.STRING:
                value = _text(attribute.s)
            case kinds.INTS:
                value = tuple(attribute.ints)
            case kinds.FLOATS:
                value = tuple(attribute.floats)
            case kinds.STRINGS:
                value = tuple(_text(text) for text in attribute.strings)
        return value

    def _check_external(self, tensor: Any, name: str) -> None:
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        folder = self._path.resolve().parent
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder) or not file.is_file():
            raise UnsupportedModelError(
                f"the weights of {name!r} are in another file, {location!r}, which is not there",
                where=str(self._path),
                fix="copy that file beside the model",
            )
        self.external.add(file)

    def _dtype(self, code: int) -> str:
        try:
            name = str(self._onnx.TensorProto.DataType.Name(code)).lower()
        except ValueError as error:
            raise _damaged(self._path, f"it uses an unknown element type, {code}") from error
        return _DTYPES.get(name, name)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _bind_inputs(
    values: list[Any],
    specs: tuple[TensorSpec, ...],
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
) -> tuple[str, ...]:
    """Write the given sizes into the inputs' free axes; returns what had to be assumed."""
    unknown = [name for name in shapes if name not in {spec.name for spec in specs}]
    if unknown:
        raise UsageError(
            f"the model has no input {', '.join(map(repr, unknown))}",
            where=str(path),
            fix=f"its inputs are {', '.join(spec.name for spec in specs)}",
        )
    assumptions = []
    for value, spec in zip(values, specs, strict=True):
        given = shapes.get(spec.name)
        if given is not None and not _fits(given, spec.shape):
            raise UsageError(
                f"shape {list(given)} does not fit input {spec.name!r}",
                where=str(path),
                fix=f"the model takes {describe(spec.shape)}",
            )
        for axis, size in enumerate(spec.shape):
            if size is not None:
                continue
            if given is not None:
                value.type.tensor_type.shape.dim[axis].dim_value = given[axis]
            elif axis == 0:
                value.type.tensor_type.shape.dim[axis].dim_value = 1
                assumptions.append(f"the free first axis of input {spec.name!r} is taken as 1")
    return tuple(assumptions)


def _fits(given: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(given) == len(shape) and all(
        size > 0 and wanted in (None, size) for size, wanted in zip(given, shape, strict=True)
    )


def _check_order(graph: Any, path: Path) -> None:
    """Refuse operators that read what nothing before them writes, or write a value twice."""
    ready = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    ready |= {tensor.values.name for tensor in graph.sparse_initializer} | {""}
    written = {name for node in graph.node for name in node.output}
    faults = []
    for node in graph.node:
        label = f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
        for name in node.input:
            if name not in ready:
                reason = "runs before its input is made, or in a circle" if name in written else ""
                faults.append(f"{label} {reason or 'reads what nothing makes'} ({name!r})")
        for name in node.output:
            if name and name in ready:
                faults.append(f"{label} writes {name!r} a second time")
            ready.add(name)
    faults += [f"output {v.name!r} is never made" for v in graph.output if v.name not in ready]
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if faults[5:] else "")
        raise _damaged(path, shown)


def _damaged(path: Path, text: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"this ONNX file is damaged: {text}",
        where=str(path),
        fix="export or copy the model again",
    )
