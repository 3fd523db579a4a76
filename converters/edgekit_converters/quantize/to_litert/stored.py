"""Weights of a LiteRT graph in fewer bits, read as floats or by kernels that mix the two."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.half.limits import misfit
from edgekit_converters.litert.model_file import text_of
from edgekit_converters.quantize.affine import (
    WEIGHTS_INT4,
    WEIGHTS_INT8,
    Codes,
    pack_nibbles,
    weight_affine,
    weight_scales,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.to_litert.flat import FlatGraph
    from edgekit_converters.quantize.to_litert.operators import Release


class Storage(Enum):
    """How weights are kept."""

    HALF = auto()
    """In float16, read as floats: those of all operators but biases, which are small."""
    INT8 = auto()
    """In 8 bits with a scale a channel, read as floats."""
    INT4 = auto()
    """Those of dense layers in 4 bits, others in 8."""
    DYNAMIC = auto()
    """In 8 bits, multiplied by kernels that quantize activations as they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What was stored.

    Attributes:
        constants: How many constants.
        short: How many of them with 4 bits.
        dynamic: How many operators multiply in integers.
        readers: What the operators make that read floats of stored weights, by name.
        left: What stayed float32, and why.
    """

    constants: int
    short: int
    dynamic: int
    readers: tuple[str, ...]
    left: tuple[str, ...]


# Position and axis of the channels; a BATCH_MATMUL's depends on how it reads its factor.
_WEIGHTS: Final = {
    "CONV_2D": (1, 0),
    "DEPTHWISE_CONV_2D": (1, 3),
    "FULLY_CONNECTED": (1, 0),
    "TRANSPOSE_CONV": (1, 0),
}
# The version whose kernels take integer weights beside floats, a scale a channel each. Older
# engines take such a file for one with a single scale, unless the version tells them not to. A
# convolution has such kernels too, 40 times slower than those for floats.
_DYNAMIC: Final[dict[str, tuple[int, Release]]] = {"FULLY_CONNECTED": (12, (2, 17, 0))}
_DEQUANTIZE: Final[dict[str, tuple[int, Release]]] = {
    "float16": (3, (1, 15, 0)),
    "int8": (5, (2, 7, 0)),
    "int4": (6, (2, 18, 0)),
}
_PER_CHANNEL_BYTES: Final = 12
_PER_CONSTANT_BYTES: Final = 150
_SAVED_BYTES: Final = 3
_SAVED_BY_HALVES: Final = 2
_MATRIX: Final = 2


def store_weights(graph: FlatGraph, storage: Storage, *, skip: Collection[int] = ()) -> Stored:
    """Keep the weights of a graph in fewer bits, in place.

    Args:
        graph: A graph of a model; its operators get others in front of them.
        storage: How to keep them.
        skip: The identities of the operators that stay as they are.
    """
    writer = _Writer(graph, storage)
    written: list[Any] = []
    for operator in graph.operators:
        if id(operator) not in skip:
            written += writer.in_front(operator)
        written.append(operator)
        written += writer.behind
        writer.behind = []
    graph.operators = written
    return Stored(
        constants=len(writer.stored),
        short=writer.short,
        dynamic=writer.dynamic,
        readers=tuple(writer.readers),
        left=tuple(writer.left),
    )


class _Writer:
    def __init__(self, graph: FlatGraph, storage: Storage) -> None:
        self._graph = graph
        self._storage = storage
        self.stored: dict[tuple[int, str], int] = {}
        self._floats: dict[int, int] = {}
        self.short = 0
        self.dynamic = 0
        self.readers: list[str] = []
        self.left: dict[str, None] = {}
        self.behind: list[Any] = []

    def in_front(self, operator: Any) -> list[Any]:
        """Change what an operator reads, and return what has to come before it."""
        code = self._graph.flat.code_of(operator)
        if self._storage is Storage.HALF:
            return [] if code == "CUSTOM" else self._read_halves(operator)
        if code == "GATHER":
            return self._pick(operator)
        found = self._weights_of(code, operator)
        if found is None:
            return []
        at, axis = found
        number = operator.inputs[at]
        if not self._saves(number, axis):
            return []
        if self._storage is Storage.DYNAMIC and code in _DYNAMIC:
            operator.inputs[at] = self._integers(number, axis, WEIGHTS_INT8)
            operator.opcodeIndex = self._graph.flat.code(code, *_DYNAMIC[code])
            # Activations use all 256 integers, wherever their zero lies.
            operator.builtinOptions.asymmetricQuantizeInputs = True
            self.dynamic += 1
            return []
        short = self._storage is Storage.INT4 and code == "FULLY_CONNECTED"
        codes = WEIGHTS_INT4 if short else WEIGHTS_INT8
        return self._read_floats(operator, at, self._integers(number, axis, codes), codes.dtype)

    def _weights_of(self, code: str, operator: Any) -> tuple[int, int] | None:
        """The position of an operator's constant weights, and the axis of their channels."""
        graph = self._graph
        if code == "BATCH_MATMUL":
            at = next((a for a in (1, 0) if graph.array(operator.inputs[a]) is not None), -1)
            options = operator.builtinOptions
            turned = options.adjY if at == 1 else options.adjX
            rank = len(graph.shape(operator.inputs[at]))
            axis = rank - 1 if (at == 1) != bool(turned) else rank - 2
        elif code in _WEIGHTS:
            at, axis = _WEIGHTS[code]
        else:
            return None
        array = graph.array(operator.inputs[at]) if at >= 0 else None
        known = array is not None and array.dtype == np.float32 and array.ndim >= _MATRIX
        return (at, axis) if known else None

    def _read_halves(self, operator: Any) -> list[Any]:
        """Let an operator read halves: any constant that may as well be computed."""
        added = []
        for at, number in enumerate(operator.inputs):
            array = self._graph.array(number)
            if array is None or array.dtype != np.float32 or array.ndim < _MATRIX:
                continue
            if _SAVED_BY_HALVES * array.size > _PER_CONSTANT_BYTES:
                added += self._read_floats(operator, at, self._halves(number), "float16")
        return added

    def _read_floats(self, operator: Any, at: int, stored: int | None, dtype: str) -> list[Any]:
        """Let an operator read what a DEQUANTIZE makes of a stored constant."""
        if stored is None:
            return []
        self.readers.append(text_of(self._graph.tensors[operator.outputs[0]].name))
        if stored in self._floats:
            operator.inputs[at] = self._floats[stored]
            return []
        floats = self._graph.derive(operator.inputs[at], "float", "float32")
        operator.inputs[at] = self._floats[stored] = floats
        version, needs = _DEQUANTIZE[dtype]
        return [self._graph.operator("DEQUANTIZE", version, needs, [stored], [floats])]

    def _pick(self, operator: Any) -> list[Any]:
        """Let a GATHER pick integers of a table, and make floats of those alone."""
        number, output = operator.inputs[0], operator.outputs[0]
        table = self._graph.array(number)
        options = operator.builtinOptions
        plain = options is None or (options.axis == 0 and options.batchDims == 0)
        if table is None or table.dtype != np.float32 or table.ndim < _MATRIX or not plain:
            return []
        if not self._saves(number, table.ndim - 1):
            return []
        # One scale for all: what is picked has no room in the file for more.
        scales = weight_scales(table, None, WEIGHTS_INT8)
        affine = weight_affine(scales, WEIGHTS_INT8)
        key = (number, "table")
        if key not in self.stored:
            content = affine.integers(table).astype(np.int8).tobytes()
            self.stored[key] = self._graph.constant(number, "quantized", "int8", content)
            self._graph.describe(self.stored[key], affine)
        picked = self._graph.derive(output, "quantized", "int8")
        self._graph.describe(picked, affine)
        operator.inputs[0], operator.outputs[0] = self.stored[key], picked
        version = max(2, self._graph.flat.version_of(operator))
        operator.opcodeIndex = self._graph.flat.code("GATHER", version, (1, 14, 0))
        self.behind = [self._graph.operator("DEQUANTIZE", 2, (1, 14, 0), [picked], [output])]
        return []

    def _integers(self, number: int, axis: int, codes: Codes) -> int:
        key = (number, codes.dtype)
        if key not in self.stored:
            array = self._array(number)
            short = codes is WEIGHTS_INT4
            scales = weight_scales(array, axis, codes, search=short)
            affine = weight_affine(scales, codes)
            integers = affine.integers(array, axis)
            content = pack_nibbles(integers) if short else integers.astype(np.int8).tobytes()
            self.stored[key] = self._graph.constant(number, "quantized", codes.dtype, content)
            self._graph.describe(self.stored[key], affine, axis)
            self.short += short
        return self.stored[key]

    def _halves(self, number: int) -> int | None:
        key = (number, "float16")
        if key not in self.stored:
            array = self._array(number)
            reason = misfit(array)
            if reason:
                name = text_of(self._graph.tensors[number].name)
                self.left[f"{name!r} stays float32: {reason}"] = None
                return None
            content = array.astype(np.float16).tobytes()
            self.stored[key] = self._graph.constant(number, "half", "float16", content)
        return self.stored[key]

    def _array(self, number: int) -> NDArray[np.float32]:
        return np.asarray(self._graph.array(number), np.float32)

    def _saves(self, number: int, axis: int) -> bool:
        array = self._array(number)
        tables = _PER_CHANNEL_BYTES * array.shape[axis] + _PER_CONSTANT_BYTES
        return bool(_SAVED_BYTES * array.size > tables)
