"""A model as a graph of operators and tensors, the same for ONNX and TFLite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.tensors import TensorSpec

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

_BITS = {
    "bool": 8, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "bfloat16": 16,
    "complex64": 64, "complex128": 128, "float8": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A value that flows through the graph, or a constant.

    Attributes:
        name: Unique in the graph.
        dtype: A numpy type name, or the format's own word for a type that numpy lacks.
        shape: One entry an axis, None where the size is not known; None for no shape at all.
        constant_bytes: The size of its stored value; None where it is computed at run time.
        scales: How many quantization scales it has: 0 for none, 1 per tensor, more per channel.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    constant_bytes: int | None = None
    scales: int = 0

    @property
    def elements(self) -> int | None:
        """How many numbers it holds, or None where an axis is not known."""
        if self.shape is None:
            return None
        sizes = [size for size in self.shape if size is not None]
        return math.prod(sizes) if len(sizes) == len(self.shape) else None

    @property
    def bytes(self) -> int | None:
        """Its size in memory, or None where an axis is not known."""
        elements = self.elements
        return None if elements is None else (elements * element_bits(self.dtype) + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One step of the graph.

    Attributes:
        type: The format's word: "Conv", "CONV_2D"; a custom operator's own name.
        name: For people; not always unique.
        inputs: Tensor names; empty text where an optional input is left out.
        outputs: Tensor names.
        attributes: Numbers, texts and lists of them; tensors and subgraphs are left out.
        custom: Whether it lies outside the format's own operator set.
        version: TFLite's version of the operator; ONNX has the operator set's.
    """

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    custom: bool = False
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A model file, read.

    Attributes:
        format: ONNX or TFLite.
        version: ONNX's IR version, or TFLite's schema version.
        opsets: ONNX's operator set version by domain ("ai.onnx" is the standard one); empty
            for TFLite.
        producer: The program that says it wrote the file, or empty.
        description: The file's own words about itself, or empty.
        metadata: The file's own key-value pairs; TFLite's binary entries by name and size.
        inputs: What the model takes.
        outputs: What the model gives.
        operators: In the order of execution.
        inner_operators: Those inside the bodies of conditions, loops and calls.
        tensors: By name, of the outermost graph.
        external_bytes: The size of the files beside it that hold weights.
        assumptions: What had to be assumed about free axes to know the other shapes.
    """

    format: ModelFormat
    version: int
    opsets: Mapping[str, int]
    producer: str
    description: str
    metadata: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[Operator, ...]
    inner_operators: tuple[Operator, ...]
    tensors: Mapping[str, Tensor]
    external_bytes: int = 0
    assumptions: tuple[str, ...] = ()

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The shape of a tensor, or None where it is not known."""
        tensor = self.tensors.get(name)
        return tensor.shape if tensor else None

    def elements(self, names: Sequence[str]) -> int | None:
        """The sum of the sizes of some tensors, or None where one is not known."""
        total = 0
        for name in names:
            tensor = self.tensors.get(name)
            count = tensor.elements if tensor else None
            if count is None:
                return None
            total += count
        return total


def element_bits(dtype: str) -> int:
    """The size of one number of a type, in bits."""
    if dtype in _BITS:
        return _BITS[dtype]
    digits = "".join(character for character in dtype if character.isdigit())
    return int(digits) if digits else 8
