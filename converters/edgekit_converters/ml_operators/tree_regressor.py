"""TreeEnsembleRegressor, and TreeEnsemble, which took its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.ml_operators.registry import CannotExpandError, Expansion, expands
from edgekit_converters.ml_operators.scores import probit, transform
from edgekit_converters.ml_operators.tree_tables import Question
from edgekit_converters.ml_operators.tree_walk import (
    Ensemble,
    add_up,
    collect,
    reach_leaves,
    read_ensemble,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AGGREGATES: Final = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_MODES: Final = (
    "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ",
    "BRANCH_MEMBER",
)  # fmt: skip


@expands("TreeEnsembleRegressor")
def expand_tree_ensemble_regressor(build: Expansion) -> None:
    """The leaves' weights summed, averaged, or their least or largest; then base values."""
    targets = build.integer("n_targets")
    if targets < 1:
        raise CannotExpandError("it says no number of targets")
    ensemble = read_ensemble(build, targets, "target")
    base = build.floats("base_values")
    _finish(
        build,
        ensemble,
        build.text("aggregate_function", "SUM"),
        build.text("post_transform", "NONE"),
        base if len(base) == targets else np.zeros(0, dtype=np.float32),
    )


@expands("TreeEnsemble")
def expand_tree_ensemble(build: Expansion) -> None:
    """As TreeEnsembleRegressor, with branches and leaves numbered apart, and sets of values."""
    targets = build.integer("n_targets", 1)
    aggregate = build.integer("aggregate_function", 1)
    kind = build.integer("post_transform", 0)
    if not 0 <= aggregate < len(_AGGREGATES) or not 0 <= kind < len(_TRANSFORMS) or targets < 1:
        raise CannotExpandError("its aggregate_function or post_transform is not known")
    no_base = np.zeros(0, dtype=np.float32)
    _finish(build, _read(build, targets), _AGGREGATES[aggregate], _TRANSFORMS[kind], no_base)


def _read(build: Expansion, targets: int) -> Ensemble:
    modes, splits = build.tensor("nodes_modes"), build.tensor("nodes_splits")
    weights = build.tensor("leaf_weights")
    if modes is None or splits is None or weights is None:
        raise CannotExpandError("it lacks nodes_modes, nodes_splits or leaf_weights")
    if splits.dtype != np.float32:
        raise CannotExpandError(f"its thresholds are {splits.dtype}: export it with float32")
    count = len(modes)
    missing = build.integers("nodes_missing_value_tracks_true") or [0] * count
    names = ("featureids", "truenodeids", "falsenodeids", "trueleafs", "falseleafs")
    lists = [build.integers(f"nodes_{name}") for name in names]
    features, yes, no, yes_leaf, no_leaf = lists
    if {len(splits), len(missing), *map(len, lists)} != {count}:
        raise CannotExpandError("the lists of its nodes differ in length")
    sets = iter(_member_sets(build))
    nodes: list[Question | None] = []
    for row in range(count):
        code = int(modes[row])
        if not 0 <= code < len(_MODES):
            raise CannotExpandError(f"its mode {code} is not known")
        member = _MODES[code] == "BRANCH_MEMBER"
        nodes.append(
            Question(
                mode=_MODES[code],
                feature=features[row],
                value=float(splits[row]),
                members=next(sets, ()) if member else (),
                missing_is_true=missing[row] == 1,
                # Leaves are numbered from zero again: their rows come behind the questions'.
                if_true=yes[row] + count * yes_leaf[row],
                if_false=no[row] + count * no_leaf[row],
            )
        )
    flat = weights.reshape(-1)
    nodes += [None] * len(flat)
    leaves = [
        (count + leaf, target, float(flat[leaf]))
        for leaf, target in enumerate(build.integers("leaf_targetids"))
        if leaf < len(flat)
    ]
    return collect(nodes, build.integers("tree_roots"), leaves, targets)


def _member_sets(build: Expansion) -> list[tuple[float, ...]]:
    """The sets of all BRANCH_MEMBER nodes in their order; NaN ends each."""
    values = build.tensor("membership_values")
    sets: list[tuple[float, ...]] = []
    current: list[float] = []
    for value in () if values is None else values.reshape(-1).tolist():
        if np.isnan(value):
            sets.append(tuple(current))
            current = []
        else:
            current.append(float(value))
    return [*sets, tuple(current)] if current else sets


def _finish(
    build: Expansion, ensemble: Ensemble, aggregate: str, kind: str, base: NDArray[np.float32]
) -> None:
    if aggregate not in _AGGREGATES:
        raise CannotExpandError(f"its aggregate_function {aggregate!r} is not known")
    if aggregate in {"MIN", "MAX"}:
        everywhere = all(ensemble.present[rows].all() for rows in ensemble.leaves_by_tree())
        if not everywhere:
            raise CannotExpandError(f"some of its leaves have no weight to take the {aggregate} of")
    rows = reach_leaves(build, ensemble.table)
    how = {"MIN": "ReduceMin", "MAX": "ReduceMax"}.get(aggregate, "ReduceSum")
    sums = add_up(build, ensemble, rows, how)
    if aggregate == "AVERAGE":
        count = np.array([len(ensemble.table.roots)], dtype=np.float32)
        sums = build.emit("Div", [sums, build.constant(count, "trees")])
    if base.any():
        sums = build.emit("Add", [sums, build.constant(base, "base_values")])
    if ensemble.targets > 1:
        transform(build, sums, kind, build.output())
    elif kind == "PROBIT":
        probit(build, sums, build.output())
    else:
        # onnxruntime applies no other transformation to a single target.
        build.emit("Identity", [sums], build.output())
