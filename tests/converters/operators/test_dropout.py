"""Dropout where nothing is dropped, and where something would be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32
X = np.arange(6, dtype=F).reshape(2, 3)


@pytest.mark.parametrize(
    "constants",
    [{}, {"r": F(0.5)}, {"r": F(0.5), "t": np.array(False)}, {"r": F(0), "t": np.array(True)}],
)
@pytest.mark.parametrize("free", [True, False])
def test_nothing_is_dropped(constants: Any, free: bool, evaluate: Any) -> None:
    dropout = node("Dropout", ["x", *constants], ["y", "mask"])
    found = evaluate(dropout, {"x": X}, ["y", "mask"], constants=constants, opset=22, free=free)
    np.testing.assert_array_equal(found.y, X)
    assert found.outputs["mask"].all()
    assert found.outputs["mask"].shape == X.shape
    assert found.outputs["mask"].dtype == bool


def test_the_ratio_is_an_attribute_in_opset_10(evaluate: Any) -> None:
    found = evaluate(node("Dropout", ["x"], ["y"], ratio=0.75), {"x": X}, opset=10)
    np.testing.assert_array_equal(found.y, X)


@pytest.mark.parametrize(
    ("constants", "reason"),
    [({"r": F(0.5), "t": np.array(True)}, "random"), ({"r": F(0.5)}, "computed, by 't'")],
)
def test_training_is_refused(constants: Any, reason: str, evaluate: Any) -> None:
    dropout = node("Dropout", ["x", "r", "t"], ["y"], name="culprit")
    arrays = {"x": X} | ({} if "t" in constants else {"t": np.array(True)})
    with pytest.raises(UnsupportedModelError, match=f"culprit \\(Dropout\\): .*{reason}"):
        evaluate(dropout, arrays, constants=constants, opset=22)
