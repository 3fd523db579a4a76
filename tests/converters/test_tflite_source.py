"""Whole `.tflite` files become ONNX models that answer the same, or are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import REPOSITORY
from converters.tflite_builder import Array, TfliteBuilder, assert_same, types_of
from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_converters.parity import relative_error
from edgekit_converters.tflite_source import import_tflite
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import open_session

F = np.float32
ASSETS = REPOSITORY / "examples" / "digits" / "assets"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's two models as `.tflite`, float and int8."""
    folder = tmp_path_factory.mktemp("digits")
    for version in ("v1", "v2"):
        convert_model(
            ConversionRequest(
                source=ASSETS / f"digits_{version}.onnx",
                output=folder,
                targets=(ModelFormat.LITERT,),
                precisions=(Precision.FLOAT32, Precision.INT8),
                calibration=ASSETS / "calibration.npz",
            )
        )
    return folder


def images() -> Array:
    with np.load(ASSETS / "test.npz") as data:
        name = next(name for name in data.files if name != "labels")
        return np.asarray(data[name][:100])


def imported(path: Path, folder: Path) -> Path:
    target = folder / f"{path.stem}.onnx"
    onnx.save_model(import_tflite(path), str(target))
    return target


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_there_and_back_again(version: str, digits: Path, tmp_path: Path) -> None:
    there, back = digits / f"digits_{version}.tflite", tmp_path
    back = imported(there, tmp_path)
    source, litert, again = (
        open_session(path) for path in (ASSETS / f"digits_{version}.onnx", there, back)
    )
    assert [(s.name, s.dtype, s.shape) for s in again.inputs] == [
        (s.name, s.dtype, s.shape) for s in litert.inputs
    ]
    assert [s.name for s in again.outputs] == [s.name for s in source.outputs]
    feeds = {litert.inputs[0].name: images()}
    expected, computed = litert.run(feeds), again.run(feeds)
    for name, values in expected.items():
        assert relative_error(values, computed[name]) < 1e-5


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_int8_model_gives_the_same_answers(version: str, digits: Path, tmp_path: Path) -> None:
    there = digits / f"digits_{version}-int8.tflite"
    back = imported(there, tmp_path)
    litert, again = open_session(there), open_session(back)
    feeds = {litert.inputs[0].name: images()}
    expected, computed = litert.run(feeds), again.run(feeds)
    name = litert.outputs[0].name
    assert relative_error(expected[name], computed[name]) < 0.05
    same = expected[name].argmax(axis=-1) == computed[name].argmax(axis=-1)
    assert same.mean() >= 0.99
    # The weights are still 8 bits each.
    assert back.stat().st_size < 1.5 * there.stat().st_size


SHARED = {
    # On noise its scores lie close together; LiteRT's own kernels differ by as much.
    "kws-dscnn/kws_ref_model": 4,
    "mnist/keras_lstm_mnist_ptq": 1,
    "mnist/trained_lstm": 1e-5,
    "mnist/trained_lstm_int8": 1,
    "sine/hello_world_float": 1e-5,
    "sine/hello_world_int8": 1,
    # Its weights have 8 bits and its activations 32: LiteRT rounds as it runs.
    "kws-dscnn/kws_ref_model_float32": 0.1,
}


@pytest.mark.parametrize("name", SHARED)
def test_models_of_others(name: str, shared_data: Path, tmp_path: Path) -> None:
    content = (shared_data / f"{name}.tflite").read_bytes()
    session = open_session(shared_data / f"{name}.tflite")
    rng = np.random.default_rng(11)
    feeds = []
    for spec in session.inputs:
        shape = [2 if size is None else size for size in spec.shape]
        feeds.append(
            rng.normal(size=shape).astype(spec.dtype)
            if spec.dtype == "float32"
            else rng.integers(-128, 128, shape).astype(np.int8).view(spec.dtype)
        )
    limit = SHARED[name]
    assert_same(content, tmp_path, feeds, tolerance=limit, steps=int(limit))


@pytest.mark.parametrize("name", ["vad", "hey_jarvis"])
def test_streaming_models_are_refused(name: str, shared_data: Path) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        import_tflite(shared_data / "wakeword-streaming-int8" / f"{name}.tflite")
    for code in ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"):
        assert f"({code}): it keeps a state" in caught.value.what


