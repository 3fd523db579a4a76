"""What a scikit-learn model is made of: types that hold numbers alone, and trees that end.

skops names every type that it has not been told to trust, and that includes scikit-learn's own
trees. They are data: arrays of nodes that native code walks, without looking whether a child is in
the tree. Here they are known by name, and looked at before anything walks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from edgekit_runtime.errors import UnsupportedModelError

HARMLESS_TYPES: Final = frozenset(
    {
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)
"""Made without running anything of the file's, and checked by `check_trees` where they need it."""

_LEAF: Final = -1
_MAX_PARTS: Final = 10_000_000


def check_trees(model: Any, *, where: str) -> None:
    """Refuse trees with a child outside the tree, a loop, or a column that the model lacks.

    Raises:
        UnsupportedModelError: Naming the first.
    """
    for part in _parts(model):
        kind = type(part).__name__
        if kind == "Tree" and type(part).__module__ == "sklearn.tree._tree":
            inner = part.children_left != _LEAF
            children = np.stack([part.children_left, part.children_right], axis=1)
            _check(inner, children, part.feature, int(part.n_features), where)
        elif kind == "TreePredictor" and type(part).__module__.startswith("sklearn."):
            nodes = part.nodes
            inner = nodes["is_leaf"] == 0
            children = np.stack([nodes["left"], nodes["right"]], axis=1)
            _check(inner, children, nodes["feature_idx"], None, where)


def _check(inner: Any, children: Any, feature: Any, features: int | None, where: str) -> None:
    count = len(inner)
    below = children[inner].astype(np.int64)
    here = np.flatnonzero(inner)[:, np.newaxis]
    # Both of scikit-learn's builders number a child after its parent: no loop can be.
    sound = bool(((below > here) & (below < count)).all())
    columns = feature[inner].astype(np.int64)
    sound &= bool((columns >= 0).all()) and (features is None or bool((columns < features).all()))
    if not count or not sound:
        raise UnsupportedModelError(
            "a tree of this model is damaged: a node leads out of it, or to a column that the "
            "model lacks",
            where=where,
            fix="save the model again",
        )


def _parts(model: Any) -> Iterator[Any]:
    """Everything that a model holds, through lists, arrays, mappings and attributes."""
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting and len(seen) < _MAX_PARTS:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type | None):
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, np.ndarray):
            waiting += list(part.reshape(-1)) if part.dtype == object else []
        elif isinstance(part, dict):
            waiting += list(part.values())
        elif isinstance(part, list | tuple | set):
            waiting += list(part)
        elif type(part).__module__.startswith("sklearn."):
            waiting += list(vars(part).values()) if hasattr(part, "__dict__") else []
