"""Refuse a damaged TFLite file before native code reads it: the engines trust every offset.

Two layers: each offset of the flatbuffer lies inside the file (`flatbuffer`), and each index in
it names something that exists, in an order that can be executed. It needs no numpy and no engine.

What it does not judge are the values inside constants, such as the bounds of a slice: kernels
check most of those and not all, so a file from a stranger is first run in a process of its own.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Final

from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.files import require_file
from edgekit_runtime.graph.flatbuffer import Buffer, FlatbufferWalk
from edgekit_runtime.graph.tflite_operands import operand_counts

_SMALLEST_BYTES: Final = 8
_IDENTIFIER: Final = b"TFL3"

# Slots of the schema's tables, in the order of tflite_layout.json.
_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS, _MODEL_METADATA = 1, 2, 4, 6
_MODEL_METADATA_BUFFER, _MODEL_SIGNATURES = 5, 7
_CODE_OLD, _CODE_NEW = 0, 3
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_QUANTIZATION, _TENSOR_VARIABLE = 0, 1, 2, 4, 5
_TENSOR_SIGNATURE, _TENSOR_EXTERNAL = 7, 10
_OP_CODE, _OP_INPUTS, _OP_OUTPUTS, _OP_OPTIONS_TYPE, _OP_OPTIONS, _OP_INTERMEDIATES = (
    0,
    1,
    2,
    3,
    4,
    8,
)
_OP_CUSTOM_OFFSET, _OP_CUSTOM_SIZE = 9, 10
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2

# Options whose fields name other subgraphs: union code -> slots.
_SUBGRAPH_SLOTS: Final = {16: (0,), 92: (0, 1), 93: (0, 1), 103: (0,)}
# Operators that divide by a stride, a filter size or a dilation: builtin code ->
# (union code of their options, slots that must be positive). An absent dilation means 1.
_DIVISORS: Final = {
    3: (1, ((1, 0), (2, 0), (4, 1), (5, 1))),  # CONV_2D
    4: (2, ((1, 0), (2, 0), (5, 1), (6, 1))),  # DEPTHWISE_CONV_2D
    1: (5, ((1, 0), (2, 0), (3, 0), (4, 0))),  # AVERAGE_POOL_2D
    17: (5, ((1, 0), (2, 0), (3, 0), (4, 0))),  # MAX_POOL_2D
    12: (5, ((1, 0), (2, 0), (3, 0), (4, 0))),  # L2_POOL_2D
    67: (49, ((1, 0), (2, 0))),  # TRANSPOSE_CONV
}
# Operators whose options say how many outputs they have: builtin code -> (union code, slot).
_PART_COUNTS: Final = {49: (35, 0), 102: (79, 0), 88: (64, 0)}  # SPLIT, SPLIT_V, UNPACK
_STRING: Final = 5
# CONCATENATION, HASHTABLE_LOOKUP, RESHAPE, SKIP_GRAM, CALL, CUSTOM, GATHER, TRANSPOSE, SQUEEZE,
# STRIDED_SLICE, SPLIT, SLICE, TILE, EXPAND_DIMS, PACK, UNPACK, FILL, SPLIT_V, GATHER_ND, IF, WHILE,
# BROADCAST_TO, HASHTABLE_FIND, READ_VARIABLE; other kernels take texts for numbers.
_MAY_WRITE_TEXT: Final = frozenset(
    {2, 10, 22, 30, 31, 32, 36, 39, 43, 45, 49, 65, 69, 70, 83, 88, 94, 102, 107, 118, 119, 130,
     137, 143}
)  # fmt: skip
_DEPTHWISE: Final = 4
_EIGHT_BITS: Final = frozenset({3, 9})  # UINT8, INT8
_PLACEHOLDER_CODE: Final = 127
# Bytes an element, by TensorType; types of other sizes (strings, packed 4-bit) are not here.
_ELEMENT_BYTES: Final = {
    0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 8: 8, 9: 1, 10: 8, 12: 8, 15: 4, 16: 2, 18: 2,
}  # fmt: skip
# By TensorType: UINT8, INT16, INT8.
_ZERO_POINT_RANGE: Final = {3: (0, 255), 7: (-(1 << 15), (1 << 15) - 1), 9: (-128, 127)}
_MAX_RANK: Final = 16


def check_tflite_bounds(path: Path) -> None:
    """Check that a TFLite file can be read by native code without leaving it.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If it is no TFLite file, is cut short, or contradicts itself.
    """
    require_file(path, kind="a .tflite model")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_tflite_bytes(data, where=str(path))


def check_tflite_bytes(data: Buffer, *, where: str) -> None:
    """Check a TFLite model in memory; see `check_tflite_bounds`."""
    if len(data) < _SMALLEST_BYTES or data[4:8] != _IDENTIFIER:
        raise UnsupportedModelError("this is no TFLite model", where=where)
    walk = FlatbufferWalk(data, where=where)
    model = walk.root()
    walk.verify(model, "Model")
    _ModelCheck(walk, model).run()


class _ModelCheck:
    """The checks of indices, over a file whose offsets are known to be sound."""

    def __init__(self, walk: FlatbufferWalk, model: int) -> None:
        self._walk = walk
        self._model = model
        self._codes = [
            max(walk.integer(code, _CODE_OLD, size=1), walk.integer(code, _CODE_NEW))
            for code in walk.children(model, _MODEL_CODES)
        ]
        self._buffers = [self._buffer_bytes(b) for b in walk.children(model, _MODEL_BUFFERS)]
        self._graphs = walk.children(model, _MODEL_SUBGRAPHS)
        self._calls: dict[int, set[int]] = {}

    def run(self) -> None:
        if not self._graphs:
            raise self._walk.damaged("it holds no graph")
        if not self._buffers:
            raise self._walk.damaged("it holds no buffers")
        for index, graph in enumerate(self._graphs):
            self._check_graph(index, graph)
        self._check_calls()
        for entry in self._walk.children(self._model, _MODEL_METADATA):
            self._in_range(
                self._walk.integer(entry, 1), len(self._buffers), "a metadata entry's buffer"
            )
        for index in self._walk.integers(self._model, _MODEL_METADATA_BUFFER):
            self._in_range(index, len(self._buffers), "a metadata buffer")
        for signature in self._walk.children(self._model, _MODEL_SIGNATURES):
            self._check_signature(signature)

    def _buffer_bytes(self, buffer: int) -> int:
        """The size of a buffer's content, inside the flatbuffer or behind it."""
        _, length = self._walk.vector(buffer, _BUFFER_DATA)
        offset = self._walk.integer(buffer, _BUFFER_OFFSET, size=8)
        # Offsets 0 and 1 mean "not stored behind the flatbuffer" (schema.fbs, table Buffer).
        if offset in {0, 1}:
            return length
        size = self._walk.integer(buffer, _BUFFER_SIZE, size=8)
        self._behind(offset, size, "a weight buffer")
        return size

    def _behind(self, offset: int, size: int, what: str) -> None:
        if offset < 0 or size < 0 or offset + size > self._walk.size:
            raise self._walk.damaged(f"{what} lies outside the file; is it cut short?")

    def _check_signature(self, signature: int) -> None:
        walk = self._walk
        graph = walk.integer(signature, 4)
        self._in_range(graph, len(self._graphs), "a signature's graph")
        _, tensors = walk.vector(self._graphs[graph], _GRAPH_TENSORS)
        for slot in (0, 1):
            for entry in walk.children(signature, slot):
                self._in_range(walk.integer(entry, 1), tensors, "a signature's tensor")

    def _check_graph(self, index: int, graph: int) -> None:
        walk = self._walk
        tensors = walk.children(graph, _GRAPH_TENSORS)
        ready = {n for n, tensor in enumerate(tensors) if self._check_tensor(n, tensor)}
        inputs = walk.integers(graph, _GRAPH_INPUTS)
        outputs = walk.integers(graph, _GRAPH_OUTPUTS)
        for tensor in (*inputs, *outputs):
            self._in_range(tensor, len(tensors), "an input or output of the graph")
        stored = {n for n, tensor in enumerate(tensors) if self._is_stored(tensor)}
        if index == 0 and not stored.isdisjoint(inputs):
            raise walk.damaged("an input of the graph is a stored constant")
        ready.update(inputs)
        for number, operator in enumerate(walk.children(graph, _GRAPH_OPERATORS)):
            name = f"operator {number} of graph {index}"
            self._check_options(operator, index, name)
            optional = walk.integers(operator, _OP_INPUTS)
            for tensor in (*optional, *walk.integers(operator, _OP_INTERMEDIATES)):
                self._in_range(tensor, len(tensors), f"a tensor of {name}", least=-1)
            for tensor in optional:
                if tensor >= 0 and tensor not in ready:
                    raise walk.damaged(
                        f"{name} reads tensor {tensor}, which nothing before it writes"
                    )
            produced = walk.integers(operator, _OP_OUTPUTS)
            self._check_operands(operator, optional, produced, name)
            self._check_bias(operator, tensors, optional, name)
            for tensor in produced:
                self._in_range(tensor, len(tensors), f"an output of {name}")
                if self._is_text(tensors[tensor]) and self._code(operator) not in _MAY_WRITE_TEXT:
                    raise walk.damaged(f"{name} writes texts, which it cannot")
                # Constants lie in the file itself, which is mapped for reading only.
                if tensor in stored:
                    raise walk.damaged(f"{name} writes tensor {tensor}, a stored constant")
            ready.update(produced)
        for tensor in outputs:
            if tensor not in ready:
                raise walk.damaged(f"output tensor {tensor} of graph {index} is never written")

    def _check_operands(
        self, operator: int, inputs: tuple[int, ...], outputs: tuple[int, ...], name: str
    ) -> None:
        walk = self._walk
        code = self._code(operator)
        counts = operand_counts().get(code)
        fault = counts.fault(inputs, outputs) if counts else ""
        if fault:
            raise walk.damaged(f"{name} {fault}")
        options = walk.child(operator, _OP_OPTIONS)
        kind, slot = _PART_COUNTS.get(code, (0, 0))
        if kind:
            right = walk.integer(operator, _OP_OPTIONS_TYPE, size=1) == kind
            parts = walk.integer(options, slot) if options and right else 0
            if parts != len(outputs):
                raise walk.damaged(f"{name} says {parts} parts and has {len(outputs)} outputs")

    def _check_bias(
        self, operator: int, tensors: list[int], inputs: tuple[int, ...], name: str
    ) -> None:
        """LiteRT 2.3 adds the bias of an 8-bit depthwise convolution without asking for it."""
        # Input, filter, bias.
        if self._code(operator) == _DEPTHWISE and len(inputs) < 3:  # noqa: PLR2004
            kind = self._walk.integer(tensors[inputs[0]], _TENSOR_TYPE, size=1)
            if kind in _EIGHT_BITS:
                raise self._walk.damaged(f"{name} is an 8-bit DEPTHWISE_CONV_2D without a bias")

    def _code(self, operator: int) -> int:
        return self._codes[self._walk.integer(operator, _OP_CODE)]

    def _is_text(self, tensor: int) -> bool:
        return self._walk.integer(tensor, _TENSOR_TYPE, size=1) == _STRING

    def _is_stored(self, tensor: int) -> bool:
        return self._buffers[self._walk.integer(tensor, _TENSOR_BUFFER)] > 0

    def _check_tensor(self, number: int, tensor: int) -> bool:
        """Check one tensor; True where it has a value before any operator ran."""
        walk = self._walk
        buffer = walk.integer(tensor, _TENSOR_BUFFER)
        self._in_range(buffer, len(self._buffers), f"the buffer of tensor {number}")
        shape = walk.integers(tensor, _TENSOR_SHAPE)
        signature = walk.integers(tensor, _TENSOR_SIGNATURE)
        if len(shape) > _MAX_RANK or any(size < -1 for size in (*shape, *signature)):
            raise walk.damaged(f"tensor {number} has an impossible shape")
        held = self._buffers[buffer]
        element = _ELEMENT_BYTES.get(walk.integer(tensor, _TENSOR_TYPE, size=1))
        sparse = bool(walk.field(tensor, 6))
        if held and element and not sparse and -1 not in shape:
            needed = math.prod(shape) * element
            if needed != held:
                raise walk.damaged(f"tensor {number} needs {needed} bytes and has {held}")
        self._check_quantization(number, tensor, shape)
        return bool(
            held
            or walk.integer(tensor, _TENSOR_VARIABLE, size=1)
            or walk.integer(tensor, _TENSOR_EXTERNAL)
            or 0 in shape
        )

    def _check_quantization(self, number: int, tensor: int, shape: tuple[int, ...]) -> None:
        walk = self._walk
        quantization = walk.child(tensor, _TENSOR_QUANTIZATION)
        if not quantization:
            return
        _, scales = walk.vector(quantization, 2)
        zero_points = walk.integers(quantization, 3, size=8)
        axis = walk.integer(quantization, 6)
        # An axis that does not exist is refused by the engine itself, with its own reason.
        if scales > 1 and 0 <= axis < len(shape) and shape[axis] != scales:
            raise walk.damaged(
                f"tensor {number} has {scales} scales along an axis of {shape[axis]}"
            )
        if len(zero_points) not in {0, 1, scales}:
            raise walk.damaged(
                f"tensor {number} has {scales} scales and {len(zero_points)} zero points"
            )
        # Kernels index lookup tables by the zero point.
        kind = walk.integer(tensor, _TENSOR_TYPE, size=1)
        least, most = _ZERO_POINT_RANGE.get(kind, (-(1 << 31), (1 << 31) - 1))
        if any(not least <= value <= most for value in zero_points):
            raise walk.damaged(f"tensor {number} has a zero point outside its type")

    def _check_options(self, operator: int, graph: int, name: str) -> None:
        walk = self._walk
        code = walk.integer(operator, _OP_CODE)
        self._in_range(code, len(self._codes), f"the type of {name}")
        kind = walk.integer(operator, _OP_OPTIONS_TYPE, size=1)
        options = walk.child(operator, _OP_OPTIONS)
        offset = walk.integer(operator, _OP_CUSTOM_OFFSET, size=8)
        if offset > 1:
            size = walk.integer(operator, _OP_CUSTOM_SIZE, size=8)
            self._behind(offset, size, f"the options of {name}")
        for slot in _SUBGRAPH_SLOTS.get(kind, ()) if options else ():
            target = walk.integer(options, slot)
            self._in_range(target, len(self._graphs), f"the graph that {name} calls")
            self._calls.setdefault(graph, set()).add(target)
        if self._codes[code] not in _DIVISORS:
            return
        wanted, slots = _DIVISORS[self._codes[code]]
        if kind != wanted or not options:
            raise walk.damaged(f"{name} lacks its strides")
        for slot, default in slots:
            if walk.integer(options, slot, default=default) < 1:
                raise walk.damaged(f"{name} has a stride, filter size or dilation below 1")

    def _check_calls(self) -> None:
        """Refuse graphs that call each other in a circle: an engine would never come back."""
        done: set[int] = set()
        for start in self._calls:
            path: list[int] = []
            waiting = [(start, False)]
            while waiting:
                graph, left = waiting.pop()
                if left:
                    path.remove(graph)
                    done.add(graph)
                    continue
                if graph in path:
                    raise self._walk.damaged("its graphs call each other in a circle")
                if graph in done:
                    continue
                path.append(graph)
                waiting.append((graph, True))
                waiting.extend((target, False) for target in self._calls.get(graph, ()))

    def _in_range(self, index: int, count: int, what: str, *, least: int = 0) -> None:
        if not least <= index < count:
            raise self._walk.damaged(f"{what} is number {index}, of {count}")
