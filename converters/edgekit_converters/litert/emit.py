"""Fifth stage: write a program as a TFLite flatbuffer, with the schema that LiteRT ships."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.options import write_options
from edgekit_converters.litert.types import tensor_type
from edgekit_converters.litert.versions import OLDEST_RUNTIME, first_runtime, operator_version
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit_converters.litert.program import Operator, Program, Tensor

SIGNATURE: Final = "serving_default"
_IDENTIFIER: Final = b"TFL3"
_SCHEMA_VERSION: Final = 3
# The kernels map weights where they lie; SIMD loads want them aligned, as TFLite's schema says.
_ALIGNMENT: Final = 16
_MAX_BYTES: Final = 2**31 - 1
# For all but the data of buffers; beyond it, the builder would copy what it has.
_SLACK_BYTES: Final = 1 << 26
# Older than the placeholder code; newer operators stand in `builtin_code` alone.
_LAST_BYTE_CODE: Final = 127
# Instead of a free size other than the batch, until the caller names the real one.
_ROOM: Final = 16
_VERSION_BUFFER_BYTES: Final = 16


def emit(
    program: Program, *, description: str, where: str, metadata: Mapping[str, bytes] | None = None
) -> bytes:
    """Write a program as the bytes of a `.tflite` file.

    Free sizes are -1 in the shape signature, and a small size otherwise; equal constants are stored
    once; the signature `serving_default` has the names of the inputs and outputs.

    Raises:
        UnsupportedModelError: If the file would pass 2 GiB, or a tensor's type does not exist.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    return b"".join(_emit(program, description, where, metadata or {}))


def emit_file(
    program: Program,
    path: Path,
    *,
    description: str,
    where: str,
    metadata: Mapping[str, bytes] | None = None,
) -> None:
    """Write a program to a file, as `emit` does; the weights are not copied for it."""
    with path.open("wb") as file:
        file.writelines(_emit(program, description, where, metadata or {}))


def _emit(
    program: Program, description: str, where: str, metadata: Mapping[str, bytes]
) -> Iterator[memoryview]:
    schema = require("ai_edge_litert.schema_py_generated", extra="convert")
    return _pieces(_Writer(schema, where).write(program, description, metadata))


class _Writer:
    """What the subgraphs of one file share: buffers and operator codes."""

    def __init__(self, schema: Any, where: str) -> None:
        self.schema = schema
        self.where = where
        self._model = schema.ModelT()
        self._model.buffers = [schema.BufferT()]
        self._model.subgraphs = []
        self._model.operatorCodes = []
        self._buffers: dict[bytes, int] = {}
        self._codes: dict[tuple[str, int], int] = {}
        self._newest = OLDEST_RUNTIME
        self._size = 0

    def write(self, program: Program, description: str, metadata: Mapping[str, bytes]) -> Any:
        """The `ModelT` of a program; the data of its buffers are arrays of any type and order."""
        model = self._model
        model.version = _SCHEMA_VERSION
        model.description = description
        self.add_subgraph(program)
        graph = model.subgraphs[0]
        model.signatureDefs = [self._signature(program, graph.inputs, graph.outputs)]
        model.metadata = [self._runtime_version()]
        model.metadata += [self._metadata(name, value) for name, value in metadata.items()]
        if self._size > _MAX_BYTES:
            raise UnsupportedModelError(
                "the converted model would be larger than 2 GiB", where=self.where
            )
        return model

    def add_subgraph(self, program: Program) -> int:
        """Write a program and the bodies in it, and return the subgraph's number."""
        number = len(self._model.subgraphs)
        subgraph = self.schema.SubGraphT()
        # Its number is taken before those of the bodies: the first is what the model runs.
        self._model.subgraphs.append(subgraph)
        _SubgraphWriter(self, subgraph).write(program)
        return number

    def code(self, operator: Operator) -> int:
        """The number of an operator's code."""
        key = (operator.code, operator_version(operator))
        if key not in self._codes:
            self._newest = max(self._newest, first_runtime(*key))
            self._codes[key] = len(self._model.operatorCodes)
            code = self.schema.OperatorCodeT()
            code.builtinCode = getattr(self.schema.BuiltinOperator, operator.code)
            # Readers from before 2020 look at the byte alone.
            code.deprecatedBuiltinCode = min(code.builtinCode, _LAST_BYTE_CODE)
            code.version = key[1]
            self._model.operatorCodes.append(code)
        return self._codes[key]

    def content(self, array: np.ndarray[Any, Any]) -> int:
        """The number of the buffer that holds these bytes."""
        digest = hashlib.sha256(_bytes_of(array)).digest()
        if digest not in self._buffers:
            self._buffers[digest] = len(self._model.buffers)
            # A number of numpy's is no array, and its type would be lost.
            self._add_buffer(np.asarray(array))
        return self._buffers[digest]

    def _add_buffer(self, data: np.ndarray[Any, Any]) -> int:
        buffer = self.schema.BufferT()
        buffer.data = data
        self._size += data.nbytes + _ALIGNMENT
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1

    def _signature(self, program: Program, inputs: list[int], outputs: list[int]) -> Any:
        return signature_def(
            self.schema,
            zip([tensor.name for tensor in program.inputs], inputs, strict=True),
            zip([tensor.name for tensor in program.outputs], outputs, strict=True),
        )

    def _runtime_version(self) -> Any:
        text = ".".join(str(part) for part in self._newest).encode()
        padded = text.ljust(_VERSION_BUFFER_BYTES, b"\0")
        return self._metadata("min_runtime_version", padded)

    def _metadata(self, name: str, value: bytes) -> Any:
        metadata = self.schema.MetadataT()
        metadata.name = name
        metadata.buffer = self._add_buffer(np.frombuffer(value, dtype=np.uint8))
        return metadata


