"""Decide which operators of a LiteRT graph compute in integers, and with which scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.quantize.affine import INT8, INT16, Affine, Codes, affine_of
from edgekit_converters.quantize.plan import Range
from edgekit_converters.quantize.to_litert.operators import Kind, Rule, rules
from edgekit_converters.quantize.to_litert.weights import product_weight_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.to_litert.flat import FlatGraph

_WIDE: Final = 16
_NARROW: Final = 8
# A constant that loses more than that to rounding has values of very different sizes.
_LEAST_CONSTANT_DB: Final = 35.0
_ARRANGES: Final = frozenset(
    {"DEPTH_TO_SPACE", "EXPAND_DIMS", "RESHAPE", "SPACE_TO_DEPTH", "SQUEEZE", "TRANSPOSE"}
)
_CUTS: Final = frozenset({"SLICE", "STRIDED_SLICE"})
# The part of an int32 that one product of bytes may take.
_OF_A_SUM: Final = 2.0**-17
_UPPER: Final = {"RELU6": 6.0, "RELU_N1_TO_1": 1.0}
_LOWER: Final = {"RELU": 0.0, "RELU6": 0.0, "RELU_N1_TO_1": -1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a graph is quantized; tensors and operators by their numbers.

    Attributes:
        computing: The operators that compute in integers, and their rules.
        wide: Those of them that do so with 16 bits.
        made: How the integers are to be read that they make.
        read: For each such operator and input position, how it wants the integers.
        border: The same for the model's inputs and outputs that are to be integers.
    """

    computing: Mapping[int, Rule]
    wide: frozenset[int]
    made: Mapping[int, Affine]
    read: Mapping[tuple[int, int], Affine]
    border: Mapping[int, Affine]


def place(
    graph: FlatGraph,
    ranges: Mapping[int, Range],
    *,
    keep: Collection[int],
    wide: Collection[int],
    border: Collection[int],
    bits: int,
) -> Placement:
    """Find the islands of integers in a graph.

    Products compute in integers wherever ranges are known. What lies between two of them does,
    where its inputs come as integers anyway; what leads to no product stays float, unless the
    border is integer.

    Args:
        graph: A float graph.
        ranges: Of its tensors.
        keep: The operators that stay float.
        wide: The operators that compute with 16 bits.
        border: The inputs and outputs that are to be integers; their ranges are known.
        bits: Of these inputs and outputs.
    """
    return _Placer(graph, ranges, keep, wide, border, codes_of(bits)).place()


