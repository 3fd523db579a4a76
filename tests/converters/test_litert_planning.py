from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper
from onnx.shape_inference import infer_shapes

from edgekit_converters.graph import read_graph
from edgekit_converters.litert.layout import channels_last, follow, relabel
from edgekit_converters.litert.planning import plan_layout, wished_orders

node = helper.make_node
RULES = {"Conv": channels_last, "Relu": follow, "Add": follow, "Transpose": relabel}
LAST, FIRST = (0, 2, 3, 1), (0, 1, 2, 3)


def _transposes(compiled: Any) -> int:
    return sum(operator.code == "TRANSPOSE" for operator in compiled.program.operators)


def test_wishes_pass_through_what_goes_either_way(make_model: Any, weights: Any) -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 3, 1, 2]),
        node("Relu", ["t"], ["b"]),
        node("Conv", ["b", "w"], ["y"]),
    ]
    model = make_model(nodes, {"x": [1, 5, 5, 3]}, ["y"], {"w": weights(4, 3, 1, 1)})
    wishes = wished_orders(read_graph(infer_shapes(model)), RULES, {})
    assert wishes["b"] == wishes["t"] == {LAST}
    assert wishes["a"] == wishes["x"] == {FIRST}
    assert wishes["y"] == {FIRST}


def test_images_that_come_with_channels_last_are_never_moved(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Relu", ["t"], ["r"]),
        node("Conv", ["r", "w"], ["c"]),
        node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]),
    ]
    model = make_model(nodes, {"x": ["n", 5, 5, 3]}, ["y"], {"w": weights(4, 3, 1, 1)})
    assert _transposes(assert_parity(model)) == 0


def test_tokens_are_moved_once_and_stay(make_model: Any, weights: Any, assert_parity: Any) -> None:
    """What follows a Transpose in other operators' own order is not moved back for each of them."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "w"], ["a"]),
        node("Add", ["a", "t"], ["b"]),
        node("MatMul", ["b", "w"], ["c"]),
        node("Add", ["c", "b"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    model = make_model(nodes, {"x": ["n", 4, 6]}, ["y"], {"w": weights(4, 4)})
    assert _transposes(assert_parity(model)) == 1


def test_parts_of_what_is_moved_are_not_moved_one_by_one(
    make_model: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[2, 0, 3, 1, 4]),
        node("Split", ["t"], ["a", "b", "c"], axis=0),
        *(node("Reshape", [part, "shape"], [f"{part}r"]) for part in "abc"),
        node("MatMul", ["ar", "br"], ["ab"]),
        node("MatMul", ["ab", "cr"], ["y"]),
    ]
    constants = {"shape": np.array([-1, 2, 4, 4])}
    model = make_model(nodes, {"x": ["n", 4, 3, 2, 4]}, ["y"], constants)
    assert _transposes(assert_parity(model)) == 1


def test_channels_are_picked_where_they_are(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Gather", ["a", "order"], ["b"], axis=1),
        node("Conv", ["b", "v"], ["c"]),
        node("GlobalAveragePool", ["c"], ["y"]),
    ]
    constants = {
        "w": weights(4, 3, 1, 1), "v": weights(2, 4, 1, 1), "order": np.array([2, 0, -1, 1]),
    }  # fmt: skip
    model = make_model(nodes, {"x": ["n", 3, 5, 5]}, ["y"], constants)
    assert _transposes(assert_parity(model)) == 1


def test_a_plan_says_how_each_node_works_and_stores(make_model: Any, weights: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("Relu", ["t"], ["y"]),
    ]
    model = make_model(nodes, {"x": [1, 3, 5, 5]}, ["y"], {"w": weights(4, 3, 1, 1)})
    plan = plan_layout(read_graph(infer_shapes(model)), RULES, {})
    assert [(layout.work, layout.stored) for layout in plan.nodes] == [
        (LAST, LAST), (LAST, FIRST), (FIRST, FIRST),
    ]  # fmt: skip
    assert plan.values == {"x": FIRST, "c": LAST, "t": FIRST, "y": FIRST}