class _SubgraphWriter:
    """One subgraph: its tensors have numbers of their own."""

    def __init__(self, writer: _Writer, subgraph: Any) -> None:
        self._writer = writer
        self._subgraph = subgraph
        self._tensors: list[Any] = []
        self._constants: dict[tuple[object, ...], int] = {}
        self._indices: dict[int, int] = {}

    def write(self, program: Program) -> None:
        subgraph = self._subgraph
        subgraph.name = program.name
        subgraph.inputs = [self._index(tensor) for tensor in program.inputs]
        for index in subgraph.inputs:
            _give_room(self._tensors[index])
        subgraph.operators = [self._operator(operator) for operator in program.operators]
        subgraph.outputs = [self._index(tensor) for tensor in program.outputs]
        subgraph.tensors = self._tensors

    def _operator(self, operator: Operator) -> Any:
        schema = self._writer.schema
        written = schema.OperatorT()
        written.opcodeIndex = self._writer.code(operator)
        written.inputs = [-1 if t is None else self._index(t) for t in operator.inputs]
        written.outputs = [self._index(tensor) for tensor in operator.outputs]
        bodies = {field: self._writer.add_subgraph(body) for field, body in operator.bodies.items()}
        write_options(schema, written, operator, bodies)
        return written

    def _index(self, tensor: Tensor) -> int:
        index = self._indices.get(id(tensor))
        if index is not None:
            return index
        key = None
        if tensor.data is not None:
            content = self._writer.content(tensor.data)
            key = (content, tensor.dtype, tensor.shape)
            if key in self._constants:
                return self._constants[key]
        index = len(self._tensors)
        self._tensors.append(self._tensor(tensor, 0 if key is None else key[0]))
        self._indices[id(tensor)] = index
        if key is not None:
            self._constants[key] = index
        return index

    def _tensor(self, tensor: Tensor, buffer: int) -> Any:
        schema = self._writer.schema
        written = schema.TensorT()
        written.type = getattr(schema.TensorType, tensor_type(tensor.dtype))
        written.name = tensor.name
        written.shape = [1 if size is None else size for size in tensor.shape]
        if None in tensor.shape:
            written.shapeSignature = [-1 if size is None else size for size in tensor.shape]
        written.hasRank = True
        written.buffer = buffer
        return written


def _give_room(tensor: Any) -> None:
    """Let an image of free height or a sequence of free length be long enough for windows.

    The runtime allocates with the sizes in the file before anyone can tell it the real ones, and
    refuses the model if these do not work. A free batch stays at one.
    """
    for axis, size in enumerate(tensor.shapeSignature or ()):
        if axis and size < 0:
            tensor.shape[axis] = _ROOM


def signature_def(schema: Any, inputs: Any, outputs: Any) -> Any:
    """A `SignatureDefT` from pairs of name and tensor index."""
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.subgraphIndex = 0
    for attribute, pairs in (("inputs", inputs), ("outputs", outputs)):
        maps = []
        for name, index in pairs:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, index
            maps.append(entry)
        setattr(signature, attribute, maps)
    return signature


def pack(model: Any) -> bytes:
    """Serialise a `ModelT`, every buffer aligned as the schema demands.

    Args:
        model: Its buffers' data are arrays, lists of bytes or None.
    """
    return b"".join(_pieces(model))


def _pieces(model: Any) -> Iterator[memoryview]:
    """The bytes of a `ModelT` in a row of pieces, the data of large buffers as they are."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    buffers = [_Buffer(schema, buffer.data) for buffer in model.buffers or []]
    builder = flatbuffers.Builder(0)
    size = sum(buffer.size + _ALIGNMENT for buffer in buffers) + _SLACK_BYTES
    # Its pages take no memory until they are written to, and those of the data never are.
    builder.Bytes = mmap.mmap(-1, size)
    builder.head = size
    model.buffers = buffers
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    view, done = memoryview(builder.Bytes), builder.Head()
    # Built from its end on: what was packed last comes first.
    for buffer in sorted(buffers, key=lambda buffer: -buffer.from_end):
        if buffer.size:
            start = len(view) - buffer.from_end
            yield view[done:start]
            yield _bytes_of(buffer.data)
            done = start + buffer.size
    yield view[done:]


class _Buffer:
    """A buffer that packs itself aligned, which generated code forgets, and without its data."""

    def __init__(self, schema: Any, data: Any) -> None:
        self._schema = schema
        if not isinstance(data, np.ndarray):
            data = np.asarray([] if data is None else data, dtype=np.uint8)
        self.data = data
        self.size = self.data.nbytes
        #: Where the data start, counted from the end of the file.
        self.from_end = 0

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the name that generated code calls
        schema = self._schema
        vector = None
        if self.size:
            builder.StartVector(1, self.size, _ALIGNMENT)
            builder.head = builder.Head() - self.size
            self.from_end = builder.Offset()
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """An array's bytes in C's order; a copy where they lie in another."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
