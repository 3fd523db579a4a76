"""Steps of many nodes: what networks are made of, where orders of axes meet."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from converters.random_graphs.draft import Draft
from converters.random_graphs.elementwise import function

_ACTIVATIONS: Final = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Clip")


def _convolve(draft: Draft, x: str, outputs: int, kernel: int = 3, groups: int = 1) -> str:
    channels = draft.shape(x)[1]
    draft.require(bool(channels) and (channels or 1) % groups == 0 and outputs % groups == 0)
    weights = draft.weights(outputs, (channels or 1) // groups, kernel, kernel)
    pads = [kernel // 2] * 4
    return draft.add("Conv", [x, weights, draft.weights(outputs)], pads=pads, group=groups)[0]


def _activate(draft: Draft, x: str) -> str:
    operator = draft.pick(_ACTIVATIONS)
    if operator == "Clip":
        draft.require(draft.opset >= 11)
        bounds = {"min": np.float32(0), "max": np.float32(6)}
        return draft.add("Clip", [x], **bounds)[0]
    return draft.add(operator, [x])[0]


def _image(draft: Draft, x: str) -> int:
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) == 4 and bool(shape[1]))
    return shape[1] or 1


def residual(draft: Draft, x: str) -> list[str]:
    count = _image(draft, x)
    y = _convolve(draft, x, count)
    if draft.chance(0.6):
        y = _activate(draft, y)
    if draft.chance(0.5):
        y = _convolve(draft, y, count, 1)
    (y,) = draft.add("Add", draft.pick([[x, y], [y, x]]))
    return [_activate(draft, y)] if draft.chance(0.6) else [y]


def squeeze_excite(draft: Draft, x: str) -> list[str]:
    """The gate's axes kept all along, or left out and put back."""
    count = _image(draft, x)
    kind = draft.pick(["pool", "kept", "dense"])
    if kind == "pool":
        (y,) = draft.add("GlobalAveragePool", [x])
    else:
        axes = np.array([2, 3])
        (y,) = draft.add("ReduceMean", [x], axes=axes, keepdims=1 if kind == "kept" else 0)
    if kind == "dense":
        (y,) = draft.add("Gemm", [y, draft.weights(count, 2), draft.weights(2)])
        (y,) = draft.add("Relu", [y])
        (y,) = draft.add("Gemm", [y, draft.weights(2, count), draft.weights(count)])
        (y,) = draft.add(draft.pick(["Sigmoid", "HardSigmoid"]), [y])
        if draft.chance(0.5):
            (y,) = draft.add("Unsqueeze", [y], axes=np.array([2, 3]))
        else:
            (y,) = draft.add("Reshape", [y], shape=np.array([-1, count, 1, 1]))
    else:
        y = _convolve(draft, y, 2, 1)
        (y,) = draft.add("Relu", [y])
        (y,) = draft.add("Sigmoid", [_convolve(draft, y, count, 1)])
    return draft.add("Mul", draft.pick([[x, y], [y, x]]))


def separable(draft: Draft, x: str) -> list[str]:
    count = _image(draft, x)
    y = _activate(draft, _convolve(draft, x, count * draft.between(1, 2), 3, count))
    return [_convolve(draft, y, draft.pick([2, 4]), 1)]


