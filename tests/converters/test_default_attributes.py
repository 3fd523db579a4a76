from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.default_attributes import write_default_attributes
from edgekit_converters.normalise import normalise

node = helper.make_node


def test_operators_that_are_defined_by_others_say_what_they_leave_out(make_model: Any) -> None:
    nodes = [
        node("MeanVarianceNormalization", ["x"], ["m"]),
        node("Gemm", ["a", "a"], ["y"]),
    ]
    model = make_model([nodes[1]], {"x": [2, 3, 4, 4], "a": [2, 2]}, ["y"])
    model.graph.node.insert(0, nodes[0])
    write_default_attributes(model)
    assert [list(a.ints) for a in model.graph.node[0].attribute if a.name == "axes"] == [[0, 2, 3]]
    assert not model.graph.node[1].attribute


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9, 10])
@pytest.mark.parametrize("scale", [2.0, 1.5])
def test_older_models_are_resized_as_they_were(
    assert_parity: Any, mode: str, opset: int, scale: float
) -> None:
    scales = [1.0, 1.0, scale, scale]
    attributes: dict[str, Any] = {"mode": mode}
    inputs, constants = ["x"], []
    if opset == 7:
        attributes["scales"] = scales
    else:
        inputs.append("s")
        constants.append(numpy_helper.from_array(np.array(scales, dtype=np.float32), "s"))
    graph = helper.make_graph(
        [node("Upsample" if opset < 10 else "Resize", inputs, ["y"], **attributes)],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    assert_parity(model)
    (resize,) = normalise(model, where="test").graph.node
    stated = {a.name: a.s for a in resize.attribute}
    assert stated["coordinate_transformation_mode"] == b"asymmetric"
