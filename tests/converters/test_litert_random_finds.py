"""What random graphs found wrong once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session

node = helper.make_node
I64 = np.int64


def test_slicing_backwards_from_before_the_beginning(make_model: Any, assert_parity: Any) -> None:
    constants = {
        "starts": np.array([-2], I64), "ends": np.array([np.iinfo(I64).min], I64),
        "axes": np.array([1], I64), "steps": np.array([-2], I64),
    }  # fmt: skip
    names = ["x", "starts", "ends", "axes", "steps"]
    assert_parity(make_model([node("Slice", names, ["y"])], {"x": ["n", 1, 5]}, ["y"], constants))


def test_bounds_of_a_scalar_that_are_lists_of_one(make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Clip", ["s", "low", "high"], ["y"]),
    ]
    constants = {"low": np.array(-1.0, np.float32), "high": np.array(2.0, np.float32)}
    assert_parity(make_model(nodes, {"x": [2, 3]}, ["y"], constants))


def test_a_constant_number_stays_a_number(make_model: Any, assert_parity: Any) -> None:
    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Sub", ["m", "k"], ["y"])]
    constants = {"k": np.array(3.0, np.float32)}
    assert_parity(make_model(nodes, {"x": [2, 3]}, ["y"], constants))


def test_an_input_that_is_an_output_too(make_model: Any, assert_parity: Any) -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, ["y"])
    model.graph.output.append(model.graph.input[0])
    assert_parity(model)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["n", 2, 3, 1, 2, 3, 4], [2, 4, 2]), (["n", 2, 1, 2, 3, 4], [3, 2, 4, 2]),
        (["n", 2, 1, 1, 3, 4], ["n", 1, 3, 2, 4, 2]), (["n", 2, 1, 2, 3, 4], [4]),
        ([3], ["n", 2, 1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_products_of_many_axes(
    left: list[Any], right: list[Any], make_model: Any, assert_parity: Any
) -> None:
    nodes = [node("MatMul", ["a", "b"], ["y"])]
    assert_parity(make_model(nodes, {"a": left, "b": right}, ["y"]))


def test_a_dense_layer_of_many_axes(make_model: Any, assert_parity: Any, weights: Any) -> None:
    model = make_model(
        [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 2, 1, 2, 1, 3, 4]}, ["y"],
        {"w": weights(4, 2)},
    )  # fmt: skip
    assert_parity(model)


def test_groups_of_channels_that_inference_does_not_count(
    make_model: Any, assert_parity: Any, weights: Any
) -> None:
    nodes = [
        node("TopK", ["x", "k"], ["t", "i"], axis=0),
        node("Conv", ["t", "w"], ["y"], group=3),
    ]
    constants = {"k": np.array([1], I64), "w": weights(6, 1, 3, 3)}
    assert_parity(make_model(nodes, {"x": ["n", 3, 5, 5]}, ["y"], constants))


def test_integer_products_of_many_axes(make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["p"]),
        node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    w = np.arange(-6, 6).reshape(4, 3).astype(np.int8)
    assert_parity(make_model(nodes, {"x": ["n", 2, 1, 2, 1, 3, 4]}, ["y"], {"w": w}))


def _run(model: Any, folder: Path, **arrays: Any) -> Any:
    """The first output of a model that onnxruntime or strict inference does not take."""
    path = folder / "model.tflite"
    path.write_bytes(compile_to_litert(normalise(model, where="x"), where="x").content)
    (computed, *_) = open_session(path).run(arrays).values()
    return computed


def test_two_constant_nodes_of_one_name(make_model: Any, tmp_path: Path) -> None:
    nodes = [
        node("Neg", ["c"], ["a"], name="twin"), node("Abs", ["a"], ["b"], name="twin"),
        node("Add", ["x", "b"], ["y"], name="add"),
    ]  # fmt: skip
    model = make_model(nodes, {"x": ["n", 3]}, ["y"], {"c": np.full(3, 2, np.float32)})
    assert (_run(model, tmp_path, x=np.zeros((1, 3), np.float32)) == 2).all()


def test_what_a_body_reads_beside_its_node_keeps_its_name(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["on"], ["still"]), node("Add", ["a", "same"], ["c"])],
        "body",
        [
            value("round", TensorProto.INT64, []), value("on", TensorProto.BOOL, []),
            value("a", TensorProto.FLOAT, [2]),
        ],
        [value("still", TensorProto.BOOL, []), value("c", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    nodes = [node("Identity", ["x"], ["same"]), node("Loop", ["k", "", "same"], ["y"], body=body)]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array(3), "k")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(_run(model, tmp_path, x=x), 4 * x)


def test_integers_under_their_other_name(make_model: Any, tmp_path: Path) -> None:
    model = make_model(
        [node("Neg", ["x"], ["y"])], {"x": ["n"]}, ["y"], dtype=TensorProto.INT64
    )  # fmt: skip
    # What onnxruntime returns: equal to int64 for numpy, not for LiteRT.
    x = np.arange(3).astype(np.longlong)
    np.testing.assert_array_equal(_run(model, tmp_path, x=x), -x)


@pytest.mark.parametrize("order", [[0, 3, 1, 2], [0, 2, 1, 3], [0, 1, 3, 2]])
def test_a_product_of_a_transposed_tensor_with_itself(
    order: list[int], make_model: Any, assert_parity: Any
) -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=order), node("MatMul", ["t", "t"], ["y"])]
    assert_parity(make_model(nodes, {"x": ["n", 3, 3, 3]}, ["y"]))


def test_weights_behind_a_flattened_image_that_are_an_output_too(
    make_model: Any, assert_parity: Any, weights: Any
) -> None:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Flatten", ["c"], ["f"]),
        node("MatMul", ["f", "w"], ["y"]),
    ]  # fmt: skip
    constants = {"k": weights(3, 2, 1, 1), "w": weights(48, 2)}
    model = make_model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants)
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [48, 2]))
    assert_parity(model)


def test_a_power_with_more_axes_than_its_base(make_model: Any, tmp_path: Path) -> None:
    model = make_model(
        [node("Pow", ["x", "e"], ["y"])], {"x": []}, ["y"], {"e": np.array([3], np.int32)},
        dtype=TensorProto.INT32,
    )  # fmt: skip
    np.testing.assert_array_equal(_run(model, tmp_path, x=np.array(2, np.int32)), [8])


def test_transposes_of_nothing(make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[3, 1, 4, 2, 0]),
        node("Transpose", ["t"], ["y"], perm=[3, 1, 4, 2, 0]),
    ]
    assert_parity(make_model(nodes, {"x": [1, 2, 2, 4, 0]}, ["y"]))


def test_old_bounds_of_doubles(make_model: Any, tmp_path: Path) -> None:
    model = make_model(
        [node("Clip", ["x"], ["y"], min=-1.0, max=0.5)], {"x": [3]}, ["y"], opset=9,
        dtype=TensorProto.DOUBLE,
    )  # fmt: skip
    computed = _run(model, tmp_path, x=np.array([-2.0, 0.25, 2.0]))
    np.testing.assert_array_equal(computed, [-1.0, 0.25, 0.5])


def test_what_does_not_depend_on_computed_sizes_is_computed_anew_in_every_call(
    make_model: Any, tmp_path: Path, weights: Any
) -> None:
    nodes = [
        node("Reshape", ["x", "apart"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 4, 3]),
        node("Reshape", ["t", "flat"], ["y"]),
        node("Resize", ["x", "", "scales"], ["d"], mode="nearest",
             coordinate_transformation_mode="asymmetric"),
        node("MatMul", ["d", "w"], ["e"]),
        node("Conv", ["e", "v"], ["g"]),
        node("Concat", ["g", "e"], ["h"], axis=3),
        node("MatMul", ["h", "u"], ["z"]),
    ]  # fmt: skip
    constants = {
        "apart": np.array([2, 2, 1, 8, 5]), "flat": np.array([2, 2, 8, 5]), "w": weights(2, 3),
        "v": weights(2, 2, 1, 1), "u": weights(6, 4),
    }  # fmt: skip
    model = make_model(nodes, {"x": [2, 2, 8, 5], "scales": [4]}, ["y", "z"], constants)
    path = tmp_path / "model.tflite"
    path.write_bytes(compile_to_litert(normalise(model, where="x"), where="x").content)
    scales = np.array([1, 1, 1, 0.5], np.float32)
    x = np.arange(160, dtype=np.float32).reshape(2, 2, 8, 5)
    for _ in range(10):
        session = open_session(path)
        for number in range(3):
            computed = session.run({"x": x + number, "scales": scales})["y"]
            wanted = (x + number).transpose(0, 1, 3, 2).reshape(2, 2, 8, 5)
            np.testing.assert_array_equal(computed, wanted)


def test_a_free_batch_in_the_place_of_a_height(
    make_model: Any, tmp_path: Path, weights: Any
) -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[3, 2, 0, 1]), node("Conv", ["t", "w"], ["y"])]
    model = make_model(nodes, {"x": ["n", 4, 1, 1]}, ["y"], {"w": weights(3, 1, 2, 2)})
    # One, which stands for a free size in the file, is less than the window's height.
    assert _run(model, tmp_path, x=np.zeros((3, 4, 1, 1), np.float32)).shape == (1, 3, 2, 3)


def test_more_axes_than_the_runtime_has_are_refused(make_model: Any) -> None:
    nodes = [node("Add", ["x", "c"], ["y"])]
    constants = {"c": np.ones([2] + [1] * 8, np.float32)}
    model = make_model(nodes, {"x": [2] * 8}, ["y"], constants)
    with pytest.raises(UnsupportedModelError, match="has 9 axes"):
        compile_to_litert(normalise(model, where="x"), where="x")
