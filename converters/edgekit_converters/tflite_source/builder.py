"""What an import function sees: an operator's inputs as ONNX values, ways to say its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.tflite_source.model import Quantization, Tensor
from edgekit_converters.tflite_source.values import (
    Order,
    RefusedOperatorError,
    TensorValues,
    identity,
    numbers_of,
    values_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.tflite_source.emission import Emission
    from edgekit_converters.tflite_source.model import Operator, Shape

_ACTIVATIONS: Final = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
_CLAMPS: Final = {"RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0)}


class Builder:
    """One operator under import.

    Inputs are read as numbers and outputs written as numbers: where a tensor is quantized, the
    builder puts the DequantizeLinear or QuantizeLinear in between. An operator that only moves
    numbers works on the integers themselves where all its tensors mean the same by them.
    """

    def __init__(
        self, operator: Operator, values: TensorValues, emission: Emission, *, moves: bool
    ) -> None:
        self.operator = operator
        self._values = values
        self._emission = emission
        scales = [t.quantization for t in (*operator.inputs, *operator.outputs) if t is not None]
        found = [scale for scale in scales if scale is not None]
        # An activation function is arithmetic: its bounds are numbers.
        moves = moves and not operator.options.get("fusedActivationFunction")
        self._integers = (
            moves and bool(found) and all(not s.per_channel and s.same_as(found[0]) for s in found)
        )

    # What the operator reads.

    def tensor(self, position: int) -> Tensor:
        """An input as the file describes it."""
        inputs = self.operator.inputs
        found = inputs[position] if position < len(inputs) else None
        if found is None:
            raise RefusedOperatorError(f"its input {position} is missing")
        return found

    def has(self, position: int) -> bool:
        """Whether an optional input is there."""
        inputs = self.operator.inputs
        return position < len(inputs) and inputs[position] is not None

    def option(self, field: str, default: Any = 0) -> Any:
        """A field of the operator's options; the schema's default where it has none."""
        return self.operator.options.get(field, default)

    def order(self, position: int) -> Order:
        """The order of axes in which an input lies ready."""
        return self._values.order(self.tensor(position))

    def input(self, position: int, order: Order | None = None) -> str:
        """The value of an input, its axes in `order` (the file's by default)."""
        tensor = self.tensor(position)
        axes = order if order is not None else identity(tensor.rank)
        return self._values.get(tensor, axes, numbers=not self._integers)

    def stored(self, position: int, order: Order | None = None) -> str:
        """The value of an input as it is stored: its integers, where it is quantized."""
        tensor = self.tensor(position)
        axes = order if order is not None else identity(tensor.rank)
        return self._values.get(tensor, axes, numbers=False)

    def aligned(self, position: int, order: Order) -> str:
        """An input that is broadcast against tensors whose axes are in `order`."""
        tensor = self.tensor(position)
        missing = len(order) - tensor.rank
        if missing == 0:
            return self.input(position, order)
        if order == identity(len(order)) or tensor.rank == 0:
            return self.input(position)
        source = self._values.source(tensor)
        shape = (1,) * missing + values_of(source).shape
        wide = replace(source, shape=shape, data=values_of(source).reshape(shape))
        numbers = source is not tensor or not self._integers
        return self._values.constant(wide, order, numbers=numbers)

    def follow(self) -> Order:
        """The order to work in where an operator looks at each element alone.

        That is the order in which a computed input lies ready, if every input can be brought
        into it.
        """
        rank = self.operator.outputs[0].rank
        found = identity(rank)
        for position, tensor in enumerate(self.operator.inputs):
            if tensor is None or self._values.source(tensor).data is not None:
                continue
            if tensor.rank == rank:
                found = self.order(position) if found == identity(rank) else found
            elif tensor.rank:
                return identity(rank)
        return found

    def shape(self, position: int) -> Shape:
        """The sizes of an input; None where one may be another than the file says."""
        return self._values.shape(self.tensor(position))

    def is_constant(self, position: int) -> bool:
        """Whether an input's values stand in the file."""
        return self._values.source(self.tensor(position)).data is not None

    def constant(self, position: int) -> NDArray[Any]:
        """The stored values of an input that must be known in advance."""
        return values_of(self.tensor(position))

    def whole_numbers(self, position: int) -> list[int]:
        """A constant input of sizes, indices or axes."""
        return [int(number) for number in self.constant(position).reshape(-1)]

    def axes(self, position: int, rank: int) -> list[int]:
        """A constant input of axes, none below zero.

        Raises:
            RefusedOperatorError: If there is no such axis.
        """
        return [known_axis(axis, rank) for axis in self.whole_numbers(position)]

    def index_value(self, position: int) -> str:
        """An input of sizes or indices as an int64 value, constant or computed."""
        from onnx import TensorProto

        tensor = self.tensor(position)
        if tensor.data is not None:
            return self.store(self.constant(position).astype(np.int64), tensor.name)
        value = self.stored(position)
        return (
            value if tensor.dtype == "int64" else self.node("Cast", [value], to=TensorProto.INT64)
        )

    def stacked(self, positions: Sequence[int], name: str) -> str:
        """Constant matrices under each other, as one value; quantized ones keep their integers.

        Raises:
            RefusedOperatorError: If one is computed, or they are not of one type.
        """
        parts = [self._values.source(self.tensor(position)) for position in positions]
        arrays = [values_of(part) for part in parts]
        scales = [part.quantization for part in parts]
        if len({part.dtype for part in parts}) > 1 or any(s and s.per_channel for s in scales):
            raise RefusedOperatorError("its weights are quantized in different ways")
        quantization = None
        if all(scales):
            rows = [len(array) for array in arrays]
            quantization = Quantization(
                scales=np.repeat([s.scales[0] for s in scales if s], rows).astype(np.float32),
                zero_points=np.repeat([s.zero_points[0] for s in scales if s], rows),
                axis=0,
            )
        whole = np.concatenate(arrays)
        tensor = Tensor(
            index=-1, name=name, dtype=parts[0].dtype, shape=whole.shape, data=whole,
            quantization=quantization,
        )  # fmt: skip
        return self._values.constant(tensor, identity(tensor.rank), numbers=True)

    def numbers(self, position: int) -> NDArray[np.float32]:
        """What a constant input stands for, as an array."""
        return numbers_of(self._values.source(self.tensor(position)))

    # Constants and nodes in between.

    def fresh(self, name: str) -> str:
        """A name that no value has yet."""
        return self._emission.fresh(name)

    def store(self, array: NDArray[Any], name: str) -> str:
        """A constant."""
        return self._emission.store(array, name)

    def scalar(self, value: float, position: int = 0) -> str:
        """A constant number of the type that an input is read as."""
        tensor = self.tensor(position)
        quantized = tensor.quantization is not None and not self._integers
        array = np.array(value, dtype="float32" if quantized else tensor.dtype)
        return self.store(array, f"{self.operator.name}/{value:g}")

    def sizes(self, numbers: Sequence[int], role: str) -> str:
        """A constant of sizes, indices or axes."""
        return self.store(np.array(numbers, dtype=np.int64), f"{self.operator.name}/{role}")

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node in between; returns the value that it computes."""
        return self.nodes(op, inputs, 1, **attributes)[0]

    def nodes(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """A node in between with several outputs."""
        outputs = [self._emission.fresh(f"{self.operator.name}/{op}") for _ in range(count)]
        self._emission.append(op, inputs, outputs, attributes)
        return outputs

    # What the operator computes.

    def emit(
        self, op: str, inputs: Sequence[str], order: Order | None = None, **attributes: Any
    ) -> None:
        """The node that computes the operator's output, its axes in `order`."""
        self.emit_all(op, inputs, order, count=1, **attributes)

    def emit_all(
        self,
        op: str,
        inputs: Sequence[str],
        order: Order | None = None,
        *,
        count: int | None = None,
        **attributes: Any,
    ) -> None:
        """One node that computes the operator's outputs, all or the first `count`."""
        outputs = self.operator.outputs[:count]
        names = [self._result_name(tensor, order) for tensor in outputs]
        self._emission.append(op, inputs, names, attributes)
        for position, name in enumerate(names):
            self.finish(name, order, position=position)

    def emit_activated(
        self, op: str, inputs: Sequence[str], order: Order | None = None, **attributes: Any
    ) -> None:
        """As `emit`, with the fused activation function behind it."""
        number = int(self.option("fusedActivationFunction"))
        if not 0 <= number < len(_ACTIVATIONS):
            # TANH and SIGN_BIT are in the schema; the kernels let them pass and compute neither.
            raise RefusedOperatorError(f"LiteRT ignores its activation function, number {number}")
        if number == 0:
            self.emit(op, inputs, order, **attributes)
        else:
            self.activate(self.node(op, inputs, **attributes), _ACTIVATIONS[number], order)

    def activate(self, value: str, activation: str, order: Order | None = None) -> None:
        """Compute the operator's output from a value by an activation function."""
        if activation == "RELU":
            self.emit("Relu", [value], order)
        else:
            low, high = (self.scalar(bound) for bound in _CLAMPS[activation])
            self.emit("Clip", [value, low, high], order)

    def finish(self, value: str, order: Order | None = None, *, position: int = 0) -> None:
        """Say which value an output is, as numbers."""
        tensor = self.operator.outputs[position]
        axes = order if order is not None else identity(tensor.rank)
        if tensor.quantization is not None and not self._integers:
            value = self._values.quantize(tensor, value, axes)
        self._values.bind(tensor, value, axes)

    def emit_stored(self, op: str, inputs: Sequence[str]) -> None:
        """The node that computes the output as it is stored: its integers, if it is quantized."""
        tensor = self.operator.outputs[0]
        order = identity(tensor.rank)
        name = self._values.name(tensor, order)
        self._emission.append(op, inputs, [name])
        self._values.bind(tensor, name, order)

    def dequantize(self) -> None:
        """The operator's output is its input, read as numbers."""
        from onnx import TensorProto

        source, target = self.tensor(0), self.operator.outputs[0]
        order = self.order(0)
        if source.data is not None or source.fault:
            self._values.bind_source(target, source)
        elif source.quantization is not None:
            self._values.bind(target, self.input(0, order), order)
        elif source.dtype == "float16":
            self.emit("Cast", [self.input(0, order)], order, to=TensorProto.FLOAT)
        else:
            raise RefusedOperatorError(f"its input of type {source.dtype} has no scale")

    def _result_name(self, tensor: Tensor, order: Order | None) -> str:
        if tensor.quantization is not None and not self._integers:
            return self._emission.fresh(f"{tensor.name}/computed")
        axes = order if order is not None else identity(tensor.rank)
        return self._values.name(tensor, axes)


def known_axis(axis: int, rank: int) -> int:
    """An axis, counted from the front.

    Raises:
        RefusedOperatorError: If there is no such axis.
    """
    if not -rank <= axis < rank:
        raise RefusedOperatorError(f"it names axis {axis} of {rank}")
    return axis % rank
