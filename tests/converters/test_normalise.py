from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.normalise import normalise
from edgekit_converters.onnx_graphs import opset_of
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node


def _run(model: Any, inputs: Any) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def _operators(model: Any) -> list[str]:
    return [n.op_type for n in model.graph.node]


def _norm(size: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "g": rng.normal(1, 0.3, size).astype(np.float32),
        "b": rng.normal(size=size).astype(np.float32),
        "m": rng.normal(size=size).astype(np.float32),
        "v": rng.uniform(0.2, 2, size).astype(np.float32),
    }


@pytest.mark.parametrize("bias", [False, True])
def test_batch_normalization_disappears_into_the_convolution(
    bias: bool, make_model: Any, weights: Any
) -> None:
    names = ["x", "w", "c"] if bias else ["x", "w"]
    nodes = [
        node("Conv", names, ["y"], name="conv"),
        node("BatchNormalization", ["y", "g", "b", "m", "v"], ["z"], name="bn"),
    ]
    constants = {"w": weights(4, 2, 3, 3), **_norm(4, 0)}
    if bias:
        constants["c"] = weights(4)
    model = make_model(nodes, {"x": ["n", 2, 6, 6]}, ["z"], constants)
    result = normalise(model, where="test")
    assert _operators(result) == ["Conv"]
    assert result.graph.node[0].name == "conv"
    inputs = {"x": weights(2, 2, 6, 6, seed=9)}
    np.testing.assert_allclose(_run(result, inputs)[0], _run(model, inputs)[0], atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("shape", [None, (), (4,), (1, 4)])
def test_batch_normalization_disappears_into_gemm(
    transposed: bool, beta: float, shape: Any, make_model: Any, weights: Any
) -> None:
    names = ["x", "w"] if shape is None else ["x", "w", "c"]
    nodes = [
        node("Gemm", names, ["y"], transB=int(transposed), alpha=1.5, beta=beta),
        node("BatchNormalization", ["y", "g", "b", "m", "v"], ["z"]),
    ]
    constants = {"w": weights(4, 3) if transposed else weights(3, 4), **_norm(4, 1)}
    if shape is not None:
        constants["c"] = np.asarray(weights(*shape), dtype=np.float32)
    model = make_model(nodes, {"x": ["n", 3]}, ["z"], constants)
    result = normalise(model, where="test")
    assert _operators(result) == ["Gemm"]
    inputs = {"x": weights(5, 3, seed=9)}
    np.testing.assert_allclose(_run(result, inputs)[0], _run(model, inputs)[0], atol=1e-5)


def test_shared_weights_are_not_changed_for_the_other_reader(make_model: Any, weights: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", "g", "b", "m", "v"], ["y"]),
        node("Conv", ["x", "w"], ["z"]),
    ]
    constants = {"w": weights(4, 2, 1, 1), **_norm(4, 2)}
    model = make_model(nodes, {"x": [1, 2, 3, 3]}, ["y", "z"], constants)
    inputs = {"x": weights(1, 2, 3, 3)}
    before, after = _run(model, inputs), _run(normalise(model, where="test"), inputs)
    for expected, computed in zip(before, after, strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-5)


def test_a_convolution_that_others_read_keeps_its_values(make_model: Any, weights: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", "g", "b", "m", "v"], ["y"]),
    ]
    constants = {"w": weights(4, 2, 1, 1), **_norm(4, 2)}
    model = make_model(nodes, {"x": [1, 2, 3, 3]}, ["a", "y"], constants)
    result = normalise(model, where="test")
    assert _operators(result) == ["Conv", "Mul", "Add"]
    inputs = {"x": weights(1, 2, 3, 3)}
    for expected, computed in zip(_run(model, inputs), _run(result, inputs), strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-5)


def test_other_precisions_keep_their_batch_normalization(make_model: Any) -> None:
    statistics = {name: array.astype(np.float64) for name, array in _norm(3, 0).items()}
    model = make_model(
        [node("BatchNormalization", ["x", *statistics], ["y"])],
        {"x": ["n", 3]}, ["y"], statistics, dtype=TensorProto.DOUBLE,
    )  # fmt: skip
    result = normalise(model, where="test")
    inputs = {"x": np.ones((2, 3))}
    np.testing.assert_array_equal(_run(result, inputs)[0], _run(model, inputs)[0])


def test_what_is_constant_is_computed_once(make_model: Any) -> None:
    nodes = [
        node("Constant", [], ["two"], value=helper.make_tensor("", TensorProto.FLOAT, [], [2.0])),
        node("Add", ["k", "two"], ["five"]),
        node("Mul", ["x", "five"], ["y"]),
        node("Exp", ["five"], ["unread"]),
    ]
    model = make_model(nodes, {"x": ["n", 2]}, ["y"], {"k": np.float32(3)})
    result = normalise(model, where="test")
    assert _operators(result) == ["Mul"]
    assert [tensor.name for tensor in result.graph.initializer] == ["five"]


def test_identity_and_dropout_disappear_but_not_the_output(make_model: Any) -> None:
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Dropout", ["b"], ["c"]),
        node("Exp", ["c"], ["d"]),
        node("Dropout", ["d"], ["y"]),
    ]
    result = normalise(make_model(nodes, {"x": ["n", 2]}, ["y"]), where="test")
    assert _operators(result) == ["Relu", "Exp", "Identity"]


