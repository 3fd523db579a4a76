from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert.layout import (
    BorderLayout,
    channels_last_order,
    identity,
    inverse,
    permute,
)
from edgekit_converters.normalise import normalise
from edgekit_runtime.session import open_session

node = helper.make_node


@given(st.permutations(range(5)))
def test_the_inverse_undoes_a_permutation(order: list[int]) -> None:
    permutation = tuple(order)
    shape = (2, 3, None, 5, 7)
    assert permute(permute(shape, permutation), inverse(permutation)) == shape


def test_channels_last() -> None:
    assert channels_last_order(4) == (0, 2, 3, 1)
    assert channels_last_order(3) == (0, 2, 1)
    assert identity(3) == (0, 1, 2)


def _transposes(compiled: Any) -> list[str]:
    return [o.outputs[0].name for o in compiled.program.operators if o.code == "TRANSPOSE"]


def test_a_network_of_images_is_transposed_at_its_input_alone(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "a"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "b"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["sum"]),
        node("Concat", ["sum", "r1"], ["both"], axis=1),
        node("Mul", ["both", "k"], ["scaled"]),
        node("MaxPool", ["scaled"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "d"], ["y"], transB=1),
    ]
    constants = {
        "a": weights(4, 3, 3, 3), "b": weights(4, 4, 3, 3), "k": weights(8, 1, 1),
        "d": weights(5, 8 * 9),
    }  # fmt: skip
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, 6, 6]}, ["y"], constants))
    assert len(_transposes(compiled)) == 1


def test_transposes_of_the_source_cancel_against_the_layout(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    # What a channels-last framework exports: NHWC outside, NCHW around each convolution.
    nodes = [
        node("Transpose", ["x"], ["in"], perm=[0, 3, 1, 2]),
        node("Conv", ["in", "w"], ["c"]),
        node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]),
    ]
    model = make_model(nodes, {"x": ["n", 5, 6, 3]}, ["y"], {"w": weights(4, 3, 3, 3)})
    compiled = assert_parity(model)
    assert [operator.code for operator in compiled.program.operators] == ["CONV_2D"]


def test_one_channel_moves_without_a_copy(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    model = make_model(
        [node("Conv", ["x", "w"], ["y"])], {"x": ["n", 1, 6, 6]}, ["y"], {"w": weights(4, 1, 3, 3)}
    )
    compiled = assert_parity(model)
    assert [o.code for o in compiled.program.operators] == ["RESHAPE", "CONV_2D", "TRANSPOSE"]


def test_flattening_that_others_read_is_transposed(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Flatten", ["c"], ["f"]),
        node("Gemm", ["f", "d"], ["y"]),
    ]
    constants = {"w": weights(4, 3, 3, 3), "d": weights(16, 5)}
    model = make_model(nodes, {"x": ["n", 3, 4, 4]}, ["y", "f"], constants)
    assert len(_transposes(assert_parity(model))) == 2


def test_weights_of_two_readers_are_reordered_in_both_or_in_none(
    make_model: Any, weights: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Flatten", ["c"], ["f"]),
        node("Gemm", ["f", "d"], ["a"]),
        node("MatMul", ["f", "d"], ["b"]),
        node("MatMul", ["f", "e"], ["z"]),
    ]
    constants = {
        "w": weights(4, 3, 3, 3), "d": weights(16, 5), "e": np.ascontiguousarray(weights(16, 2)),
    }  # fmt: skip
    assert_parity(make_model(nodes, {"x": ["n", 3, 4, 4]}, ["a", "b", "z"], constants))


def test_images_at_the_border_may_have_their_channels_last(
    make_model: Any, weights: Any, tmp_path: Path
) -> None:
    nodes = [
        node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["y"]),
        node("GlobalAveragePool", ["y"], ["g"]),
        node("Flatten", ["g"], ["scores"]),
    ]
    shape = ["n", 3, 5, 6]
    model = make_model(nodes, {"image": shape}, ["y", "scores"], {"w": weights(4, 3, 3, 3)})
    compiled = compile_to_litert(
        normalise(model, where="test"), where="test", layout=BorderLayout.NHWC
    )
    assert compiled.borders == {"image": (0, 2, 3, 1), "y": (0, 2, 3, 1)}
    assert "TRANSPOSE" not in [operator.code for operator in compiled.program.operators]
    source, target = tmp_path / "a.onnx", tmp_path / "a.tflite"
    onnx.save_model(model, str(source))
    target.write_bytes(compiled.content)
    image = np.random.default_rng(1).normal(size=(2, 3, 5, 6)).astype(np.float32)
    expected = open_session(source).run({"image": image})
    computed = open_session(target).run({"image": image.transpose(0, 2, 3, 1)})
    np.testing.assert_allclose(computed["y"].transpose(0, 3, 1, 2), expected["y"], atol=1e-5)
    np.testing.assert_allclose(computed["scores"], expected["scores"], atol=1e-5)
    written = schema.ModelT.InitFromObj(schema.Model.GetRootAs(compiled.content, 0))
    entry = next(m for m in written.metadata if m.name == b"edgekit.axes")
    assert json.loads(bytes(written.buffers[entry.buffer].data)) == {
        "image": [0, 2, 3, 1],
        "y": [0, 2, 3, 1],
    }
