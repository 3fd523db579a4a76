from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _codes(compiled: Any) -> list[str]:
    return [operator.code for operator in compiled.program.operators]


def _resize(make_model: Any, shape: list[Any], opset: int = 19, **given: Any) -> Any:
    """A Resize of `x` by constant `scales`, `sizes`, `roi`; the rest are attributes."""
    constants = {
        name: np.array(given.pop(name), dtype=np.int64 if name == "sizes" else np.float32)
        for name in ("roi", "scales", "sizes")
        if name in given
    }
    inputs = ["x", *(name if name in constants else "" for name in ("roi", "scales", "sizes"))]
    while not inputs[-1]:
        inputs.pop()
    return make_model(
        [node("Resize", inputs, ["y"], **given)], {"x": shape}, ["y"], constants, opset=opset
    )


@pytest.mark.parametrize("nearest_mode", NEAREST)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("size", [(9, 4), (14, 10), (5, 5), (2, 15)])
def test_nearest(
    make_model: Any, assert_parity: Any, coordinates: str, nearest_mode: str, size: Any
) -> None:
    model = _resize(
        make_model, ["n", 3, 7, 5], sizes=size, axes=[2, 3], mode="nearest",
        coordinate_transformation_mode=coordinates, nearest_mode=nearest_mode,
    )  # fmt: skip
    assert_parity(model, tolerance=0)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES[:-1])
@pytest.mark.parametrize("size", [(9, 4), (14, 10), (3, 15), (1, 1)])
def test_interpolation(
    make_model: Any, assert_parity: Any, mode: str, coordinates: str, size: Any
) -> None:
    model = _resize(
        make_model, [2, 3, 7, 5], sizes=[2, 3, *size], mode=mode,
        coordinate_transformation_mode=coordinates,
    )  # fmt: skip
    assert_parity(model)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude_outside", [0, 1])
@pytest.mark.parametrize("size", [(3, 4), (14, 2), (2, 15), (7, 5)])
def test_antialiasing(
    make_model: Any, assert_parity: Any, mode: str, exclude_outside: int, size: Any
) -> None:
    model = _resize(
        make_model, ["n", 3, 7, 11], sizes=size, axes=[2, 3], mode=mode,
        antialias=1, exclude_outside=exclude_outside, opset=18,
    )  # fmt: skip
    assert_parity(model)


@pytest.mark.parametrize("a", [-0.5, -0.75])
@pytest.mark.parametrize("scale", [0.6, 2.0, 1.7])
def test_cubic_without_what_is_outside(
    make_model: Any, assert_parity: Any, a: float, scale: float
) -> None:
    model = _resize(
        make_model, ["n", 2, 7, 5], scales=[1, 1, scale, scale], mode="cubic", cubic_coeff_a=a,
        exclude_outside=1, opset=13,
    )  # fmt: skip
    assert_parity(model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("size", [(4, 6), (1, 3)])
def test_cropping(make_model: Any, assert_parity: Any, mode: str, size: Any) -> None:
    model = _resize(
        make_model, ["n", 3, 7, 5], roi=[0, 0, 0.2, -0.3, 1, 1, 0.9, 1.1], sizes=[2, 3, *size],
        mode=mode, coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=-2.5,
    )  # fmt: skip
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    assert_parity(model)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2]])
def test_aspect_ratio(make_model: Any, assert_parity: Any, policy: str, axes: list[int]) -> None:
    model = _resize(
        make_model, ["n", 3, 7, 5], sizes=[9, 11], axes=axes, keep_aspect_ratio_policy=policy,
        mode="linear", opset=18,
    )  # fmt: skip
    assert_parity(model)


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        (["n", 3, 8], [1, 1, 2.5]),
        (["n", 2, 4, 5, 6], [1, 1, 1.5, 2, 0.5]),
        (["n", 2, 4, 5, 6], [1, 1, 1, 2, 0.5]),
        (["n", 2, 4, 5, 6], [1, 1, 2, 1, 1]),
        ([5, 6], [2, 1.5]),
        (["n", 5, 6, 3], [1, 2, 2, 1]),
        ([4, 3, 6, 5], [2, 1, 1, 2]),
        ([7], [3]),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_ranks_and_axes(
    make_model: Any, assert_parity: Any, shape: list[Any], scales: list[float], mode: str
) -> None:
    if mode == "linear" and (len(shape) == 1 or (scales[0] != 1 and len(shape) == 4)):
        pytest.skip("onnxruntime cannot")
    assert_parity(_resize(make_model, shape, scales=scales, mode=mode))


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"mode": "linear"}, "RESIZE_BILINEAR"),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "RESIZE_BILINEAR"),
        ({"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, "RESIZE_BILINEAR"),
        ({"mode": "nearest"}, "RESIZE_NEAREST_NEIGHBOR"),
        (
            {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            },
            "RESIZE_NEAREST_NEIGHBOR",
        ),
    ],
)
@pytest.mark.parametrize("rank", [3, 4])
def test_usual_forms_are_one_operator_behind_a_convolution(
    make_model: Any,
    weights: Any,
    assert_parity: Any,
    attributes: dict[str, Any],
    code: str,
    rank: int,
) -> None:
    space = [6, 5][: rank - 2]
    nodes = [
        node("Conv", ["x", "w"], ["c"], kernel_shape=[1] * (rank - 2)),
        node("Resize", ["c", "", "scales"], ["r"], **attributes),
        node("Conv", ["r", "w"], ["y"], kernel_shape=[1] * (rank - 2)),
    ]
    constants = {
        "w": weights(3, 3, *[1] * (rank - 2)),
        "scales": np.array([1, 1, 2, 2][:rank], dtype=np.float32),
    }
    compiled = assert_parity(make_model(nodes, {"x": ["n", 3, *space]}, ["y"], constants, opset=19))
    assert [c for c in _codes(compiled) if c not in {"RESHAPE", "TRANSPOSE", "CONV_2D"}] == [code]
    assert _codes(compiled).count("TRANSPOSE") == 2


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [2.0, 0.5, 1.5])
def test_free_sizes(make_model: Any, assert_parity: Any, mode: str, scale: float) -> None:
    model = _resize(make_model, ["n", 2, 6, "w"], scales=[1, 1, scale, scale], mode=mode)
    assert_parity(model, batch=4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "half_pixel_symmetric"])
