"""Which function says which operator, and what such a function has to write with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DOMAIN: Final = "ai.onnx.ml"
_AXES_ARE_INPUTS: Final = 18


class CannotExpandError(Exception):
    """An operator that has no form in ONNX's own operators, with the reason for a person."""


class UnknownInputError(CannotExpandError):
    """The type or the number of axes of an input is not known, as yet."""


class Expansion:
    """One node being said in others: its inputs and attributes, and the nodes written so far."""

    def __init__(
        self, node: Any, types: Mapping[str, int], ranks: Mapping[str, int], opset: int
    ) -> None:
        """Begin.

        Args:
            node: The node to say, an `onnx.NodeProto`.
            types: The element types of values, as far as they are known.
            ranks: The numbers of axes of values, as far as they are known.
            opset: The version of ONNX's own operators in the model.
        """
        self.node = node
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._types = types
        self._ranks = ranks
        self._opset = opset
        self._prefix = node.name or node.output[0]
        self._attributes = {attribute.name: attribute for attribute in node.attribute}

    def input(self, position: int = 0) -> str:
        """The name of an input."""
        return str(self.node.input[position])

    def output(self, position: int = 0) -> str:
        """The name of an output, "" where nothing reads it."""
        outputs = self.node.output
        return str(outputs[position]) if position < len(outputs) else ""

    def element_type(self, name: str) -> int:
        """The element type of a value, a `TensorProto.DataType`; 0 where it is unknown."""
        return self._types.get(name, 0)

    def rank(self, name: str) -> int | None:
        """The number of axes of a value, None where it is unknown."""
        return self._ranks.get(name)

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        found = self._attributes.get(name)
        return default if found is None else int(found.i)

    def number(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        found = self._attributes.get(name)
        return default if found is None else float(found.f)

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        found = self._attributes.get(name)
        return default if found is None else str(found.s.decode("utf-8", "replace"))

    def integers(self, name: str) -> list[int]:
        """A list of integers, empty where the attribute is absent."""
        found = self._attributes.get(name)
        return [] if found is None else [int(item) for item in found.ints]

    def texts(self, name: str) -> list[str]:
        """A list of texts, empty where the attribute is absent."""
        found = self._attributes.get(name)
        return [] if found is None else [item.decode("utf-8", "replace") for item in found.strings]

    def floats(self, name: str) -> NDArray[np.float32]:
        """A list of floats, which may be stored as a tensor; empty where it is absent."""
        found = self._attributes.get(name)
        if found is None:
            tensor = self.tensor(f"{name}_as_tensor")
            found_values = np.zeros(0) if tensor is None else tensor.reshape(-1)
            return found_values.astype(np.float32)
        return np.array(found.floats, dtype=np.float32)

    def tensor(self, name: str) -> NDArray[Any] | None:
        """A tensor attribute, None where it is absent."""
        from onnx import numpy_helper

        found = self._attributes.get(name)
        return None if found is None else np.asarray(numpy_helper.to_array(found.t))

    def has(self, name: str) -> bool:
        """Whether an attribute is given."""
        return name in self._attributes

    def constant(self, value: NDArray[Any], name: str) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        unique = f"{self._prefix}/{name}"
        taken = {tensor.name for tensor in self.constants}
        while unique in taken:
            unique += "_"
        self.constants.append(numpy_helper.from_array(np.asarray(value), unique))
        return unique

    def emit(
        self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Add a node with one output and return the output's name."""
        from onnx import helper

        name = output or f"{self._prefix}/{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def reduce(self, op: str, value: str, axis: int, output: str | None = None) -> str:
        """Add a reduction over one axis, which stays with size one."""
        if op == "ReduceSum" or self._opset >= _AXES_ARE_INPUTS:
            axes = self.constant(np.array([axis], dtype=np.int64), "axes")
            return self.emit(op, [value, axes], output, keepdims=1)
        return self.emit(op, [value], output, axes=[axis], keepdims=1)

    def as_float(self, value: str) -> str:
        """The value as float32; whole numbers are rounded as onnxruntime rounds them."""
        from onnx import TensorProto

        kind = self.element_type(value)
        if kind == TensorProto.FLOAT:
            return value
        if kind in {TensorProto.INT64, TensorProto.INT32}:
            return self.emit("Cast", [value], to=TensorProto.FLOAT)
        if not kind:
            raise UnknownInputError("the type of its input is not known")
        known = TensorProto.DataType.Name(kind).lower()
        raise CannotExpandError(f"its input is {known}: export the model with float32 inputs")

    def matrix(self, position: int = 0) -> str:
        """An input as a float32 matrix, one row a sample."""
        value = self.input(position)
        rank = self.rank(value)
        if rank is None:
            raise UnknownInputError("the number of its input's axes is not known")
        if rank != 2:  # noqa: PLR2004 - rows and columns
            raise CannotExpandError(f"its input has {rank} axes instead of a row a sample")
        return self.as_float(value)


Expander = Callable[[Expansion], None]
_REGISTRY: Final[dict[str, Expander]] = {}


def expands(operator: str) -> Callable[[Expander], Expander]:
    """Register the function that says an operator of `ai.onnx.ml`."""

    def register(function: Expander) -> Expander:
        _REGISTRY[operator] = function
        return function

    return register


def expander(operator: str) -> Expander | None:
    """The function for an operator, None where there is none."""
    return _REGISTRY.get(operator)
