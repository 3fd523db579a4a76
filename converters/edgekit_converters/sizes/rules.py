"""Which shape an operator's outputs have, as far as free sizes keep their names through it.

A rule says only what it can without the numbers that ONNX's own inference knows better; an axis it
cannot speak of is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.sizes.arithmetic import SizeReader
from edgekit_converters.sizes.size import Size, Sizes, number, numbers, product

_MATRIX: Final = 2
_STEPS: Final = 4
_RESIZE_SIZES: Final = 3
# What exporters write for "to the end".
_TO_THE_END: Final = 2**31 - 1
_ELEMENTWISE: Final = (
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "And", "Or", "Xor",
    "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Mod", "PRelu",
)  # fmt: skip
# Their first output has the shape of their first input.
_SAME: Final = (
    "Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Exp", "Log", "Sqrt", "Erf", "Clip", "HardSwish",
    "HardSigmoid", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Softplus", "Softsign",
    "Reciprocal", "Cast", "Floor", "Ceil", "Round", "Sign", "Not", "Identity", "Dropout", "Sin",
    "Cos", "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization", "LRN",
    "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization",
    "CumSum", "ScatterND", "ScatterElements", "QuantizeLinear", "DequantizeLinear",
    "ThresholdedRelu",
)  # fmt: skip
# The batch alone is told, and ONNX infers the rest.
_BATCH: Final = (
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "DepthToSpace", "SpaceToDepth", "GridSample",
)  # fmt: skip
_REDUCTIONS: Final = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
_RECURRENT: Final = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A node with what is known about its inputs.

    Attributes:
        node: The node.
        shapes: Of its inputs by position, None where the rank is unknown or the input is left out.
        sizes: What is known about tensors of sizes.
        factors: Small constants of floats, by name.
    """

    node: Any
    shapes: list[Sizes | None]
    sizes: SizeReader
    factors: Mapping[str, tuple[float, ...]]

    def attribute(self, name: str, default: int) -> int:
        """An integer attribute."""
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)

    def axes(self, position: int) -> tuple[int, ...] | None:
        """The axes that a node names in its attribute or in an input; () where it names none."""
        for attribute in self.node.attribute:
            if attribute.name == "axes":
                return tuple(attribute.ints)
        name = self.node.input[position] if position < len(self.node.input) else ""
        if not name:
            return ()
        return self.integers(position)

    def integers(self, position: int) -> tuple[int, ...] | None:
        """The elements of an input, None where one is unknown or free."""
        known = self.values(position)
        if known is None or any(size is None or not size.known for size in known):
            return None
        return tuple(size.factor for size in known if size is not None)

    def values(self, position: int) -> Sizes | None:
        """The elements of an input that holds sizes."""
        name = self.node.input[position] if position < len(self.node.input) else ""
        known = self.sizes.get(name) if name else None
        return None if known is None else known.items


Outputs = list[Sizes | None]


def output_shapes(call: Call) -> Outputs:
    """The shapes of a node's outputs by the rules of this module; [] where there is none."""
    rule = _RULES.get(call.node.op_type)
    if rule is None or call.node.domain not in STANDARD_DOMAINS or not call.node.input:
        return []
    if call.node.op_type not in _NEEDS_NO_FIRST and call.shapes[0] is None:
        return []
    try:
        return rule(call)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # Attributes and shapes that contradict each other say nothing about sizes.
        return []


def broadcast(shapes: Iterable[Sizes | None]) -> Sizes | None:
    """The shape that shapes are widened to, None where one of them is unknown."""
    known = []
    for shape in shapes:
        if shape is None:
            return None
        known.append(shape)
    rank = max((len(shape) for shape in known), default=0)
    aligned = [(number(1),) * (rank - len(shape)) + shape for shape in known]
    return tuple(_wider(sizes) for sizes in zip(*aligned, strict=True))


