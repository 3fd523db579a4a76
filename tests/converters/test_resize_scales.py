from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.normalise import normalise
from edgekit_converters.resize_scales import settle_scales

node = helper.make_node


def _model(nodes: list[Any], shape: list[Any], constants: dict[str, Any]) -> Any:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(a, dtype=np.float32), n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("before", "after"), [(3, 7), (5, 9), (9, 11), (6, 10), (7, 11)])
def test_a_size_is_what_was_divided(assert_parity: Any, mode: str, before: int, after: int) -> None:
    scales = [1, 1, after / before, 2]
    model = _model(
        [node("Resize", ["x", "", "s"], ["y"], mode=mode)], [1, 2, before, 4], {"s": scales}
    )
    compiled = assert_parity(model)
    assert compiled.graph.shape("y") == (1, 2, after, 8)


def test_one_behind_the_other(assert_parity: Any) -> None:
    nodes = [
        node("Resize", ["x", "", "s"], ["a"], axes=[2]),
        node("Relu", ["a"], ["b"]),
        node("Resize", ["b", "", "t"], ["y"], axes=[2]),
    ]
    model = _model(nodes, ["n", 2, 3, 4], {"s": [7 / 3], "t": [10 / 7]})
    assert assert_parity(model).graph.shape("y") == (None, 2, 10, 4)


def test_scales_that_others_read_or_that_are_right_are_left(make_model: Any) -> None:
    nodes = [
        node("Resize", ["x", "", "s"], ["a"], axes=[2]),
        node("Mul", ["a", "s"], ["y"]),
    ]
    model = _model(nodes, [1, 2, 3, 4], {"s": [7 / 3]})
    settle_scales(model)
    kept = {t.name: numpy_helper.to_array(t)[0] for t in model.graph.initializer}
    assert kept == {"s": np.float32(7 / 3), "a/scales": np.nextafter(np.float32(7 / 3), 3)}
    fine = _model([node("Resize", ["x", "", "s"], ["y"], axes=[2])], [1, 2, 3, 4], {"s": [1.5]})
    before = fine.SerializeToString()
    settle_scales(fine)
    assert fine.SerializeToString() == before


def test_a_size_that_the_model_declares_is_no_contradiction() -> None:
    model = _model([node("Resize", ["x", "", "s"], ["y"], axes=[2])], [1, 2, 3, 4], {"s": [7 / 3]})
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 7, 4])
    )
    onnx.checker.check_model(model)
    assert (
        normalise(model, where="test").graph.output[0].type.tensor_type.shape.dim[2].dim_value == 7
    )