def test_model_that_litert_refuses_is_refused(shared_data: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="scales run along axis 3 of 1"):
        import_tflite(shared_data / "bad-person-detect" / "person_detect.tflite")


def small(*, dtype: str = "float32") -> tuple[TfliteBuilder, int]:
    build = TfliteBuilder()
    return build, build.tensor("x", [2, 3], dtype)


def refusal(content: bytes, folder: Path) -> str:
    path = folder / "refused.tflite"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError) as caught:
        import_tflite(path)
    assert caught.value.where == str(path)
    assert caught.value.fix
    return caught.value.what


def test_everything_that_cannot_be_said_is_named_at_once(tmp_path: Path) -> None:
    build, x = small()
    names = ("tanh", "unique", "added", "sliced", "y")
    tanh, unique, added, sliced, y = (build.tensor(name, [2, 3]) for name in names)
    bounds = [build.tensor(name, [2], "int32") for name in ("begin", "end")]
    ones = build.constant("ones", np.ones(2, np.int32))
    build.operator("TANH", [x], [tanh])
    build.operator("UNIQUE", [tanh], [unique, build.tensor("places", [3], "int32")])
    build.operator("ADD", [unique, x], [added], "AddOptions", fusedActivationFunction=4)
    build.operator(
        "STRIDED_SLICE", [added, *bounds, ones], [sliced], "StridedSliceOptions", newAxisMask=1
    )
    build.operator("SQUARE", [sliced], [y])
    what = refusal(build.content([x, *bounds], [y]), tmp_path)
    assert what.startswith("3 part(s) of the model")
    assert "unique (UNIQUE): no ONNX equivalent is known" in what
    assert "added (ADD): LiteRT ignores its activation function" in what
    assert "sliced (STRIDED_SLICE): its bounds are computed, and it adds axes" in what
    assert "tanh" not in what.replace("tanh (", "")


def test_custom_operator_is_not_taken_for_a_builtin_one_of_its_name(tmp_path: Path) -> None:
    build, x = small()
    y = build.tensor("y", [2, 3])
    build.operator("CUSTOM", [x], [y])
    build.model.operatorCodes[0].customCode = "RELU"
    what = refusal(build.content([x], [y]), tmp_path)
    assert "y (custom RELU): no ONNX equivalent is known" in what


def test_type_that_onnx_lacks(tmp_path: Path) -> None:
    build, x = small(dtype="resource")
    y = build.tensor("y", [2, 3], "float32")
    build.operator("ZEROS_LIKE", [x], [y])
    assert "x (resource): ONNX has no such type" in refusal(build.content([x], [y]), tmp_path)


def test_sparse_weights(tmp_path: Path) -> None:
    build, x = small()
    weights, y = build.constant("w", np.ones((4, 3), F)), build.tensor("y", [2, 4])
    build.graph.tensors[weights].sparsity = schema.SparsityParametersT()
    build.operator("FULLY_CONNECTED", [x, weights, -1], [y], "FullyConnectedOptions")
    assert "'w': its values are stored in sparse form" in refusal(build.content([x], [y]), tmp_path)


def test_shapes_that_contradict_each_other(tmp_path: Path) -> None:
    build, x = small()
    wrong, y = build.tensor("wrong", [3, 3]), build.tensor("y", [2, 3])
    build.operator("RELU", [x], [wrong])
    build.operator("TANH", [wrong], [y])
    assert "'wrong' is [3, 3] in the file and computes as [2, 3]" in refusal(
        build.content([x], [y]), tmp_path
    )
    what = refusal(build.content([x], [wrong]), tmp_path)
    assert "(op_type:Relu, node name: wrong)" in what