def _wider(sizes: tuple[Size | None, ...]) -> Size | None:
    distinct = {size for size in sizes if size != number(1)}
    if len(distinct) == 1:
        return distinct.pop()
    if not distinct:
        return number(1)
    # Two sizes that go together are equal, or one of them is 1: a number above 1 decides.
    decided = [size for size in distinct if size is not None and size.known and size.factor > 1]
    return decided[0] if decided else None


def _first(call: Call) -> Sizes:
    return call.shapes[0] or ()


def _same(call: Call) -> Outputs:
    return [call.shapes[0]]


def _elementwise(call: Call) -> Outputs:
    return [broadcast(call.shapes)]


def _batch(call: Call) -> Outputs:
    shape = _first(call)
    return [(shape[0], *(None,) * (len(shape) - 1))] if shape else []


def _reshape(call: Call) -> Outputs:
    source, target = _first(call), call.values(1)
    if target is None:
        return []
    zeros = call.attribute("allowzero", 0)
    sizes: list[Size | None] = []
    for axis, size in enumerate(target):
        copied = size == number(0) and not zeros
        sizes.append(source[axis] if copied and axis < len(source) else size)
    open_axes = [axis for axis, size in enumerate(sizes) if size == number(-1)]
    if len(open_axes) == 1:
        total = product(source)
        rest = product(size for axis, size in enumerate(sizes) if axis != open_axes[0])
        sizes[open_axes[0]] = None if total is None or rest is None else total.over(rest)
    return [tuple(sizes)]


def _flatten(call: Call) -> Outputs:
    shape = _first(call)
    axis = call.attribute("axis", 1)
    # Counted from the end, the axis is one of the shape's; else it may lie behind them all.
    at = axis + len(shape) if axis < 0 else axis
    return [(product(shape[:at]), product(shape[at:]))]


def _expand(call: Call) -> Outputs:
    return [broadcast([call.shapes[0], call.values(1)])]


def _constant_of_shape(call: Call) -> Outputs:
    return [call.values(0)]


def _transpose(call: Call) -> Outputs:
    shape = _first(call)
    order = next((tuple(a.ints) for a in call.node.attribute if a.name == "perm"), ())
    return [tuple(shape[axis] for axis in order or reversed(range(len(shape))))]


def _matrix_product(call: Call) -> Outputs:
    first, second = call.shapes
    if first is None or second is None or min(len(first), len(second)) < _MATRIX:
        return []
    batch = broadcast([first[:-2], second[:-2]]) or ()
    return [(*batch, first[-2], second[-1])]


def _gemm(call: Call) -> Outputs:
    first, second = call.shapes[:2]
    if first is None or second is None:
        return []
    rows, columns = call.attribute("transA", 0), call.attribute("transB", 0)
    return [(first[1 if rows else 0], second[0 if columns else 1])]


def _concat(call: Call) -> Outputs:
    shapes = [shape for shape in call.shapes if shape is not None]
    if len(shapes) != len(call.shapes) or len({len(shape) for shape in shapes}) != 1:
        return []
    axis = call.attribute("axis", 0) % len(shapes[0])
    columns = list(zip(*shapes, strict=True))
    lengths = numbers(columns[axis])
    total = None if lengths is None else number(sum(lengths))
    return [
        tuple(
            total if position == axis else next((size for size in column if size is not None), None)
            for position, column in enumerate(columns)
        )
    ]


def _squeeze(call: Call) -> Outputs:
    shape, axes = _first(call), call.axes(1)
    if not axes:
        return []
    gone = {axis % len(shape) for axis in axes}
    return [tuple(size for axis, size in enumerate(shape) if axis not in gone)]


def _unsqueeze(call: Call) -> Outputs:
    axes = call.axes(1)
    if axes is None:
        return []
    rank = len(_first(call)) + len(axes)
    new, old = {axis % rank for axis in axes}, iter(_first(call))
    if len(new) != len(axes):
        # An axis twice: refused where it is looked at more closely.
        return []
    return [tuple(number(1) if axis in new else next(old) for axis in range(rank))]