def test_scales_that_are_computed(
    make_model: Any, assert_parity: Any, mode: str, coordinates: str
) -> None:
    nodes = [
        node("Mul", ["any", "zero"], ["nothing"]),
        node("Add", ["nothing", "values"], ["scales"]),
        node(
            "Resize", ["x", "", "scales"], ["y"], mode=mode,
            coordinate_transformation_mode=coordinates,
        ),
    ]  # fmt: skip
    model = make_model(
        nodes,
        {"x": [1, 2, 4, 6], "any": [4]},
        ["y"],
        {
            "values": np.array([1, 1, 2, 1.5], dtype=np.float32),
            "zero": np.zeros(1, dtype=np.float32),
        },
        opset=19,
    )
    for size, dim in zip(
        (1, 2, 8, 9), model.graph.output[0].type.tensor_type.shape.dim, strict=True
    ):
        dim.dim_value = size
    assert_parity(model)


def test_integers_are_copied_and_not_interpolated(make_model: Any) -> None:
    model = make_model(
        [node("Resize", ["x", "", "s"], ["y"], mode="linear")],
        {"x": [1, 1, 2, 2]},
        ["y"],
        {"s": np.array([1, 1, 2, 2], dtype=np.float32)},
        opset=19,
        dtype=3,
    )
    with pytest.raises(UnsupportedModelError, match="it interpolates int8"):
        compile_to_litert(normalise(model, where="test"), where="test")


@pytest.mark.parametrize(
    ("scale", "attributes"),
    [
        (0.6, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        (1.1, {"mode": "linear", "antialias": 1}),
    ],
)
def test_what_tools_disagree_on_is_refused(make_model: Any, scale: float, attributes: Any) -> None:
    model = _resize(make_model, [1, 1, 4, 4], scales=[1, 1, scale, 1], **attributes)
    with pytest.raises(UnsupportedModelError, match="tools disagree"):
        compile_to_litert(normalise(model, where="test"), where="test")


def test_scales_for_other_axes_than_there_are_are_refused(make_model: Any) -> None:
    model = _resize(make_model, [1, 1, 4, 4], scales=[1, 1, 1.5, 1.5])
    model.graph.node[0].attribute.append(helper.make_attribute("axes", [1, 2, 3]))
    with pytest.raises(UnsupportedModelError):
        compile_to_litert(normalise(model, where="test"), where="test")
