"""Every operator against onnxruntime, at the border in ONNX's own layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_converters.litert.lower import registered
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32


def _w(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(F)


def _codes(compiled: Any) -> list[str]:
    return [operator.code for operator in compiled.program.operators]


UNARY = [
    "Relu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "Floor", "Ceil", "Sin", "Cos", "HardSwish",
    "Elu", "HardSigmoid", "LeakyRelu", "Identity", "Dropout",
]  # fmt: skip
POSITIVE = ["Sqrt", "Log", "Reciprocal"]


@pytest.mark.parametrize("shape", [["n", 3, 4, 5], ["n", 6], [4]])
@pytest.mark.parametrize("operator", UNARY + POSITIVE)
def test_unary(operator: str, shape: list[Any], make_model: Any, assert_parity: Any) -> None:
    model = make_model([node(operator, ["x"], ["y"])], {"x": shape}, ["y"])
    low = 0.5 if operator in POSITIVE else -3.0
    # HARD_SWISH multiplies by a rounded sixth in LiteRT.
    assert_parity(model, low=low, tolerance=1e-5)


@pytest.mark.parametrize(
    ("bounds", "code"),
    [((0, 6), "RELU6"), ((-1, 1), "RELU_N1_TO_1"), ((0, None), "RELU"), ((-2, 1.5), "MINIMUM"),
     ((None, 2), "MINIMUM"), ((0.5, None), "MAXIMUM"), ((0, 1), "RELU_0_TO_1"),
     ((2, 1), "MINIMUM")],
)  # fmt: skip
def test_clip(bounds: Any, code: str, make_model: Any, assert_parity: Any) -> None:
    constants = {
        name: F(bound)
        for name, bound in zip(("low", "high"), bounds, strict=True)
        if bound is not None
    }
    names = [name if name in constants else "" for name in ("low", "high")]
    model = make_model([node("Clip", ["x", *names], ["y"])], {"x": ["n", 5]}, ["y"], constants)
    compiled = assert_parity(model, low=-8, high=8)
    assert _codes(compiled)[-1] == code


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize(
    "shapes",
    [(["n", 3, 4, 5],) * 2, (["n", 3, 4, 5], [3, 1, 1]), (["n", 6], [6]), (["n", 6], ["n", 1]),
     (["n", 3, 4, 5], [])],
)  # fmt: skip
def test_binary_of_two_inputs(
    operator: str, shapes: Any, make_model: Any, assert_parity: Any
) -> None:
    first, second = shapes
    model = make_model([node(operator, ["a", "b"], ["y"])], {"a": first, "b": second}, ["y"])
    assert_parity(model, low=0.5)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize("shape", [(), (3, 1, 1), (1, 3, 1, 1), (5,), (4, 1)])
def test_binary_with_a_constant_behind_a_convolution(
    operator: str, shape: Any, make_model: Any, assert_parity: Any
) -> None:
    constant = np.abs(_w(*shape, seed=4)) + F(0.5)
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Sigmoid", ["c"], ["s"]),
        node(operator, ["s", "k"], ["y"]),
    ]
    constants = {"w": _w(3, 2, 1, 1), "k": np.asarray(constant, dtype=F)}
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], constants))


def test_a_constant_on_the_left(make_model: Any, assert_parity: Any) -> None:
    nodes = [node("Sub", ["k", "x"], ["d"]), node("Div", ["k", "d"], ["y"])]
    constants = {"k": np.full((3, 1, 1), 9, dtype=F)}
    assert_parity(make_model(nodes, {"x": ["n", 3, 2, 2]}, ["y"], constants))


def test_integer_arithmetic(make_model: Any, assert_parity: Any) -> None:
    model = make_model(
        [node("Add", ["a", "b"], ["s"]), node("Mul", ["s", "b"], ["y"])],
        {"a": [2, 3], "b": [2, 3]}, ["y"], dtype=TensorProto.INT32,
    )  # fmt: skip
    assert_parity(model, low=0, high=9, tolerance=0)


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", [None, (4,), (1, 4), (), (1,), (2, 4)])
def test_gemm(trans: int, bias: Any, make_model: Any, assert_parity: Any) -> None:
    constants = {"w": _w(4, 6) if trans else _w(6, 4)}
    if bias is not None:
        constants["c"] = np.asarray(_w(*bias, seed=3), dtype=F)
    names = ["x", "w", "c"] if bias is not None else ["x", "w"]
    rows: int | str = 2 if bias == (2, 4) else "n"
    gemm = node("Gemm", names, ["y"], transB=trans, alpha=0.5, beta=2.0)
    compiled = assert_parity(make_model([gemm], {"x": [rows, 6]}, ["y"], constants))
    assert _codes(compiled)[0] == "FULLY_CONNECTED"


@pytest.mark.parametrize(
    "shapes",
    [([4], [4, 3]), (["n", 4], [4]), ([4], [4]), ([4], [2, 4, 3]), ([2, 3, 4], [4])],
)
@pytest.mark.parametrize("constant", [False, True])
def test_matmul_of_vectors(
    shapes: Any, *, constant: bool, make_model: Any, assert_parity: Any
) -> None:
    left, right = shapes
    inputs = {"a": left} if constant else {"a": left, "b": right}
    constants = {"b": _w(*right)} if constant else {}
    assert_parity(make_model([node("MatMul", ["a", "b"], ["y"])], inputs, ["y"], constants))


def test_gemm_with_everything_computed(make_model: Any, assert_parity: Any) -> None:
    gemm = node("Gemm", ["a", "b", "c"], ["y"], transA=1, transB=1, alpha=2.0, beta=0.5)
    shapes = {"a": [6, 3], "b": [4, 6], "c": [4]}
    assert_parity(make_model([gemm], shapes, ["y"]))


@pytest.mark.parametrize("shape", [["n", 6], ["n", 3, 6], ["n", 2, 3, 6]])
def test_matmul_with_constant_weights_is_fully_connected(
    shape: Any, make_model: Any, assert_parity: Any
) -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    constants = {"w": _w(6, 4), "b": _w(4, seed=2)}
    compiled = assert_parity(make_model(nodes, {"x": shape}, ["y"], constants))
    assert _codes(compiled) == ["FULLY_CONNECTED"]


def test_matmul_of_two_computed_matrices(make_model: Any, assert_parity: Any) -> None:
    model = make_model([node("MatMul", ["a", "b"], ["y"])], {"a": [2, 3, 4], "b": [2, 4, 5]}, ["y"])
    assert _codes(assert_parity(model)) == ["BATCH_MATMUL"]


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [1], [-1], [1, 2, 3]])
def test_reduce_mean_behind_a_convolution(
    keep: int, axes: list[int], make_model: Any, assert_parity: Any
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("ReduceMean", ["c"], ["y"], axes=axes, keepdims=keep),
    ]
    model = make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], {"w": _w(3, 2, 1, 1)}, opset=13)
    assert_parity(model)


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
def test_reductions_with_axes_as_an_input(
    operator: str, make_model: Any, assert_parity: Any
) -> None:
    reduce = node(operator, ["x", "axes"], ["y"], keepdims=0)
    constants = {"axes": np.array([1, -1], dtype=np.int64)}
    assert_parity(make_model([reduce], {"x": ["n", 3, 4]}, ["y"], constants, opset=18))


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pooling(operator: str, make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node(operator, ["c"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "d"], ["y"]),
    ]
    constants = {"w": _w(3, 2, 1, 1), "d": _w(3, 4)}
    compiled = assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], constants))
    # The image comes in with its channels second; nothing else is moved.
    assert _codes(compiled).count("TRANSPOSE") == 1


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [1, -1, 2])
def test_softmax_along_any_axis(
    operator: str, axis: int, make_model: Any, assert_parity: Any
) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node(operator, ["c"], ["y"], axis=axis)]
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], {"w": _w(3, 2, 1, 1)}))


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_concat(axis: int, make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Concat", ["c", "r", "c"], ["y"], axis=axis),
    ]
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], {"w": _w(3, 2, 1, 1)}))


def test_concat_with_a_constant(make_model: Any, assert_parity: Any) -> None:
    nodes = [node("Concat", ["x", "k"], ["y"], axis=1)]
    assert_parity(make_model(nodes, {"x": [1, 2, 3]}, ["y"], {"k": _w(1, 4, 3)}))


@pytest.mark.parametrize("perm", [[0, 2, 3, 1], [0, 3, 1, 2], [3, 2, 1, 0], [0, 1, 3, 2]])
def test_transpose(perm: list[int], make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Transpose", ["c"], ["t"], perm=perm),
        node("Relu", ["t"], ["y"]),
    ]
    assert_parity(make_model(nodes, {"x": [2, 2, 4, 5]}, ["y"], {"w": _w(3, 2, 1, 1)}))


@pytest.mark.parametrize("target", [[0, -1], [-1, 12, 5], [-1, 5]])
def test_reshape(target: list[int], make_model: Any, assert_parity: Any) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Reshape", ["c", "s"], ["y"])]
    constants = {"w": _w(3, 2, 1, 1), "s": np.array(target, dtype=np.int64)}
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], constants))


def test_squeeze_and_unsqueeze(make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("Unsqueeze", ["x", "axis"], ["u"]),
        node("Relu", ["u"], ["r"]),
        node("Squeeze", ["r", "axis"], ["y"]),
    ]
    constants = {"axis": np.array([1], dtype=np.int64)}
    assert_parity(make_model(nodes, {"x": ["n", 4]}, ["y"], constants))


def test_flatten_whose_batch_is_read_at_run_time(make_model: Any, assert_parity: Any) -> None:
    # What PyTorch writes for x.view(x.size(0), -1).
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["u"]),
        node("Concat", ["u", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["f"]),
        node("Gemm", ["f", "w"], ["y"]),
    ]
    constants = {
        "zero": np.array(0, dtype=np.int64), "axis": np.array([0], dtype=np.int64),
        "rest": np.array([-1], dtype=np.int64), "w": _w(12, 4),
    }  # fmt: skip
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, 4]}, ["y"], constants))
    assert _codes(compiled) == ["RESHAPE", "FULLY_CONNECTED"]


@pytest.mark.parametrize("value", [None, 0.0, 1.5])
def test_pad(value: float | None, make_model: Any, assert_parity: Any) -> None:
    constants = {"w": _w(3, 2, 1, 1), "p": np.array([0, 0, 1, 2, 0, 1, 0, 3], dtype=np.int64)}
    if value is not None:
        constants["v"] = F(value)
    pad = node("Pad", ["c", "p"] + (["v"] if value is not None else []), ["y"])
    nodes = [node("Conv", ["x", "w"], ["c"]), pad]
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], constants))


def test_pad_of_some_axes(make_model: Any, assert_parity: Any) -> None:
    constants = {
        "p": np.array([1, 2, 3, 4], dtype=np.int64), "a": np.array([-1, 1], dtype=np.int64),
    }  # fmt: skip
    model = make_model(
        [node("Pad", ["x", "p", "", "a"], ["y"])], {"x": ["n", 2, 4, 5]}, ["y"], constants, opset=18
    )
    assert_parity(model)


@pytest.mark.parametrize("rank", [2, 4])
def test_batch_normalization_alone(rank: int, make_model: Any, assert_parity: Any) -> None:
    names = ["x", "g", "b", "m", "v"]
    constants = {name: np.abs(_w(3, seed=i)) + F(0.5) for i, name in enumerate(names[1:])}
    model = make_model(
        [node("BatchNormalization", names, ["y"], epsilon=1e-3)],
        {"x": ["n", 3, 4, 5][:rank]}, ["y"], constants,
    )  # fmt: skip
    assert_parity(model)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_sum(count: int, make_model: Any, assert_parity: Any) -> None:
    names = ["c", "x", "c", "x"][:count]
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Sum", names, ["y"])]
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], {"w": _w(2, 2, 1, 1)}))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization(size: int, make_model: Any, assert_parity: Any) -> None:
    lrn = node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=0.6, bias=1.5)
    assert_parity(make_model([lrn], {"x": ["n", 7, 3, 4]}, ["y"]))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str, make_model: Any, assert_parity: Any) -> None:
    model = make_model(
        [node("Gelu", ["x"], ["y"], approximate=approximate)], {"x": ["n", 9]}, ["y"], opset=20
    )
    assert_parity(model, tolerance=1e-4)


def test_prelu(make_model: Any, assert_parity: Any) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("PRelu", ["c", "s"], ["y"])]
    constants = {"w": _w(3, 2, 1, 1), "s": _w(3, 1, 1, seed=5)}
    assert_parity(make_model(nodes, {"x": ["n", 2, 4, 5]}, ["y"], constants))


def test_outputs_that_share_a_tensor(make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Identity", ["a"], ["b"]),
        node("Identity", ["x"], ["c"]),
        node("Transpose", ["a"], ["d"], perm=[1, 0]),
        node("Constant", [], ["e"], value=helper.make_tensor("", 1, [2], [1.0, 2.0])),
    ]
    assert_parity(make_model(nodes, {"x": [3, 4]}, ["b", "a", "c", "d", "e"]))


@pytest.mark.parametrize(
    ("operator", "attributes", "reason"),
    [
        ("Celu", {"alpha": -0.5}, "alpha"),
    ],
)
def test_refused_by_its_attributes(
    operator: str, attributes: Any, reason: str, make_model: Any, assert_parity: Any
) -> None:
    model = make_model(
        [node(operator, ["x"], ["y"], name="culprit", **attributes)], {"x": [1, 2, 9, 9]}, ["y"]
    )
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        assert_parity(model)
    assert f"culprit ({operator})" in caught.value.what


def test_all_that_is_unsupported_is_named_at_once(make_model: Any, assert_parity: Any) -> None:
    nodes = [
        node("RandomNormalLike", ["x"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="fine"),
        node("RandomUniformLike", ["b"], ["y"], name="second"),
    ]
    with pytest.raises(UnsupportedModelError) as caught:
        assert_parity(make_model(nodes, {"x": [1, 2]}, ["y"]))
    assert "first (RandomNormalLike)" in caught.value.what
    assert "second (RandomUniformLike)" in caught.value.what
    assert "fine" not in caught.value.what


def test_double_precision_is_refused(make_model: Any, assert_parity: Any) -> None:
    model = make_model(
        [node("Relu", ["x"], ["y"], name="wide")], {"x": [2]}, ["y"], dtype=TensorProto.DOUBLE
    )
    with pytest.raises(UnsupportedModelError, match="float64"):
        assert_parity(model)


def test_the_registry_has_what_the_documentation_promises() -> None:
    promised = {
        "Conv", "Gemm", "MatMul", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish",
        "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Add", "Sub", "Mul", "Div",
        "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Softmax",
        "Identity", "Dropout", "Sqrt", "Log", "Exp", "Constant", "Pad",
    }  # fmt: skip
    assert promised <= registered().keys()
