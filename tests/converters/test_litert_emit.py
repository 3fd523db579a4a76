from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from onnx import helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert.emit import emit, emit_file
from edgekit_converters.litert.program import Operator, Program, Tensor
from edgekit_converters.normalise import normalise

node = helper.make_node


def _model(content: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def test_equal_constants_are_stored_once(make_model: Any, weights: Any, assert_parity: Any) -> None:
    large = weights(3, 64, 64)[0]
    nodes = [
        node("MatMul", ["x", "a"], ["m"]),
        node("MatMul", ["m", "b"], ["n"]),
        node("Mul", ["n", "a"], ["y"]),
    ]
    model = make_model(nodes, {"x": [64, 64]}, ["y"], {"a": large, "b": large.copy()})
    compiled = assert_parity(model, tolerance=1e-4)
    # Once as it is for Mul, once turned for the two products.
    assert len(compiled.content) < 2 * large.nbytes + 4096


def test_every_buffer_is_aligned(small_cnn: Any, assert_parity: Any) -> None:
    content = assert_parity(small_cnn).content
    buffers = [b.data for b in _model(content).buffers if b.data is not None]
    assert len(buffers) > 4
    for data in buffers:
        raw = np.asarray(data, dtype=np.uint8).tobytes()
        places = [at for at in range(0, len(content), 16) if content.startswith(raw, at)]
        assert places, "no copy of this buffer starts at a multiple of 16"


def test_names_signature_and_free_batch(small_cnn: Any, assert_parity: Any) -> None:
    content = assert_parity(small_cnn, batch=5).content
    interpreter = litert.Interpreter(model_content=content)
    signatures = interpreter.get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["image"], "outputs": ["scores"]}}
    (detail,) = interpreter.get_input_details()
    assert detail["name"] == "image"
    assert detail["shape_signature"].tolist() == [-1, 1, 8, 8]
    runner = interpreter.get_signature_runner("serving_default")
    assert runner(image=np.zeros((4, 1, 8, 8), dtype=np.float32))["scores"].shape == (4, 10)
    names = {tensor["name"] for tensor in interpreter.get_tensor_details()}
    # Where layers were fused, the last one gives its name.
    assert {"r1", "p1", "r2", "w1", "w2", "b3"} <= names


def test_operator_codes_are_written_for_old_and_new_readers(
    small_cnn: Any, assert_parity: Any
) -> None:
    model = _model(assert_parity(small_cnn).content)
    assert model.operatorCodes
    for code in model.operatorCodes:
        assert code.builtinCode == code.deprecatedBuiltinCode
        assert code.version >= 1
    assert {m.name for m in model.metadata} == {b"min_runtime_version"}
    assert bytes(model.buffers[model.metadata[0].buffer].data).rstrip(b"\0") == b"1.5.0"


def test_tensor_names_are_unique(make_model: Any, weights: Any, assert_parity: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Conv", ["x", "w"], ["b"], strides=[2, 2]),
        node("Relu", ["a"], ["x/axes_0231"]),
    ]
    model = make_model(
        nodes, {"x": ["n", 2, 4, 4]}, ["x/axes_0231", "b"], {"w": weights(3, 2, 1, 1)}
    )
    (graph,) = _model(assert_parity(model).content).subgraphs
    names = [tensor.name for tensor in graph.tensors]
    assert len(set(names)) == len(names)


def test_free_sizes_leave_room_for_windows(make_model: Any, weights: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    shape = ["n", 2, "height", "width"]
    model = make_model(nodes, {"x": shape}, ["y"], {"w": weights(3, 2, 5, 5)})
    content = compile_to_litert(normalise(model, where="test"), where="test").content
    interpreter = litert.Interpreter(model_content=content)
    # The first allocation happens before anyone can say how large the image is.
    interpreter.allocate_tensors()
    (detail,) = interpreter.get_input_details()
    assert detail["shape"].tolist() == [1, 2, 16, 16]
    assert detail["shape_signature"].tolist() == [-1, 2, -1, -1]
    interpreter.resize_tensor_input(detail["index"], [3, 2, 20, 12])
    interpreter.allocate_tensors()
    interpreter.set_tensor(detail["index"], np.ones((3, 2, 20, 12), dtype=np.float32))
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    assert interpreter.get_tensor(output["index"]).shape == (3, 3, 7, 3)


def test_a_number_of_numpys_is_stored_as_it_is() -> None:
    x, y = (Tensor(name=name, dtype="int32", shape=(2,)) for name in "xy")
    number = Tensor(name="k", dtype="int32", shape=(), data=np.int32(-2))  # type: ignore[arg-type]
    add = Operator(code="ADD", inputs=[x, number], outputs=[y])
    program = Program(name="main", inputs=[x], outputs=[y], operators=[add], located={})
    buffers = _model(emit(program, description="", where="test")).buffers
    assert np.int32(-2).tobytes() in [bytes(b.data) for b in buffers if b.data is not None]


def test_a_file_holds_what_emit_gives(small_cnn: Any, assert_parity: Any, tmp_path: Path) -> None:
    compiled = assert_parity(small_cnn)
    path = tmp_path / "model.tflite"
    emit_file(compiled.program, path, description="", where="test")
    assert path.read_bytes() == compiled.content
