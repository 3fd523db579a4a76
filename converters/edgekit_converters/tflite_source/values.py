"""Which ONNX values stand for a LiteRT tensor.

Each tensor may exist in several forms: as its integers or as the numbers that they stand for, and
in the file's order of axes or in another one, such as channels first. A form is made when somebody
reads it, once, so that transposes between neighbours cancel and constants are turned at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.tflite_source.border import output_names, value_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.tflite_source.emission import Emission
    from edgekit_converters.tflite_source.model import Model, Quantization, Shape, Tensor

Order = tuple[int, ...]

_QUANTIZE_TO: Final = frozenset({"int8", "uint8", "int16", "uint16"})
_BIAS: Final = "int32"


class RefusedOperatorError(Exception):
    """An operator cannot be said in ONNX; the message is the reason. Never leaves this package."""


class TensorValues:
    """The forms of every tensor, made as they are asked for."""

    def __init__(self, model: Model, emission: Emission) -> None:
        self._model = model
        self._emission = emission
        self._free_axes = {
            axis for tensor in model.inputs for axis, n in enumerate(tensor.shape) if n is None
        }
        self._border = {tensor.index for tensor in (*model.inputs, *model.outputs)}
        # (tensor, whether as numbers, order of axes) -> ONNX value.
        self._values: dict[tuple[int, bool, Order], str] = {}
        self._orders: dict[int, Order] = {}
        self._sources: dict[int, Tensor] = {}
        for tensor in model.inputs:
            self.bind(tensor, tensor.name, identity(tensor.rank))

    def knows(self, tensor: Tensor) -> bool:
        """Whether a computed tensor has a value yet."""
        return tensor.index in self._orders or tensor.index in self._sources

    def shape(self, tensor: Tensor) -> Shape:
        """A tensor's sizes; None where one may be another than the file says.

        Some files say of their inputs alone which sizes are free: a free batch may be the first
        axis of anything, and what follows from any other free size is anybody's guess.
        """
        if not self._free_axes or tensor.data is not None:
            return tensor.shape
        unsure = range(1) if self._free_axes == {0} else range(tensor.rank)
        return tuple(None if axis in unsure else n for axis, n in enumerate(tensor.shape))

    def source(self, tensor: Tensor) -> Tensor:
        """The constant that a tensor is the dequantized form of, else the tensor itself."""
        return self._sources.get(tensor.index, tensor)

    def order(self, tensor: Tensor) -> Order:
        """The order of axes in which a tensor lies ready."""
        return self._orders.get(tensor.index, identity(tensor.rank))

    def bind(self, tensor: Tensor, value: str, order: Order, *, numbers: bool = False) -> None:
        """Say which value a tensor's integers (or its numbers) are, and in which order of axes."""
        if not numbers:
            self._orders[tensor.index] = order
        self._values[tensor.index, numbers, order] = value

    def bind_source(self, tensor: Tensor, source: Tensor) -> None:
        """Say that a tensor is a constant, dequantized: it is read as that constant's numbers."""
        self._sources[tensor.index] = source

    def name(self, tensor: Tensor, order: Order) -> str:
        """A tensor's own name for the form that stands for it, a longer one for the others."""
        turned = order != identity(tensor.rank)
        if tensor.index in self._border:
            return self._emission.fresh(f"{tensor.name}/turned") if turned else tensor.name
        return self._emission.fresh(tensor.name)

    def get(self, tensor: Tensor, order: Order, *, numbers: bool) -> str:
        """The ONNX value of a tensor, its axes in `order`.

        Args:
            tensor: Computed before, or a constant.
            order: Stored axis i is the file's axis `order[i]`.
            numbers: Where it is quantized, what its integers stand for rather than themselves.

        Raises:
            RefusedOperatorError: If it has no such form.
        """
        source = self.source(tensor)
        numbers = source is not tensor or (numbers and source.quantization is not None)
        key = (source.index, numbers, order)
        if key not in self._values:
            self._values[key] = self._make(source, order, numbers=numbers)
        return self._values[key]

    def constant(self, tensor: Tensor, order: Order, *, numbers: bool) -> str:
        """The ONNX value of a constant that is not shared with other readers."""
        from onnx import TensorProto

        array = values_of(tensor).transpose(order)
        quantization = tensor.quantization
        if not numbers:
            return self._emission.store(array, tensor.name)
        if quantization is None and tensor.dtype == "float16":
            # The float16 scheme: stored in half precision, computed in single.
            return self._step("Cast", array, tensor, to=TensorProto.FLOAT)
        if quantization is not None and tensor.dtype not in {*_QUANTIZE_TO, _BIAS}:
            # The biases of int16 models are 64 bits wide, which DequantizeLinear does not take.
            return self._emission.store(numbers_of(tensor).transpose(order), tensor.name)
        if quantization is None:
            return self._emission.store(array, tensor.name)
        stored = self._emission.store(array, tensor.name)
        return self._dequantize(tensor, quantization, stored, order)

    def quantize(self, tensor: Tensor, value: str, order: Order) -> str:
        """A computed tensor's integers, from its numbers."""
        quantization = tensor.quantization
        if quantization is None or tensor.dtype not in _QUANTIZE_TO:
            raise RefusedOperatorError(f"its output is quantized to {tensor.dtype}")
        if quantization.per_channel:
            raise RefusedOperatorError("its output has a scale for each channel")
        name = self.name(tensor, order)
        affine = self._affine(tensor, quantization)
        self._emission.append("QuantizeLinear", [value, *affine], [name])
        return name

    def outputs(self) -> list[Any]:
        """Give the model's outputs their names and the file's order; returns what declares them."""
        names = output_names(self._model)
        for tensor, name in zip(self._model.outputs, names, strict=True):
            value = self.get(tensor, identity(tensor.rank), numbers=False)
            if value != name:
                self._emission.append("Identity", [value], [name])
        return [
            value_info(self._model, tensor, name)
            for tensor, name in zip(self._model.outputs, names, strict=True)
        ]

    def _make(self, tensor: Tensor, order: Order, *, numbers: bool) -> str:
        if tensor.data is not None or tensor.fault:
            return self.constant(tensor, order, numbers=numbers)
        if numbers and tensor.quantization is not None:
            integers = self.get(tensor, order, numbers=False)
            return self._dequantize(tensor, tensor.quantization, integers, order)
        return self._turn(tensor, order)

    def _turn(self, tensor: Tensor, order: Order) -> str:
        ready = self._orders.get(tensor.index)
        if ready is None:
            kind = "keeps its value between inferences" if tensor.variable else "is never computed"
            raise RefusedOperatorError(f"{tensor.name!r} {kind}")
        if len(ready) != len(order):
            raise RefusedOperatorError(f"{tensor.name!r} has {len(ready)} axes, not {len(order)}")
        plain = order == identity(tensor.rank) and tensor.index in self._border
        name = tensor.name if plain else self._emission.fresh(f"{tensor.name}/turned")
        perm = [ready.index(axis) for axis in order]
        source = self._values[tensor.index, False, ready]
        self._emission.append("Transpose", [source], [name], {"perm": perm})
        return name

    def _dequantize(
        self, tensor: Tensor, quantization: Quantization, value: str, order: Order
    ) -> str:
        affine = self._affine(tensor, quantization)
        axis = order.index(quantization.axis) if quantization.per_channel else None
        name = self._emission.fresh(f"{tensor.name}/numbers")
        self._emission.append("DequantizeLinear", [value, *affine], [name], {"axis": axis})
        return name

    def _affine(self, tensor: Tensor, quantization: Quantization) -> list[str]:
        """The scale and, where the type has one, the zero point."""
        if tensor.dtype not in {*_QUANTIZE_TO, _BIAS}:
            raise RefusedOperatorError(f"{tensor.name!r} is quantized to {tensor.dtype}")
        limits = np.iinfo(tensor.dtype)
        points = quantization.zero_points
        if int(points.min()) < limits.min or int(points.max()) > limits.max:
            raise RefusedOperatorError(f"{tensor.name!r} has a zero point outside its type")
        shape = (-1,) if quantization.per_channel else ()
        scale = self._emission.store(quantization.scales.reshape(shape), f"{tensor.name}/scale")
        if tensor.dtype == _BIAS:
            if points.any():
                raise RefusedOperatorError(f"{tensor.name!r} has 32 bits and a zero point")
            return [scale]
        stored = points.reshape(shape).astype(tensor.dtype)
        return [scale, self._emission.store(stored, f"{tensor.name}/zero_point")]

    def _step(self, op: str, array: NDArray[Any], tensor: Tensor, **attributes: Any) -> str:
        name = self._emission.fresh(f"{tensor.name}/numbers")
        stored = self._emission.store(array, tensor.name)
        self._emission.append(op, [stored], [name], attributes)
        return name


def identity(rank: int) -> Order:
    """The file's own order of axes."""
    return tuple(range(rank))


def channels_first(rank: int) -> Order:
    """Batch, channels, then the places: what ONNX's convolutions and pools work in."""
    return (0, rank - 1, *range(1, rank - 1))


def values_of(tensor: Tensor) -> NDArray[Any]:
    """The stored values of a constant.

    Raises:
        RefusedOperatorError: If it is computed, or its values cannot be read.
    """
    if tensor.fault or tensor.data is None:
        reason = tensor.fault or "it is computed where a constant is needed"
        raise RefusedOperatorError(f"{tensor.name!r}: {reason}")
    return tensor.data


def numbers_of(tensor: Tensor) -> NDArray[np.float32]:
    """What a constant stands for, as float32."""
    values, quantization = values_of(tensor), tensor.quantization
    if quantization is None:
        return values.astype(np.float32)
    shape = [1] * tensor.rank
    if quantization.per_channel:
        shape[quantization.axis] = -1
    else:
        shape = [1] * max(tensor.rank, 1)
    points = quantization.zero_points.reshape(shape)
    scales = quantization.scales.reshape(shape).astype(np.float64)
    return np.asarray((values - points) * scales, dtype=np.float32).reshape(values.shape)
