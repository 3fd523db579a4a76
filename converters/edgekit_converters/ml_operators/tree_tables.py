"""Trees as tables: each node a row, each question one "is x <= threshold", NaN with its own way.

All of ONNX's modes become that one question, exactly: x < t is x <= the float before t; x > t and
x >= t exchange the answers; x == t is two questions, and a set of values one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.ml_operators.registry import CannotExpandError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Each level of a tree costs seven operators; deeper ones are no model for a small device.
_MAX_DEPTH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A node as ONNX has it.

    Attributes:
        mode: "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ" or
            "BRANCH_MEMBER".
        feature: The column that is looked at.
        value: The threshold.
        members: For "BRANCH_MEMBER": the values of the set.
        missing_is_true: Whether NaN goes where the answer is yes, whatever the mode says.
        if_true: The row of the next node.
        if_false: The same for the other answer.
    """

    mode: str
    feature: int
    value: float
    members: tuple[float, ...] = ()
    missing_is_true: bool
    if_true: int
    if_false: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTable:
    """Trees whose only question is x <= threshold; a leaf leads to itself.

    Attributes:
        features: The column that each node looks at.
        thresholds: What it compares with.
        if_true: The row of the next node.
        if_false: The same for the other answer.
        nan_is_true: Where NaN goes.
        leaves: The row of the leaf that each row stands for; -1 for questions.
        roots: The row of each tree's root.
        depth: How many questions the longest way has.
    """

    features: NDArray[np.int32]
    thresholds: NDArray[np.float32]
    if_true: NDArray[np.int32]
    if_false: NDArray[np.int32]
    nan_is_true: NDArray[np.bool_]
    leaves: NDArray[np.int32]
    roots: NDArray[np.int32]
    depth: int


@dataclass(slots=True)
class _Row:
    feature: int = 0
    threshold: float = float("inf")
    if_true: int = 0
    if_false: int = 0
    nan_is_true: bool = False
    leaf: int = -1


def tabulate(nodes: Sequence[Question | None], roots: Sequence[int]) -> TreeTable:
    """Bring trees into the form of `TreeTable`.

    Args:
        nodes: By row; None for a leaf.
        roots: The row of each tree's root.

    Raises:
        CannotExpandError: If a node leads nowhere or in a circle, or a tree is too deep.
    """
    rows = [_Row() for _ in nodes]
    for number, node in enumerate(nodes):
        row = rows[number]
        if node is None:
            row.leaf, row.if_true, row.if_false = number, number, number
            continue
        for child in (node.if_true, node.if_false):
            if not 0 <= child < len(nodes):
                raise CannotExpandError("a node of its trees leads nowhere")
        _WRITERS[node.mode](rows, row, node)
    depth = _longest_way(rows, roots)
    if depth > _MAX_DEPTH:
        raise CannotExpandError(f"its trees have {depth} questions in a row, {_MAX_DEPTH} can be")
    return TreeTable(
        features=np.array([row.feature for row in rows], dtype=np.int32),
        thresholds=np.array([row.threshold for row in rows], dtype=np.float32),
        if_true=np.array([row.if_true for row in rows], dtype=np.int32),
        if_false=np.array([row.if_false for row in rows], dtype=np.int32),
        nan_is_true=np.array([row.nan_is_true for row in rows], dtype=bool),
        leaves=np.array([row.leaf for row in rows], dtype=np.int32),
        roots=np.array(roots, dtype=np.int32),
        depth=depth,
    )


def before(value: float) -> float:
    """The next lower float32, which asks with <= what the value asks with <; NaN for none."""
    below = np.nextafter(np.float32(value), np.float32(-np.inf))
    return float("nan") if value == -np.inf else float(below)


def _at_most(rows: list[_Row], row: _Row, node: Question) -> None:
    del rows
    row.feature, row.threshold = node.feature, node.value
    row.if_true, row.if_false = node.if_true, node.if_false
    row.nan_is_true = node.missing_is_true