@pytest.mark.parametrize("opset", [7, 10, 12, 13])
def test_dropout_of_any_opset_with_a_mask_that_nobody_reads(opset: int, make_model: Any) -> None:
    nodes = [node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["d"], ["y"])]
    result = normalise(make_model(nodes, {"x": ["n", 2]}, ["y"], opset=opset), where="test")
    assert _operators(result) == ["Relu"]


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 12])
def test_old_opsets_are_raised_and_compute_the_same(opset: int, make_model: Any) -> None:
    nodes = [
        node("Unsqueeze", ["x"], ["u"], axes=[1]),
        node("Squeeze", ["u"], ["s"], axes=[1]),
        node("ReduceMean", ["s"], ["r"], axes=[3], keepdims=1),
        node("Softmax", ["r"], ["y"], axis=1),
    ]
    model = make_model(nodes, {"x": [2, 3, 4, 5]}, ["y"], opset=opset)
    result = normalise(model, where="test")
    assert opset_of(result) >= 13
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)}
    np.testing.assert_allclose(_run(result, inputs)[0], _run(model, inputs)[0], atol=1e-6)


def test_initialisers_are_no_inputs(make_model: Any) -> None:
    model = make_model([node("Add", ["x", "k"], ["y"])], {"x": [2]}, ["y"], {"k": np.ones(2, "f4")})
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [2]))
    assert [value.name for value in normalise(model, where="test").graph.input] == ["x"]


def test_functions_are_expanded(make_model: Any) -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    opsets = [helper.make_opsetid("", 17)]
    body = [node("Relu", ["a"], ["b"]), node("Exp", ["b"], ["c"])]
    model.functions.append(helper.make_function("own", "Both", ["a"], ["c"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Both", "own"
    assert _operators(normalise(model, where="test")) == ["Relu", "Exp"]


def test_the_source_is_left_as_it_was(small_cnn: Any) -> None:
    before = small_cnn.SerializeToString()
    normalise(small_cnn, where="test")
    assert small_cnn.SerializeToString() == before


def test_shapes_that_contradict_each_other_are_refused() -> None:
    graph = helper.make_graph(
        [node("MatMul", ["a", "b"], ["y"])],
        "test",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [4, 5]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    with pytest.raises(UnsupportedModelError, match="contradict"):
        normalise(model, where="test")


def test_what_only_a_body_reads_is_kept(make_model: Any) -> None:
    value = helper.make_tensor_value_info("doubled", TensorProto.FLOAT, None)
    body = helper.make_graph([node("Mul", ["x", "two"], ["doubled"])], "double", [], [value])
    other = helper.make_graph([node("Neg", ["x"], ["doubled"])], "negate", [], [value])
    nodes = [
        node("Add", ["one", "one"], ["two"]),
        node("If", ["condition"], ["y"], then_branch=body, else_branch=other),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (found,) = normalise(model, where="test").graph.node
    # As a constant of its own: shape inference does not look outside.
    (branch,) = (entry.g for entry in found.attribute if entry.name == "then_branch")
    assert [float(numpy_helper.to_array(t)[0]) for t in branch.initializer] == [2.0]
