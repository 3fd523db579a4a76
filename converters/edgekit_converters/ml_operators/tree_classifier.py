"""TreeEnsembleClassifier: sums of the leaves' weights a class, and how two classes share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.ml_operators.registry import CannotExpandError, Expansion, expands
from edgekit_converters.ml_operators.scores import (
    class_numbers,
    label_above,
    label_of_best,
    transform,
    two_columns,
)
from edgekit_converters.ml_operators.tree_walk import (
    Ensemble,
    add_up,
    reach_leaves,
    read_ensemble,
    reduce_leaves,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PAIR: Final = 2


@expands("TreeEnsembleClassifier")
def expand_tree_ensemble_classifier(build: Expansion) -> None:
    """The best of three and more classes wins; of two, the second if its score is high enough."""
    labels = class_numbers(build, "classlabels_int64s", "classlabels_strings")
    if len(labels) < _PAIR:
        raise CannotExpandError("it has fewer than two classes")
    ensemble = read_ensemble(build, len(labels), "class")
    kind = build.text("post_transform", "NONE")
    base = build.floats("base_values")
    if len(labels) > _PAIR:
        _expand_many(build, ensemble, labels, base, kind)
    else:
        _expand_pair(build, ensemble, labels, base, kind)


def _expand_many(
    build: Expansion, ensemble: Ensemble, labels: list[int], base: NDArray[np.float32], kind: str
) -> None:
    if len(base) not in {0, len(labels)}:
        raise CannotExpandError(f"it has {len(base)} base values for {len(labels)} classes")
    rows = reach_leaves(build, ensemble.table)
    scores = add_up(build, ensemble, rows)
    judged = scores
    if len(base):
        judged = scores = build.emit("Add", [scores, build.constant(base, "base_values")])
    elif not ensemble.always().all():
        # A class that no reached leaf speaks of has no score, and does not win with zero.
        table = ensemble.present.astype(np.float32)
        spoken = reduce_leaves(build, table, rows, "ReduceMax")
        half = build.constant(np.array([0.5], dtype=np.float32), "half")
        lowest = build.constant(np.array([-np.inf], dtype=np.float32), "lowest")
        judged = build.emit("Where", [build.emit("Greater", [spoken, half]), scores, lowest])
    label_of_best(build, judged, labels)
    transform(build, scores, kind, build.output(1))


def _expand_pair(
    build: Expansion, ensemble: Ensemble, labels: list[int], base: NDArray[np.float32], kind: str
) -> None:
    """Two classes: onnxruntime's rules, which depend on whose weights there are."""
    used: list[bool] = np.any(ensemble.present, axis=0).tolist()
    if used != ensemble.always().tolist():
        raise CannotExpandError("some of its leaves speak of one of its two classes only")
    one_sided = sum(used) == 1
    positive = bool((ensemble.weights[ensemble.table.leaves >= 0] >= 0).all())
    rows = reach_leaves(build, ensemble.table)
    sums = add_up(build, ensemble, rows)
    # A class that no weight belongs to has no score, and zero stands in its column.
    columns = [_column(build, sums, place) for place in range(_PAIR)]
    first, second = used
    if len(base) > _PAIR:
        raise CannotExpandError(f"it has {len(base)} base values for two classes")
    if len(base) == _PAIR and second:
        columns[1] = _shifted(build, columns[0], float(base[1]))
        columns[0] = build.emit("Neg", [columns[1]]) if first else columns[0]
    elif len(base) and first:
        columns[0] = _shifted(build, columns[0], float(base[0]))
    shared = not second and len(base) < _PAIR
    decisive = columns[1] if second else columns[0]
    high = one_sided and positive
    label_above(
        build,
        decisive,
        limit=0.5 if high else 0.0,
        # Where both classes have weights, onnxruntime answers 0 or 1, whatever the labels are.
        labels=(labels[0], labels[1]) if one_sided else (0, 1),
    )
    if not shared:
        scores = build.emit("Concat", columns, axis=1)
        transform(build, scores, kind, build.output(1))
        return
    if kind == "PROBIT":
        raise CannotExpandError("PROBIT leaves the second of its two columns undefined")
    opposite = "logistic" if kind == "LOGISTIC" else "one-minus" if high else "negative"
    two_columns(build, columns[0], opposite=opposite, output=build.output(1))


def _column(build: Expansion, sums: str, place: int) -> str:
    index = build.constant(np.array([place], dtype=np.int64), "column")
    return build.emit("Gather", [sums, index], axis=1)


def _shifted(build: Expansion, value: str, offset: float) -> str:
    if not offset:
        return value
    constant = build.constant(np.array([offset], dtype=np.float32), "base_value")
    return build.emit("Add", [value, constant])
