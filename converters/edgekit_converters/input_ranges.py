"""Learn from a model's graph which whole numbers each of its inputs may hold.

A random index is mostly outside the table that it points into, a random shape fits nothing: what
an engine then refuses says nothing about a conversion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgekit_converters.onnx_source.known import Known, known_scopes, value_shape
from edgekit_converters.onnx_source.skeleton import skeleton

# Where a size is not known, probes have at least so many elements along it.
_LEAST_FREE_SIZE: Final = 16
# Counts, sizes and repetitions: large ones cost time and show no more.
_SMALL: Final = 4
_ARITHMETIC: Final = 8

# Operators that hand the values of their first input on, in another place, shape or type.
_CARRIERS: Final = frozenset(
    {
        "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice",
        "Expand", "Tile", "Split", "Dropout", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip
# The same for operators with several inputs, one of which decides where the others go.
_JOINTS: Final = frozenset({("Where", 1), ("Where", 2), ("Gather", 0)})
_BINARY: Final = (
    "Add", "Sub", "Mul", "Max", "Min", "Less", "Greater", "Equal", "LessOrEqual",
    "GreaterOrEqual", "MatMul",
)  # fmt: skip
_UNARY: Final = (
    "Neg", "Abs", "Sign", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean",
    "ArgMax", "ArgMin", "Clip", "CumSum", "Div", "Mod",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRange:
    """Whole numbers between two bounds, both included."""

    low: int
    high: int

    def meet(self, other: InputRange) -> InputRange:
        """What both allow; the other where they have nothing in common."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return InputRange(low=low, high=high) if low <= high else other

    def moved(self, distance: int) -> InputRange:
        """The same range, so much further up."""
        return InputRange(low=self.low + distance, high=self.high + distance)


def input_ranges(model: Any) -> dict[str, InputRange]:
    """The ranges of those inputs that are used as indices, counts, sizes or divisors.

    Args:
        model: An `onnx.ModelProto` with inferred shapes.

    Returns:
        By the names of the inputs. A float input that is cast to an index is among them.
    """
    uses: dict[str, list[_Use]] = {}
    inputs = [value.name for value in model.graph.input]
    for scope, known in known_scopes(skeleton(model)):
        for node in scope.body.node:
            for position, name in enumerate(node.input):
                uses.setdefault(name, []).append(_Use(node, position, known))
    counted = _loop_counts(model)
    found = {}
    for name in inputs:
        learned = _learn(name, uses, frozenset())
        if learned is None and name in counted:
            learned = InputRange(low=1, high=_SMALL)
        if learned is not None:
            found[name] = learned
    return found


def _loop_counts(model: Any) -> frozenset[str]:
    """The small inputs from which it is computed how often a Loop runs.

    Any number would do for the source, and some make a loop without an end: what a division by
    zero counts, each engine decides for itself.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting = [node.input[0] for node in model.graph.node if node.op_type == "Loop"]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += makers[name].input if name in makers else []
    return frozenset(
        value.name
        for value in model.graph.input
        if value.name in seen and _elements(value) <= _LEAST_FREE_SIZE
    )


def _elements(value: Any) -> int:
    shape = value_shape(value) or ()
    return math.prod(_LEAST_FREE_SIZE if size is None else size for size in shape)


@dataclass(frozen=True, slots=True)
class _Use:
    """A place where a value is read."""

    node: Any
    position: int
    known: Known

    def attribute(self, name: str, default: int) -> int:
        found = [a.i for a in self.node.attribute if a.name == name]
        return int(found[0]) if found else default

    def sizes(self, position: int) -> list[int]:
        """The sizes of an input's axes; a guess where one is free."""
        name = self.node.input[position] if position < len(self.node.input) else ""
        shape = self.known.shapes.get(name, ())
        return [_LEAST_FREE_SIZE if size is None else size for size in shape]

    def size(self, position: int, axis: int) -> int:
        sizes = self.sizes(position)
        return sizes[axis] if -len(sizes) <= axis < len(sizes) else _LEAST_FREE_SIZE

    def constant(self, position: int) -> int | None:
        """An input that is one whole number known in advance."""
        name = self.node.input[position] if position < len(self.node.input) else ""
        numbers = self.known.constants.get(name)
        if numbers is None or numbers.size != 1 or numbers.dtype.kind not in "iuf":
            return None
        value = float(numbers.reshape(-1)[0])
        return int(value) if value.is_integer() else None


def _learn(name: str, uses: Mapping[str, list[_Use]], seen: frozenset[str]) -> InputRange | None:
    """What all readers of a value allow together, None where none of them says anything."""
    learned: InputRange | None = None
    if name in seen:
        return None
    for use in uses.get(name, ()):
        allowed = _allowed(use, uses, seen | {name})
        if allowed is not None:
            learned = allowed if learned is None else learned.meet(allowed)
    return learned


def _allowed(use: _Use, uses: Mapping[str, list[_Use]], seen: frozenset[str]) -> InputRange | None:
    """What one reader of a value allows, by itself or by what is done with its result."""
    op, position = use.node.op_type, use.position
    distance = 0
    behind: list[InputRange] = []
    if (op in _CARRIERS and position == 0) or (op, position) in _JOINTS or op == "Concat":
        behind = list(_behind(use, uses, seen))
    elif op == "Add" or (op == "Sub" and position == 0):
        # i + 2 points into a table: i may be less by 2.
        other = use.constant(1 - position)
        if other is not None:
            distance = -other if op == "Add" else other
            behind = list(_behind(use, uses, seen))
    if behind:
        met = behind[0]
        for further in behind[1:]:
            met = met.meet(further)
        return met.moved(distance)
    rule = _RULES.get((op, position))
    return rule(use) if rule is not None else None