def test_names_shapes_and_order_are_kept(tmp_path: Path) -> None:
    build = TfliteBuilder()
    b, a = build.tensor("b", [-1, 4]), build.tensor("a", [-1, 4])
    total, twice = build.tensor("layer/total", [-1, 4]), build.tensor("twice", [-1, 4])
    build.operator("ADD", [a, b], [total], "AddOptions")
    build.operator("ADD", [total, total], [twice], "AddOptions")
    feeds = [np.full((3, 4), value, F) for value in (1, 2)]
    model = assert_same(build.content([b, a], [twice, total]), tmp_path, feeds)
    assert [v.name for v in model.graph.input] == ["b", "a"]
    assert [v.name for v in model.graph.output] == ["twice", "layer/total"]
    assert [node.name for node in model.graph.node] == ["layer/total", "twice"]
    # Nothing says that the two batches are equal.
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert not axis.HasField("dim_param")
    assert not axis.HasField("dim_value")


def test_what_edgekit_wrote_about_the_file_is_kept(tmp_path: Path) -> None:
    build, x = small()
    y = build.tensor("y", [2, 3])
    build.operator("RELU", [x], [y])
    build.model.metadata = []
    for name, text in (("edgekit.axes", b'{"x": [0, 1]}'), ("min_runtime_version", b"1.5.0")):
        entry, buffer = schema.MetadataT(), schema.BufferT()
        buffer.data = np.frombuffer(text, np.uint8)
        entry.name, entry.buffer = name, len(build.model.buffers)
        build.model.buffers.append(buffer)
        build.model.metadata.append(entry)
    path = tmp_path / "model.tflite"
    path.write_bytes(build.content([x], [y]))
    model = import_tflite(path)
    assert {e.key: e.value for e in model.metadata_props} == {"edgekit.axes": '{"x": [0, 1]}'}
    assert model.doc_string == "a test"


def test_output_that_is_an_input_or_given_twice(tmp_path: Path) -> None:
    build, x = small()
    y = build.tensor("y", [2, 3])
    build.operator("RELU", [x], [y])
    content = build.content([x], [y, x, y])
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    model = import_tflite(path)
    assert [v.name for v in model.graph.output] == ["y", "x#2", "y#2"]
    assert types_of(model) == ["Relu", "Identity", "Identity"]


@pytest.mark.parametrize("batch", [1, 4])
def test_intermediate_shapes_that_forget_the_free_batch(batch: int, tmp_path: Path) -> None:
    # Some converters write the signature of the inputs alone.
    build = TfliteBuilder()
    image = build.tensor("image", [-1, 4, 4, 2])
    big, small_again = build.tensor("big", [1, 8, 8, 2]), build.tensor("small", [1, 4, 4, 2])
    size = [build.constant(f"size{n}", np.array([n, n], np.int32)) for n in (8, 4)]
    table = "ResizeBilinearOptions"
    build.operator("RESIZE_BILINEAR", [image, size[0]], [big], table, halfPixelCenters=True)
    build.operator("RESIZE_BILINEAR", [big, size[1]], [small_again], table)
    feeds = [np.random.default_rng(1).normal(size=(batch, 4, 4, 2)).astype(F)]
    assert_same(build.content([image], [small_again]), tmp_path, feeds, tolerance=1e-5)


@pytest.mark.parametrize("size", [7, 10])
def test_free_height_and_width(size: int, tmp_path: Path) -> None:
    build = TfliteBuilder()
    image = build.tensor("image", [1, -1, -1, 2])
    # As some converters write it: the sizes for the shape that was given once.
    half, quarter = build.tensor("half", [1, 4, 4, 3]), build.tensor("quarter", [1, 2, 2, 3])
    rng = np.random.default_rng(2)
    weights = build.constant("w", rng.normal(size=(3, 3, 3, 2)).astype(F))
    bias = build.constant("b", rng.normal(size=3).astype(F))
    options = {"padding": 0, "strideH": 2, "strideW": 2}
    build.operator("CONV_2D", [image, weights, bias], [half], "Conv2DOptions", **options)
    build.operator(
        "MAX_POOL_2D", [half], [quarter], "Pool2DOptions", filterHeight=3, filterWidth=3, **options
    )
    feeds = [rng.normal(size=(1, size, size, 2)).astype(F)]
    assert_same(build.content([image], [quarter]), tmp_path, feeds, tolerance=1e-5)