def _below(rows: list[_Row], row: _Row, node: Question) -> None:
    _at_most(rows, row, node)
    row.threshold = before(node.value)


def _above(rows: list[_Row], row: _Row, node: Question) -> None:
    _at_most(rows, row, node)
    _exchange(row, node)


def _at_least(rows: list[_Row], row: _Row, node: Question) -> None:
    _below(rows, row, node)
    _exchange(row, node)
    if node.value == -np.inf:
        # x >= -infinity is yes for every number.
        row.threshold = float("inf")
        row.if_false, row.if_true = node.if_false, node.if_true
        row.nan_is_true = node.missing_is_true


def _exchange(row: _Row, node: Question) -> None:
    """Ask the opposite; NaN, which is neither, keeps its way."""
    if np.isnan(node.value):
        # Nothing compares with NaN: the answer is always no.
        row.threshold, row.nan_is_true = float("nan"), node.missing_is_true
        return
    row.if_true, row.if_false = node.if_false, node.if_true
    row.nan_is_true = not node.missing_is_true


def _equal(rows: list[_Row], row: _Row, node: Question) -> None:
    """X <= t, and then not x < t."""
    second = _Row(
        feature=node.feature, threshold=before(node.value),
        if_true=node.if_false, if_false=node.if_true, nan_is_true=False,
    )  # fmt: skip
    rows.append(second)
    row.feature, row.threshold = node.feature, node.value
    row.if_true, row.if_false = len(rows) - 1, node.if_false
    row.nan_is_true = node.missing_is_true


def _unequal(rows: list[_Row], row: _Row, node: Question) -> None:
    # NaN is unequal to everything: it goes where the answer is yes.
    opposite = Question(
        mode="BRANCH_EQ", feature=node.feature, value=node.value, missing_is_true=False,
        if_true=node.if_false, if_false=node.if_true,
    )  # fmt: skip
    _equal(rows, row, opposite)


def _member(rows: list[_Row], row: _Row, node: Question) -> None:
    members = node.members or (float("nan"),)
    for place, member in enumerate(members):
        last = place == len(members) - 1
        following = row
        if not last:
            following = _Row()
            rows.append(following)
        step = Question(
            mode="BRANCH_EQ", feature=node.feature, value=member,
            missing_is_true=node.missing_is_true and place == 0, if_true=node.if_true,
            if_false=node.if_false if last else len(rows) - 1,
        )  # fmt: skip
        _equal(rows, row, step)
        row = following


_WRITERS: Final[dict[str, Callable[[list[_Row], _Row, Question], None]]] = {
    "BRANCH_LEQ": _at_most,
    "BRANCH_LT": _below,
    "BRANCH_GT": _above,
    "BRANCH_GTE": _at_least,
    "BRANCH_EQ": _equal,
    "BRANCH_NEQ": _unequal,
    "BRANCH_MEMBER": _member,
}
MODES: Final = frozenset(_WRITERS)


def _longest_way(rows: list[_Row], roots: Sequence[int]) -> int:
    """The number of questions on the longest way from a root to a leaf."""
    lengths: dict[int, int] = {}
    open_rows: set[int] = set()
    for root in roots:
        waiting = [root]
        while waiting:
            number = waiting[-1]
            row = rows[number]
            if number in lengths or row.leaf >= 0:
                lengths.setdefault(number, 0)
                open_rows.discard(number)
                waiting.pop()
                continue
            children = (row.if_true, row.if_false)
            missing = [child for child in children if child not in lengths]
            if not missing:
                lengths[number] = 1 + max(lengths[child] for child in children)
                continue
            if number in open_rows and any(child in open_rows for child in missing):
                raise CannotExpandError("a node of its trees leads back to where it came from")
            open_rows.add(number)
            waiting += missing
    return max((lengths[root] for root in roots), default=0)
