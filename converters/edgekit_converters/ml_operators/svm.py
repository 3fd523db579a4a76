"""SVMRegressor and SVMClassifier: kernels of the support vectors, and votes between classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import TensorProto

from edgekit_converters.ml_operators.registry import CannotExpandError, Expansion, expands
from edgekit_converters.ml_operators.scores import (
    class_numbers,
    label_at,
    label_of_best,
    transform,
    two_columns,
    vector,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KERNELS: Final = frozenset({"LINEAR", "POLY", "RBF", "SIGMOID"})
_SQUARE: Final = 2
_CUBE: Final = 3
_PAIR: Final = 2
# onnxruntime keeps probabilities of two classes this far from zero and one.
_LEAST_PROBABILITY: Final = 1e-7
# Where the equations are fulfilled to this, it stops to improve the probabilities.
_GOOD_ENOUGH: Final = 0.005
# For two classes that is so after two rounds at most.
_ROUNDS: Final = 3


@expands("SVMRegressor")
def expand_svm_regressor(build: Expansion) -> None:
    """A weighted sum of kernels; for one class its sign, of which zero is the negative one."""
    coefficients, rho = build.floats("coefficients"), build.floats("rho")
    count = build.integer("n_supports")
    if not len(coefficients) or not len(rho):
        raise CannotExpandError("it has no coefficients or no rho")
    one_class = bool(build.integer("one_class"))
    output = None if one_class else build.output()
    constant = build.constant(np.array([rho[0]], dtype=np.float32), "rho")
    if count > 0:
        kernels = _kernels(build, _support_vectors(build, count), 0.0)
        weights = build.constant(coefficients.reshape(-1, 1)[:count], "coefficients")
        value = build.emit("Gemm", [kernels, weights, constant], output)
    else:
        weights = build.constant(coefficients.reshape(-1, 1), "coefficients")
        value = build.emit("Gemm", [build.matrix(), weights, constant], output)
    if one_class:
        zero, one, other = (
            build.constant(np.array([number], dtype=np.float32), "number")
            for number in (0.0, 1.0, -1.0)
        )
        above = build.emit("Greater", [value, zero])
        build.emit("Where", [above, one, other], build.output())


@expands("SVMClassifier")
def expand_svm_classifier(build: Expansion) -> None:
    """A machine for each pair of classes; each votes, and the first class with most votes wins."""
    labels = class_numbers(build, "classlabels_ints", "classlabels_strings")
    supports = build.integers("vectors_per_class")
    if not labels or (supports and len(supports) != len(labels)):
        raise CannotExpandError("it has no labels, or not as many as groups of support vectors")
    if not sum(supports):
        _expand_linear(build, labels)
        return
    pairs = [(i, j) for i in range(len(labels)) for j in range(i + 1, len(labels))]
    rho = build.floats("rho")
    if not pairs or len(rho) < len(pairs):
        raise CannotExpandError(f"it has {len(rho)} values of rho for {len(pairs)} pairs")
    kernels = _kernels(build, _support_vectors(build, sum(supports)), 0.0)
    weights = build.constant(_pair_weights(build, supports, pairs), "pair_weights")
    offsets = build.constant(rho[: len(pairs)], "rho")
    scores = build.emit("Gemm", [kernels, weights, offsets])
    _vote(build, scores, pairs, labels)
    kind = build.text("post_transform", "NONE")
    prob_a, prob_b = build.floats("prob_a"), build.floats("prob_b")
    if len(prob_a):
        if len(labels) > _PAIR:
            raise CannotExpandError(
                "its probabilities of three and more classes come from an iteration; fit it with "
                "probability=False, or wrap it in CalibratedClassifierCV"
            )
        probabilities = _pair_probabilities(build, scores, float(prob_a[0]), float(prob_b[0]))
        transform(build, probabilities, kind, build.output(1))
    elif len(labels) == _PAIR:
        if kind == "PROBIT":
            raise CannotExpandError("PROBIT leaves the second of its two columns undefined")
        opposite = {"NONE": "negative", "LOGISTIC": "logistic"}.get(kind, "one-minus")
        two_columns(build, scores, opposite=opposite, output=build.output(1))
    else:
        transform(build, scores, kind, build.output(1))


def _expand_linear(build: Expansion, labels: list[int]) -> None:
    """Without support vectors: one row of coefficients a class."""
    coefficients, rho = build.floats("coefficients"), build.floats("rho")
    if not len(rho) or not len(coefficients) or len(coefficients) % len(labels):
        raise CannotExpandError("its coefficients do not make a row a class")
    weights = build.constant(coefficients.reshape(len(labels), -1), "coefficients")
    constant = build.constant(rho[:1], "rho")
    scores = build.emit("Gemm", [build.matrix(), weights, constant], transB=1)
    if len(labels) == _PAIR and not len(build.floats("prob_a")):
        positive = bool((coefficients >= 0).all())
        largest = build.reduce("ReduceMax", scores, 1)
        limit = build.constant(np.array([0.5 if positive else 0.0], dtype=np.float32), "limit")
        op = "GreaterOrEqual" if positive else "Greater"
        above = build.emit(op, [largest, limit])
        flat = build.constant(np.array([-1], dtype=np.int64), "flat")
        one = build.constant(np.array([1], dtype=np.int64), "second")
        best = build.emit("ArgMax", [scores], axis=1, keepdims=0)
        chosen = build.emit("Where", [build.emit("Reshape", [above, flat]), one, best])
        label_at(build, chosen, labels)
    else:
        label_of_best(build, scores, labels)
    transform(build, scores, build.text("post_transform", "NONE"), build.output(1))


def _support_vectors(build: Expansion, count: int) -> NDArray[np.float32]:
    vectors = build.floats("support_vectors")
    if not len(vectors) or len(vectors) % count:
        raise CannotExpandError(f"its support vectors do not make {count} rows")
    return vectors.reshape(count, -1)


def _kernels(build: Expansion, vectors: NDArray[np.float32], offset: float) -> str:
    """The kernel of each sample with each support vector (n, vectors)."""
    kind = build.text("kernel_type", "LINEAR")
    if kind not in _KERNELS:
        raise CannotExpandError(f"its kernel {kind!r} is not known")
    gamma, coef0, degree = (*build.floats("kernel_params").tolist(), 0.0, 0.0, 0.0)[:3]
    matrix = build.matrix()
    if kind == "RBF":
        return _rbf(build, matrix, vectors, gamma)
    inputs = [matrix, build.constant(vectors, "support_vectors")]
    constant = offset if kind == "LINEAR" else coef0
    if constant:
        inputs.append(build.constant(np.array([constant], dtype=np.float32), "offset"))
    alpha = 1.0 if kind == "LINEAR" else gamma
    product = build.emit("Gemm", inputs, alpha=float(alpha), transB=1)
    if kind == "SIGMOID":
        return build.emit("Tanh", [product])
    if kind == "LINEAR":
        return product
    if degree == _SQUARE:
        return build.emit("Mul", [product, product])
    if degree == _CUBE:
        return build.emit("Mul", [build.emit("Mul", [product, product]), product])
    return build.emit("Pow", [product, build.constant(vector([degree]), "degree")])


def _rbf(build: Expansion, matrix: str, vectors: NDArray[np.float32], gamma: float) -> str:
    """exp(-gamma |x - v|^2), by the differences themselves: |x|^2 - 2xv + |v|^2 cancels."""
    middle = build.constant(np.array([1], dtype=np.int64), "axis")
    wide = build.emit("Unsqueeze", [matrix, middle])
    difference = build.emit("Sub", [wide, build.constant(vectors[np.newaxis], "support_vectors")])
    square = build.emit("Mul", [difference, difference])
    distance = build.reduce("ReduceSum", square, 2)
    last = build.constant(np.array([2], dtype=np.int64), "axis")
    flat = build.emit("Squeeze", [distance, last])
    scaled = build.emit("Mul", [flat, build.constant(vector([-gamma]), "gamma")])
    return build.emit("Exp", [scaled])


def _pair_weights(
    build: Expansion, supports: list[int], pairs: list[tuple[int, int]]
) -> NDArray[np.float32]:
    """The coefficients of each pair's machine as one column over all support vectors."""
    count = sum(supports)
    coefficients = build.floats("coefficients")
    if len(coefficients) < (len(supports) - 1) * count:
        raise CannotExpandError("it has too few coefficients for its pairs of classes")
    rows = coefficients[: (len(supports) - 1) * count].reshape(len(supports) - 1, count)
    starts = np.concatenate([[0], np.cumsum(supports)]).astype(int)
    weights = np.zeros((count, len(pairs)), dtype=np.float32)
    for column, (i, j) in enumerate(pairs):
        first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        weights[first, column] = rows[j - 1, first]
        weights[second, column] = rows[i, second]
    return weights


