"""Shapes are inferred step by step, and are the same as those that are inferred at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from converters.fuzz.seeds import SEEDS, seed_model
from converters.onnx_files import model_of, write
from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.onnx_source.inference import _steps, infer_in_steps
from edgekit_converters.onnx_source.skeleton import skeleton
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node


def _shapes(graph: Any) -> dict[str, list[Any]]:
    """Inference numbers the free sizes that it finds itself."""
    return {
        value.name: [
            "?" if dim.dim_param.startswith("unk__") else dim.dim_param or dim.dim_value
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in graph.value_info
    }


@pytest.mark.parametrize("name", [name for name in SEEDS if name != "control_flow"])
def test_the_same_shapes_as_at_once(name: str) -> None:
    model = skeleton(seed_model(name))
    del model.graph.value_info[:]
    whole = onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert infer_in_steps(model) == []
    expected, found = _shapes(whole.graph), _shapes(model.graph)
    assert {name: found[name] for name in expected} == expected


def _alternating(pairs: int) -> Any:
    nodes, value = [], "x"
    for i in range(pairs):
        nodes.append(node("MaxPool", [value], [f"p{i}"], kernel_shape=[2, 2], pads=[1, 1, 0, 0]))
        nodes.append(node("Slice", [f"p{i}", "zero", "end", "axis"], [f"s{i}"]))
        value = f"s{i}"
    nodes.append(node("Relu", [value], ["y"]))
    return model_of(
        nodes,
        constants={"zero": np.array([0]), "end": np.array([99]), "axis": np.array([2])},
    )


def test_a_slice_waits_for_what_may_be_impossible_and_for_nothing_else() -> None:
    steps = list(_steps(_alternating(3).graph))
    assert [[n.op_type for n in nodes] for nodes in steps] == [
        ["MaxPool"], ["Slice", "MaxPool"], ["Slice", "MaxPool"], ["Slice", "Relu"],
    ]  # fmt: skip
    plain = model_of(
        [
            node("Shape", ["x"], ["s"]),
            node("Slice", ["s", "a", "b"], ["c"]),
            node("Slice", ["x", "a", "b"], ["d"]),
            node("Slice", ["d", "a", "b"], ["y"]),
        ],
        constants={"a": np.array([0]), "b": np.array([1])},
    )
    assert len(list(_steps(plain.graph))) == 1


def test_many_steps(tmp_path: Path) -> None:
    model = read_onnx(write(_alternating(60), tmp_path / "a.onnx"))
    shape = model.graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 3, 8, 8]


def test_a_window_in_a_branch_that_is_larger_than_its_input(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [
            node("MaxPool", ["x"], ["p"], kernel_shape=[99, 99]),
            node("Slice", ["p", "a", "b", "c"], ["o"]),
        ],
        "branch",
        [],
        [helper.make_tensor_value_info("o", 1, None)],
    )
    model = model_of(
        [node("If", ["yes"], ["y"], name="choice", then_branch=inner, else_branch=inner)],
        constants={
            "yes": np.array(True), "a": np.array([0]), "b": np.array([1]), "c": np.array([2]),
        },
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"'p' has the impossible shape .* choice"):
        read_onnx(write(model, tmp_path / "a.onnx"))


def test_nonsense_in_a_branch_that_is_never_taken_does_no_harm(tmp_path: Path) -> None:
    pool = helper.make_graph(
        [node("MaxPool", ["x"], ["o"], kernel_shape=[99, 99])], "branch", [],
        [helper.make_tensor_value_info("o", 1, None)],
    )  # fmt: skip
    plain = helper.make_graph(
        [node("Relu", ["x"], ["o2"])], "other", [], [helper.make_tensor_value_info("o2", 1, None)]
    )
    model = model_of(
        [node("If", ["no"], ["y"], then_branch=pool, else_branch=plain)],
        constants={"no": np.array(False)},
    )
    read_onnx(write(model, tmp_path / "a.onnx"))


def test_the_shapes_of_functions_are_checked_where_they_are_called(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Pool", ["a"], ["b"], [node("MaxPool", ["a"], ["b"], kernel_shape=[99, 99])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model = model_of(
        [node("Pool", ["x"], ["y"], domain="mine")], domains=["mine"], functions=[function]
    )
    with pytest.raises(UnsupportedModelError, match="'y' has the impossible shape"):
        read_onnx(write(model, tmp_path / "a.onnx"))