class _Placer:
    def __init__(
        self,
        graph: FlatGraph,
        ranges: Mapping[int, Range],
        keep: Collection[int],
        wide: Collection[int],
        border: Collection[int],
        outside: Codes,
    ) -> None:
        self._graph = graph
        self._ranges = dict(ranges)
        self._wide = frozenset(wide)
        self._border = {
            name: affine_of(ranges[name], outside) for name in border if name in graph.inputs
        }
        self._left = [name for name in border if name in graph.outputs]
        self._outside = outside
        self._readers = graph.readers()
        self._rules: dict[int, Rule] = {}
        for number, operator in enumerate(graph.operators):
            rule = rules().get(graph.flat.code_of(operator))
            if rule and number not in keep and rule.has(self._bits(number)):
                self._rules[number] = rule
        self._makers = {
            out: number for number, op in enumerate(graph.operators) for out in op.outputs
        }
        self._made: dict[int, Affine] = {}

    def place(self) -> Placement:
        self._look_behind()
        self._drop_unfit()
        self._drop_unwanted()
        forced = self._forced()
        read: dict[tuple[int, int], Affine] = {}
        for number, rule in self._rules.items():
            outputs = self._graph.operators[number].outputs
            if rule.kind is Kind.MOVED:
                (at,) = self._positions(number)
                read[number, at] = self._as_read(number, at)
                self._made.update((out, read[number, at]) for out in outputs)
                continue
            if rule.kind is not Kind.JOINED:
                read.update(
                    ((number, at), self._as_read(number, at)) for at in self._positions(number)
                )
            least = self._least_scale(number, read)
            for out in outputs:
                self._made[out] = _coarsened(forced.get(out) or self._own(out, number), least)
            if rule.kind is Kind.JOINED:
                read.update(
                    ((number, at), self._made[outputs[0]]) for at in self._positions(number)
                )
        for name in self._left:
            made = self._made.get(name)
            fits = made is not None and made.codes is self._outside
            self._border[name] = (
                made if made is not None and fits else affine_of(self._ranges[name], self._outside)
            )
        return Placement(
            computing=dict(self._rules),
            wide=self._wide & self._rules.keys(),
            made=self._made,
            read=read,
            border=self._border,
        )

    def _look_behind(self) -> None:
        """What is only arranged anew has the range that it has afterwards.

        And so has what is cut off, as far as it matters.
        """
        for operator in reversed(self._graph.operators):
            source, target = operator.inputs[0], operator.outputs[0]
            code = self._graph.flat.code_of(operator)
            cut = code in _CUTS and len(self._readers.get(source, ())) == 1
            if target not in self._ranges:
                continue
            if cut or code in _ARRANGES:
                self._ranges.setdefault(source, self._ranges[target])
            elif code in {"ADD", "MUL"}:
                self._undo(code, operator)

    def _undo(self, code: str, operator: Any) -> None:
        """The range in front of a step of arithmetic with one number."""
        source, factor = operator.inputs
        number = self._graph.array(factor)
        activation = _activation(self._graph, operator)
        if source in self._ranges or number is None or number.size != 1 or activation != "NONE":
            return
        value, ends = float(number.reshape(-1)[0]), _ends(self._ranges[operator.outputs[0]])
        if code == "ADD":
            before = ends - value
        elif value:
            before = ends / value
        else:
            return
        self._ranges[source] = Range(low=float(before.min()), high=float(before.max()))

    def _drop_unfit(self) -> None:
        """Leave out what lacks a range, or whose inputs come as floats."""
        natural = set(self._border)
        for number in list(self._rules):
            rule = self._rules[number]
            operator = self._graph.operators[number]
            read = self._activations(number)
            fits = bool(read) and all(name in self._ranges for name in read)
            fits = fits and self._all_float(number) and self._has_weights(number)
            if rule.kind in {Kind.FREE, Kind.JOINED, Kind.FIXED}:
                fits = fits and natural.issuperset(read)
            if fits:
                self._derive(number, rule, read)
                fits = all(out in self._ranges for out in operator.outputs)
            if not fits:
                del self._rules[number]
            elif rule.kind is not Kind.MOVED or natural.issuperset(read):
                natural.update(operator.outputs)

    def _drop_unwanted(self) -> None:
        """Leave out what leads to no product and no integer output."""
        wanted = set(self._left)
        for number in reversed(list(self._rules)):
            outputs = self._graph.operators[number].outputs
            if self._rules[number].kind is Kind.PRODUCT or wanted.intersection(outputs):
                wanted.update(self._activations(number))
            else:
                del self._rules[number]

    def _forced(self) -> dict[int, Affine]:
        """The scales that outputs have for the sake of the one operator that reads them.

        A CONCATENATION wants one scale for all of its inputs: who makes them may as well round to
        it at once.
        """
        forced: dict[int, Affine] = {}
        for number in reversed(list(self._rules)):
            rule = self._rules[number]
            out = self._graph.operators[number].outputs[0]
            if rule.kind is Kind.JOINED:
                affine = forced.get(out) or self._own(out, number)
                forced[out] = affine
                adopting = self._activations(number)
            elif rule.kind is Kind.MOVED and out in forced:
                affine, adopting = forced[out], self._activations(number)
            else:
                continue
            for name in adopting:
                alone = len(self._readers[name]) == 1 and name not in self._graph.outputs
                if alone and self._can_adopt(name, number):
                    forced[name] = affine
        return forced

    def _can_adopt(self, name: int, reader: int) -> bool:
        """Whether the operator that makes a tensor may choose its scale, in its reader's width."""
        maker = self._makers.get(name)
        if maker is None or maker not in self._rules:
            return False
        free = self._rules[maker].kind is not Kind.FIXED
        return free and self._bits(maker) == self._bits(reader)

    def _own(self, tensor: int, number: int) -> Affine:
        """How an operator's output is read where nothing else decides."""
        rule, bits = self._rules[number], self._bits(number)
        if rule.kind is Kind.FIXED:
            scale, zero = rule.fixed(bits)
            return Affine(
                scale=np.asarray(scale, np.float32), zero_point=zero, codes=codes_of(bits)
            )
        return affine_of(self._ranges[tensor], codes_of(bits))

    def _least_scale(self, number: int, read: Mapping[tuple[int, int], Affine]) -> float:
        """The finest scale that an operator's kernels can write, given what it reads."""
        rule = self._rules[number]
        share = rule.least_share(self._bits(number))
        if not share:
            return 0.0
        largest = max(float(read[number, at].scale) for at in self._positions(number))
        if rule.weight is None:
            return share * largest
        operator, reading = self._graph.operators[number], read[number, rule.inputs[0]]
        scales = product_weight_scales(self._graph, operator, rule, reading)
        weights = self._graph.array(operator.inputs[rule.weight])
        terms = 0 if weights is None else weights.size // scales.size
        # Where outputs are finer than sums, sums are shifted to the left, and must not overflow.
        return max(share, terms * _OF_A_SUM) * largest * float(scales.max())

    def _as_read(self, number: int, at: int) -> Affine:
        """How an operator that has no wish of its own reads an input."""
        tensor = self._graph.operators[number].inputs[at]
        codes = codes_of(self._bits(number))
        constant = self._graph.array(tensor)
        if constant is not None:
            return affine_of(_span(constant), codes)
        made = self._made.get(tensor) or self._border.get(tensor)
        if made is not None and made.codes is codes:
            return made
        return affine_of(self._ranges[tensor], codes)

    def _positions(self, number: int) -> tuple[int, ...]:
        """The positions of an operator's quantized inputs, weights and bias not among them."""
        operator = self._graph.operators[number]
        positions = self._rules[number].inputs or tuple(range(len(operator.inputs)))
        return tuple(at for at in positions if at < len(operator.inputs))

    def _activations(self, number: int) -> list[int]:
        inputs = self._graph.operators[number].inputs
        read = [inputs[at] for at in self._positions(number)]
        return [name for name in read if self._graph.array(name) is None]

    def _all_float(self, number: int) -> bool:
        operator = self._graph.operators[number]
        names = [operator.inputs[at] for at in self._positions(number)] + operator.outputs
        return all(name >= 0 and self._graph.dtype(name) == "float32" for name in names)

    def _has_weights(self, number: int) -> bool:
        """Whether weights are constants, and other constants can be rounded."""
        rule, inputs = self._rules[number], self._graph.operators[number].inputs
        if rule.weight is not None:
            weights = self._graph.array(inputs[rule.weight])
            bias = inputs[rule.bias] if rule.bias is not None and rule.bias < len(inputs) else -1
            known = bias < 0 or self._graph.array(bias) is not None
            return known and weights is not None and weights.dtype == np.float32
        constants = [self._graph.array(inputs[at]) for at in self._positions(number)]
        return all(c is None or _rounds_well(c, self._bits(number)) for c in constants)

    def _derive(self, number: int, rule: Rule, read: list[int]) -> None:
        """The ranges of outputs that follow from those of the inputs."""
        outputs = self._graph.operators[number].outputs
        if rule.kind is Kind.MOVED:
            for out in outputs:
                self._ranges.setdefault(out, self._ranges[read[0]])
        elif rule.kind is Kind.FIXED:
            scale, zero = rule.fixed(_NARROW)
            low, high = (scale * (code - zero) for code in (INT8.low, INT8.high))
            self._ranges.setdefault(outputs[0], Range(low=low, high=high))
        elif outputs[0] not in self._ranges:
            derived = self._interval(number)
            if derived is not None:
                self._ranges[outputs[0]] = derived

    def _interval(self, number: int) -> Range | None:
        """The range behind an activation, or a step of arithmetic with one number."""
        operator = self._graph.operators[number]
        code = self._graph.flat.code_of(operator)
        if code in _LOWER:
            ends = _ends(self._ranges[operator.inputs[0]])
        elif code in {"ADD", "SUB", "MUL"}:
            sides = []
            for name in operator.inputs:
                array = self._graph.array(name)
                if array is not None and array.size != 1:
                    return None
                sides.append(_ends(self._ranges[name] if array is None else _span(array)))
            if sum(self._graph.array(name) is not None for name in operator.inputs) != 1:
                return None
            step = {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply}[code]
            ends = step.outer(sides[0], sides[1]).reshape(-1)
            code = _activation(self._graph, operator)
        else:
            return None
        low, high = _LOWER.get(code, -np.inf), _UPPER.get(code, np.inf)
        clipped = np.clip(ends, low, high)
        return Range(low=float(clipped.min()), high=float(clipped.max()))

    def _bits(self, number: int) -> int:
        return _WIDE if number in self._wide else _NARROW


def codes_of(bits: int) -> Codes:
    """The integers of activations."""
    return INT16 if bits == _WIDE else INT8


def _coarsened(affine: Affine, least: float) -> Affine:
    if float(affine.scale) >= least:
        return affine
    return dataclasses.replace(affine, scale=np.asarray(least, np.float32))


def _span(constant: NDArray[Any]) -> Range:
    return Range(low=float(constant.min()), high=float(constant.max()))


def _ends(span: Range) -> NDArray[Any]:
    return np.array([span.low, span.high])


def _activation(graph: FlatGraph, operator: Any) -> str:
    wanted = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
    names = vars(graph.flat.schema.ActivationFunctionType)
    return next((name for name, value in names.items() if value == wanted), "NONE")


def _rounds_well(constant: NDArray[Any], bits: int) -> bool:
    if constant.dtype != np.float32 or not constant.size or not np.isfinite(constant).all():
        return False
    affine = affine_of(_span(constant), codes_of(bits))
    values = constant.astype(np.float64)
    error = (affine.integers(values) - affine.zero_point) * float(affine.scale) - values
    signal, noise = np.square(values).mean(), np.square(error).mean()
    return bool(noise <= signal * 10 ** (-_LEAST_CONSTANT_DB / 10))
