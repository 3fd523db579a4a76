"""n-grams against a search item by item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

GRAMS = [(2,), (3,), (5,), (4, 5), (5, 6), (7, 8), (6, 7), (5, 5, 6), (8, 7, 6)]
COLUMNS = [4, 0, 1, 2, 3, 8, 5, 7, 6]
WEIGHTS = [0.5, 1, 2, 3, 4, 5, 6, 7, 8]


def vectorizer(**attributes: Any) -> Any:
    given: dict[str, Any] = {
        "mode": "TF", "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": 0,
        "pool_int64s": [item for gram in GRAMS for item in gram],
        "ngram_counts": [0, 3, 11], "ngram_indexes": COLUMNS, **attributes,
    }  # fmt: skip
    return helper.make_node("TfIdfVectorizer", ["x"], ["y"], name="culprit", **given)


def search(row: list[int], shortest: int, longest: int, skips: int, mode: str, weights: Any) -> Any:
    result = [0.0] * 9
    for gram, column, weight in zip(GRAMS, COLUMNS, weights, strict=True):
        if not shortest <= len(gram) <= longest:
            continue
        found = 0
        for stride in range(1, skips + 2) if len(gram) > 1 else (1,):
            for start in range(len(row) - (len(gram) - 1) * stride):
                places = range(start, start + len(gram) * stride, stride)
                found += all(row[at] == item for at, item in zip(places, gram, strict=True))
        result[column] = {"TF": found, "IDF": min(found, 1) * weight, "TFIDF": found * weight}[mode]
    return result


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(
    ("shortest", "longest", "skips"), [(1, 1, 5), (1, 3, 0), (2, 2, 1), (2, 3, 4), (3, 3, 20)]
)
def test_against_a_search(
    shortest: int, longest: int, skips: int, weighted: bool, mode: str, dtype: str, evaluate: Any
) -> None:
    rows = np.random.default_rng(1).integers(2, 9, (4, 12)).astype(dtype)
    attributes = {"weights": WEIGHTS} if weighted else {}
    find = vectorizer(
        mode=mode, min_gram_length=shortest, max_gram_length=longest, max_skip_count=skips,
        **attributes,
    )  # fmt: skip
    weights = WEIGHTS if weighted else [1] * 9
    expected = [search(row, shortest, longest, skips, mode, weights) for row in rows.tolist()]
    np.testing.assert_allclose(evaluate(find, {"x": rows}, free=True).y, expected)
    np.testing.assert_allclose(evaluate(find, {"x": rows[0]}).y, expected[0])


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"ngram_indexes": [0] * 9}, "one column"), ({"mode": "OTHER"}, "mode"),
     ({"mode": "IDF", "weights": [1.0]}, "weights")],
)  # fmt: skip
def test_refused(attributes: Any, reason: str, evaluate: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"culprit .*{reason}"):
        evaluate(vectorizer(**attributes), {"x": np.arange(12)})