def _vote(build: Expansion, scores: str, pairs: list[tuple[int, int]], labels: list[int]) -> None:
    zero = build.constant(np.zeros(1, dtype=np.float32), "zero")
    first = build.emit("Cast", [build.emit("Greater", [scores, zero])], to=TensorProto.FLOAT)
    # A vote for i where the score is above zero, else for j: j's start with all, and lose those.
    gains = np.zeros((len(pairs), len(labels)), dtype=np.float32)
    start = np.zeros(len(labels), dtype=np.float32)
    for row, (i, j) in enumerate(pairs):
        gains[row, i] = 1
        gains[row, j] = -1
        start[j] += 1
    votes = build.emit(
        "Gemm", [first, build.constant(gains, "gains"), build.constant(start, "start")]
    )
    label_of_best(build, votes, labels)


def _pair_probabilities(build: Expansion, scores: str, prob_a: float, prob_b: float) -> str:
    """Platt's probabilities of two classes, as far as onnxruntime improves them.

    With r of the first class against the second, it looks for p0 + p1 = 1 with (1 - r) p0 = r p1,
    class by class, from a half each, and stops as soon as the equations are nearly fulfilled:
    https://www.csie.ntu.edu.tw/~cjlin/papers/svmprob/svmprob.pdf, algorithm 2.
    """

    def number(value: float) -> str:
        return build.constant(np.array([value], dtype=np.float32), "number")

    def combine(op: str, *values: str) -> str:
        return build.emit(op, list(values))

    scaled = combine("Mul", scores, number(prob_a))
    shifted = combine("Add", scaled, number(prob_b))
    raw = combine("Sub", number(1.0), combine("Sigmoid", shifted))
    low, high = number(_LEAST_PROBABILITY), number(1 - _LEAST_PROBABILITY)
    first = combine("Min", combine("Max", raw, low), high)
    second = combine("Sub", number(1.0), first)
    half = combine("Mul", first, number(0.0))
    p = [combine("Add", half, number(0.5)), combine("Add", half, number(0.5))]
    against = [second, first]
    signs = [number(1.0), number(-1.0)]
    limit = number(_GOOD_ENOUGH / _PAIR)
    going = ""
    for _ in range(_ROUNDS):
        gap = combine("Sub", combine("Mul", second, p[0]), combine("Mul", first, p[1]))
        square = combine("Mul", gap, gap)
        errors = []
        for share, sign in zip(against, signs, strict=True):
            slope = combine("Mul", combine("Mul", share, gap), sign)
            errors.append(combine("Abs", combine("Sub", slope, square)))
        wrong = combine("GreaterOrEqual", combine("Max", *errors), limit)
        going = combine("And", going, wrong) if going else wrong
        better = list(p)
        for place in range(_PAIR):
            gap = combine(
                "Sub", combine("Mul", second, better[0]), combine("Mul", first, better[1])
            )
            slope = combine("Mul", combine("Mul", against[place], gap), signs[place])
            change = combine("Sub", combine("Mul", gap, gap), slope)
            step = combine("Div", change, combine("Mul", against[place], against[place]))
            whole = combine("Add", step, number(1.0))
            moved = combine("Add", better[place], step)
            other = better[1 - place]
            better[place] = combine("Div", moved, whole)
            better[1 - place] = combine("Div", other, whole)
        p = [combine("Where", going, new, old) for new, old in zip(better, p, strict=True)]
    return build.emit("Concat", p, axis=1)