def shuffled(draft: Draft, x: str) -> list[str]:
    """Channel shuffle, as it is written, and near it."""
    count = _image(draft, x)
    shape = draft.known_shape(x)[2:] if None not in draft.shape(x)[2:] else None
    draft.require(shape is not None and count % 2 == 0)
    groups = draft.pick([2, count // 2])
    middle = np.array([-1, groups, count // groups, *(shape or ())])
    (y,) = draft.add("Reshape", [x], shape=middle)
    order = draft.pick([[0, 2, 1, 3, 4]] * 3 + [[0, 2, 1, 4, 3], [2, 0, 1, 3, 4]])
    (y,) = draft.add("Transpose", [y], perm=order)
    (y,) = draft.add("Reshape", [y], shape=np.array([-1, count, *(shape or ())]))
    return [_convolve(draft, y, 2, 1)] if draft.chance(0.5) else [y]


def pixels_moved(draft: Draft, x: str) -> list[str]:
    """Pixel shuffle and its inverse, written out, in right and in wrong orders."""
    count = _image(draft, x)
    batch, _, high, wide = draft.known_shape(x)
    if draft.chance(0.5):
        draft.require(count % 4 == 0)
        shape = draft.pick(
            [[batch, count // 4, 2, 2, high, wide], [batch, 2, 2, count // 4, high, wide]]
        )
        order = draft.pick([[0, 1, 4, 2, 5, 3], [0, 3, 4, 1, 5, 2], [0, 1, 4, 3, 5, 2]])
        result = [batch, count // 4, high * 2, wide * 2]
    else:
        draft.require(high % 2 == 0 and wide % 2 == 0)
        shape = [batch, count, high // 2, 2, wide // 2, 2]
        order = draft.pick([[0, 3, 5, 1, 2, 4], [0, 1, 3, 5, 2, 4], [0, 1, 5, 3, 2, 4]])
        result = [batch, count * 4, high // 2, wide // 2]
    (y,) = draft.add("Reshape", [x], shape=np.array(shape))
    (y,) = draft.add("Transpose", [y], perm=order)
    return draft.add("Reshape", [y], shape=np.array(result))


def to_tokens(draft: Draft, x: str) -> list[str]:
    """An image as a sequence of its pixels, with a dense layer, and perhaps back again."""
    count = _image(draft, x)
    shape = draft.shape(x)
    (y,) = draft.add("Reshape", [x], shape=np.array([0, count, -1]))
    (y,) = draft.add("Transpose", [y], perm=[0, 2, 1])
    (y,) = draft.add("MatMul", [y, draft.weights(count, 4)])
    if draft.chance(0.5):
        (y,) = draft.add("Add", [y, draft.weights(4)])
    if draft.chance(0.4) or None in shape[2:]:
        return [y]
    (y,) = draft.add("Transpose", [y], perm=[0, 2, 1])
    (y,) = draft.add("Reshape", [y], shape=np.array([-1, 4, *(size or 1 for size in shape[2:])]))
    return [_convolve(draft, y, 2, 1)]


def turned_around(draft: Draft, x: str) -> list[str]:
    """Convolution, something in channels-last order, convolution again."""
    _image(draft, x)
    y = _convolve(draft, x, 4)
    (y,) = draft.add("Transpose", [y], perm=[0, 2, 3, 1])
    kind = draft.pick(["dense", "norm", "scale", "function"])
    if kind == "dense":
        (y,) = draft.add("MatMul", [y, draft.weights(4, 4)])
        (y,) = draft.add("Add", [y, draft.weights(4)])
    elif kind == "norm":
        (y,) = draft.add("LayerNormalization", [y, draft.weights(4), draft.weights(4)])
    elif kind == "scale":
        (y,) = draft.add("Mul", [y, draft.weights(4)])
    else:
        (y,) = function(draft, y)
    if draft.chance(0.2):
        return [y]
    (y,) = draft.add("Transpose", [y], perm=[0, 3, 1, 2])
    return [_convolve(draft, y, 3, 1)] if draft.chance(0.7) else [y]


def branches(draft: Draft, x: str) -> list[str]:
    """Convolutions side by side, joined along any axis."""
    count = _image(draft, x)
    parts = [_convolve(draft, x, count, size) for size in (1, 3)[: draft.between(1, 2)]]
    if draft.chance(0.4):
        parts.append(x)
    axis = draft.pick([1, 1, 1, 2, 3, -1, 0])
    (y,) = draft.add("Concat", parts, axis=axis if draft.opset >= 11 else axis % 4)
    if draft.chance(0.5):
        (y,) = draft.add("Softmax", [y], axis=axis if draft.opset >= 11 else axis % 4)
    return [y]


def attention(draft: Draft, x: str) -> list[str]:
    """Self-attention with two heads: one product for queries, keys and values, or three."""
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) == 3 and bool(shape[2]))
    width, heads = shape[2] or 1, 2
    size = 2 * heads
    together = draft.chance(0.5)
    if together:
        (joint,) = draft.add("MatMul", [x, draft.weights(width, 3 * size)])
        if draft.chance(0.7):
            (joint,) = draft.add("Add", [joint, draft.weights(3 * size)])
        sizes = [0, -1, 3, heads, 2] if draft.chance(0.5) else [0, 0, 3, heads, 2]
        (joint,) = draft.add("Reshape", [joint], shape=np.array(sizes))
        (joint,) = draft.add("Transpose", [joint], perm=[2, 0, 3, 1, 4])
        parts = [
            draft.add("Gather", [joint, draft.constant(np.asarray(place))], axis=0)[0]
            for place in range(3)
        ]
    else:
        parts = []
        for _ in range(3):
            (part,) = draft.add("MatMul", [x, draft.weights(width, size)])
            if draft.chance(0.7):
                (part,) = draft.add("Add", [part, draft.weights(size)])
            (part,) = draft.add("Reshape", [part], shape=np.array([0, 0, heads, 2]))
            parts += draft.add("Transpose", [part], perm=[0, 2, 1, 3])
    q, k, v = parts
    (k,) = draft.add("Transpose", [k], perm=[0, 1, 3, 2])
    factor = draft.constant(np.asarray(1 / math.sqrt(2), np.float32))
    scaled = draft.pick(["query", "scores", "none"])
    if scaled == "query":
        (q,) = draft.add("Mul", [q, factor])
    (scores,) = draft.add("MatMul", [q, k])
    if scaled == "scores":
        (scores,) = draft.add(draft.pick(["Mul", "Div"]), [scores, factor])
    (weights,) = draft.add("Softmax", [scores], axis=3)
    (y,) = draft.add("MatMul", [weights, v])
    (y,) = draft.add("Transpose", [y], perm=[0, 2, 1, 3])
    (y,) = draft.add("Reshape", [y], shape=np.array([0, 0, size]))
    return draft.add("MatMul", [y, draft.weights(size, width)])


def windows_of(draft: Draft, x: str) -> list[str]:
    """An image cut into windows and put together again, as Swin does."""
    draft.floats(x)
    batch, channels, high, wide = draft.known_shape(x) if draft.rank(x) == 4 else (0, 0, 1, 1)
    draft.require(high % 2 == 0 and wide % 2 == 0)
    (y,) = draft.add("Reshape", [x], shape=np.array([batch, channels, high // 2, 2, wide // 2, 2]))
    (y,) = draft.add("Transpose", [y], perm=[0, 2, 4, 3, 5, 1])
    (y,) = draft.add("Reshape", [y], shape=np.array([-1, 4, channels]))
    (y,) = draft.add("MatMul", [y, draft.weights(channels, channels)])
    back = np.array([batch, high // 2, wide // 2, 2, 2, channels])
    (y,) = draft.add("Reshape", [y], shape=back)
    (y,) = draft.add("Transpose", [y], perm=[0, 5, 1, 3, 2, 4])
    return draft.add("Reshape", [y], shape=np.array([batch, channels, high, wide]))


def classifier(draft: Draft, x: str) -> list[str]:
    """Pooled, flattened in one of many ways, and a dense layer."""
    count = _image(draft, x)
    kind = draft.pick(["pool", "mean", "flat"])
    if kind == "mean":
        (y,) = draft.add("ReduceMean", [x], axes=np.array([2, 3]), keepdims=0)
    else:
        if kind == "pool":
            (x,) = draft.add("GlobalAveragePool", [x])
        else:
            x = _convolve(draft, x, count)
        if draft.chance(0.5):
            (y,) = draft.add("Flatten", [x])
        else:
            (y,) = draft.add("Reshape", [x], shape=np.array([0, -1]))
    features = draft.shape(y)[-1]
    draft.require(features is not None)
    if draft.chance(0.4):
        (y,) = function(draft, y)
    return draft.add("Gemm", [y, draft.weights(features or 1, 3), draft.weights(3)])


STEPS: Final = (
    residual, squeeze_excite, separable, shuffled, pixels_moved, to_tokens, turned_around,
    branches, attention, attention, windows_of, classifier,
)  # fmt: skip
