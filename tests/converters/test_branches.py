"""An If whose condition is constant is its branch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.branches import inline_known_branches
from edgekit_converters.normalise import normalise

node = helper.make_node


def _branch(name: str, operator: str, inner: str) -> Any:
    """A body that reads `x` from outside, and makes `inner` on the way."""
    value = numpy_helper.from_array(np.array(2.0, dtype=np.float32), "two")
    nodes = [node(operator, ["x", "two"], [inner]), node("Neg", [inner], [f"{name}_result"])]
    outputs = [helper.make_tensor_value_info(f"{name}_result", TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, name, [], outputs, [value])


def _model(condition: Any, *, inner: str = "middle") -> Any:
    branches = {
        "then_branch": _branch("then", "Add", inner),
        "else_branch": _branch("else", "Mul", inner),
    }
    nodes = [
        node("If", ["condition"], ["chosen"], name="choice", **branches),
        node("Relu", ["chosen"], ["y"]),
        node("Abs", ["x"], ["middle"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])]
    constants = []
    if condition is None:
        inputs.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    else:
        constants = [numpy_helper.from_array(np.array(condition), "condition")]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("y", "middle")]
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def _run(model: Any, **inputs: Any) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [np.asarray(array) for array in session.run(None, inputs)]


@pytest.mark.parametrize("condition", [True, False])
def test_the_branch_that_is_taken_stands_in_its_place(*, condition: bool) -> None:
    x = np.array([-3.0, 0.5, 2.0], dtype=np.float32)
    expected = [np.maximum(-(x + 2 if condition else x * 2), 0), np.abs(x)]
    normalised = normalise(_model(condition), where="test")
    assert "If" not in [step.op_type for step in normalised.graph.node]
    for found, wanted in zip(_run(normalised, x=x), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_names_of_the_branch_that_are_in_use_outside_are_changed() -> None:
    model = _model(condition=True)
    assert inline_known_branches(model)
    made = [name for step in model.graph.node for name in step.output]
    assert len(made) == len(set(made))
    assert "middle" in made


def test_a_condition_that_is_computed_is_left_alone() -> None:
    model = _model(None, inner="other")
    before = model.SerializeToString()
    assert not inline_known_branches(model)
    assert model.SerializeToString() == before
