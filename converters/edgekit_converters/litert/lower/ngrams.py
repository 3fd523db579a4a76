"""TfIdfVectorizer of numbers: how often n-grams of a pool occur in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import INTEGERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_MODES: Final = ("TF", "IDF", "TFIDF")


@lowers("TfIdfVectorizer", dtypes=INTEGERS)
def lower_tfidf_vectorizer(build: Builder, node: Node) -> None:
    """Every window is compared with every n-gram; what was found is added, and put in its column.

    With IDF an n-gram counts once, with its weight; with TFIDF as often as it occurs.
    """
    steps = Steps(build, node)
    mode = node.text("mode", "TF")
    if mode not in _MODES:
        raise RefusedNodeError(f"its mode is {mode!r}, supported: {', '.join(_MODES)}")
    source = steps.cast(steps.input(), "int64")
    rows = steps.expand_dims(source, 0) if len(source.shape) == 1 else source
    columns = node.integers("ngram_indexes") or ()
    if len(set(columns)) < len(columns):
        raise RefusedNodeError("two of its n-grams have one column")
    parts = [
        _occurrences(steps, rows, grams) for grams in _pool(node, len(columns)) if grams.shape[0]
    ]
    if not parts:
        raise RefusedNodeError("its pool is empty")
    found = steps.concat(parts, 1)
    if mode == "IDF":
        found = steps.minimum(1.0, found)
    result = steps.matmul(found, steps.constant(_placement(node, columns, mode), "columns"))
    steps.finish(steps.squeeze(result, 0) if len(source.shape) == 1 else result)


def _pool(node: Node, count: int) -> list[NDArray[Any]]:
    """The n-grams of each length from one on, a row each.

    Those of a length that is not asked for are never found.
    """
    numbers = node.integers("pool_int64s")
    starts = node.integers("ngram_counts") or ()
    if numbers is None:
        raise RefusedNodeError("its pool is of strings")
    ends = (*starts[1:], len(numbers))
    pool = []
    for length, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        pool.append(np.array(numbers[start:end], dtype=np.int64).reshape(-1, length))
    if sum(len(grams) for grams in pool) != count:
        raise RefusedNodeError(f"its pool has another number of n-grams than {count}")
    return pool


def _occurrences(steps: Steps, rows: Tensor, grams: NDArray[Any]) -> Tensor:
    """How often each n-gram of one length occurs in each row, with up to so many items between."""
    node = steps.node
    count, length = grams.shape
    items = rows.shape[1]
    if items is None:
        raise RefusedNodeError("how many items it looks through is free")
    wanted = node.integer("min_gram_length", 1) <= length <= node.integer("max_gram_length", 1)
    # Of single items there is nothing to skip.
    skips = range(node.integer("max_skip_count", 0) + 1 if length > 1 else 1)
    total: Tensor | None = None
    for skip in skips if wanted else ():
        windows = items - (length - 1) * (skip + 1)
        if windows > 0:
            hits = _hits(steps, rows, grams, skip + 1, windows)
            number = steps.sum(steps.cast(hits, "float32"), 1)
            total = number if total is None else steps.add(total, number)
    if total is None:
        nothing = steps.constant(np.zeros((1, count), dtype=np.float32), "nothing")
        return steps.widened(nothing, [steps.extent(rows, 0), count])
    return total


def _hits(steps: Steps, rows: Tensor, grams: NDArray[Any], stride: int, windows: int) -> Tensor:
    """Whether an n-gram stands at a place: of shape (rows, windows, n-grams)."""
    result: Tensor | None = None
    for position in range(grams.shape[1]):
        part = steps.expand_dims(steps.slice_axis(rows, 1, position * stride, windows), -1)
        same = steps.equal(part, steps.constant(np.ascontiguousarray(grams[:, position]), "items"))
        result = same if result is None else steps.logical_and(result, same)
    if result is None:
        raise RefusedNodeError("an n-gram of its pool is empty")
    return result


def _placement(node: Node, columns: tuple[int, ...], mode: str) -> NDArray[Any]:
    """The matrix that puts what each n-gram weighs into its column."""
    given = node.attributes.get("weights")
    weights = np.ones(len(columns)) if given is None or mode == "TF" else np.asarray(given)
    if len(weights) != len(columns):
        raise RefusedNodeError(f"it has {len(weights)} weights for {len(columns)} n-grams")
    matrix = np.zeros((len(columns), max(columns) + 1), dtype=np.float32)
    matrix[np.arange(len(columns)), columns] = weights
    return matrix
