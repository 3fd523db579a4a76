"""An ONNX graph as plain data: what the converter's stages read, free of protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor that flows through the graph.

    Attributes:
        name: As the ONNX file names it.
        dtype: A numpy type name, or "" where inference could not tell.
        shape: One entry an axis, None where the size is free; None where the rank is unknown.
        container: "sequence" or "optional" where the value is not a tensor itself; the type and
            shape are those of the tensors in it.
    """

    name: str
    dtype: str
    shape: Shape | None
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator of the graph.

    Attributes:
        op: The operator's type, with its domain in front where that is not ONNX's own.
        name: The node's name, or its first output's where it has none.
        inputs: Value names, "" for an optional input that is left out.
        outputs: Value names, "" for an optional output that is left out.
        attributes: Python values: int, float, str, tuples of these, arrays, or a `Graph`.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        return str(self.attributes.get(name, default))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of integers, or None where the attribute is absent."""
        found = self.attributes.get(name)
        return None if found is None else tuple(int(item) for item in found)

    def reads(self) -> set[str]:
        """What the node reads, and what all bodies in it read."""
        names = set(self.inputs)
        for body in self.attributes.values():
            if isinstance(body, Graph):
                names.update(body.outputs)
                for node in body.nodes:
                    names |= node.reads()
        return names

    def input(self, position: int) -> str:
        """The name of an input, "" where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes in execution order, and everything that is known about their values."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    constants: Mapping[str, NDArray[Any]]

    def shape(self, name: str) -> Shape | None:
        """The shape of a value or constant, None where its rank is unknown."""
        constant = self.constants.get(name)
        if constant is not None:
            return constant.shape
        value = self.values.get(name)
        return value.shape if value else None

    def dtype(self, name: str) -> str:
        """The numpy type name of a value or constant, "" where it is unknown."""
        constant = self.constants.get(name)
        if constant is not None:
            return constant.dtype.name
        value = self.values.get(name)
        return value.dtype if value else ""

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read a value, themselves or in a body."""
        return tuple(node for node in self.nodes if name in node.reads())


def read_graph(model: Any) -> Graph:
    """Read an `onnx.ModelProto` whose shapes are inferred into plain data."""
    return _graph(model.graph)


def _graph(proto: Any) -> Graph:
    from onnx import numpy_helper

    values = {
        value.name: _value(value) for value in (*proto.value_info, *proto.input, *proto.output)
    }
    constants: dict[str, NDArray[Any]] = {
        tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in proto.initializer
    }
    return Graph(
        name=proto.name or "main",
        nodes=tuple(_node(node) for node in proto.node),
        inputs=tuple(value.name for value in proto.input if value.name not in constants),
        outputs=tuple(value.name for value in proto.output),
        values=values,
        constants=constants,
    )


def _value(proto: Any) -> Value:
    kind, container = proto.type, ""
    for field in ("sequence_type", "optional_type"):
        while kind.HasField(field):
            # A list of lists is no tensor either; what is in the inner ones does not matter.
            kind, container = getattr(kind, field).elem_type, container or field.split("_", 1)[0]
    tensor = kind.tensor_type
    shape: Shape | None = None
    if kind.HasField("tensor_type") and tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
        )
    dtype = _dtype(tensor.elem_type) if kind.HasField("tensor_type") else ""
    return Value(name=proto.name, dtype=dtype, shape=shape, container=container)


def _dtype(element_type: int) -> str:
    from onnx import TensorProto, helper

    if element_type == TensorProto.UNDEFINED:
        return ""
    if element_type == TensorProto.STRING:
        return "string"
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type)).name


def _node(proto: Any) -> Node:
    return Node(
        op=proto.op_type if proto.domain in STANDARD_DOMAINS else f"{proto.domain}.{proto.op_type}",
        name=proto.name or next((name for name in proto.output if name), proto.op_type),
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={attribute.name: _attribute(attribute) for attribute in proto.attribute},
    )


def _attribute(proto: Any) -> Any:
    from onnx import AttributeProto, helper, numpy_helper

    if proto.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(proto.t)
    if proto.type == AttributeProto.GRAPH:
        return _graph(proto.g)
    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if proto.type == AttributeProto.STRINGS:
        return tuple(item.decode("utf-8", "replace") for item in value)
    if proto.type in {AttributeProto.INTS, AttributeProto.FLOATS}:
        return tuple(value)
    return value
