from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from converters.onnx_files import model_of, write
from edgekit_converters.onnx_source import quantized_operators, read_onnx
from edgekit_converters.onnx_source.skeleton import skeleton
from edgekit_runtime.errors import UnsupportedModelError


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.99])
def test_a_file_that_is_cut_short(share: float, small_cnn: Any, tmp_path: Path) -> None:
    content = small_cnn.SerializeToString()
    path = tmp_path / "a.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnsupportedModelError, match="no valid ONNX model: it ") as caught:
        read_onnx(path)
    assert caught.value.where == str(path)


def test_signs_of_quantization_are_found(make_model: Any) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequantize"),
    ]
    model = make_model(nodes, {"x": [2]}, ["y"], {"s": np.float32(0.1), "z": np.uint8(3)})
    assert quantized_operators(model) == ("quantize", "dequantize")


def test_shapes_of_outputs_that_the_file_leaves_open_are_filled_in(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], inputs={"x": ["n", 3]})
    read = read_onnx(write(model, tmp_path / "a.onnx"))
    shape = read.graph.output[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["n", 3]


def test_what_the_specification_forbids_is_refused(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"], slope=1)])
    with pytest.raises(UnsupportedModelError, match="Unrecognized attribute: slope"):
        read_onnx(write(model, tmp_path / "a.onnx"))


def test_a_skeleton_is_small_and_infers_the_same_shapes(small_cnn: Any) -> None:
    matrix = numpy_helper.from_array(np.ones((10, 500), np.float32))
    small_cnn.graph.node.extend(
        [
            helper.make_node("Constant", [], ["big"], value=matrix),
            helper.make_node("MatMul", ["scores", "big"], ["last"]),
        ]
    )
    small_cnn.graph.output[0].name = "last"
    small_cnn.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 500
    before = small_cnn.SerializeToString()
    small = skeleton(small_cnn)
    assert small_cnn.SerializeToString() == before
    assert small.ByteSize() < len(before) // 10
    onnx.checker.check_model(small)
    whole, reduced = (
        {v.name: v.type for v in onnx.shape_inference.infer_shapes(m).graph.value_info}
        for m in (small_cnn, small)
    )
    whole.pop("big")
    assert whole == reduced
