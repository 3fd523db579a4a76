"""Walk all trees at once, a level at a time: which leaf does each sample reach in each tree?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.ml_operators.registry import CannotExpandError, Expansion
from edgekit_converters.ml_operators.tree_tables import MODES, Question, TreeTable, tabulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAF: Final = "LEAF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Trees with what their leaves add.

    Attributes:
        table: The trees.
        targets: How many sums there are.
        weights: For each row of the table what its leaf adds to each sum (rows, targets).
        present: Whether it adds to a sum at all (rows, targets).
    """

    table: TreeTable
    targets: int
    weights: NDArray[np.float32]
    present: NDArray[np.bool_]

    def always(self) -> NDArray[np.bool_]:
        """For each sum, whether some tree adds to it whatever leaf is reached."""
        found = np.zeros(self.targets, dtype=bool)
        for rows in self.leaves_by_tree():
            found |= self.present[rows].all(axis=0)
        return found

    def leaves_by_tree(self) -> list[NDArray[np.int64]]:
        """The rows of each tree's leaves."""
        table = self.table
        trees = []
        for root in table.roots:
            seen: set[int] = set()
            waiting = [int(root)]
            while waiting:
                row = waiting.pop()
                if row not in seen:
                    seen.add(row)
                    waiting += [int(table.if_true[row]), int(table.if_false[row])]
            rows = np.array(sorted(seen), dtype=np.int64)
            trees.append(rows[table.leaves[rows] >= 0])
        return trees


def read_ensemble(build: Expansion, targets: int, prefix: str) -> Ensemble:
    """The trees of a TreeEnsembleClassifier or -Regressor.

    Args:
        build: With the node's attributes.
        targets: How many sums there are.
        prefix: "class" or "target": what the attributes of the leaves begin with.
    """
    tree_ids, node_ids = build.integers("nodes_treeids"), build.integers("nodes_nodeids")
    modes, values = build.texts("nodes_modes"), build.floats("nodes_values")
    features = build.integers("nodes_featureids")
    yes, no = build.integers("nodes_truenodeids"), build.integers("nodes_falsenodeids")
    missing = build.integers("nodes_missing_value_tracks_true") or [0] * len(node_ids)
    columns = (tree_ids, node_ids, modes, values, features, yes, no, missing)
    if not node_ids or len({len(column) for column in columns}) > 1:
        raise CannotExpandError("the lists of its nodes differ in length")
    places = {key: row for row, key in enumerate(zip(tree_ids, node_ids, strict=True))}
    nodes: list[Question | None] = []
    for row, mode in enumerate(modes):
        if mode == _LEAF:
            nodes.append(None)
            continue
        tree = tree_ids[row]
        if mode not in MODES or mode == "BRANCH_MEMBER":
            raise CannotExpandError(f"its mode {mode!r} is not known")
        nodes.append(
            Question(
                mode=mode,
                feature=features[row],
                value=float(values[row]),
                missing_is_true=missing[row] == 1,
                if_true=places.get((tree, yes[row]), -1),
                if_false=places.get((tree, no[row]), -1),
            )
        )
    roots = [row for row, tree in enumerate(tree_ids) if row == 0 or tree_ids[row - 1] != tree]
    leaves = list(
        zip(
            build.integers(f"{prefix}_treeids"),
            build.integers(f"{prefix}_nodeids"),
            build.integers(f"{prefix}_ids"),
            build.floats(f"{prefix}_weights").tolist(),
            strict=False,
        )
    )
    placed = [
        (places.get((tree, node), -1), target, weight) for tree, node, target, weight in leaves
    ]
    return collect(nodes, roots, placed, targets)


def collect(
    nodes: list[Question | None],
    roots: list[int],
    leaves: list[tuple[int, int, float]],
    targets: int,
) -> Ensemble:
    """Tables of nodes, and of what leaves add.

    Args:
        nodes: By row; None for a leaf.
        roots: The row of each tree's root.
        leaves: Row, sum and weight; of a single sum the first of a leaf counts.
        targets: How many sums there are.
    """
    table = tabulate(nodes, roots)
    weights = np.zeros((len(table.features), targets), dtype=np.float32)
    present = np.zeros_like(weights, dtype=bool)
    for row, target, weight in leaves:
        if not 0 <= row < len(nodes) or not 0 <= target < targets:
            raise CannotExpandError("a weight belongs to no leaf, or to no target")
        if nodes[row] is not None or (targets == 1 and present[row, 0]):
            continue
        weights[row, target] += np.float32(weight)
        present[row, target] = True
    return Ensemble(table=table, targets=targets, weights=weights, present=present)


