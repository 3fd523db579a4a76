from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.onnx_source import quantized_operators, read_onnx
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**9))
def test_a_damaged_file_is_converted_or_refused_but_never_crashes(
    seed: int, small_cnn: Any, tmp_path: Path
) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable damage, no secret
    content = bytearray(small_cnn.SerializeToString())
    # The structure lies at both ends, the weights between them.
    for _ in range(chance.randint(1, 6)):
        distance = chance.randrange(1500)
        content[chance.choice([distance, -1 - distance])] = chance.randrange(256)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    try:
        compile_to_litert(normalise(read_onnx(path), where="test"), where="test")
    except EdgekitError as error:
        assert error.where  # noqa: PT017


def test_an_element_type_that_does_not_exist(small_cnn: Any, tmp_path: Path) -> None:
    small_cnn.graph.initializer[1].data_type = 49
    (tmp_path / "a.onnx").write_bytes(small_cnn.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="valid ONNX"):
        read_onnx(tmp_path / "a.onnx")


def test_a_constant_whose_bytes_do_not_fill_its_shape(small_cnn: Any, tmp_path: Path) -> None:
    tensor = small_cnn.graph.initializer[1]
    tensor.raw_data = tensor.raw_data * 2
    (tmp_path / "a.onnx").write_bytes(small_cnn.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="valid ONNX"):
        read_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize(("opset", "ir_version"), [(6, 8), (17, 2)])
def test_versions_that_are_too_old(opset: int, ir_version: int, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    onnx.save_model(model, str(tmp_path / "a.onnx"))
    with pytest.raises(UnsupportedModelError, match="too old"):
        read_onnx(tmp_path / "a.onnx")


def test_external_data_is_read_from_beside_the_model_only(small_cnn: Any, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "a.onnx"
    onnx.save_model(
        small_cnn, str(path), save_as_external_data=True, location="a.data", size_threshold=0
    )
    assert read_onnx(path).graph.initializer[0].raw_data
    (folder / "a.data").rename(tmp_path / "a.data")
    with pytest.raises(UnsupportedModelError):
        read_onnx(path)
    model = onnx.load_model(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../a.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError):
        read_onnx(path)


def test_signs_of_quantization_are_found(make_model: Any) -> None:
    import numpy as np

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequantize"),
    ]
    model = make_model(nodes, {"x": [2]}, ["y"], {"s": np.float32(0.1), "z": np.uint8(3)})
    assert quantized_operators(model) == ("quantize", "dequantize")
