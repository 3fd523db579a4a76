"""What a lowering function works with: inputs in the planned layout, constants, new operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekit_converters.litert.layout import (
    LayoutPlan,
    NodeLayout,
    Permutation,
    identity,
    inverse,
    permute,
)
from edgekit_converters.litert.program import Operator, Program, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node, Shape


# What RESHAPE and TRANSPOSE take.
MAX_RANK = 8


class Made(NamedTuple):
    """A tensor that an operator is to make."""

    name: str
    shape: Shape
    dtype: str = "float32"


class RefusedNodeError(Exception):
    """A node cannot be lowered; the message is the reason, in a few words."""


class Builder:
    """Collects the operators of a program while the nodes of a graph are lowered one by one.

    Attributes:
        graph: What is lowered.
        layout: The planned layout of the node at hand.
    """

    def __init__(self, graph: Graph, plan: LayoutPlan) -> None:
        self.graph = graph
        self.layout = NodeLayout(work=(), stored=())
        self._plan = plan
        self._operators: list[Operator] = []
        self._home: dict[str, Tensor] = {}
        self._settled: set[int] = set()
        self._copies: dict[tuple[str, Permutation], Tensor] = {}
        # What the source names keeps its name; what is made on the way must not take one of them.
        self._names = {name for node in graph.nodes for name in node.outputs}
        self._names.update(graph.inputs)
        self._inputs = [self._border(name) for name in graph.inputs]
        for name, tensor in zip(graph.inputs, self._inputs, strict=True):
            self._settle(name, tensor)

    # What a node reads.

    def input(self, node: Node, position: int = 0, *, order: Permutation | None = None) -> Tensor:
        """An input in the layout that the node works in, or in the given order of axes."""
        name = node.input(position)
        if not name:
            raise RefusedNodeError(f"input {position} is missing")
        order = self.layout.work if order is None else order
        return self.value(name, order)

    def value(self, name: str, order: Permutation) -> Tensor:
        """A value or constant in an order of axes; of lower rank, with leading axes of size one."""
        key = (name, order)
        if key not in self._copies:
            self._copies[key] = self._arrange(name, order)
        return self._copies[key]

    def constant_of(self, node: Node, position: int) -> NDArray[Any] | None:
        """The values of an input that is constant, None where it is left out.

        Raises:
            RefusedNodeError: If the input is computed at run time.
        """
        name = node.input(position)
        if not name:
            return None
        if name not in self.graph.constants:
            raise RefusedNodeError(f"its input {name!r} is not constant")
        return self.graph.constants[name]

    def known(self, node: Node, position: int) -> NDArray[Any] | None:
        """The values of an input if they are constant, else None."""
        return self.graph.constants.get(node.input(position))

    def operand(self, node: Node, position: int, dtype: str = "int32") -> Tensor:
        """An input in ONNX's order of axes, constant or computed, as LiteRT's index type."""
        name = node.input(position)
        values = self.known(node, position)
        if values is not None and values.dtype.kind in "iu":
            return self.integers(name, values, dtype=dtype)
        tensor = self.input(node, position, order=identity(len(self.shape(name))))
        if tensor.dtype == dtype:
            return tensor
        return self.step("CAST", [tensor], name=f"{name}/{dtype}", shape=tensor.shape, dtype=dtype,
                         inDataType=tensor.dtype, outDataType=dtype)  # fmt: skip

    def shape(self, name: str) -> Shape:
        """The shape of a value in ONNX's order of axes."""
        shape = self.graph.shape(name)
        if shape is None:
            raise RefusedNodeError(f"the rank of {name!r} is unknown")
        return shape

    # What a node makes.

    def constant(self, name: str, array: NDArray[Any]) -> Tensor:
        """A new constant."""
        return Tensor(
            name=self._unique(name), dtype=array.dtype.name, shape=array.shape, data=array
        )

    def integers(self, name: str, values: object, *, dtype: str = "int32") -> Tensor:
        """A new constant of integers: axes, sizes, paddings."""
        array = np.asarray(values, dtype=np.int64)
        limits = np.iinfo(dtype)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise RefusedNodeError(f"a size is beyond {limits.bits} bits")
        return self.constant(name, array.astype(dtype))

    def emit(
        self,
        code: str,
        inputs: list[Tensor | None],
        node: Node,
        *,
        output: int = 0,
        **options: object,
    ) -> Tensor:
        """Add the operator that computes one output of a node, stored as planned."""
        made = self.output(node, output)
        self._operators.append(Operator(code=code, inputs=inputs, outputs=[made], options=options))
        return made

    def step(
        self,
        code: str,
        inputs: list[Tensor | None],
        *,
        name: str,
        shape: Shape,
        dtype: str = "float32",
        **options: object,
    ) -> Tensor:
        """Add an operator on the way to a node's output."""
        (output,) = self.run(code, inputs, [Made(name, shape, dtype)], options=options)
        return output

    def run(
        self,
        code: str,
        inputs: list[Tensor | None],
        outputs: Sequence[Made],
        *,
        options: Mapping[str, object],
        bodies: Mapping[str, Program] | None = None,
    ) -> list[Tensor]:
        """Add an operator with any number of outputs, on the way to those of a node."""
        made = [
            Tensor(name=self._unique(output.name), dtype=output.dtype, shape=output.shape)
            for output in outputs
        ]
        self._operators.append(
            Operator(
                code=code,
                inputs=inputs,
                outputs=made,
                options=dict(options),
                bodies=dict(bodies or {}),
            )
        )
        return made

    def record(
        self, name: str, inputs: Sequence[Made], write: Callable[[list[Tensor]], list[Tensor]]
    ) -> Program:
        """Collect the operators that `write` makes as a body of their own.

        Args:
            name: Of the subgraph.
            inputs: What the body is given.
            write: From the inputs to the outputs. It may read outer tensors; the caller passes
                them in.
        """
        given = [
            Tensor(name=self._unique(made.name), dtype=made.dtype, shape=made.shape)
            for made in inputs
        ]
        outer, self._operators = self._operators, []
        # What is arranged inside does not exist outside.
        copies, self._copies = self._copies, dict(self._copies)
        try:
            outputs = write(given)
            operators = self._operators
        finally:
            self._operators, self._copies = outer, copies
        return Program(name=name, inputs=given, outputs=outputs, operators=operators, located={})

    def include(self, program: Program, given: Sequence[Tensor]) -> list[Tensor]:
        """Add the operators of a program that reads these tensors, and return its outputs."""
        outer = {id(own): tensor for own, tensor in zip(program.inputs, given, strict=True)}
        for operator in program.operators:
            operator.inputs = [
                None if tensor is None else outer.get(id(tensor), tensor)
                for tensor in operator.inputs
            ]
        self._operators += program.operators
        return [outer.get(id(tensor), tensor) for tensor in program.outputs]

    def output(self, node: Node, position: int = 0) -> Tensor:
        """The tensor of a node's output."""
        name = node.outputs[position]
        order = self._plan.values[name]
        shape = permute(self.shape(name), order)
        tensor = Tensor(name=name, dtype=self.graph.dtype(name), shape=shape)
        self._settle(name, tensor)
        return tensor

    def result(self, node: Node, tensor: Tensor, output: int = 0) -> None:
        """Let a node's output be a tensor, in the order of axes in which it is to be stored.

        What was made on the way to this node takes the output's name and inferred shape. An output
        that nobody asks for is passed over.
        """
        if output >= len(node.outputs) or not node.outputs[output]:
            return
        name = node.outputs[output]
        shape = permute(self.shape(name), self._plan.values[name])
        if len(shape) != len(tensor.shape) or tensor.dtype != self.graph.dtype(name):
            raise AssertionError(
                f"{name}: {tensor.dtype} {tensor.shape} was made, "
                f"{self.graph.dtype(name)} {shape} was to be"
            )
        if tensor.data is None and id(tensor) not in self._settled:
            tensor.name = name
            tensor.shape = shape
        self._settle(name, tensor)

    def alias(self, node: Node, tensor: Tensor) -> None:
        """Let a node's first output be a tensor that exists already."""
        self._settle(node.outputs[0], tensor)

    def reshape(self, tensor: Tensor, shape: Shape, *, name: str) -> Tensor:
        """The same values in another shape, at most one axis of which may be free."""
        if tensor.shape == shape and shape.count(None) <= 1:
            return tensor
        if tensor.data is not None and None not in shape:
            return self.constant(name, tensor.data.reshape([size or 0 for size in shape]))
        sizes = self.reshape_sizes(shape, name)
        return self.step(
            "RESHAPE", [tensor, sizes], name=name, shape=shape, dtype=tensor.dtype,
            newShape=_sizes(shape),
        )  # fmt: skip

    def reshape_sizes(self, shape: Shape, name: str) -> Tensor:
        """The constant that tells RESHAPE its target."""
        if shape.count(None) > 1:
            raise RefusedNodeError("it would reshape to more than one free size")
        return self.integers(f"{name}/shape", _sizes(shape))

    def transpose(self, tensor: Tensor, order: Permutation, *, name: str) -> Tensor:
        """Reorder the axes of a tensor; axes of size one move by a RESHAPE, without a copy."""
        if order == identity(len(order)):
            return tensor
        shape = permute(tensor.shape, order)
        if tensor.data is not None:
            return self.constant(name, np.ascontiguousarray(tensor.data.transpose(order)))
        moving = [axis for axis in order if tensor.shape[axis] != 1]
        if moving == sorted(moving) and shape.count(None) <= 1:
            return self.reshape(tensor, shape, name=name)
        if len(order) > MAX_RANK:
            raise RefusedNodeError(f"it moves {len(order)} axes, supported: {MAX_RANK}")
        sizes = self.integers(f"{name}/axes", order)
        return self.step("TRANSPOSE", [tensor, sizes], name=name, shape=shape, dtype=tensor.dtype)

    def stand_in(self, node: Node) -> None:
        """Give a refused node outputs all the same, so that the nodes behind it can be tried."""
        for name in filter(None, node.outputs):
            order = self._plan.values[name]
            shape = permute(self.shape(name), order)
            self._settle(name, Tensor(name=name, dtype=self.graph.dtype(name), shape=shape))

    def finish(self, reordered: frozenset[str], borders: Mapping[str, Permutation]) -> Program:
        """Put the outputs into their order of axes, under ONNX's names.

        Args:
            reordered: Values that ONNX has in another order of elements.
            borders: The outputs that are to be stored otherwise than ONNX has them.
        """
        outputs: list[Tensor] = []
        for name in self.graph.outputs:
            order = borders.get(name, identity(len(self.shape(name))))
            tensor = self.value(name, order)
            given = tensor in self._inputs and name not in self.graph.inputs
            if given or tensor in outputs or tensor.data is not None:
                # A border tensor has one name and one producer: the same values under another. An
                # input that is an output under its own name is both.
                tensor = self.step(
                    "TRANSPOSE" if order else "RESHAPE",
                    [tensor, self.integers(f"{name}/axes", identity(len(order)))],
                    name=f"{name}/copy",
                    shape=tensor.shape,
                    dtype=tensor.dtype,
                )
            outputs.append(tensor)
        self._name_outputs(outputs)
        located = {
            name: (tensor, self._plan.values.get(name, identity(len(tensor.shape))))
            for name, tensor in self._home.items()
            if name not in reordered
        }
        return Program(
            name=self.graph.name,
            inputs=self._inputs,
            outputs=outputs,
            operators=self._operators,
            located=located,
        )

    def _settle(self, name: str, tensor: Tensor) -> None:
        self._home[name] = tensor
        self._settled.add(id(tensor))

    def _name_outputs(self, outputs: list[Tensor]) -> None:
        for name, tensor in zip(self.graph.outputs, outputs, strict=True):
            home = self._home.get(name)
            if home is not None and home is not tensor and home.name == name:
                home.name = self._unique(f"{name}/stored")
            tensor.name = name

    def _border(self, name: str) -> Tensor:
        shape = permute(self.shape(name), self._plan.values[name])
        return Tensor(name=name, dtype=self.graph.dtype(name), shape=shape)

    def _arrange(self, name: str, order: Permutation) -> Tensor:
        constant = self.graph.constants.get(name)
        if constant is not None:
            return self._arrange_constant(name, constant, order)
        home = self._home[name]
        stored = self._plan.values[name]
        if len(stored) == len(order):
            back = inverse(stored)
            return self.transpose(
                home, tuple(back[axis] for axis in order), name=f"{name}/{_label(order)}"
            )
        plain = self.transpose(home, inverse(stored), name=f"{name}/onnx_order")
        if order == identity(len(order)) or len(stored) > len(order):
            return plain
        wide = (1,) * (len(order) - len(stored)) + plain.shape
        return self.transpose(
            self.reshape(plain, wide, name=f"{name}/wide"), order, name=f"{name}/{_label(order)}"
        )

    def _arrange_constant(self, name: str, array: NDArray[Any], order: Permutation) -> Tensor:
        if array.ndim < len(order) and order != identity(len(order)):
            array = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
        if array.ndim == len(order):
            array = np.asarray(array.transpose(order), order="C")
        return self.constant(name, array)

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate


def _sizes(shape: Shape) -> list[int]:
    return [-1 if size is None else size for size in shape]


def _label(order: Permutation) -> str:
    if order == identity(len(order)):
        return "onnx_order"
    return "axes_" + "".join(str(axis) for axis in order)
