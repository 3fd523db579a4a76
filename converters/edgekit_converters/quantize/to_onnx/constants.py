"""The constants of a quantized ONNX model: weights as integers, and the nodes that read them.

What is new in the graph has short, numbered names: there may be a dozen for every weight, and in
a small model long ones would take more room than the integers save. The values themselves keep
the names that they had.
"""

from __future__ import annotations

import copy
from collections import ChainMap, Counter
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.body_constants import reads_of
from edgekit_converters.quantize.affine import WEIGHTS_INT4, pack_nibbles, quantize_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.affine import Affine


class Constants:
    """Adds initializers, and the nodes in front of a graph that turn them into floats."""

    def __init__(self, model: Any) -> None:
        """Wrap an `onnx.ModelProto`, which is changed in place."""
        graph = model.graph
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {*self._tensors, *_read_names(graph)}
        self._taken.update(value.name for value in (*graph.input, *graph.output))
        self._taken.update(name for node in graph.node for name in node.output)
        self._counts: dict[str, int] = {}
        self._arrays: MutableMapping[str, NDArray[Any]] = {}
        self._small: dict[tuple[object, ...], str] = {}
        # By the identity of the arrays: names of different bodies may be the same. An array that
        # is gone would leave its identity to another.
        self._alive: list[NDArray[Any]] = []
        self._stored: dict[tuple[object, ...], tuple[str, str, str]] = {}
        self._short: dict[tuple[object, ...], tuple[str, str]] = {}
        self._outputs: dict[tuple[str, ...], str] = {}
        self._tally: Counter[str] = Counter()
        self.nodes: list[Any] = []

    @property
    def stored_count(self) -> int:
        """How many constants are stored as integers."""
        return self._tally["stored"]

    @property
    def short_count(self) -> int:
        """How many of them with 4 bits."""
        return self._tally["short"]

    def inside(self, arrays: Mapping[str, NDArray[Any]], body: Any | None) -> Constants:
        """The same constants seen from inside of a node's body.

        Args:
            arrays: The initializers that the body has itself.
            body: Its `onnx.GraphProto`, if that is to hold the integers and what makes floats of
                them, which the view then has in its own `nodes`.
        """
        view = copy.copy(self)
        view._arrays = ChainMap(dict(arrays), self._arrays)
        if body is not None:
            view._graph = body
            view._small, view._stored, view._short, view._outputs = {}, {}, {}, {}
            view.nodes = []
        return view

    def array(self, name: str) -> NDArray[Any]:
        """The values of an initializer that the graph came with, or that `replace` added."""
        from onnx import numpy_helper

        if name not in self._arrays:
            self._arrays[name] = np.asarray(numpy_helper.to_array(self._tensors[name]))
        return self._arrays[name]

    def has(self, name: str) -> bool:
        """Whether `array` knows a name."""
        return name in self._tensors or name in self._arrays

    def replace(self, name: str, array: NDArray[Any]) -> str:
        """Add other values for an initializer, and return their name."""
        fresh = self._add(name, array)
        self._arrays[fresh] = array
        return fresh

    def name(self, kind: str) -> str:
        """A name that nothing has yet."""
        while True:
            count = self._counts.get(kind, 0)
            self._counts[kind] = count + 1
            name = f"{kind}_{count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def affine(self, affine: Affine) -> tuple[str, str]:
        """The names of constants for a scale and a zero point; equal ones are there once."""
        zeros = np.full(affine.scale.shape, affine.zero_point, affine.codes.dtype)
        return self._shared("scale", affine.scale), self._add("zero", zeros)

    def stored(self, name: str, affine: Affine, axis: int | None) -> tuple[str, str, str]:
        """Store an initializer as integers; the names of these, their scales and zero points.

        Args:
            name: Of the initializer, which stays as long as something reads it.
            affine: How to read the integers.
            axis: Where the channels are, if there is a scale for each.
        """
        array = self.array(name)
        key = (id(array), affine.scale.tobytes(), affine.zero_point, affine.codes, axis)
        if key not in self._stored:
            self._alive.append(array)
            self._tally["stored"] += 1
            integers = affine.integers(array, axis).astype(affine.codes.dtype)
            self._stored[key] = (self._add("weight", integers), *self.affine(affine))
        return self._stored[key]

    def dequantized(self, name: str, affine: Affine, axis: int | None) -> str:
        """Store an initializer as integers, and return the name of the floats made of them."""
        return self._dequantize(self.stored(name, affine, axis), axis=axis)

    def bias(self, name: str, scales: NDArray[np.float32]) -> str:
        """Store a vector as 32-bit integers, and return the name of the floats made of them."""
        reach = 2**31 - 1
        array = self.array(name).astype(np.float64)
        integers = np.clip(np.rint(array / scales.astype(np.float64)), -reach, reach)
        operands = (
            self._shared("bias", integers.astype(np.int32)),
            self._shared("scale", scales),
        )
        return self._dequantize(operands, axis=0 if scales.ndim else None)

    def nibbles(self, name: str, axis: int, block: int) -> str:
        """Store a matrix as 4-bit integers, and return the name of the floats made of them.

        Args:
            name: Of the initializer.
            axis: The one that is cut into blocks, each with a scale of its own.
            block: How many values share a scale.
        """
        from onnx import TensorProto, helper

        array = self.array(name)
        key = (id(array), axis, block)
        if key not in self._short:
            self._alive.append(array)
            self._tally.update(("stored", "short"))
            integers, scales = quantize_blocks(array, axis, block, WEIGHTS_INT4)
            stored = self.name("weight")
            self._graph.initializer.append(
                helper.make_tensor(
                    stored, TensorProto.INT4, integers.shape, pack_nibbles(integers), raw=True
                )
            )
            self._short[key] = (stored, self._shared("scale", scales))
        return self._dequantize(self._short[key], axis=axis, block_size=block)

    def drop_unread(self) -> None:
        """Remove the initializers that no node reads any more."""
        read = _read_names(self._graph) | {value.name for value in self._graph.output}
        for at in reversed(range(len(self._graph.initializer))):
            if self._graph.initializer[at].name not in read:
                del self._graph.initializer[at]

    def _add(self, kind: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self.name(kind)
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _shared(self, kind: str, array: NDArray[Any]) -> str:
        key = (kind, array.dtype.name, array.shape, array.tobytes())
        if key not in self._small:
            self._small[key] = self._add(kind, array)
        return self._small[key]

    def _dequantize(self, operands: tuple[str, ...], **attributes: Any) -> str:
        from onnx import helper

        key = (*operands, str(attributes))
        if key not in self._outputs:
            given = {name: value for name, value in attributes.items() if value is not None}
            self._outputs[key] = self.name("dequantized")
            self.nodes.append(
                helper.make_node("DequantizeLinear", operands, [self._outputs[key]], **given)
            )
        return self._outputs[key]


def _read_names(graph: Any) -> set[str]:
    names: set[str] = set()
    for node in graph.node:
        names |= reads_of(node)
    return names
