"""ONNX models in float16: valid, close to their source, and what does not fit stays float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from conftest import REPOSITORY
from edgekit_converters.half import HalfModel, to_float16
from edgekit_converters.parity import relative_error
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.graph.load_check import LoadCheck

F = np.float32
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
Arrays = Mapping[str, NDArray[Any]]
node = helper.make_node


def w(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(F)


def model_of(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, int],
    constants: Arrays | None = None,
    *,
    opset: int = 17,
    kinds: Mapping[str, int] | None = None,
    shape: Sequence[int] | None = None,
) -> Any:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(name, (kinds or {}).get(name, FLOAT), list(shape))
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def run(model: Any, feeds: Arrays) -> dict[str, NDArray[Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def halved(model: Any, feeds: Arrays, *, tolerance: float = 5e-3) -> HalfModel:
    """The float16 form, checked against the source; types and names at the border are kept."""
    before = model.SerializeToString()
    half = to_float16(model, where="model.onnx")
    assert model.SerializeToString() == before
    expected, computed = run(model, feeds), run(half.model, feeds)
    assert list(expected) == list(computed)
    for name, values in expected.items():
        assert computed[name].dtype == values.dtype
        assert relative_error(values, computed[name]) <= tolerance, name
    assert [v.name for v in half.model.graph.input] == [v.name for v in model.graph.input]
    return half


def types_of(half: HalfModel) -> list[str]:
    return [n.op_type for n in half.model.graph.node]


def kinds_of(half: HalfModel) -> dict[str, int]:
    return {t.name: t.data_type for t in half.model.graph.initializer}


def test_weights_are_half_and_the_border_is_not() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"], name="conv"),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["y"]),
        ],
        {"x": ["batch", 3, 8, 8]},
        {"y": FLOAT},
        {"w": w(16, 3, 3, 3)},
    )
    half = halved(model, {"x": w(2, 3, 8, 8)})
    assert kinds_of(half)["w"] == HALF
    assert types_of(half) == ["Cast", "Conv", "Relu", "GlobalAveragePool", "Cast"]
    assert (half.kept, half.warnings) == ((), ())
    # What the tool says of the values in between would be wrong.
    assert not half.model.graph.value_info


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_digits_keep_their_answers(version: str) -> None:
    assets = REPOSITORY / "examples" / "digits" / "assets"
    model = onnx.load_model(str(assets / f"digits_{version}.onnx"))
    name = model.graph.input[0].name
    with np.load(assets / "test.npz") as data:
        feeds = {name: data[name][:200]}
    half = halved(model, feeds)
    assert half.model.ByteSize() < 0.6 * model.ByteSize()
    (output,) = run(model, feeds)
    expected, computed = run(model, feeds)[output], run(half.model, feeds)[output]
    assert (expected.argmax(-1) == computed.argmax(-1)).mean() >= 0.99


def test_number_beyond_the_range_keeps_its_readers_and_their_arithmetic() -> None:
    # A masked softmax: -1e9 as float16 is minus infinity, and a fully masked row is no number.
    model = model_of(
        [
            node("Sub", ["one", "mask"], ["inverse"], name="inverse"),
            node("Mul", ["inverse", "far"], ["bias"], name="bias"),
            node("MatMul", ["x", "w"], ["scores"], name="scores"),
            node("Add", ["scores", "bias"], ["masked"], name="masked"),
            node("Softmax", ["masked"], ["p"], name="softmax", axis=-1),
            node("MatMul", ["p", "v"], ["y"], name="mix"),
        ],
        {"x": [2, 4], "mask": [2, 6]},
        {"y": FLOAT},
        {"one": F(1), "far": F(-1e9), "w": w(4, 6), "v": w(6, 3)},
    )
    mask = np.array([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]], F)
    half = halved(model, {"x": w(2, 4), "mask": mask})
    assert {"bias", "masked", "softmax"} <= set(half.kept)
    assert not {"scores", "mix"} & set(half.kept)
    kinds = kinds_of(half)
    assert (kinds["far"], kinds["w"], kinds["v"]) == (FLOAT, HALF, HALF)
    (warning,) = half.warnings
    assert warning.startswith("'far' stays float32, with bias, masked, softmax")
    assert "-1e+09" in warning or "1e+09, is beyond float16's 65504" in warning


def test_epsilon_that_would_become_zero() -> None:
    model = model_of(
        [
            node("ReduceMean", ["x"], ["mean"], axes=[-1]),
            node("Sub", ["x", "mean"], ["centred"]),
            node("Mul", ["centred", "centred"], ["square"]),
            node("ReduceMean", ["square"], ["variance"], axes=[-1]),
            node("Add", ["variance", "epsilon"], ["sum"], name="sum"),
            node("Sqrt", ["sum"], ["root"], name="root"),
            node("Div", ["centred", "root"], ["unit"], name="unit"),
            node("MatMul", ["unit", "w"], ["y"]),
        ],
        {"x": [2, 8]},
        {"y": FLOAT},
        {"epsilon": F(1e-12), "w": w(8, 4)},
    )
    x = w(2, 8)
    x[1] = 3  # no variance at all
    half = halved(model, {"x": x})
    assert np.isfinite(run(half.model, {"x": x})["y"]).all()
    assert {"sum", "root", "unit"} <= set(half.kept)
    assert "'epsilon' stays float32" in half.warnings[0]
    assert "1e-12, would become zero" in half.warnings[0]


def test_constants_inside_nodes_count_too() -> None:
    value = numpy_helper.from_array(np.array([-3e38], F))
    model = model_of(
        [
            node("Shape", ["x"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["far"], name="far", value=value),
            node("Constant", [], ["w"], value=numpy_helper.from_array(w(4, 4))),
            node("Constant", [], ["two"], value_float=2.0),
            node("MatMul", ["x", "w"], ["m"]),
            node("Max", ["m", "far"], ["n"]),
            node("Mul", ["n", "two"], ["y"]),
        ],
        {"x": [2, 4]},
        {"y": FLOAT},
    )
    half = halved(model, {"x": w(2, 4)})
    assert "'the constant of far' stays float32" in half.warnings[0]
    assert kinds_of(half)["w"] == HALF


def test_a_few_tiny_weights_are_no_news() -> None:
    weights = w(8, 8)
    weights[0, :3] = 1e-9, -1e-12, 0
    model = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [2, 8]}, {"y": FLOAT}, {"w": weights}
    )
    assert halved(model, {"x": w(2, 8)}).warnings == ()


@pytest.mark.parametrize("opset", [9, 11, 13, 19])
def test_resize_and_upsample(opset: int) -> None:
    scales = np.array([1, 1, 2, 2], F)
    if opset == 9:
        resize = node("Upsample", ["c", "scales"], ["big"], mode="nearest")
    elif opset == 11:
        resize = node("Resize", ["c", "roi", "scales"], ["big"], mode="nearest")
    else:
        resize = node("Resize", ["c", "", "scales"], ["big"], mode="linear")
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            resize,
            node("Conv", ["big", "v"], ["y"]),
        ],
        {"x": [1, 3, 8, 8]},
        {"y": FLOAT},
        {"w": w(4, 3, 3, 3), "v": w(2, 4, 3, 3), "scales": scales, "roi": np.zeros(0, F)},
        opset=opset,
    )
    half = halved(model, {"x": w(1, 3, 8, 8)})
    assert kinds_of(half)["scales"] == FLOAT
    assert len(half.kept) == 1


def test_kept_node_that_makes_an_output_or_reads_an_input() -> None:
    # Alone, onnxconverter-common fails on the first or makes the output float16.
    model = model_of(
        [
            node("Max", ["x", "low"], ["raised"]),
            node("MatMul", ["raised", "w"], ["m"]),
            node("Min", ["m", "high"], ["y"]),
            node("Max", ["y", "low"], ["z"]),
        ],
        {"x": [2, 4]},
        {"y": FLOAT, "z": FLOAT},
        {"low": F(0), "high": F(1), "w": w(4, 4)},
    )
    half = halved(model, {"x": w(2, 4)})
    # One number way into float16 and one out of it.
    assert types_of(half) == ["Max", "Cast", "MatMul", "Cast", "Min", "Max"]


def test_numbers_are_not_rounded_between_two_kept_nodes() -> None:
    model = model_of(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("CumSum", ["m", "axis"], ["sums"]),
            node("Max", ["sums", "low"], ["raised"]),
            node("Min", ["raised", "high"], ["capped"]),
            node("MatMul", ["capped", "w"], ["y"]),
        ],
        {"x": [2, 4]},
        {"y": FLOAT},
        {"low": F(0), "high": F(3), "w": w(4, 4), "axis": np.int64(1)},
    )
    half = halved(model, {"x": w(2, 4)})
    assert types_of(half) == [
        "Cast", "MatMul", "Cast", "CumSum", "Max", "Min", "Cast", "MatMul", "Cast",
    ]  # fmt: skip


def test_constant_shared_by_kept_and_other_nodes() -> None:
    model = model_of(
        [
            node("Mul", ["x", "s"], ["a"]),
            node("Max", ["a", "s"], ["b"]),
            node("Mul", ["b", "s"], ["y"]),
        ],
        {"x": [2, 4]},
        {"y": FLOAT},
        {"s": w(4)},
    )
    kinds = kinds_of(halved(model, {"x": w(2, 4)}))
    assert kinds == {"s": HALF, "s/kept": FLOAT}


def test_cast_to_float_and_arithmetic_with_sizes() -> None:
    # 3000 is no float16; a size computed in it would be 3000 by luck and 3001 never.
    model = model_of(
        [
            node("Shape", ["x"], ["shape"]),
            node("Cast", ["shape"], ["numbers"], to=FLOAT, name="to_float"),
            node("Mul", ["numbers", "scale"], ["scaled"], name="scaled"),
            node("Cast", ["scaled"], ["sizes"], to=INT64, name="to_int"),
            node("MatMul", ["x", "w"], ["m"]),
            node("Expand", ["m", "sizes"], ["y"]),
            node("Cast", ["ids"], ["floats"], to=FLOAT),
            node("Mul", ["floats", "scale"], ["z"]),
        ],
        {"x": [3001, 2], "ids": [4]},
        {"y": FLOAT, "z": FLOAT},
        {"w": w(2, 2), "scale": F(1)},
        kinds={"ids": INT64},
    )
    half = halved(model, {"x": w(3001, 2), "ids": np.arange(4)})
    assert {"to_float", "scaled", "to_int"} <= set(half.kept)
    assert "Shape/shape" not in half.kept  # it computes no floats


def test_nodes_without_names() -> None:
    model = model_of(
        [node("Max", ["x", "s"], ["a"]), node("Max", ["a", "s"], ["b"]),
         node("MatMul", ["b", "w"], ["y"])],
        {"x": [2, 4]},
        {"y": FLOAT},
        {"s": w(4), "w": w(4, 4)},
    )  # fmt: skip
    half = halved(model, {"x": w(2, 4)})
    names = [n.name for n in half.model.graph.node]
    assert len(set(names)) == len(names)


def conditional() -> Any:
    """An If whose branches read a weight, an input and a computed value from outside."""
    branches = {}
    for branch, op in (("then_branch", "Add"), ("else_branch", "Sub")):
        inner = [
            node(op, ["m", "v"], [f"{branch}/a"]),
            node("Mul", [f"{branch}/a", "x"], [f"{branch}/b"]),
            node("Mul", [f"{branch}/b", f"{branch}/k"], [f"{branch}/y"]),
        ]
        branches[branch] = helper.make_graph(
            inner, branch, [], [helper.make_tensor_value_info(f"{branch}/y", FLOAT, None)],
            [numpy_helper.from_array(w(4, seed=9), f"{branch}/k")],
        )  # fmt: skip
    return model_of(
        [
            node("MatMul", ["x", "w"], ["m"], name="product"),
            node("ReduceSum", ["m"], ["sum"], keepdims=0),
            node("Greater", ["sum", "zero"], ["positive"]),
            node("If", ["positive"], ["chosen"], name="choice", **branches),
            node("MatMul", ["chosen", "v2"], ["y"], name="last"),
        ],
        {"x": [4, 4]},
        {"y": FLOAT},
        {"w": w(4, 4), "v": w(4, 4, seed=2), "v2": w(4, 4, seed=3), "zero": F(0)},
    )


def inner_kinds(graph: Any) -> dict[str, int]:
    """The types of the constants in all bodies of a graph."""
    found = {}
    for inner in graph.node:
        for attribute in inner.attribute:
            if attribute.HasField("g"):
                found |= {t.name: t.data_type for t in attribute.g.initializer}
                found |= inner_kinds(attribute.g)
    return found


def test_weights_inside_of_bodies_are_stored_in_half_where_that_holds_them() -> None:
    large = w(16, 16, seed=4)
    large[0, 0] = 1e6
    value = helper.make_tensor_value_info

    def nested(name: str) -> Any:
        return helper.make_graph(
            [node("MatMul", ["s", name], [f"{name}/y"])],
            name, [], [value(f"{name}/y", FLOAT, None)],
            [numpy_helper.from_array(w(16, 16, seed=3), name)],
        )  # fmt: skip

    body = helper.make_graph(
        [
            node("MatMul", ["state", "inner"], ["p"]),
            node("Tanh", ["p"], ["s"]),
            node("If", ["is"], ["q"], name="nested", then_branch=nested("a"),
                 else_branch=nested("b")),
            node("MatMul", ["q", "large"], ["r"]),
            node("Tanh", ["r"], ["next"]),
            node("Add", ["next", "row"], ["out"]),
        ],
        "step",
        [value("state", FLOAT, [1, 16]), value("row", FLOAT, [1, 16])],
        [value("next", FLOAT, [1, 16]), value("out", FLOAT, [1, 16])],
        [
            numpy_helper.from_array(array, name)
            for name, array in (("inner", w(16, 16, seed=2)), ("large", large))
        ],
    )  # fmt: skip
    model = model_of(
        [
            node("Scan", ["zero", "x"], ["last", "y"], name="loop", body=body, num_scan_inputs=1),
        ],
        {"x": [5, 1, 16]},
        {"y": FLOAT},
        {"zero": np.zeros((1, 16), F), "is": np.array(True)},
    )  # fmt: skip
    half = halved(model, {"x": w(5, 1, 16)})
    assert "Scan 'loop' computes in float32, from weights in float16" in half.warnings
    assert inner_kinds(half.model.graph) == {
        "inner/half": HALF, "large": FLOAT, "a/half": HALF, "b/half": HALF,
    }  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
def test_bodies_stay_and_read_what_has_become_half_outside(sign: int) -> None:
    x = np.abs(w(4, 4)) * sign
    half = halved(conditional(), {"x": x})
    # The weights inside are too few to save anything.
    assert "If 'choice' computes in float32" in half.warnings
    assert kinds_of(half)["v"] == HALF
    choice = next(n for n in half.model.graph.node if n.op_type == "If")
    read = {name for a in choice.attribute for inner in a.g.node for name in inner.input}
    assert {"m/float32", "v/float32", "x"} <= read


def test_loop_keeps_its_state() -> None:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["state", "step"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [4, 4]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [4, 4]),
        ],
    )
    model = model_of(
        [
            node("MatMul", ["x", "w"], ["step"]),
            node("Loop", ["count", "", "x"], ["end"], name="loop", body=body),
            node("MatMul", ["end", "w"], ["y"]),
        ],
        {"x": [4, 4]},
        {"y": FLOAT},
        {"w": w(4, 4), "count": np.int64(3)},
        shape=[4, 4],
    )
    assert "loop" in halved(model, {"x": w(4, 4)}).kept


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers(kind: str) -> None:
    gates = {"LSTM": 4, "GRU": 3}[kind]
    model = model_of(
        [node(kind, ["x", "w", "r"], ["all"], hidden_size=4), node("Squeeze", ["all"], ["y"])],
        {"x": [5, 2, 3]},
        {"y": FLOAT},
        {"w": w(1, gates * 4, 3), "r": w(1, gates * 4, 4)},
    )
    assert kinds_of(halved(model, {"x": w(5, 2, 3)}))["w"] == HALF


@pytest.mark.parametrize(
    ("perm", "kept"), [([1, 0, 2], ("turn",)), ([0, 2, 1], ()), ([2, 0, 1], ("turn",))]
)
def test_transposed_batch_in_front_of_a_product(perm: list[int], kept: tuple[str, ...]) -> None:
    # In float16 onnxruntime 1.32 dies of it: attention with the batch in the second place.
    shape = (3, 4, 5)
    size = shape[perm[2]]
    model = model_of(
        [
            node("Relu", ["x"], ["r"]),
            node("Transpose", ["r"], ["t"], name="turn", perm=perm),
            node("MatMul", ["t", "w"], ["y"]),
        ],
        {"x": shape},
        {"y": FLOAT},
        {"w": w(size, 6)},
    )
    half = halved(model, {"x": w(*shape)})
    assert half.kept == kept
    assert kinds_of(half)["w"] == HALF


def test_result_that_an_engine_dies_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = LoadCheck(loads=False, runtime="onnxruntime", reason="the engine ended with signal 11")
    monkeypatch.setattr("edgekit_converters.half.onnx.check_loads", lambda *_: answer)
    model = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": FLOAT}, {"w": w(4, 4)}
    )
    assert "onnxruntime refuses the result: the engine ended with signal 11" in refusal(model)


def test_old_model_whose_weights_are_inputs() -> None:
    model = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": FLOAT}, {"w": w(4, 4)}
    )
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 4]))
    half = to_float16(model, where="old.onnx")
    assert [v.name for v in half.model.graph.input] == ["x"]
    assert kinds_of(half)["w"] == HALF


def test_weights_are_not_given_to_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [2, 512]}, {"y": FLOAT}, {"w": w(512, 512)}
    )
    # It writes one message, which ends at 2 GB.
    seen = []
    infer = onnx.shape_inference.infer_shapes

    def watch(model: Any, **options: Any) -> Any:
        seen.append(model.ByteSize())
        return infer(model, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", watch)
    halved(model, {"x": w(2, 512)})
    assert seen
    assert max(seen) < 4096


def refusal(model: Any) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        to_float16(model, where="model.onnx")
    assert caught.value.where == "model.onnx"
    return caught.value.what


def test_refused_models() -> None:
    product = [node("MatMul", ["x", "w"], ["y"])]
    half = model_of(
        product, {"x": [2, 4]}, {"y": HALF}, {"w": w(4, 4).astype(np.float16)}, kinds={"x": HALF}
    )
    assert refusal(half) == "the model is float16 already: w, x, y"
    double = model_of(
        product, {"x": [2, 4]}, {"y": TensorProto.DOUBLE}, {"w": w(4, 4).astype(np.float64)},
        kinds={"x": TensorProto.DOUBLE},
    )  # fmt: skip
    assert refusal(double).startswith("float16 changes nothing")
    quantized = model_of(
        [node("DequantizeLinear", ["w8", "s"], ["w"]), *product], {"x": [2, 4]}, {"y": FLOAT},
        {"w8": np.ones((4, 4), np.int8), "s": F(0.1)},
    )  # fmt: skip
    assert refusal(quantized) == "the model is quantized already: w"
    outside = model_of(product, {"x": [2, 4]}, {"y": FLOAT}, {"w": w(4, 4)})
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    assert refusal(outside) == "weights lie in another file: w"


def test_custom_operator_is_refused_by_name() -> None:
    model = model_of(
        [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])],
        {"x": [2, 4]},
        {"y": FLOAT},
        {"w": w(4, 4)},
    )
    model.graph.node.insert(1, node("Mystery", ["m"], ["n"], name="mystery", domain="acme"))
    model.graph.node[2].input[0] = "n"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    assert "Mystery 'mystery'" in refusal(model)


def test_types_that_contradict_each_other() -> None:
    model = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": FLOAT}, {"w": w(4, 4)}
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    assert "its types contradict each other" in refusal(model)