def test_free_size_under_a_dilated_window_with_strides_is_refused(tmp_path: Path) -> None:
    build = TfliteBuilder()
    image, y = build.tensor("image", [1, -1, -1, 2]), build.tensor("y", [1, 4, 4, 1])
    weights = build.constant("w", np.ones((1, 3, 3, 2), F))
    bias = build.constant("b", np.ones(1, F))
    build.operator(
        "CONV_2D", [image, weights, bias], [y], "Conv2DOptions", padding=0, strideH=2, strideW=2,
        dilationHFactor=2, dilationWFactor=2,
    )  # fmt: skip
    what = refusal(build.content([image], [y]), tmp_path)
    assert "y (CONV_2D): the size that its dilated window slides over is free" in what


def test_squeeze_of_a_batch_that_may_not_be_one(tmp_path: Path) -> None:
    build = TfliteBuilder()
    x, y = build.tensor("x", [-1, 1, 3]), build.tensor("y", [3])
    inner = build.tensor("inner", [1, 1, 3])
    build.operator("RELU", [x], [inner])
    build.operator("SQUEEZE", [inner], [y], "SqueezeOptions")
    what = refusal(build.content([x], [y]), tmp_path)
    assert "y (SQUEEZE): which axes it removes is not known in advance" in what


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    empty = tmp_path / "empty.tflite"
    empty.touch()
    for path in (tmp_path, tmp_path / "missing.tflite", empty):
        with pytest.raises(UsageError):
            import_tflite(path)
    (tmp_path / "text.tflite").write_text("no model at all")
    with pytest.raises(UnsupportedModelError, match="this is no TFLite model"):
        import_tflite(tmp_path / "text.tflite")


def fuzzed() -> bytes:
    build = TfliteBuilder()
    rng = np.random.default_rng(4)
    image = build.tensor("image", [-1, 6, 6, 2], "int8", scales=[0.1], zero_points=[3])
    weights = build.constant(
        "w", rng.integers(-127, 128, (4, 3, 3, 2)).astype(np.int8), scales=[0.1, 0.2, 0.3, 0.4]
    )
    bias = build.constant("b", np.arange(4, dtype=np.int32), scales=[0.01, 0.02, 0.03, 0.04])
    conv = build.tensor("conv", [-1, 3, 3, 4], "int8", scales=[0.2])
    flat = build.tensor("flat", [-1, 36], "int8", scales=[0.2])
    part = build.tensor("part", [-1, 9], "int8", scales=[0.2])
    shape = build.constant("shape", np.array([-1, 36], np.int32))
    bounds = [build.constant(n, np.array(v, np.int32)) for n, v in
              (("begin", [0, 0]), ("end", [0, 36]), ("steps", [1, 4]))]  # fmt: skip
    build.operator(
        "CONV_2D", [image, weights, bias], [conv], "Conv2DOptions", padding=0, strideH=2,
        strideW=2, fusedActivationFunction=1,
    )  # fmt: skip
    build.operator("RESHAPE", [conv, shape], [flat], "ReshapeOptions", newShape=[-1, 36])
    build.operator(
        "STRIDED_SLICE", [flat, *bounds], [part], "StridedSliceOptions", beginMask=1, endMask=1
    )
    return build.content([image], [part])


FUZZED = fuzzed()


def test_the_fuzzed_file_is_a_good_one(tmp_path: Path) -> None:
    feeds = [np.random.default_rng(6).integers(-128, 128, (2, 6, 6, 2)).astype(np.int8)]
    assert_same(FUZZED, tmp_path, feeds, steps=1)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(FUZZED) - 1), st.integers(0, 255)), min_size=1, max_size=6
    ),
    length=st.integers(0, len(FUZZED)) | st.just(len(FUZZED)),
)
@example(changes=[(0, 0)], length=0)
def test_damaged_file_is_refused_or_imported_and_never_crashes(
    changes: list[tuple[int, int]], length: int, tmp_path: Path
) -> None:
    content = bytearray(FUZZED)
    for place, value in changes:
        content[place] = value
    path = tmp_path / "damaged.tflite"
    path.write_bytes(bytes(content[:length]))
    try:
        model: Any = import_tflite(path)
    except EdgekitError:
        return
    onnx.checker.check_model(model)
