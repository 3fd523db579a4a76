from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
SIZES = {1: [11], 2: [9, 11], 3: [6, 7, 9]}
FORMS: list[dict[str, Any]] = [
    {},
    {"strides": 2},
    {"strides": 2, "pads": [1, 0]},
    {"pads": [1, 0], "ceil_mode": 1, "strides": 2},
    {"strides": 3, "ceil_mode": 1},
    {"dilations": 2},
    {"dilations": 2, "pads": [1, 0], "strides": 2},
    {"auto_pad": "SAME_UPPER", "strides": 2},
    {"auto_pad": "SAME_LOWER", "strides": 2},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "VALID"},
]


def _pool(operator: str, axes: int, form: dict[str, Any], outputs: int = 1, **more: Any) -> Any:
    attributes: dict[str, Any] = {"kernel_shape": [3, 2, 3][:axes], **form, **more}
    for name in {"strides", "dilations"} & set(form):
        attributes[name] = [form[name]] * axes
    if "pads" in form:
        attributes["pads"] = [form["pads"][0]] * axes + [form["pads"][1]] * axes
    return node(operator, ["x"], ["y", "indices"][:outputs], **attributes)


def _codes(compiled: Any) -> list[str]:
    return [operator.code for operator in compiled.program.operators]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_largest(make_model: Any, assert_parity: Any, axes: int, form: Any) -> None:
    model = make_model([_pool("MaxPool", axes, form)], {"x": ["n", 3, *SIZES[axes]]}, ["y"])
    assert_parity(model, tolerance=0, high=-0.5)


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_mean(make_model: Any, assert_parity: Any, axes: int, form: Any, counted: int) -> None:
    pool = _pool("AveragePool", axes, form, count_include_pad=counted)
    model = make_model([pool], {"x": ["n", 3, *SIZES[axes]]}, ["y"], opset=19)
    assert_parity(model)


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_root_of_powers(
    make_model: Any, assert_parity: Any, axes: int, form: Any, power: int
) -> None:
    model = make_model(
        [_pool("LpPool", axes, form, p=power)], {"x": ["n", 3, *SIZES[axes]]}, ["y"], opset=18
    )
    assert_parity(model)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_where_the_largest_are(
    make_model: Any, assert_parity: Any, axes: int, form: Any, storage_order: int
) -> None:
    pool = _pool("MaxPool", axes, form, outputs=2, storage_order=storage_order)
    model = make_model([pool], {"x": ["n", 3, *SIZES[axes]]}, ["y", "indices"])
    assert_parity(model, tolerance=0)


def test_equal_cells_the_first_of_which_is_the_largest(make_model: Any, assert_parity: Any) -> None:
    pool = _pool("MaxPool", 2, {"pads": [1, 1], "strides": 2}, outputs=2)
    model = make_model([pool], {"x": ["n", 2, 6, 6]}, ["y", "indices"])
    assert_parity(model, tolerance=0, low=1.0, high=1.0)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(TensorProto.INT8, -128, 127), (TensorProto.UINT8, 0, 255), (TensorProto.FLOAT16, -9, -3)],
)
@pytest.mark.parametrize("form", [{"pads": [1, 1]}, {"dilations": 2}, {"strides": 2}])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_largest_of_other_types(
    make_model: Any, assert_parity: Any, dtype: int, low: float, high: float, form: Any,
    outputs: int,
) -> None:  # fmt: skip
    if dtype == TensorProto.FLOAT16 and outputs == 1 and "dilations" in form:
        pytest.skip("onnxruntime cannot")
    pool = _pool("MaxPool", 2, form, outputs=outputs)
    names = ["y", "indices"][:outputs]
    model = make_model([pool], {"x": ["n", 3, 7, 8]}, names, dtype=dtype)
    assert_parity(model, tolerance=0, low=low, high=high)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("GlobalLpPool", {}),
        ("GlobalLpPool", {"p": 1}),
        ("GlobalLpPool", {"p": 3}),
    ],
)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_whole_images(
    make_model: Any, weights: Any, assert_parity: Any, operator: str, attributes: Any, axes: int
) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node(operator, ["c"], ["y"], **attributes)]
    model = make_model(
        nodes, {"x": ["n", 3, *SIZES[axes]]}, ["y"], {"w": weights(4, 3, *[1] * axes)}
    )
    compiled = assert_parity(model)
    # The input's alone, unless it is a signal or volume with more than one.
    assert _codes(compiled).count("TRANSPOSE") <= 1


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_free_sizes(make_model: Any, assert_parity: Any, operator: str) -> None:
    more = {"count_include_pad": 1} if operator == "AveragePool" else {}
    pool = node(
        operator, ["x"], ["y"], kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 0, 2], **more
    )
    model = make_model([pool], {"x": ["n", 3, "h", "w"]}, ["y"])
    assert_parity(model, batch=6)


@pytest.mark.parametrize(("shape", "size"), [([4, 9, 9], 3), ([6, 5], 5), ([6], 3)])
def test_local_response(make_model: Any, assert_parity: Any, shape: list[int], size: int) -> None:
    if len(shape) != 3:
        pytest.skip("onnxruntime cannot")
    model = make_model(
        [node("LRN", ["x"], ["y"], size=size, alpha=0.2, beta=0.6, bias=1.5)],
        {"x": ["n", *shape]},
        ["y"],
    )
    assert_parity(model)


@pytest.mark.parametrize(
    ("size", "attributes", "reason"),
    [
        ([7, 3], {"kernel_shape": [2, 1], "strides": [2, 3], "auto_pad": "SAME_UPPER"}, "negative"),
        ([3, 8], {"kernel_shape": [4, 2], "auto_pad": "VALID"}, "larger than its input"),
        (
            [8, 8],
            {"kernel_shape": [2, 2], "dilations": [2, 2], "auto_pad": "SAME_LOWER"},
            "tools disagree",
        ),
        (["h", 8], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, "free"),
    ],
)
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_windows_that_mean_nothing_everywhere_are_refused(
    make_model: Any, operator: str, size: list[Any], attributes: Any, reason: str
) -> None:
    # The free batch keeps an empty output from being a constant.
    model = make_model([node(operator, ["x"], ["y"], **attributes)], {"x": ["n", 2, *size]}, ["y"],
                       opset=22)  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=reason):
        compile_to_litert(normalise(model, where="test"), where="test")
