"""Plans that cannot be are refused; nodes are found by what people call them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.quantize.plan import QuantizationPlan, Range, matching_nodes
from edgekit_converters.quantize.scheme import Scheme
from edgekit_runtime.errors import UsageError


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="not a range"):
        Range(low=low, high=high)


def test_integers_outside_ask_for_integers_inside() -> None:
    with pytest.raises(UsageError, match="int8-weights computes in float"):
        QuantizationPlan(scheme=Scheme.INT8_WEIGHTS, io="int8")
    assert QuantizationPlan(scheme=Scheme.INT16X8, io="int8").io == "int8"


def test_single_nodes_are_wide_only_beside_narrow_ones() -> None:
    with pytest.raises(UsageError, match="wider than others"):
        QuantizationPlan(scheme=Scheme.INT8_DYNAMIC, wide=frozenset({"a"}))


@pytest.fixture
def model(make_model: Any) -> Any:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], name="second"),
    ]
    weights = np.ones((2, 2, 1, 1), np.float32)
    return make_model(nodes, {"x": [1, 2, 4, 4]}, ["y"], {"w": weights})


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["first"], {"first"}),
        (["r"], {"r"}),
        (["y"], {"second"}),
        (["conv"], {"first", "second"}),
        (["Relu", "first"], {"r", "first"}),
        ([], set()),
    ],
)
def test_nodes_are_found_by_name_output_and_type(
    model: Any, wanted: list[str], found: set[str]
) -> None:
    assert matching_nodes(model, wanted) == found


def test_everything_that_fits_no_node_is_named_with_what_would(model: Any) -> None:
    with pytest.raises(UsageError, match="Gelu, third") as caught:
        matching_nodes(model, ["Gelu", "first", "third"])
    assert "Conv, Relu" in str(caught.value.fix)
