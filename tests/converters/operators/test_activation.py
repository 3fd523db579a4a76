"""Activations with all their attributes, against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32
X = np.concatenate([np.linspace(-8, 8, 81), [-60, 60, 1e-4, -1e-4, 0.5, -0.5]]).astype(F)


def _below(values: Any, alpha: float = 1.0) -> Any:
    return alpha * np.expm1(np.minimum(values, 0) / 1)


FORMULAS: list[tuple[str, dict[str, Any], Any]] = [
    ("Elu", {}, lambda x: np.maximum(x, 0) + _below(x)),
    ("Elu", {"alpha": 2.0}, lambda x: np.maximum(x, 0) + _below(x, 2)),
    ("Elu", {"alpha": -0.5}, lambda x: np.maximum(x, 0) + _below(x, -0.5)),
    ("Celu", {}, lambda x: np.maximum(x, 0) + _below(x)),
    ("Celu", {"alpha": 2.0}, lambda x: np.maximum(x, 0) + 2 * np.expm1(np.minimum(x, 0) / 2)),
    ("Selu", {}, lambda x: 1.0507009873554805 * (np.maximum(x, 0) + _below(x, 1.6732632423543772))),
    ("Selu", {"alpha": 2.0, "gamma": 3.0}, lambda x: 3 * (np.maximum(x, 0) + _below(x, 2))),
    ("LeakyRelu", {}, lambda x: np.where(x < 0, x * 0.01, x)),
    ("LeakyRelu", {"alpha": 2.0}, lambda x: np.where(x < 0, x * 2, x)),
    ("LeakyRelu", {"alpha": -0.5}, lambda x: np.where(x < 0, x * -0.5, x)),
    ("ThresholdedRelu", {}, lambda x: np.where(x > 1, x, 0)),
    ("ThresholdedRelu", {"alpha": -2.0}, lambda x: np.where(x > -2, x, 0)),
    ("Shrink", {}, lambda x: np.where(np.abs(x) > 0.5, x, 0)),
    (
        "Shrink",
        {"lambd": 1.5, "bias": 1.25},
        lambda x: np.where(x < -1.5, x + 1.25, np.where(x > 1.5, x - 1.25, 0)),
    ),
    ("HardSigmoid", {}, lambda x: np.clip(x * 0.2 + 0.5, 0, 1)),
    ("HardSigmoid", {"alpha": 0.7, "beta": 0.1}, lambda x: np.clip(x * 0.7 + 0.1, 0, 1)),
    ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("Softsign", {}, lambda x: x / (1 + np.abs(x))),
    ("Swish", {}, lambda x: x / (1 + np.exp(-x))),
    ("Swish", {"alpha": 1.7}, lambda x: x / (1 + np.exp(-1.7 * x))),
    ("Mish", {}, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    ("Relu", {}, lambda x: np.maximum(x, 0)),
]


@pytest.mark.parametrize(("operator", "attributes", "formula"), FORMULAS)
def test_formula(operator: str, attributes: Any, formula: Any, evaluate: Any) -> None:
    activation = node(operator, ["x"], ["y"], **attributes)
    computed = evaluate(activation, {"x": X}, opset=24, free=True).y
    # HARD_SWISH multiplies by a rounded sixth.
    np.testing.assert_allclose(computed, formula(X.astype(float)), rtol=1e-5, atol=1e-7)
    half = X[np.abs(X) < 10].astype(np.float16)
    computed = evaluate(activation, {"x": half}, opset=24).y
    assert computed.dtype == np.float16
    np.testing.assert_allclose(computed, formula(half.astype(float)), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("Elu", {"alpha": 2.0}), ("Selu", {}), ("Celu", {"alpha": 0.5}), ("LeakyRelu", {}),
     ("HardSigmoid", {}), ("Swish", {}), ("Mish", {}), ("Softsign", {}), ("Relu", {})],
)  # fmt: skip
def test_nan_stays_nan(operator: str, attributes: Any, evaluate: Any) -> None:
    computed = evaluate(
        node(operator, ["x"], ["y"], **attributes), {"x": F([np.nan, 1.0])}, opset=24
    ).y
    assert np.isnan(computed[0])
    assert not np.isnan(computed[1])


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_celu_that_divides_by_nothing_is_refused(alpha: float, evaluate: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"culprit \\(Celu\\): its alpha is {alpha}"):
        evaluate(node("Celu", ["x"], ["y"], name="culprit", alpha=alpha), {"x": X})


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_integers_shrink(dtype: str, evaluate: Any) -> None:
    values = np.arange(0 if dtype == "uint8" else -5, 6).astype(dtype)
    shrink = node("Shrink", ["x"], ["y"], lambd=2.5, bias=1.0)
    computed = evaluate(shrink, {"x": values}).y
    wide = values.astype(int)
    expected = np.where(wide < -2.5, wide + 1, np.where(wide > 2.5, wide - 1, 0))
    np.testing.assert_array_equal(computed, expected.astype(dtype))
    with pytest.raises(UnsupportedModelError, match="bias"):
        evaluate(node("Shrink", ["x"], ["y"], bias=0.5), {"x": values})


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
def test_integers_above_zero(dtype: str, evaluate: Any) -> None:
    values = np.array([np.iinfo(dtype).min, -1, 0, np.iinfo(dtype).max], dtype=dtype)
    computed = evaluate(node("Relu", ["x"], ["y"]), {"x": values}, opset=14).y
    np.testing.assert_array_equal(computed, np.maximum(values, 0))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    "slopes", [(), (1,), (5,), (4, 1), (3, 1, 1), (1, 3, 1, 1), (2, 3, 4, 5), (2, 1, 1, 1)]
)
def test_prelu(slopes: Any, constant: bool, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 3, 4, 5)).astype(F)
    slope = np.asarray(rng.normal(size=slopes), dtype=F)
    arrays, constants = {"x": values}, {}
    (constants if constant else arrays)["s"] = slope
    found = evaluate(node("PRelu", ["x", "s"], ["y"]), arrays, constants=constants)
    np.testing.assert_allclose(found.y, np.where(values < 0, values * slope, values), rtol=1e-6)


def test_prelu_of_an_image_is_one_operator(evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    image, weights = (
        rng.normal(size=(2, 3, 4, 5)).astype(F),
        rng.normal(size=(4, 3, 1, 1)).astype(F),
    )
    slope = rng.normal(size=(4, 1, 1)).astype(F)
    nodes = [node("Conv", ["x", "w"], ["c"]), node("PRelu", ["c", "s"], ["y"])]
    found = evaluate(nodes, {"x": image}, constants={"w": weights, "s": slope}, free=True)
    convolved = np.einsum("oi,nihw->nohw", weights[:, :, 0, 0], image)
    expected = np.where(convolved < 0, convolved * slope, convolved)
    np.testing.assert_allclose(found.y, expected, rtol=1e-4, atol=1e-5)
    assert found.codes == ("TRANSPOSE", "CONV_2D", "PRELU", "TRANSPOSE")


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_prelu_of_integers(dtype: str, evaluate: Any) -> None:
    values, slope = np.array([[-3, 2, -1]], dtype=dtype), np.array([2, 5, -4], dtype=dtype)
    computed = evaluate(node("PRelu", ["x", "s"], ["y"]), {"x": values, "s": slope}).y
    assert computed.tolist() == [[-6, 2, 4]]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    "dtype",
    ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
     "float32", "float64"],
)  # fmt: skip
@pytest.mark.parametrize("bounds", [(3, 9), (None, 9), (3, None), (9, 3), (None, None)])
def test_clip(bounds: Any, dtype: str, constant: bool, evaluate: Any) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    if not dtype.startswith("uint"):
        values -= np.asarray(12, dtype=dtype)
    arrays, constants, names = {"x": values}, {}, ["x", "", ""]
    for position, bound in enumerate(bounds, 1):
        if bound is not None:
            names[position] = f"b{position}"
            (constants if constant else arrays)[f"b{position}"] = np.asarray(bound, dtype=dtype)
    found = evaluate(node("Clip", names, ["y"]), arrays, constants=constants, free=True)
    expected = values
    if bounds[0] is not None:
        expected = np.maximum(expected, np.asarray(bounds[0], dtype=dtype))
    if bounds[1] is not None:
        expected = np.minimum(expected, np.asarray(bounds[1], dtype=dtype))
    np.testing.assert_array_equal(found.y, expected)
    assert found.y.dtype == dtype


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_clip_of_nan_is_nan(dtype: str, constant: bool, evaluate: Any) -> None:
    arrays = {"x": np.array([np.nan, np.inf, -np.inf, 1], dtype=dtype)}
    bounds = {"low": np.asarray(-2, dtype=dtype), "high": np.asarray(2.5, dtype=dtype)}
    constants = bounds if constant else {}
    arrays |= {} if constant else bounds
    computed = evaluate(node("Clip", ["x", "low", "high"], ["y"]), arrays, constants=constants).y
    np.testing.assert_array_equal(computed, [np.nan, 2.5, -2, 1])


def test_clip_by_attributes_as_in_opset_6(evaluate: Any) -> None:
    clip = node("Clip", ["x"], ["y"], min=-1.0, max=2.0)
    np.testing.assert_array_equal(evaluate(clip, {"x": X}, opset=6).y, np.clip(X, -1, 2))