def _behind(
    use: _Use, uses: Mapping[str, list[_Use]], seen: frozenset[str]
) -> Iterator[InputRange]:
    for output in use.node.output:
        learned = _learn(output, uses, seen) if output else None
        if learned is not None:
            yield learned


def _up_to(high: int, low: int = 0) -> InputRange:
    return InputRange(low=low, high=max(high, low))


def _index(use: _Use) -> InputRange:
    return _up_to(use.size(0, use.attribute("axis", 0)) - 1)


def _index_tuple(use: _Use) -> InputRange:
    """Each entry may point into any of the leading axes, so the shortest of them counts."""
    width = use.size(1, -1)
    first = use.attribute("batch_dims", 0)
    sizes = use.sizes(0)[first : first + width]
    return _up_to(min(sizes, default=1) - 1)


def _class(use: _Use) -> InputRange:
    return _up_to((use.constant(1) or _LEAST_FREE_SIZE) - 1)


def _axis(use: _Use) -> InputRange:
    return _up_to(len(use.sizes(0)) - 1)


def _place(use: _Use) -> InputRange:
    return _up_to(min(use.sizes(0), default=1))


def _length(use: _Use) -> InputRange:
    return _up_to(use.size(0, 1 if use.attribute("layout", 0) else 0), low=1)


def _count(use: _Use) -> InputRange:
    return _up_to(min(_SMALL, use.size(0, use.attribute("axis", -1))), low=1)


def _few(_: _Use) -> InputRange:
    return InputRange(low=1, high=_SMALL)


def _divisor(use: _Use) -> InputRange | None:
    kind = use.known.types.get(use.node.input[1], "")
    return InputRange(low=1, high=_ARITHMETIC) if "INT" in kind else None


def _shift(_: _Use) -> InputRange:
    return InputRange(low=0, high=7)


def _number(use: _Use) -> InputRange | None:
    """Whole numbers that are computed with as such."""
    kind = use.known.types.get(use.node.input[use.position], "")
    signed = kind.startswith("INT")
    return InputRange(low=-_ARITHMETIC * signed, high=_ARITHMETIC) if "INT" in kind else None


def _shape_entry(use: _Use) -> InputRange:
    """A size that an input is expanded or reshaped to: ones always fit, or the element count."""
    count = math.prod(use.sizes(0)) if use.node.op_type == "Reshape" else 1
    entries = use.size(1, 0)
    side = round(count ** (1 / entries)) if entries > 0 else 1
    return InputRange(low=side, high=side) if side**entries == count else _few(use)


_RULES: Final[Mapping[tuple[str, int], Callable[[_Use], InputRange | None]]] = {
    ("Gather", 1): _index,
    ("GatherElements", 1): _index,
    ("ScatterElements", 1): _index,
    ("Scatter", 1): _index,
    ("GatherND", 1): _index_tuple,
    ("ScatterND", 1): _index_tuple,
    ("OneHot", 0): _class,
    ("OneHot", 1): _few,
    ("CumSum", 1): _axis,
    ("CumProd", 1): _axis,
    ("Squeeze", 1): _axis,
    ("Slice", 1): _place,
    ("Slice", 2): _place,
    ("Slice", 3): _axis,
    ("Slice", 4): _few,
    ("RNN", 4): _length,
    ("GRU", 4): _length,
    ("LSTM", 4): _length,
    ("ReverseSequence", 1): lambda use: _up_to(use.size(0, use.attribute("time_axis", 0)), low=1),
    ("TopK", 1): _count,
    ("Reshape", 1): _shape_entry,
    ("Expand", 1): _shape_entry,
    ("ConstantOfShape", 0): _few,
    ("Tile", 1): _few,
    # onnxruntime 1.32 divides by the step of the frames without looking.
    ("STFT", 1): _few,
    ("STFT", 3): _few,
    ("DFT", 1): _few,
    ("HannWindow", 0): _few,
    ("HammingWindow", 0): _few,
    ("BlackmanWindow", 0): _few,
    **{("MelWeightMatrix", position): _few for position in range(3)},
    ("Pad", 1): lambda _: InputRange(low=0, high=_SMALL),
    ("Resize", 3): _few,
    ("Range", 0): lambda _: InputRange(low=0, high=1),
    ("Range", 1): lambda _: InputRange(low=_SMALL, high=2 * _SMALL),
    ("Range", 2): lambda _: InputRange(low=1, high=2),
    ("Loop", 0): lambda _: InputRange(low=0, high=_SMALL),
    ("NonMaxSuppression", 2): _few,
    ("Trilu", 1): lambda _: InputRange(low=-1, high=1),
    ("BitShift", 1): _shift,
    ("Div", 1): _divisor,
    ("Mod", 1): _divisor,
    ("Pow", 1): lambda _: InputRange(low=0, high=3),
    **{(op, position): _number for op in _BINARY for position in (0, 1)},
    **{(op, 0): _number for op in _UNARY},
}  # fmt: skip
