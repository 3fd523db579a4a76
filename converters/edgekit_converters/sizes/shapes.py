"""Follow free sizes by name through a graph, where ONNX's own inference gives each a new name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekit_converters.sizes.arithmetic import MAX_ITEMS, SizeReader
from edgekit_converters.sizes.rules import Call, output_shapes
from edgekit_converters.sizes.size import Size, Sizes, number


def symbolic_shapes(model: Any) -> dict[str, Sizes]:
    """The shape of every value whose rank is known; an unknown size is None.

    Args:
        model: An `onnx.ModelProto` with inferred shapes. The names that it gives to free sizes of
            its inputs are trusted to mean one size each, as ONNX says.
    """
    return _Walk(model).shapes


def read_sizes(model: Any) -> tuple[dict[str, Sizes], SizeReader]:
    """The shapes as `symbolic_shapes` gives them, and what is known about tensors of sizes."""
    walk = _Walk(model)
    return walk.shapes, walk.sizes


class _Walk:
    """One pass over a graph in execution order."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        graph = model.graph
        self.sizes = SizeReader()
        self.shapes: dict[str, Sizes] = {}
        self._factors: dict[str, tuple[float, ...]] = {}
        self._inferred = {
            value.name: _named(value)
            for value in graph.value_info
            if value.type.tensor_type.HasField("shape")
        }
        for tensor in graph.initializer:
            self.shapes[tensor.name] = tuple(number(size) for size in tensor.dims)
            if len(tensor.dims) <= 1 and math.prod(tensor.dims) <= MAX_ITEMS:
                array = numpy_helper.to_array(tensor)
                self.sizes.learn_constant(tensor.name, array)
                if array.dtype.kind == "f":
                    self._factors[tensor.name] = tuple(array.reshape(-1).tolist())
        for value in graph.input:
            if value.type.tensor_type.HasField("shape"):
                self.shapes.setdefault(value.name, _named(value))
        outputs = {value.name: value for value in graph.output}
        for node in graph.node:
            self._visit(node, outputs)

    def _visit(self, node: Any, outputs: Mapping[str, Any]) -> None:
        for name in node.output:
            if name in self._inferred:
                self.shapes[name] = self._inferred[name]
            elif name in outputs and outputs[name].type.tensor_type.HasField("shape"):
                # What a file claims about its outputs: the numbers were checked by inference.
                self.shapes[name] = tuple(
                    size if size is not None and size.known else None
                    for size in _named(outputs[name])
                )
        call = Call(
            node=node,
            shapes=[self.shapes.get(name) if name else None for name in node.input],
            sizes=self.sizes,
            factors=self._factors,
        )
        for name, own in zip(node.output, output_shapes(call), strict=False):
            if own is not None and name:
                self.shapes[name] = _better(own, self.shapes.get(name))
        self.sizes.learn(node, self.shapes)


def _named(value: Any) -> Sizes:
    """A declared shape; a free size without a name is named after its place."""
    return tuple(
        number(dim.dim_value)
        if dim.HasField("dim_value")
        else Size(1, (dim.dim_param or f"{value.name}[{axis}]",))
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
    )


def _better(own: Sizes, inferred: Sizes | None) -> Sizes:
    """What is known from either; numbers first, then the names of this module."""
    if inferred is None or len(inferred) != len(own):
        return own
    return tuple(
        theirs if mine is None or (theirs is not None and theirs.known) else mine
        for mine, theirs in zip(own, inferred, strict=True)
    )
