"""Both formats come out as the same kind of graph, and what is no model is refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit_runtime.errors import EdgekitError, UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.model import element_bits
from edgekit_runtime.graph.read import read_graph
from runtime.graph.tflite_files import conv_model, pack
from runtime.models import linear_model


def onnx_file(path: Path, nodes: list[onnx.NodeProto], *stored: onnx.TensorProto) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(stored),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_tflite_file_reads(tmp_path: Path) -> None:
    path = tmp_path / "conv.tflite"
    path.write_bytes(pack(conv_model()))
    graph = read_graph(path)
    assert graph.format is ModelFormat.LITERT
    assert (graph.version, graph.description) == (3, "a test")
    assert [o.type for o in graph.operators] == ["CONV_2D", "RELU6", "MEAN"]
    assert graph.operators[0].inputs == ("picture", "weights", "bias")
    assert graph.operators[0].attributes["strideW"] == 1
    assert graph.tensors["weights"].constant_bytes == 216
    assert graph.tensors["features"].constant_bytes is None
    assert graph.shape("means") == (1, 3)


def test_an_onnx_file_reads_with_a_free_batch(tmp_path: Path) -> None:
    graph = read_graph(linear_model(tmp_path / "linear.onnx"))
    assert graph.format is ModelFormat.ONNX
    assert dict(graph.opsets) == {"ai.onnx": 17}
    assert graph.inputs[0].shape == (None, 3)
    assert graph.shape("scores") == (1, 2)
    assert graph.assumptions == ("the free first axis of input 'x' is taken as 1",)


def test_given_shapes_reach_the_inner_tensors(tmp_path: Path) -> None:
    path = linear_model(tmp_path / "linear.onnx")
    graph = read_graph(path, shapes={"x": (5, 3)})
    assert graph.shape("scores") == (5, 2)
    assert not graph.assumptions


@pytest.mark.parametrize("shapes", [{"x": (5, 4)}, {"x": (5,)}, {"other": (1, 3)}, {"x": (0, 3)}])
def test_shapes_that_do_not_fit_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    with pytest.raises(UsageError) as caught:
        read_graph(linear_model(tmp_path / "linear.onnx"), shapes=shapes)
    assert caught.value.fix


def test_operators_in_a_circle_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    with pytest.raises(UnsupportedModelError, match=r"circle.*'b'"):
        read_graph(onnx_file(tmp_path / "circle.onnx", nodes))


def test_every_loose_end_is_named_at_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["ghost", "phantom"], ["z"], name="sum")]
    with pytest.raises(UnsupportedModelError) as caught:
        read_graph(onnx_file(tmp_path / "loose.onnx", nodes))
    assert all(word in caught.value.what for word in ("ghost", "phantom", "'y' is never made"))


def test_weights_of_the_wrong_size_are_refused(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    weights.raw_data = weights.raw_data[:-4]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    with pytest.raises(UnsupportedModelError, match="needs 32 bytes and has 28"):
        read_graph(onnx_file(tmp_path / "short.onnx", nodes, weights))


@pytest.mark.parametrize("location", ["weights.bin", "../outside.bin", ""])
def test_weights_in_a_file_that_is_not_there_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(32))
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    (tmp_path / "inner").mkdir()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    with pytest.raises(UnsupportedModelError, match="in another file"):
        read_graph(onnx_file(tmp_path / "inner" / "external.onnx", nodes, weights))


def test_a_custom_operator_is_marked(tmp_path: Path) -> None:
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="example.org")]
    graph = read_graph(onnx_file(tmp_path / "custom.onnx", nodes))
    assert graph.operators[0].custom
    assert graph.shape("y") is None


def test_operators_inside_a_condition_are_kept_apart(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["inner"])], "body", [], [value])
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body),
    ]
    graph = read_graph(onnx_file(tmp_path / "if.onnx", nodes))
    assert [o.type for o in graph.operators] == ["Constant", "If"]
    assert [o.type for o in graph.inner_operators] == ["Relu", "Relu"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 1 << 30), cut=st.booleans())
def test_a_damaged_onnx_file_raises_only_our_errors(tmp_path: Path, seed: int, cut: bool) -> None:
    data = bytearray(linear_model(tmp_path / "whole.onnx").read_bytes())
    rng = random.Random(seed)  # noqa: S311 - repeatable damage, no secret
    if cut:
        data = data[: rng.randrange(1, len(data))]
    else:
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    try:
        graph = read_graph(path)
    except EdgekitError:
        return
    assert graph.operators


def test_every_truncation_of_an_onnx_file_is_refused(tmp_path: Path) -> None:
    whole = linear_model(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UnsupportedModelError):
            read_graph(path)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("float32", 32), ("int8", 8), ("bool", 8), ("uint4", 4), ("bfloat16", 16), ("string", 8)],
)
def test_element_sizes(dtype: str, bits: int) -> None:
    assert element_bits(dtype) == bits