def _reduce(call: Call) -> Outputs:
    axes = call.axes(1)
    if not axes:
        return []
    return [_without(call, axes)]


def _extreme_index(call: Call) -> Outputs:
    return [_without(call, (call.attribute("axis", 0),))]


def _without(call: Call, axes: tuple[int, ...]) -> Sizes:
    shape = _first(call)
    gone = {axis % len(shape) for axis in axes}
    if call.attribute("keepdims", 1):
        return tuple(number(1) if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _along_one_axis(call: Call) -> Outputs:
    """Split and TopK: every output keeps all axes but the one they work along."""
    shape = _first(call)
    default = -1 if call.node.op_type == "TopK" else 0
    axis = call.attribute("axis", default) % len(shape)
    kept = tuple(None if at == axis else size for at, size in enumerate(shape))
    return [kept] * len(call.node.output)


def _gather(call: Call) -> Outputs:
    shape, chosen = _first(call), call.shapes[1]
    if chosen is None:
        return []
    axis = call.attribute("axis", 0) % len(shape)
    return [(*shape[:axis], *chosen, *shape[axis + 1 :])]


def _gather_elements(call: Call) -> Outputs:
    return [call.shapes[1]]


def _slice(call: Call) -> Outputs:
    shape, axes = _first(call), call.axes(3)
    starts = call.integers(1)
    if axes is None or starts is None:
        return []
    ends = call.integers(2) or (0,) * len(starts)
    steps = call.integers(4) if len(call.node.input) > _STEPS else (1,) * len(starts)
    if steps is None or not len(starts) == len(ends) == len(steps):
        return []
    named = [axis % len(shape) for axis in axes] or list(range(len(starts)))
    whole = {
        axis
        for axis, start, end, step in zip(named, starts, ends, steps, strict=True)
        if start == 0 and step == 1 and end >= _TO_THE_END
    }
    cut = set(named) - whole
    return [tuple(None if axis in cut else size for axis, size in enumerate(shape))]


def _pad(call: Call) -> Outputs:
    shape, axes, widths = _first(call), call.axes(3), call.integers(1)
    if axes is None or widths is None:
        return []
    named = [axis % len(shape) for axis in axes] or list(range(len(shape)))
    padded = {
        axis
        for position, axis in enumerate(named)
        if widths[position] or widths[position + len(named)]
    }
    return [tuple(None if axis in padded else size for axis, size in enumerate(shape))]


def _resize(call: Call) -> Outputs:
    shape, inputs = _first(call), [*call.node.input, "", "", ""]
    factors = call.factors.get(inputs[2], ())
    wanted = call.values(_RESIZE_SIZES)
    axes = call.axes(len(inputs)) or tuple(range(len(shape)))
    if not inputs[_RESIZE_SIZES]:
        kept = {axis % len(shape) for axis, factor in zip(axes, factors, strict=False)
                if factor == 1}  # fmt: skip
    elif wanted is not None:
        kept = {axis % len(shape) for axis, size in zip(axes, wanted, strict=False)
                if size is not None and size == shape[axis]}  # fmt: skip
    else:
        kept = set()
    kept |= set(range(len(shape))) - {axis % len(shape) for axis in axes}
    return [tuple(size if axis in kept else None for axis, size in enumerate(shape))]


def _recurrent(call: Call) -> Outputs:
    if call.attribute("layout", 0):
        return []
    steps, batch, _ = _first(call)
    return [(steps, None, batch, None), (None, batch, None), (None, batch, None)]


_RULES: Final[Mapping[str, Callable[[Call], Outputs]]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_BATCH, _batch),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_RECURRENT, _recurrent),
    **dict.fromkeys(("ArgMax", "ArgMin"), _extreme_index),
    **dict.fromkeys(("Split", "TopK"), _along_one_axis),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Transpose": _transpose,
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
}
_NEEDS_NO_FIRST: Final = frozenset({*_ELEMENTWISE, "Expand", "ConstantOfShape"})
