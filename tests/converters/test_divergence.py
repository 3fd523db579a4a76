"""A fault in one lowering is traced to the node that it is in, and to no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from converters.onnx_files import model_of
from edgekit_converters import divergence as module
from edgekit_converters.blame import (
    blame_litert,
    blame_onnx,
    wrong_inside_litert,
    wrong_inside_onnx,
)
from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert.layout import BorderLayout
from edgekit_converters.litert.lower import registry
from edgekit_converters.litert_trace import LitertTrace
from edgekit_converters.normalise import normalise
from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.onnx_trace import OnnxTrace
from edgekit_runtime.errors import GateFailedError
from edgekit_runtime.formats import ModelFormat

node = helper.make_node
F = np.float32
TOLERANCE = 1e-4


def _weights(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(F)


def _inputs(**shapes: Sequence[int]) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape).astype(F) for name, shape in shapes.items()}


Inject = Callable[..., None]


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Inject:
    """Let one lowering read other attributes, or be another function, for the nodes of a name."""

    def replace(op: str, name: str = "", function: Any = None, **attributes: Any) -> None:
        right = registry._REGISTRY[op]

        def wrong(build: Any, read: Any) -> None:
            if name and read.name != name:
                right.function(build, read)
            elif function is not None:
                function(build, read)
            else:
                right.function(
                    build,
                    dataclasses.replace(read, attributes={**read.attributes, **attributes}),
                )

        monkeypatch.setitem(registry._REGISTRY, op, dataclasses.replace(right, function=wrong))

    return replace


def _blame(model: Any, inputs: Mapping[str, Any], tmp_path: Path, **options: Any) -> str:
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    original = read_onnx(path)
    compiled = compile_to_litert(normalise(original, where="test"), where="test", **options)
    return blame_litert(original, compiled, dict(inputs), TOLERANCE)


def _scaled(factor: float) -> Callable[[Any, Any], None]:
    """A lowering that multiplies its input by a constant, whatever the node is."""

    def lower(build: Any, read: Any) -> None:
        number = build.constant(f"{read.outputs[0]}/factor", np.array(factor, dtype=F))
        build.emit("MUL", [build.input(read), number], read, fusedActivationFunction="NONE")

    return lower


def _convolutional() -> Any:
    return model_of(
        [
            node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"], name="relu1"),
            node("Elu", ["r1"], ["e1"], name="elu1", alpha=0.5),
            node("Conv", ["e1", "w2"], ["c2"], name="conv2"),
            node("Elu", ["c2"], ["e2"], name="elu2", alpha=0.5),
            node("MaxPool", ["e2"], ["p2"], name="pool2", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p2"], ["f"], name="flatten"),
            node("Gemm", ["f", "w3"], ["g"], name="dense"),
            node("Relu", ["g"], ["y"], name="relu2"),
        ],
        inputs={"x": ["n", 2, 8, 8]},
        constants={
            "w1": _weights(4, 2, 3, 3), "w2": _weights(4, 4, 3, 3), "w3": _weights(36, 5),
        },
    )  # fmt: skip


IMAGE = {"x": [2, 2, 8, 8]}


@pytest.mark.parametrize("layout", list(BorderLayout))
def test_an_alpha_that_is_ignored(layout: BorderLayout, inject: Inject, tmp_path: Path) -> None:
    """elu1 sees no negative values, so its wrong alpha does no harm: elu2 is to blame."""
    inject("Elu", alpha=1.0)
    said = _blame(_convolutional(), _inputs(**IMAGE), tmp_path, layout=layout)
    assert said.startswith("first at elu2 (Elu), relative error 0.")


def test_nothing_is_blamed_where_nothing_is_wrong(tmp_path: Path) -> None:
    said = _blame(_convolutional(), _inputs(**IMAGE), tmp_path)
    assert said == "no single node is off by more than that"


@pytest.mark.parametrize(
    ("op", "name"), [("Relu", "relu1"), ("Conv", "conv1"), ("Gemm", "dense"), ("Relu", "relu2")]
)
def test_what_was_fused_is_told_apart(op: str, name: str, inject: Inject, tmp_path: Path) -> None:
    """Conv and Relu, Gemm and Relu are one operator each in LiteRT."""

    def clipped(build: Any, read: Any) -> None:
        build.emit("RELU_N1_TO_1", [build.input(read)], read)

    right = registry._REGISTRY[op].function

    def weakened(build: Any, read: Any) -> None:
        constants = dict(build.graph.constants)
        constants[read.inputs[1]] = constants[read.inputs[1]] * F(0.9)
        object.__setattr__(build, "graph", dataclasses.replace(build.graph, constants=constants))
        right(build, read)

    inject(op, name, clipped if op == "Relu" else weakened)
    said = _blame(_convolutional(), _inputs(**IMAGE), tmp_path)
    assert said.startswith(f"first at {name} ({op}), relative error ")
    assert "joined" not in said


def test_a_fault_of_the_fusion_names_what_was_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit_converters.litert import fuse

    monkeypatch.setitem(fuse._FUSED, "RELU", "RELU_N1_TO_1")
    said = _blame(_convolutional(), _inputs(**IMAGE), tmp_path)
    # Alone, a Relu has nothing to be fused with.
    assert said.startswith("first at conv1 (Conv), relu1 (Relu), relative error ")
    assert "each is right alone, so the fault is in how they are joined" in said


# Deep graphs.


def _deep(layers: int, width: int = 8) -> Any:
    """Dense layers, each with an activation, and a shortcut around every third."""
    nodes, constants, value, shortcut = [], {}, "x", "x"
    for i in range(layers):
        constants[f"w{i}"] = np.linalg.qr(_weights(width, width, seed=i))[0].astype(F)
        nodes.append(node("MatMul", [value, f"w{i}"], [f"m{i}"], name=f"dense{i}"))
        op = ("LeakyRelu", "Tanh", "Elu", "Sigmoid")[i % 4]
        attributes = {"alpha": 0.5} if op in {"LeakyRelu", "Elu"} else {}
        nodes.append(node(op, [f"m{i}"], [f"a{i}"], name=f"{op.lower()}{i}", **attributes))
        value = f"a{i}"
        if i % 3 == 2:
            nodes.append(node("Add", [value, shortcut], [f"s{i}"], name=f"sum{i}"))
            value = shortcut = f"s{i}"
    nodes.append(node("Identity", [value], ["y"], name="last"))
    return model_of(nodes, inputs={"x": [3, width]}, constants=constants)


@pytest.mark.parametrize(
    ("op", "name"),
    [("LeakyRelu", "leakyrelu0"), ("Elu", "elu22"), ("LeakyRelu", "leakyrelu40"),
     ("Elu", "elu58")],
)  # fmt: skip
def test_one_wrong_node_of_many(op: str, name: str, inject: Inject, tmp_path: Path) -> None:
    inject(op, name, alpha=0.45)
    said = _blame(_deep(60), _inputs(x=[3, 8]), tmp_path)
    assert said.startswith(f"first at {name} ({op}), relative error ")


def test_all_nodes_of_a_kind_are_wrong_and_the_first_is_named(
    inject: Inject, tmp_path: Path
) -> None:
    inject("Tanh", function=_scaled(0.9))
    assert _blame(_deep(30), _inputs(x=[3, 8]), tmp_path).startswith("first at tanh1 (Tanh)")


def test_the_wrong_one_of_two_branches(inject: Inject, tmp_path: Path) -> None:
    model = model_of(
        [
            node("Tanh", ["x"], ["l1"], name="left1"),
            node("Sigmoid", ["x"], ["r1"], name="right1"),
            node("Exp", ["l1"], ["l2"], name="left2"),
            node("Sin", ["r1"], ["r2"], name="right2"),
            node("Add", ["l2", "r2"], ["y"], name="join"),
        ],
        inputs={"x": [2, 5]},
    )
    inject("Sin", function=_scaled(1.1))
    assert _blame(model, _inputs(x=[2, 5]), tmp_path).startswith("first at right2 (Sin), ")


def test_a_small_error_that_grows_is_traced_to_where_it_is_made(
    inject: Inject, tmp_path: Path
) -> None:
    """A node is off by less than is allowed; a difference of nearly equal numbers enlarges it."""
    model = model_of(
        [
            node("Tanh", ["x"], ["t"], name="tanh"),
            node("LeakyRelu", ["t"], ["l"], name="leaky", alpha=0.5),
            node("Exp", ["l"], ["e"], name="exp"),
            node("Mul", ["e", "near"], ["n"], name="scale"),
            node("Exp", ["l"], ["e2"], name="exp2"),
            node("Sub", ["e2", "n"], ["y"], name="difference"),
        ],
        inputs={"x": [2, 5]},
        constants={"near": np.array(0.99, F)},
    )
    right = registry._REGISTRY["Exp"].function

    def slightly(build: Any, read: Any) -> None:
        if read.name != "exp2":
            right(build, read)
            return
        raised = build.step(
            "EXP", [build.input(read)], name="e2/raised", shape=build.shape("e2"), dtype="float32"
        )
        factor = build.constant("e2/factor", np.array(1 + 4e-5, dtype=F))
        build.emit("MUL", [raised, factor], read, fusedActivationFunction="NONE")

    inject("Exp", function=slightly)
    said = _blame(model, _inputs(x=[2, 5]), tmp_path)
    assert said.startswith("first at exp2 (Exp), relative error 4")
    assert "e-05 of its own, which grows to 0.00" in said
    assert said.endswith("at difference (Sub)")


def test_a_later_output_of_a_node(inject: Inject, tmp_path: Path) -> None:
    model = model_of(
        [
            node("Split", ["x", "parts"], ["a", "b"], name="split", axis=1),
            node("Tanh", ["b"], ["t"], name="tanh"),
            node("Concat", ["t", "a"], ["y"], name="concat", axis=1),
        ],
        inputs={"x": [2, 6]},
        constants={"parts": np.array([4, 2])},
    )
    inject("Concat", axis=1, function=lambda build, read: build.emit(
        "CONCATENATION", [build.input(read, 0), build.input(read, 0), build.input(read, 0)], read,
        axis=1, fusedActivationFunction="NONE",
    ))  # fmt: skip
    assert _blame(model, _inputs(x=[2, 6]), tmp_path).startswith("first at concat (Concat)")


def test_whole_numbers_must_be_equal(inject: Inject, tmp_path: Path) -> None:
    model = model_of(
        [
            node("Tanh", ["x"], ["t"], name="tanh"),
            node("ArgMax", ["t"], ["y"], name="best", axis=1, keepdims=0),
        ],
        inputs={"x": [4, 6]},
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    right = registry._REGISTRY["ArgMax"].function
    inject("ArgMax", function=lambda build, read: right(
        build, dataclasses.replace(read, op="ArgMin")
    ))  # fmt: skip
    said = _blame(model, _inputs(x=[4, 6]), tmp_path)
    assert said.startswith("first at best (ArgMax), relative error inf")


def test_a_node_that_was_written_out_is_known_by_its_own_name(
    inject: Inject, tmp_path: Path
) -> None:
    model = model_of(
        [
            node("Tanh", ["x"], ["t"], name="tanh"),
            node("Attention", ["t", "t", "t"], ["a"], name="attend"),
            node("Sin", ["a"], ["y"], name="sin"),
        ],
        inputs={"x": [1, 2, 4, 8]},
        opset=23,
        ir_version=10,
    )
    inject("Softmax", function=_scaled(0.7))
    said = _blame(model, _inputs(x=[1, 2, 4, 8]), tmp_path)
    assert said.startswith("first at attend (Attention), in its part ")
    assert "(Softmax), relative error" in said


# What makes the search hard.


def _out_of_range(build: Any, read: Any) -> None:
    """An operator that the engine takes, and fails on when it runs."""
    indices = build.integers(f"{read.outputs[0]}/rows", [99, 99])
    build.emit("GATHER", [build.input(read), indices], read, axis=0, batchDims=0)


def test_a_kernel_that_fails_is_named_with_its_reason(inject: Inject, tmp_path: Path) -> None:
    inject("Sin", "sin", _out_of_range)
    nodes = [node("Tanh", ["x"], ["t0"], name="tanh")]
    nodes += [node("Cos", [f"t{i}"], [f"t{i + 1}"], name=f"cos{i}") for i in range(9)]
    nodes += [node("Sin", ["t9"], ["s"], name="sin"), node("Exp", ["s"], ["y"], name="exp")]
    said = _blame(model_of(nodes, inputs={"x": [2, 5]}), _inputs(x=[2, 5]), tmp_path)
    assert said.startswith("first at sin (Sin): the engine fails there: gather index out of")


def test_a_failing_kernel_behind_an_error_is_not_the_first(inject: Inject, tmp_path: Path) -> None:
    inject("Sin", "sin", _out_of_range)
    inject("Tanh", "tanh", _scaled(0.5))
    nodes = [node("Tanh", ["x"], ["t"], name="tanh"), node("Sin", ["t"], ["y"], name="sin")]
    said = _blame(model_of(nodes, inputs={"x": [2, 5]}), _inputs(x=[2, 5]), tmp_path)
    assert said.startswith("first at tanh (Tanh), relative error")


def test_a_bounded_number_of_values_is_held_at_once(
    inject: Inject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    run = LitertTrace.values

    def counted(self: Any, inputs: Any, names: Any) -> Any:
        asked.append(len(names))
        return run(self, inputs, names)

    monkeypatch.setattr(LitertTrace, "values", counted)
    # Some values of 3 x 8 numbers of four bytes, with weights of 8 x 8.
    monkeypatch.setattr(module, "_STEP_BYTES", 1000)
    inject("Elu", "elu22", alpha=0.45)
    said = _blame(_deep(40), _inputs(x=[3, 8]), tmp_path)
    assert said.startswith("first at elu22 (Elu)")
    assert max(asked) <= 6
    assert len(asked) > 10


def test_a_fault_in_the_plain_form_is_told_from_one_in_litert(tmp_path: Path) -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"], name="conv"),
            node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="norm"),
            node("Tanh", ["n"], ["y"], name="tanh"),
        ],
        inputs={"x": [1, 2, 6, 6]},
        constants={
            "w": _weights(3, 2, 3, 3), "g": _weights(3), "b": _weights(3), "m": _weights(3),
            "v": np.ones(3, F),
        },
    )  # fmt: skip
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    original = read_onnx(path)
    plain = normalise(original, where="test")
    for tensor in plain.graph.initializer:
        if list(tensor.dims) == [3]:
            tensor.raw_data = (np.frombuffer(tensor.raw_data, F) + F(0.3)).tobytes()
    inputs = _inputs(x=[1, 2, 6, 6])
    said = blame_onnx(original, plain, inputs, TOLERANCE)
    assert "norm (BatchNormalization)" in said
    compiled = compile_to_litert(plain, where="test")
    said = blame_litert(original, compiled, inputs, TOLERANCE)
    assert "norm (BatchNormalization)" in said
    assert said.endswith("in the plain form of the model, before LiteRT")


def test_an_engine_that_fails_on_the_source_is_said(tmp_path: Path) -> None:
    model = model_of([node("Relu", ["x"], ["y"])], inputs={"x": [2, 5]})
    said = blame_onnx(model, model, {"x": np.zeros((2, 5), np.int16)}, TOLERANCE)
    assert said.startswith("the node cannot be found: ")


# Errors that the outputs hide.


def _boxes_and_scores() -> Any:
    """Coordinates of some hundred and probabilities below one, in one output."""
    return model_of(
        [
            node("MatMul", ["x", "w"], ["m"], name="head"),
            node("Mul", ["m", "size"], ["c"], name="grow"),
            node("Add", ["c", "size"], ["b"], name="boxes"),
            node("Sigmoid", ["m"], ["p"], name="scores"),
            node("Concat", ["b", "p"], ["y"], name="join", axis=1),
        ],
        inputs={"x": ["n", 6]},
        constants={"w": _weights(6, 4), "size": np.array(640, F)},
    )


def test_an_error_that_the_outputs_hide_is_found(inject: Inject, tmp_path: Path) -> None:
    def wrong(build: Any, read: Any) -> None:
        value = build.step(
            "LOGISTIC", [build.input(read)], name="p/raw", shape=build.shape("p"), dtype="float32"
        )
        factor = build.constant("p/factor", np.array(0.98, dtype=F))
        build.emit("MUL", [value, factor], read, fusedActivationFunction="NONE")

    inject("Sigmoid", function=wrong)
    model = _boxes_and_scores()
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    request = ConversionRequest(
        source=path, output=tmp_path / "out.tflite", targets=(ModelFormat.LITERT,),
        precisions=(Precision.FLOAT32,),
    )  # fmt: skip
    with pytest.raises(GateFailedError, match=r"wrong inside: first at scores \(Sigmoid\)"):
        convert_model(request)
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_a_step_that_falls_to_the_other_side_is_no_fault(tmp_path: Path) -> None:
    """Rounding decides what a Floor makes of numbers that should be whole."""
    thirds = np.full((3, 1), 1 / 3, dtype=F)
    model = model_of(
        [
            node("MatMul", ["x", "thirds"], ["m"], name="sum"),
            node("Floor", ["m"], ["f"], name="floor"),
            node("Mul", ["f", "tiny"], ["t"], name="tiny"),
            node("Add", ["t", "m"], ["y"], name="add"),
        ],
        inputs={"x": [64, 3]},
        constants={"thirds": thirds, "tiny": np.array(1e-6, F)},
    )
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    original = read_onnx(path)
    compiled = compile_to_litert(normalise(original, where="test"), where="test")
    inputs = {"x": np.repeat(np.arange(64, dtype=F)[:, None], 3, axis=1)}
    assert wrong_inside_litert(original, compiled, inputs, TOLERANCE) == ""


def test_nothing_is_wrong_inside(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(_deep(20).SerializeToString())
    original = read_onnx(path)
    plain = normalise(original, where="test")
    inputs = _inputs(x=[3, 8])
    assert wrong_inside_onnx(original, plain, inputs, TOLERANCE) == ""
    compiled = compile_to_litert(plain, where="test")
    assert wrong_inside_litert(original, compiled, inputs, TOLERANCE) == ""


# The two views themselves.


def test_both_views_give_the_same_values_in_the_same_order_of_axes(tmp_path: Path) -> None:
    model = _convolutional()
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    compiled = compile_to_litert(normalise(read_onnx(path), where="test"), where="test")
    source, target = OnnxTrace(compiled.prepared), LitertTrace(compiled)
    common = [name for name in source.names if name in target.names]
    assert {"e1", "e2", "p2", "y"} <= set(common)
    inputs = _inputs(**IMAGE)
    expected, computed = source.values(inputs, common), target.values(inputs, common)
    for name in common:
        assert computed[name].shape == expected[name].shape
        np.testing.assert_allclose(computed[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_part_computes_what_the_whole_does(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(_convolutional().SerializeToString())
    compiled = compile_to_litert(normalise(read_onnx(path), where="test"), where="test")
    source, target = OnnxTrace(compiled.prepared), LitertTrace(compiled)
    common = [name for name in source.names if name in target.names]
    target.restrict(common)
    source.restrict(common)
    inputs = _inputs(**IMAGE)
    whole = target.values(inputs, common)
    for name in common:
        assert set(target.feeding(name)) == set(source.feeding(name))
        given = {**inputs, **whole}
        part = target.between({n: given[n] for n in target.feeding(name)}, name)
        np.testing.assert_allclose(part, whole[name], rtol=1e-5, atol=1e-6)