def reach_leaves(build: Expansion, table: TreeTable) -> str:
    """The row of the leaf that each sample reaches in each tree (n, trees), int32."""
    matrix = build.matrix()
    ask = _Questions(build, table)
    roots = table.roots
    columns = build.constant(table.features[roots], "columns")
    first = build.emit("Gather", [matrix, columns], axis=1)
    answer = ask.answer(
        first,
        build.constant(table.thresholds[roots], "first_thresholds"),
        build.constant(table.nan_is_true[roots], "first_nan") if ask.mixed else "",
    )
    rows = build.emit(
        "Where",
        [
            answer,
            build.constant(table.if_true[roots], "first_true"),
            build.constant(table.if_false[roots], "first_false"),
        ],
    )
    if table.depth > 1:
        named = {
            "features": table.features, "thresholds": table.thresholds,
            "if_true": table.if_true, "if_false": table.if_false,
        }  # fmt: skip
        tables: dict[str, str] = {
            name: build.constant(array, name) for name, array in named.items()
        }
        if ask.mixed:
            tables["nan"] = build.constant(table.nan_is_true, "nan_is_true")
        for _ in range(table.depth - 1):
            looked_at = build.emit("Gather", [tables["features"], rows])
            value = build.emit("GatherElements", [matrix, looked_at], axis=1)
            limit = build.emit("Gather", [tables["thresholds"], rows])
            nan = build.emit("Gather", [tables["nan"], rows]) if ask.mixed else ""
            answer = ask.answer(value, limit, nan)
            ways = [build.emit("Gather", [tables[way], rows]) for way in ("if_true", "if_false")]
            rows = build.emit("Where", [answer, *ways])
    return rows


class _Questions:
    """How x <= threshold is asked, so that NaN goes its way with as few operators as possible."""

    def __init__(self, build: Expansion, table: TreeTable) -> None:
        self._build = build
        asked = table.nan_is_true[table.leaves < 0]
        self._all_true = bool(len(asked) and asked.all())
        self.mixed = bool(asked.any()) and not self._all_true

    def answer(self, value: str, limit: str, nan_is_true: str) -> str:
        build = self._build
        if self._all_true:
            # Nothing compares with NaN, and so it is not above.
            return build.emit("Not", [build.emit("Greater", [value, limit])])
        answer = build.emit("LessOrEqual", [value, limit])
        if not self.mixed:
            return answer
        missing = build.emit("And", [build.emit("IsNaN", [value]), nan_is_true])
        return build.emit("Or", [answer, missing])


def add_up(build: Expansion, ensemble: Ensemble, rows: str, how: str = "ReduceSum") -> str:
    """What the reached leaves add to each sum (n, targets)."""
    single = _single_targets(ensemble)
    if single is not None and how == "ReduceSum":
        # Each tree adds to one sum alone: one number a row, and a matrix that sorts them.
        values = build.constant(ensemble.weights.sum(axis=1), "leaf_values")
        reached = build.emit("Gather", [values, rows])
        if ensemble.targets == 1:
            return build.reduce(how, reached, 1)
        sorting = np.zeros((len(single), ensemble.targets), dtype=np.float32)
        sorting[np.arange(len(single)), single] = 1
        return build.emit("MatMul", [reached, build.constant(sorting, "targets")])
    return reduce_leaves(build, ensemble.weights, rows, how)


def reduce_leaves(build: Expansion, table: NDArray[Any], rows: str, how: str) -> str:
    """Rows of a table (rows, targets) for the reached leaves, reduced over the trees."""
    reached = build.emit("Gather", [build.constant(table, "leaf_table"), rows], axis=0)
    reduced = build.reduce(how, reached, 1)
    return build.emit("Squeeze", [reduced, build.constant(np.array([1], dtype=np.int64), "axis")])


def _single_targets(ensemble: Ensemble) -> list[int] | None:
    targets = []
    for rows in ensemble.leaves_by_tree():
        used = np.flatnonzero(ensemble.present[rows].any(axis=0))
        if len(used) != 1:
            return None
        targets.append(int(used[0]))
    return targets
