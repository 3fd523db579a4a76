"""What is known about the values of a graph before anything runs: shapes and small constants."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.onnx_source.tensors import type_name
from edgekit_converters.onnx_source.walk import Scope, bodies, label

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sizes = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The values that the nodes of one graph see.

    Attributes:
        shapes: None for a free size; a value of unknown rank is not there.
        types: ONNX's names of the element types.
        constants: Only those that the graph still holds; see `skeleton`.
    """

    shapes: Mapping[str, Sizes]
    types: Mapping[str, str]
    constants: Mapping[str, NDArray[Any]]

    def rank(self, name: str) -> int | None:
        """How many axes a value has, None where that is unknown."""
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)

    def integers(self, name: str) -> list[int] | None:
        """A constant of whole numbers as a flat list, None where it is computed."""
        array = self.constants.get(name)
        if array is None or array.dtype.kind not in "iu":
            return None
        return [int(item) for item in array.reshape(-1)]


def known_scopes(model: Any) -> Iterator[tuple[Scope, Known]]:
    """The model's graph and those inside its nodes, each with what is known in it.

    Args:
        model: With inferred shapes, as `onnx.shape_inference` leaves them.
    """
    nothing = Known(shapes={}, types={}, constants={})
    yield from _known(Scope(place="", body=model.graph), nothing)


def value_shape(value: Any) -> Sizes | None:
    """The shape that a `ValueInfoProto` declares, None where it declares none."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else None
        for dim in value.type.tensor_type.shape.dim
    )


def _known(scope: Scope, outer: Known) -> Iterator[tuple[Scope, Known]]:
    from onnx import numpy_helper

    graph = scope.body
    shapes: dict[str, Sizes] = {}
    types: dict[str, str] = {}
    constants: dict[str, NDArray[Any]] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shape = value_shape(value)
        if shape is not None:
            # In a branch that is never taken, inference may find sizes below zero.
            shapes[value.name] = tuple(None if s is None or s < 0 else s for s in shape)
        types[value.name] = type_name(value.type.tensor_type.elem_type)
    stored = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            stored += [(node.output[0], a.t) for a in node.attribute if a.HasField("t")]
    for name, tensor in stored:
        array = np.asarray(numpy_helper.to_array(tensor))
        shapes[name], constants[name] = array.shape, array
        types[name] = type_name(tensor.data_type)
    known = Known(
        shapes=ChainMap(shapes, dict(outer.shapes)),
        types=ChainMap(types, dict(outer.types)),
        constants=ChainMap(constants, dict(outer.constants)),
    )
    yield scope, known
    for node in graph.node:
        for attribute, body in bodies(node):
            place = f"the {attribute} of {label(node)}"
            yield from _known(Scope(place=place, body=body), known)
