"""What classifiers do with raw scores: transformations, a second column, labels."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from edgekit_converters.ml_operators.registry import CannotExpandError, Expansion

# onnxruntime skips what is nearer to zero than this.
_NEARLY_ZERO: Final = 1e-7
# The constants of onnxruntime's approximation of the inverse error function.
_PROBIT_A: Final = 0.147
_PROBIT_PI: Final = 3.14159
_SQRT_2: Final = 1.41421356


def transform(build: Expansion, scores: str, kind: str, output: str | None = None) -> str:
    """Apply a `post_transform` to a matrix of scores with two or more columns."""
    if kind == "NONE":
        return scores if output is None else build.emit("Identity", [scores], output)
    if kind == "LOGISTIC":
        return build.emit("Sigmoid", [scores], output)
    if kind == "SOFTMAX":
        return build.emit("Softmax", [scores], output, axis=-1)
    if kind == "SOFTMAX_ZERO":
        return _softmax_zero(build, scores, output)
    if kind == "PROBIT":
        return probit(build, scores, output)
    raise CannotExpandError(f"its post_transform {kind!r} is not known")


def probit(build: Expansion, scores: str, output: str | None = None) -> str:
    """The inverse of the normal distribution, in onnxruntime's approximation."""

    def number(value: float) -> str:
        return build.constant(np.array([value], dtype=np.float32), "number")

    doubled = build.emit("Mul", [scores, number(2.0)])
    centred = build.emit("Sub", [doubled, number(1.0)])
    square = build.emit("Mul", [centred, centred])
    log = build.emit("Log", [build.emit("Sub", [number(1.0), square])])
    half = build.emit("Mul", [log, number(0.5)])
    first = build.emit("Add", [half, number(2.0 / (_PROBIT_PI * _PROBIT_A))])
    second = build.emit("Mul", [log, number(1.0 / _PROBIT_A)])
    inner = build.emit("Sub", [build.emit("Mul", [first, first]), second])
    root = build.emit("Sqrt", [build.emit("Sub", [build.emit("Sqrt", [inner]), first])])
    # Not Sign: that of zero is zero.
    negative = build.emit("Less", [centred, number(0.0)])
    size = build.emit("Mul", [root, number(_SQRT_2)])
    return build.emit("Where", [negative, build.emit("Neg", [size]), size], output)


def two_columns(build: Expansion, score: str, *, opposite: str, output: str) -> str:
    """A column of scores with its opposite before it: "one-minus", "negative" or "logistic"."""
    if opposite == "logistic":
        negative = build.emit("Sigmoid", [build.emit("Neg", [score])])
        score = build.emit("Sigmoid", [score])
    elif opposite == "negative":
        negative = build.emit("Neg", [score])
    else:
        one = build.constant(np.ones(1, dtype=np.float32), "one")
        negative = build.emit("Sub", [one, score])
    return build.emit("Concat", [negative, score], output, axis=1)


def class_numbers(build: Expansion, ints: str, strings: str) -> list[int]:
    """The classes' numbers.

    Raises:
        CannotExpandError: If the classes have names.
    """
    if build.texts(strings):
        raise CannotExpandError(
            "its classes have names, and there are only numbers: fit it on class numbers"
        )
    return build.integers(ints)


def label_at(build: Expansion, position: str, labels: list[int]) -> None:
    """Give, as the first output, the label at each position (n, an integer)."""
    if labels == list(range(len(labels))):
        build.emit("Identity", [position], build.output(0))
        return
    table = build.constant(np.array(labels, dtype=np.int64), "labels")
    build.emit("Gather", [table, position], build.output(0))


def label_of_best(build: Expansion, scores: str, labels: list[int]) -> None:
    """Give, as the first output, the label of the first of the largest scores."""
    best = build.emit("ArgMax", [scores], axis=1, keepdims=0)
    label_at(build, best, labels)


def label_above(build: Expansion, score: str, *, limit: float, labels: tuple[int, int]) -> None:
    """Give, as the first output, the second label where a score (n, 1) is above a limit."""
    threshold = build.constant(np.array([limit], dtype=np.float32), "limit")
    above = build.emit("Greater", [score, threshold])
    flat = build.emit("Reshape", [above, build.constant(np.array([-1], dtype=np.int64), "flat")])
    names: list[str] = [
        build.constant(np.array([label], dtype=np.int64), "label") for label in labels
    ]
    build.emit("Where", [flat, names[1], names[0]], build.output(0))


def vector(values: Any) -> Any:
    """Numbers as a float32 row."""
    return np.asarray(values, dtype=np.float32).reshape(1, -1)


def _softmax_zero(build: Expansion, scores: str, output: str | None) -> str:
    largest = build.reduce("ReduceMax", scores, 1)
    limit = build.constant(np.array([_NEARLY_ZERO], dtype=np.float32), "limit")
    away = build.emit("Greater", [build.emit("Abs", [scores]), limit])
    raised = build.emit("Exp", [build.emit("Sub", [scores, largest])])
    nearly = build.emit("Mul", [scores, build.emit("Exp", [build.emit("Neg", [largest])])])
    zero = build.constant(np.zeros(1, dtype=np.float32), "zero")
    total = build.reduce("ReduceSum", build.emit("Where", [away, raised, zero]), 1)
    return build.emit("Div", [build.emit("Where", [away, raised, nearly]), total], output)
