from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.normalise import normalise
from edgekit_converters.onnx_source.skeleton import (
    skeleton,
    take_large_constants,
    take_shapes,
)

node = helper.make_node


@pytest.mark.parametrize(
    ("operator", "attributes", "parameters"),
    [("GroupNormalization", {"num_groups": 2}, ["s", "s"]), ("MeanVarianceNormalization", {}, [])],
)
def test_normalisations_that_onnx_does_not_infer_may_stand_in_a_model(
    operator: str, attributes: Any, parameters: list[str], weights: Any, assert_parity: Any
) -> None:
    graph = helper.make_graph(
        [
            node("Conv", ["x", "w"], ["c"]),
            node(operator, ["c", *parameters], ["n"], **attributes),
            node("Relu", ["n"], ["r"]),
            node("Conv", ["r", "v"], ["y"]),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 5, 5])],
        [
            numpy_helper.from_array(array, name)
            for name, array in {
                "w": weights(4, 3, 1, 1), "v": weights(2, 4, 1, 1),
                "s": np.arange(1, 5, dtype=np.float32),
            }.items()
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert_parity(model)


def _model(rows: int) -> Any:
    weights = np.arange(rows * 8, dtype=np.float32).reshape(rows, 8)
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(weights + 1))
    graph = helper.make_graph(
        [constant, node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["x", "k"], ["b"]),
         node("Add", ["a", "b"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("rows", [2, 400])
def test_shapes_and_constants_come_back_from_a_skeleton(rows: int) -> None:
    model, original = _model(rows), _model(rows)
    small = skeleton(model)
    assert (small.ByteSize() < model.ByteSize() / 4) == (rows == 400)
    take_shapes(onnx.shape_inference.infer_shapes(small, strict_mode=True), model)
    assert {value.name for value in model.graph.value_info} == {"a", "b", "k"}
    assert model.graph.initializer == original.graph.initializer
    assert model.graph.node == original.graph.node
    changed = onnx.version_converter.convert_version(skeleton(original), 17)
    take_large_constants(original, changed)
    assert [value.name for value in changed.graph.input] == ["x"]
    onnx.checker.check_model(changed)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    np.testing.assert_array_equal(values["w"], np.arange(rows * 8).reshape(rows, 8))
    if rows == 400:
        np.testing.assert_array_equal(values["k"], values["w"] + 1)


def test_normalising_leaves_its_argument_alone() -> None:
    model = _model(400)
    before = model.SerializeToString()
    normalise(model, where="test")
    assert model.SerializeToString() == before
