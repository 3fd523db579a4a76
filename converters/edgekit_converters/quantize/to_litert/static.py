"""Activations of a LiteRT graph as integers with fixed ranges, between floats at its borders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.quantize.affine import (
    WEIGHTS_INT8,
    Affine,
    weight_affine,
)
from edgekit_converters.quantize.to_litert.operators import Release, Rule
from edgekit_converters.quantize.to_litert.weights import bias_of, product_weight_scales

if TYPE_CHECKING:
    from edgekit_converters.quantize.to_litert.flat import FlatGraph
    from edgekit_converters.quantize.to_litert.placement import Placement

_QUANTIZE: Final[dict[str, tuple[int, Release]]] = {
    "int8": (1, (1, 14, 0)),
    "int16": (2, (1, 15, 0)),
}
_DEQUANTIZE: Final[dict[str, tuple[int, Release]]] = {
    "int8": (2, (1, 14, 0)),
    "int16": (3, (1, 15, 0)),
}
# The version of a FULLY_CONNECTED that says what its bias is made of.
_NAMES_BIAS: Final = 11
# A bias is as long as the sums that it is added to.
_BIAS: Final = {"int8": "int32", "int16": "int64"}


def write_static(graph: FlatGraph, placement: Placement) -> None:
    """Let the operators of a placement compute in integers, in place.

    A tensor that they make keeps its number and name and becomes integer; one that floats are
    made of, or that is made of floats, gets a twin.
    """
    _Writer(graph, placement).write()


class _Writer:
    def __init__(self, graph: FlatGraph, placement: Placement) -> None:
        self._graph = graph
        self._placement = placement
        # The tensors that hold a value as floats and as integers of some reading.
        self._floats: dict[int, int] = {}
        self._integers: dict[tuple[object, ...], int] = {}
        self._made: dict[int, tuple[int, Affine]] = {}
        self._constants: dict[tuple[object, ...], int] = {}
        self._written: list[Any] = []

    def write(self) -> None:
        graph, placement = self._graph, self._placement
        for number in graph.inputs:
            if number in placement.border:
                self._become(number, number, placement.border[number])
        for place, operator in enumerate(list(graph.operators)):
            rule = placement.computing.get(place)
            if rule is None:
                self._write_float(operator)
            else:
                self._write_integer(place, operator, rule)
        graph.operators = self._written

    def _write_float(self, operator: Any) -> None:
        graph, border = self._graph, self._placement.border
        operator.inputs = [self._as_float(number) for number in operator.inputs]
        outputs = list(operator.outputs)
        for at, number in enumerate(outputs):
            if number in border:
                operator.outputs[at] = self._floats[number] = graph.derive(
                    number, "float", "float32"
                )
        self._written.append(operator)
        for number in outputs:
            if number in border:
                self._retype(number, border[number])
                self._quantize(self._floats[number], number, border[number])

    def _write_integer(self, place: int, operator: Any, rule: Rule) -> None:
        graph, placement = self._graph, self._placement
        bits = 16 if place in placement.wide else 8
        inputs, outputs = list(operator.inputs), list(operator.outputs)
        for at, number in enumerate(inputs):
            if (place, at) in placement.read:
                operator.inputs[at] = self._as_integer(number, placement.read[place, at])
        if rule.weight is not None:
            self._quantize_weights(place, operator, inputs, rule)
        for at, number in enumerate(outputs):
            affine = placement.made[number]
            apart = number in graph.outputs and not _same(placement.border.get(number), affine)
            kept = graph.derive(number, "quantized", affine.codes.dtype) if apart else number
            operator.outputs[at] = kept
            self._become(number, kept, affine)
        version, needs = rule.versions(bits)
        version = max(version, graph.flat.version_of(operator))
        operator.opcodeIndex = graph.flat.code(graph.flat.code_of(operator), version, needs)
        options = operator.builtinOptions
        if hasattr(options, "potScaleInt16"):
            # Scales need not be powers of two.
            options.potScaleInt16 = False
        if version == _NAMES_BIAS and graph.flat.code_of(operator) == "FULLY_CONNECTED":
            options.quantizedBiasType = graph.flat.type_number("int64")
        self._written.append(operator)
        for number in outputs:
            self._leave(number)

    def _leave(self, number: int) -> None:
        """Make an output of the model out of an integer twin."""
        kept, affine = self._made[number]
        if kept == number:
            return
        border = self._placement.border.get(number)
        if border is None:
            self._dequantize(kept, number, affine)
            self._floats[number] = number
        else:
            self._retype(number, border)
            self._quantize(kept, number, border)

    def _become(self, number: int, kept: int, affine: Affine) -> None:
        """Note that a value is there as integers."""
        self._retype(kept, affine)
        self._made[number] = kept, affine
        self._integers[_key(number, affine)] = kept

    def _as_float(self, number: int) -> int:
        if number not in self._made or self._floats.get(number) is not None:
            return self._floats.get(number, number)
        kept, affine = self._made[number]
        self._floats[number] = self._graph.derive(number, "float", "float32")
        self._dequantize(kept, self._floats[number], affine)
        return self._floats[number]

    def _as_integer(self, number: int, affine: Affine) -> int:
        if self._graph.array(number) is not None:
            return self._constant(number, affine)
        key = _key(number, affine)
        if key not in self._integers:
            source = self._made[number][0] if number in self._made else self._as_float(number)
            added = self._graph.derive(number, "quantized", affine.codes.dtype)
            self._retype(added, affine)
            self._quantize(source, added, affine)
            self._integers[key] = added
        return self._integers[key]

    def _quantize_weights(self, place: int, operator: Any, inputs: list[int], rule: Rule) -> None:
        graph = self._graph
        number = inputs[rule.weight or 0]
        reading = self._placement.read[place, rule.inputs[0]]
        made = self._placement.made[operator.outputs[0]]
        scales = product_weight_scales(graph, operator, rule, reading, made)
        affine = weight_affine(scales, WEIGHTS_INT8)
        operator.inputs[rule.weight or 0] = self._constant(number, affine, rule.axis)
        if bias_of(graph, operator, rule) is not None:
            sums = weight_affine(scales * np.float32(reading.scale), WEIGHTS_INT8)
            dtype = _BIAS[reading.codes.dtype]
            operator.inputs[rule.bias or 0] = self._bias(inputs[rule.bias or 0], sums, dtype)

    def _constant(self, number: int, affine: Affine, axis: int | None = None) -> int:
        key = (*_key(number, affine), axis)
        if key not in self._constants:
            array = self._graph.array(number)
            integers = affine.integers(np.asarray(array), axis if affine.scale.ndim else None)
            content = integers.astype(affine.codes.dtype).tobytes()
            added = self._graph.constant(number, "quantized", affine.codes.dtype, content)
            self._graph.describe(added, affine, axis or 0)
            self._constants[key] = added
        return self._constants[key]

    def _bias(self, number: int, sums: Affine, dtype: str) -> int:
        key = (*_key(number, sums), dtype)
        if key not in self._constants:
            array = np.asarray(self._graph.array(number), np.float64).reshape(-1)
            integers = np.rint(array / sums.scale.astype(np.float64))
            content = integers.astype(dtype).tobytes()
            added = self._graph.constant(number, "quantized", dtype, content)
            self._graph.describe(added, sums)
            self._constants[key] = added
        return self._constants[key]

    def _retype(self, number: int, affine: Affine) -> None:
        self._graph.tensors[number].type = self._graph.flat.type_number(affine.codes.dtype)
        self._graph.describe(number, affine)

    def _quantize(self, source: int, target: int, affine: Affine) -> None:
        version, needs = _QUANTIZE[affine.codes.dtype]
        operator = self._graph.operator("QUANTIZE", version, needs, [source], [target])
        self._written.append(operator)

    def _dequantize(self, source: int, target: int, affine: Affine) -> None:
        version, needs = _DEQUANTIZE[affine.codes.dtype]
        operator = self._graph.operator("DEQUANTIZE", version, needs, [source], [target])
        self._written.append(operator)


def _key(number: int, affine: Affine) -> tuple[object, ...]:
    return number, affine.scale.tobytes(), affine.zero_point, affine.codes


def _same(first: Affine | None, second: Affine) -> bool:
    return first is not None and _key(0, first) == _key(0, second)
