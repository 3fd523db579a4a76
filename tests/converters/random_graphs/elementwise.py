"""Steps element by element: functions, arithmetic, comparisons, casts."""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import TensorProto

from converters.random_graphs.draft import Draft

_FUNCTIONS: Final = (
    "Relu", "Sigmoid", "Tanh", "Exp", "Neg", "Abs", "Floor", "Ceil", "Round", "Sin", "Cos", "Erf",
    "Softplus", "Softsign", "Elu", "Selu", "LeakyRelu", "HardSigmoid", "HardSwish", "Sign",
    "Identity", "Celu", "ThresholdedRelu", "Mish", "Atan", "Sinh", "Cosh", "Asinh", "Gelu",
    "Swish", "Shrink", "Dropout", "Not", "BitwiseNot", "IsNaN", "IsInf",
)  # fmt: skip
# Defined for a part of the numbers: brought there by another function first.
_AFTER: Final = {
    "Sqrt": "Abs", "Asin": "Tanh", "Acos": "Tanh", "Log": "Softplus", "Reciprocal": "Softplus",
    "Acosh": "Exp", "Atanh": "Sin", "Tan": "Sigmoid",
}  # fmt: skip
_ARITHMETIC: Final = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod", "PRelu")
_COMPARISONS: Final = ("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual")
_BITS: Final = ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift")
_TYPES: Final = (
    TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16,
    TensorProto.UINT32, TensorProto.UINT64, TensorProto.FLOAT16, TensorProto.DOUBLE,
)  # fmt: skip


def function(draft: Draft, x: str) -> list[str]:
    operator = draft.pick((*_FUNCTIONS, *_AFTER))
    if operator in _AFTER:
        (x,) = draft.add(_AFTER[operator], [x])
        if operator in {"Sqrt", "Log", "Reciprocal", "Acosh"}:
            shift = np.asarray(1.1 if operator == "Acosh" else 0.3, draft.dtype(x))
            (x,) = draft.add("Add", [x, draft.constant(shift)])
        elif operator in {"Asin", "Acos", "Atanh"}:
            # At one they are infinitely steep.
            shrunk = np.asarray(0.9, draft.dtype(x))
            (x,) = draft.add("Mul", [x, draft.constant(shrunk)])
    options = {}
    attributes = draft.schema(operator).attributes
    for option in ("alpha", "gamma", "bias", "lambd"):
        if option in attributes and draft.chance(0.6):
            options[option] = float(draft.rng.uniform(0.1, 2))
    if operator == "Gelu":
        options["approximate"] = draft.pick(["none", "tanh"])
    return draft.add(operator, [x], **options)


def operand_like(draft: Draft, x: str) -> str:
    """Something that broadcasts with a value, or that the value broadcasts with."""
    shape, dtype = draft.shape(x), draft.dtype(x)
    if draft.chance(0.15):
        others = [name for name in draft.values if draft.dtype(name) == dtype]
        return str(draft.pick(others))
    sizes = [size if size is not None and draft.chance(0.7) else 1 for size in shape]
    if draft.chance(0.3):
        sizes = sizes[draft.between(0, len(sizes)) :]
    elif draft.chance(0.08):
        sizes = [draft.between(1, 2), *sizes]
    array = draft.array(dtype, sizes)
    if array.dtype.kind != "b":
        # What is divided by.
        array = np.where(array == 0, 1, array).astype(dtype)
    if draft.chance(0.2):
        return draft.input(sizes, dtype, array)
    return draft.constant(array)


def arithmetic(draft: Draft, x: str) -> list[str]:
    operator = draft.pick(_ARITHMETIC)
    draft.require(draft.opset >= 8 or operator not in {"Max", "Min"})
    other = operand_like(draft, x)
    floating = draft.dtype(x).startswith("float")
    if operator == "Pow":
        if floating:
            (x,) = draft.add("Abs", [x])
        powers = [0.5, 1, 2, 3, -1, 1.5] if floating else [0, 1, 2, 3]
        power = np.asarray(draft.pick(powers), draft.pick([draft.dtype(x), "float32", "int32"]))
        other = draft.constant(power)
    # Its slope is widened, never the value.
    draft.require(operator != "PRelu" or draft.rank(other) <= draft.rank(x))
    inputs = [x, other]
    if operator not in {"Pow", "PRelu", "Div", "Mod"} and draft.chance(0.3):
        inputs.reverse()
    return draft.add(operator, inputs, **({"fmod": 1} if operator == "Mod" and floating else {}))


def several(draft: Draft, x: str) -> list[str]:
    # Before, they widened nothing.
    draft.require(draft.opset >= 8)
    operator = draft.pick(["Max", "Min", "Sum", "Mean"])
    count = draft.between(0, 3)
    return draft.add(operator, [x, *(operand_like(draft, x) for _ in range(count))])


def bits(draft: Draft, x: str) -> list[str]:
    operator = draft.pick(_BITS)
    other = operand_like(draft, x)
    if operator != "BitShift":
        return draft.add(operator, [x, other])
    shift = np.asarray(draft.between(0, 7), draft.dtype(x))
    return draft.add(operator, [x, draft.operand(shift)], direction=draft.pick(["LEFT", "RIGHT"]))


def compared(draft: Draft, x: str) -> list[str]:
    (met,) = draft.add(draft.pick(_COMPARISONS), [x, operand_like(draft, x)])
    kind = draft.pick(["cast", "where", "where", "logic", "bool"])
    if kind == "cast":
        return draft.add("Cast", [met], to=draft.pick(_TYPES))
    if kind == "where":
        return draft.add("Where", [met, x, operand_like(draft, x)])
    if kind == "logic":
        return draft.add(draft.pick(["And", "Or", "Xor"]), [met, operand_like(draft, met)])
    return [met]


def chosen(draft: Draft, x: str) -> list[str]:
    condition = operand_like(draft, draft.add("Greater", [x, operand_like(draft, x)])[0])
    inputs = [x, operand_like(draft, x)]
    return draft.add("Where", [condition, *inputs[:: draft.pick([1, -1])]])


def cast(draft: Draft, x: str) -> list[str]:
    target = draft.pick(_TYPES)
    if draft.dtype(x).startswith("float") or (
        draft.dtype(x).startswith("int") and draft.chance(0.8)
    ):
        # What a type cannot hold is no one's to define where it comes from a float.
        (x,) = draft.add("Abs", [x])
        if target in {TensorProto.INT8, TensorProto.UINT8} and draft.opset >= 12:
            bound = np.asarray(100, draft.dtype(x))
            (x,) = draft.add("Min", [x, draft.constant(bound)])
    return draft.add("Cast", [x], to=target)


def clipped(draft: Draft, x: str) -> list[str]:
    dtype = draft.dtype(x)
    low, high = sorted([draft.array(dtype, []), draft.array(dtype, [])])
    if draft.opset < 11:
        return draft.add("Clip", [x], min=float(low), max=float(high))
    bounds = {"min": np.asarray(low), "max": np.asarray(high)}
    if draft.chance(0.3):
        del bounds[draft.pick(["min", "max"])]
    return draft.add("Clip", [x], **bounds)


def twice(draft: Draft, x: str) -> list[str]:
    """A value meets itself."""
    return draft.add(draft.pick(["Add", "Mul", "Sub", "Max"]), [x, x])


STEPS: Final = (
    function, function, function, arithmetic, arithmetic, arithmetic, several, bits, compared,
    chosen, cast, clipped, twice,
)  # fmt: skip
