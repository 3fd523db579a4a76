"""LinearRegressor and LinearClassifier: a matrix product, and what follows it."""

from __future__ import annotations

import numpy as np

from edgekit_converters.ml_operators.registry import CannotExpandError, Expansion, expands
from edgekit_converters.ml_operators.scores import (
    class_numbers,
    label_above,
    label_of_best,
    probit,
    transform,
    two_columns,
)


@expands("LinearRegressor")
def expand_linear_regressor(build: Expansion) -> None:
    """Y = X coefficients^T + intercepts; of a single target only PROBIT is applied."""
    targets = build.integer("targets", 1)
    kind = build.text("post_transform", "NONE")
    single = targets == 1
    final = None if kind != "NONE" else build.output(0)
    scores = _product(build, targets, final)
    if kind == "PROBIT" and single:
        probit(build, scores, build.output(0))
    elif kind != "NONE":
        transform(build, scores, "NONE" if single else kind, build.output(0))


@expands("LinearClassifier")
def expand_linear_classifier(build: Expansion) -> None:
    """One score an intercept; a single one is compared with zero, of several the best wins."""
    labels = class_numbers(build, "classlabels_ints", "classlabels_strings")
    kind = build.text("post_transform", "NONE")
    targets = len(build.floats("intercepts"))
    if not targets:
        raise CannotExpandError("it has no intercepts, and so no classes")
    scores = _product(build, targets, None)
    pair = len(labels) == 2  # noqa: PLR2004 - two classes
    if targets > 1:
        if len(labels) < targets:
            raise CannotExpandError(f"it has {targets} scores and {len(labels)} labels")
        label_of_best(build, scores, labels)
        transform(build, scores, kind, build.output(1))
        return
    label_above(build, scores, limit=0.0, labels=(labels[0], labels[1]) if pair else (0, 1))
    if kind == "PROBIT":
        if pair:
            raise CannotExpandError("PROBIT leaves the second of its two columns undefined")
        probit(build, scores, build.output(1))
    elif pair:
        # onnxruntime leaves SOFTMAX out where one score speaks for two classes.
        opposite = "logistic" if kind == "LOGISTIC" else "one-minus"
        two_columns(build, scores, opposite=opposite, output=build.output(1))
    else:
        build.emit("Identity", [scores], build.output(1))


def _product(build: Expansion, targets: int, output: str | None) -> str:
    matrix = build.matrix()
    coefficients = build.floats("coefficients")
    if targets < 1 or len(coefficients) % targets or not len(coefficients):
        raise CannotExpandError(f"its {len(coefficients)} coefficients do not make {targets} rows")
    weights = build.constant(coefficients.reshape(targets, -1), "coefficients")
    inputs = [matrix, weights]
    intercepts = build.floats("intercepts")
    if len(intercepts) == targets:
        inputs.append(build.constant(np.asarray(intercepts), "intercepts"))
    return build.emit("Gemm", inputs, output, transB=1)
