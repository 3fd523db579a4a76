"""Steps that write out what a converter recognises, most of the time with something wrong in it."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from converters.random_graphs.draft import Draft


def number(draft: Draft, x: str, value: float, *, off: float = 0.3) -> str:
    """A constant, at times another one, and as a scalar, a list of one or with more axes."""
    if draft.chance(off):
        value *= draft.pick([-1, 0.5, 1.1, 1.001, 2])
    shape = draft.pick([[], [], [1], [1] * draft.rank(x), [1] * (draft.rank(x) + 1)])
    return draft.constant(np.full(shape, value, draft.dtype(x)))


def _joined(draft: Draft, operator: str, first: str, second: str) -> str:
    pair = [first, second]
    if operator in {"Add", "Mul"} and draft.chance(0.5):
        pair.reverse()
    return draft.add(operator, pair)[0]


def _other(draft: Draft, x: str, probability: float = 0.12) -> str:
    """The value, or now and then another of the same type."""
    if not draft.chance(probability):
        return x
    kind = draft.dtype(x), draft.rank(x)
    same = [name for name in draft.values if (draft.dtype(name), draft.rank(name)) == kind]
    return str(draft.pick(same))


def _spied(draft: Draft, x: str, *others: str) -> list[str]:
    """The result, and now and then an inner value that is needed elsewhere too."""
    if others and draft.chance(0.2):
        return [x, draft.add("Neg", [draft.pick(others)])[0]]
    return [x]


def gelu(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    (a,) = draft.add(draft.pick(["Div", "Div", "Mul"]), [x, number(draft, x, math.sqrt(2))])
    (b,) = draft.add("Erf", [a])
    c = _joined(draft, draft.pick(["Add", "Add", "Sub"]), b, number(draft, x, 1))
    d = _joined(draft, "Mul", _other(draft, x), c)
    y = _joined(draft, "Mul", d, number(draft, x, 0.5))
    return _spied(draft, y, a, b, c, d)


def tanh_gelu(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    (cube,) = draft.add("Pow", [x, number(draft, x, 3, off=0.1)])
    a = _joined(draft, "Mul", cube, number(draft, x, 0.044715))
    b = _joined(draft, "Add", a, _other(draft, x))
    c = _joined(draft, "Mul", b, number(draft, x, math.sqrt(2 / math.pi)))
    (d,) = draft.add("Tanh", [c])
    e = _joined(draft, "Add", d, number(draft, x, 1))
    half = _joined(draft, "Mul", _other(draft, x), number(draft, x, 0.5))
    return _spied(draft, _joined(draft, "Mul", half, e), a, c, e)


def hard_swish(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    if draft.chance(0.3):
        options = {"alpha": draft.pick([1 / 6, 0.2, 1 / 6.1]), "beta": draft.pick([0.5, 0.5, 0.4])}
        (gate,) = draft.add("HardSigmoid", [x], **options)
        return [_joined(draft, "Mul", gate, _other(draft, x))]
    a = _joined(draft, "Add", x, number(draft, x, 3, off=0.15))
    draft.require(draft.opset >= 11)
    top = np.asarray(draft.pick([6, 6, 6, 5, 1]), np.float32)
    (b,) = draft.add("Clip", [a], min=np.asarray(draft.pick([0, 0, 0, -1]), np.float32), max=top)
    kind = draft.pick(["sigmoid", "first", "last"])
    if kind == "sigmoid":
        return draft.add("Div", [b, number(draft, x, 6)])
    if kind == "first":
        (c,) = draft.add("Div", [b, number(draft, x, 6)])
        return _spied(draft, _joined(draft, "Mul", c, _other(draft, x)), a, b, c)
    c = _joined(draft, "Mul", b, _other(draft, x))
    return _spied(draft, draft.add("Div", [c, number(draft, x, 6)])[0], a, b, c)


def softplus(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    (a,) = draft.add("Exp", [x])
    b = _joined(draft, "Add", a, number(draft, x, 1))
    (c,) = draft.add("Abs", [b])
    return draft.add("Log", [draft.pick([b, c])])


def layer_norm(draft: Draft, x: str) -> list[str]:
    """The written-out form: axes last or not, epsilon within the root or outside."""
    draft.floats(x)
    rank = draft.rank(x)
    draft.require(rank >= 2)
    axes = np.array(draft.pick([[-1], [rank - 1], [rank - 2, rank - 1], [0], [1]]), np.int64)
    draft.require(draft.opset >= 11)
    keep = draft.pick([1, 1, 1, 0])
    (mean,) = draft.add("ReduceMean", [x], axes=axes, keepdims=keep)
    (a,) = draft.add("Sub", [x, mean])
    if draft.chance(0.5):
        (square,) = draft.add("Pow", [a, number(draft, x, 2, off=0.1)])
    else:
        (square,) = draft.add("Mul", [a, _other(draft, a)])
    inner = axes if draft.chance(0.8) else np.array([-1], np.int64)
    operator = draft.pick(["ReduceMean", "ReduceMean", "ReduceMean", "ReduceSum"])
    (variance,) = draft.add(operator, [square], axes=inner, keepdims=keep)
    if draft.chance(0.8):
        raised = _joined(draft, "Add", variance, number(draft, x, 1e-5, off=0.1))
        (root,) = draft.add("Sqrt", [raised])
    else:
        (root,) = draft.add("Sqrt", [variance])
        root = _joined(draft, "Add", root, number(draft, x, 1e-5))
    (y,) = draft.add("Div", [_other(draft, a), root])
    width = draft.shape(x)[-1]
    if width is not None and draft.chance(0.7):
        y = _joined(
            draft, "Mul", y, draft.weights(*draft.pick([[width], [1, width], [width, 1], [1]]))
        )
    if width is not None and draft.chance(0.7):
        y = _joined(draft, "Add", y, draft.weights(*draft.pick([[width], [1, 1, width], []])))
    return _spied(draft, y, a, root)


def softmax(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    axis = draft.axis(x) if draft.opset >= 11 else draft.axis(x) % draft.rank(x)
    axes, keep = np.array([axis], np.int64), draft.pick([1, 1, 1, 0])
    z = x
    if draft.chance(0.6):
        operator = draft.pick(["ReduceMax", "ReduceMax", "ReduceMin"])
        (largest,) = draft.add(operator, [_other(draft, x)], axes=axes, keepdims=keep)
        (z,) = draft.add("Sub", [x, largest])
    (power,) = draft.add("Exp", [z])
    if draft.chance(0.2) and draft.rank(x) > 1:
        axes = np.array([axis - 1 if axis else 1], np.int64)
    (total,) = draft.add("ReduceSum", [power], axes=axes, keepdims=keep)
    if draft.chance(0.3):
        (logarithm,) = draft.add("Log", [total])
        return _spied(draft, draft.add("Sub", [_other(draft, z), logarithm])[0], power, total)
    return _spied(draft, draft.add("Div", [_other(draft, power), total])[0], power, total)


def constants_in_a_row(draft: Draft, x: str) -> list[str]:
    """Numbers and rows that are added and multiplied one behind the other."""
    dtype = draft.dtype(x)
    for _ in range(draft.between(2, 4)):
        operator = draft.pick(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"])
        shape = draft.shape(x)
        sizes = draft.pick(
            [[], [1], [size or 1 for size in shape[-1:]], [size or 1 for size in shape]]
        )
        array = draft.array(dtype, sizes)
        if dtype.startswith("float") and draft.chance(0.3):
            array = np.full(sizes, draft.pick([0.0, 1.0, -1.0, 0.5, 2.0]), dtype)
        if operator in {"Div", "Pow"}:
            array = np.full(sizes, draft.pick([1, 2]), dtype)
        pair = [x, draft.constant(array)]
        if operator not in {"Pow", "Div"} and draft.chance(0.25):
            pair.reverse()
        (x,) = draft.add(operator, pair)
    return [x]


def scaled_layer(draft: Draft, x: str) -> list[str]:
    """Constants before and behind a layer with weights, per channel, per row, or across."""
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) >= 2)
    image = len(shape) == 4 and bool(shape[1])
    channels = shape[1] if image else shape[-1]
    draft.require(channels is not None)
    count = channels or 1

    def constant(size: int) -> str:
        forms = (
            [[size, 1, 1], [1, size, 1, 1], [1], [], [size, 1]]
            if image
            else [[size], [1], [1, size], [size, 1]]
        )
        return draft.weights(*draft.pick(forms))

    for _ in range(draft.between(0, 2)):
        (x,) = draft.add(draft.pick(["Mul", "Add", "Sub"]), [x, constant(count)])
    if image:
        groups = draft.pick([1, 1, count])
        weights = draft.weights(groups * 2, count // groups, 3, 3)
        pads = draft.pick([[0] * 4, [1] * 4])
        operator = draft.pick(["Conv", "Conv", "ConvTranspose"])
        if operator == "ConvTranspose":
            weights = draft.weights(count, 2, 3, 3)
        (y,) = draft.add(operator, [x, weights], pads=pads, group=groups)
        outputs = 2 * groups
    else:
        outputs = 3
        if len(shape) == 2 and draft.chance(0.5):
            inputs = [x, draft.weights(count, outputs), draft.weights(outputs)]
            (y,) = draft.add(
                "Gemm", inputs, alpha=draft.pick([None, 0.5]), beta=draft.pick([None, 2.0])
            )
        else:
            (y,) = draft.add("MatMul", [x, draft.weights(count, outputs)])
    for _ in range(draft.between(0, 3)):
        operator = draft.pick(["Mul", "Add", "Sub"])
        (y,) = draft.add(operator, draft.pick([[y, constant(outputs)], [constant(outputs), y]]))
    return [y]


def moved_about(draft: Draft, x: str) -> list[str]:
    """Reshapes, transposes and functions in a row, some of which undo each other."""
    rank = draft.rank(x)
    draft.require(rank >= 2)
    order = [int(axis) for axis in draft.rng.permutation(rank)]
    (y,) = draft.add("Transpose", [x], perm=order)
    for _ in range(draft.between(0, 2)):
        (y,) = draft.add(draft.pick(["Relu", "Neg", "Abs"]), [y])
    back = [order.index(axis) for axis in range(rank)] if draft.chance(0.6) else order
    (z,) = draft.add("Transpose", [y], perm=back)
    if draft.chance(0.4):
        (z,) = draft.add("Unsqueeze", [z], axes=np.array([draft.between(0, rank)]))
        (z,) = draft.add("Squeeze", [z])
    return [z, y] if draft.chance(0.2) else [z]


def padded_window(draft: Draft, x: str) -> list[str]:
    """A Pad in front of a window, which might do it itself."""
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) == 4 and bool(shape[1]) and draft.opset >= 11)
    if draft.chance(0.5):
        (x,) = draft.add("Relu", [x])
    widths = [
        0,
        0,
        *(draft.between(0, 2) for _ in range(2)),
        0,
        0,
        *(draft.between(0, 2) for _ in range(2)),
    ]
    if draft.chance(0.15):
        widths[1] = 1
    value = draft.pick([None, 0.0, 0.0, 1.0, -1e4])
    number = None if value is None else np.asarray(value, np.float32)
    (y,) = draft.add("Pad", [x], pads=np.array(widths, np.int64), constant_value=number)
    operator = draft.pick(["Conv", "MaxPool", "AveragePool"])
    own = draft.pick([None, [1, 1, 1, 1]])
    if operator == "Conv":
        channels = draft.shape(y)[1] or 1
        return draft.add("Conv", [y, draft.weights(2, channels, 3, 3)], pads=own)
    counted = draft.between(0, 1) if operator == "AveragePool" else None
    return draft.add(
        operator, [y], kernel_shape=[3, 3], pads=own, count_include_pad=counted,
        ceil_mode=draft.pick([None, 1]) if draft.opset >= 10 else None,
        strides=draft.pick([None, [2, 2]]),
    )  # fmt: skip


STEPS: Final = (
    gelu, gelu, tanh_gelu, hard_swish, hard_swish, softplus, layer_norm, layer_norm, softmax,
    softmax, constants_in_a_row, scaled_layer, scaled_layer, moved_about, padded_window,
)  # fmt: skip
