"""A digest of each constant that a model file stores, to tell two files' weights apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.model import Graph


def digest_constants(path: Path, graph: Graph) -> Mapping[str, str]:
    """A SHA-256 of the type, shape and bytes of every stored value of the outermost graph.

    Args:
        path: The file that `graph` was read from, which has checked it.
        graph: Its structure.

    Raises:
        UnsupportedModelError: If values do not fill their shapes, or the weights beside an ONNX
            file cannot be read.
        EnvironmentLackError: If the package that reads the format is not installed.
    """
    stored = _onnx(path) if graph.format is ModelFormat.ONNX else _tflite(path)
    return {
        name: hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()
        for name, kind, content in stored
    }


def _onnx(path: Path) -> Iterator[tuple[str, str, bytes]]:
    onnx: Any = require("onnx", extra="convert")
    try:
        graph = onnx.load_model(str(path)).graph
    except Exception as error:  # the loader of external data raises unrelated types
        raise _unreadable(path, "its weights", error) from error
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    tensors += [
        (node.output[0], attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for name, tensor in tensors:
        if tensor.data_type != onnx.TensorProto.STRING:
            try:
                array = onnx.numpy_helper.to_array(tensor)
            except Exception as error:  # numpy and protobuf raise unrelated types
                raise _unreadable(path, f"constant {name!r}", error) from error
            yield name, f"{array.dtype}{list(array.shape)}", array.tobytes()


def _unreadable(path: Path, what: str, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{what} cannot be read: {' '.join(str(error).split())[:200]}",
        where=str(path),
        fix="export or copy the model again, with the files beside it",
    )


def _tflite(path: Path) -> Iterator[tuple[str, str, bytes]]:
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="tflite")
    data = path.read_bytes()
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        buffer = model.Buffers(tensor.Buffer())
        if buffer.Offset() > 1:
            content = data[buffer.Offset() : buffer.Offset() + buffer.Size()]
        else:
            content = bytes(buffer.DataAsNumpy()) if buffer.DataLength() else b""
        if content:
            shape = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
            scales = tensor.Quantization()
            found = [scales.Scale(i) for i in range(scales.ScaleLength())] if scales else []
            name = tensor.Name()
            text = name.decode("utf-8", "replace") if name else f"tensor {index}"
            yield text, f"{tensor.Type()}{shape}{found}", content
