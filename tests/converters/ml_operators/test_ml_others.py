"""Everything of `ai.onnx.ml` but trees answers what onnxruntime answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgekit_converters.ml_operators import expand_ml_operators
from edgekit_runtime.errors import UnsupportedModelError

TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]
once = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _floats(rng: np.random.Generator, *shape: int) -> Any:
    return rng.normal(size=shape).astype(np.float32)


@once
@given(
    seed=st.integers(0, 2**31), targets=st.integers(1, 3), transform=st.sampled_from(TRANSFORMS),
    intercepts=st.booleans(),
)  # fmt: skip
def test_linear_regressor(
    check: Any, ml_model: Any, ml_node: Any, *, seed: int, targets: int, transform: str,
    intercepts: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = _floats(rng, 9, 4)
    scale = 0.02 if transform == "PROBIT" else 1.0
    node = ml_node(
        "LinearRegressor", ["x"], ["y"], targets=targets, post_transform=transform,
        coefficients=(_floats(rng, targets * 4) * scale).tolist(),
        intercepts=np.full(targets, 0.8, dtype=np.float32).tolist() if intercepts else [0.5] * 5,
    )  # fmt: skip
    # onnxruntime's formula is the root of a difference of nearly equal numbers.
    tolerance = 1e-4 if transform == "PROBIT" else 1e-5
    check(ml_model([node], {"x": x}, ["y"]), {"x": x}, tolerance=tolerance)


@once
@given(
    seed=st.integers(0, 2**31), targets=st.integers(1, 4),
    transform=st.sampled_from(TRANSFORMS[:4]),
    plain=st.booleans(), dtype=st.sampled_from(["float32", "int64", "int32"]),
)  # fmt: skip
def test_linear_classifier(
    check: Any, ml_model: Any, ml_node: Any, *, seed: int, targets: int, transform: str,
    plain: bool, dtype: str,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = (_floats(rng, 30, 4) * 3).astype(dtype)
    count = max(targets, 2)
    node = ml_node(
        "LinearClassifier", ["x"], ["label", "scores"], post_transform=transform,
        classlabels_ints=list(range(count)) if plain else [5, 2, 9, 4][:count],
        coefficients=_floats(rng, targets * 4).tolist(),
        intercepts=_floats(rng, targets).tolist(),
    )  # fmt: skip
    check(ml_model([node], {"x": x}, ["label", "scores"]), {"x": x}, tolerance=1e-5)


@once
@given(
    seed=st.integers(0, 2**31), kernel=st.sampled_from(["LINEAR", "POLY", "RBF", "SIGMOID"]),
    degree=st.sampled_from([2.0, 3.0, 4.0]), one_class=st.booleans(), supports=st.integers(0, 5),
)  # fmt: skip
def test_svm_regressor(
    check: Any, ml_model: Any, ml_node: Any, *, seed: int, kernel: str, degree: float,
    one_class: bool, supports: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = _floats(rng, 20, 3)
    vectors = {"support_vectors": _floats(rng, supports * 3).tolist()} if supports else {}
    node = ml_node(
        "SVMRegressor", ["x"], ["y"], kernel_type=kernel, kernel_params=[0.4, 0.3, degree],
        n_supports=supports, one_class=int(one_class), **vectors,
        coefficients=_floats(rng, supports or 3).tolist(), rho=[0.2],
    )  # fmt: skip
    check(ml_model([node], {"x": x}, ["y"]), {"x": x}, tolerance=1e-5)


@once
@given(
    seed=st.integers(0, 2**31), kernel=st.sampled_from(["LINEAR", "POLY", "RBF", "SIGMOID"]),
    classes=st.integers(2, 4), transform=st.sampled_from(TRANSFORMS[:4]), plain=st.booleans(),
    probable=st.booleans(),
)  # fmt: skip
def test_svm_classifier(
    check: Any, ml_model: Any, ml_node: Any, *, seed: int, kernel: str, classes: int,
    transform: str, plain: bool, probable: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = _floats(rng, 20, 3)
    supports = rng.integers(1, 4, size=classes).tolist()
    pairs = classes * (classes - 1) // 2
    options: dict[str, Any] = {}
    if probable and classes == 2:
        options = {"prob_a": [float(rng.choice([-1.3, -0.01, -9.0]))], "prob_b": [0.1]}
    node = ml_node(
        "SVMClassifier", ["x"], ["label", "scores"], kernel_type=kernel,
        kernel_params=[0.4, 0.3, 3.0], vectors_per_class=supports, post_transform=transform,
        support_vectors=_floats(rng, sum(supports) * 3).tolist(),
        coefficients=_floats(rng, (classes - 1) * sum(supports)).tolist(),
        rho=_floats(rng, pairs).tolist(),
        classlabels_ints=list(range(classes)) if plain else [5, 2, 9, 4][:classes], **options,
    )  # fmt: skip
    check(ml_model([node], {"x": x}, ["label", "scores"]), {"x": x}, tolerance=1e-5)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_svm_classifier_without_support_vectors(
    check: Any, ml_model: Any, ml_node: Any, *, classes: int, positive: bool
) -> None:
    rng = np.random.default_rng(classes)
    x = _floats(rng, 40, 3)
    coefficients = _floats(rng, classes * 3)
    node = ml_node(
        "SVMClassifier", ["x"], ["label", "scores"], kernel_type="LINEAR", rho=[0.1],
        kernel_params=[0.0, 0.0, 0.0],
        coefficients=(np.abs(coefficients) if positive else coefficients).tolist(),
        classlabels_ints=[4, 6, 8][:classes],
    )  # fmt: skip
    check(ml_model([node], {"x": x}, ["label", "scores"]), {"x": x}, tolerance=1e-5)


def test_probabilities_of_many_classes_are_refused(ml_model: Any, ml_node: Any) -> None:
    rng = np.random.default_rng(0)
    node = ml_node(
        "SVMClassifier", ["x"], ["label", "scores"], vectors_per_class=[1, 1, 1],
        support_vectors=_floats(rng, 6).tolist(), coefficients=_floats(rng, 6).tolist(),
        rho=[0.0] * 3, prob_a=[1.0] * 3, prob_b=[0.0] * 3, classlabels_ints=[0, 1, 2],
    )  # fmt: skip
    model = ml_model([node], {"x": _floats(rng, 2, 2)}, ["label", "scores"])
    with pytest.raises(UnsupportedModelError, match="iteration"):
        expand_ml_operators(model, where="test")


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32"])
@pytest.mark.parametrize("columns", [1, 3])
def test_scaler(check: Any, ml_model: Any, ml_node: Any, *, columns: int, dtype: str) -> None:
    rng = np.random.default_rng(columns)
    x = (_floats(rng, 7, 3) * 10).astype(dtype)
    node = ml_node(
        "Scaler", ["x"], ["y"], offset=_floats(rng, columns).tolist(),
        scale=_floats(rng, columns).tolist(),
    )  # fmt: skip
    check(ml_model([node], {"x": x}, ["y"]), {"x": x})


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(check: Any, ml_model: Any, ml_node: Any, *, norm: str) -> None:
    x = _floats(np.random.default_rng(2), 8, 5)
    x[3] = 0
    x[4] = -np.abs(x[4])
    check(ml_model([ml_node("Normalizer", ["x"], ["y"], norm=norm)], {"x": x}, ["y"]), {"x": x})


@pytest.mark.parametrize("replaced", [float("nan"), 0.0, 2.0])
@pytest.mark.parametrize("columns", [1, 4])
def test_imputer(check: Any, ml_model: Any, ml_node: Any, *, replaced: float, columns: int) -> None:
    x = np.random.default_rng(2).choice([0.0, 2.0, np.nan, 5.0], size=(30, 4)).astype(np.float32)
    node = ml_node(
        "Imputer", ["x"], ["y"], replaced_value_float=replaced,
        imputed_value_floats=[1.5, 2.5, 3.5, 4.5][:columns],
    )  # fmt: skip
    check(ml_model([node], {"x": x}, ["y"]), {"x": np.where(np.isnan(x), x, x)})


def test_imputer_of_whole_numbers(check: Any, ml_model: Any, ml_node: Any) -> None:
    x = np.random.default_rng(2).integers(0, 3, size=(30, 4))
    node = ml_node(
        "Imputer", ["x"], ["y"], replaced_value_int64=1, imputed_value_int64s=[7, 8, 9, 10]
    )
    check(ml_model([node], {"x": x}, ["y"]), {"x": x})


def test_binarizer(check: Any, ml_model: Any, ml_node: Any) -> None:
    x = np.array([[0.5, 0.50001, -1.0, np.inf]], dtype=np.float32)
    check(ml_model([ml_node("Binarizer", ["x"], ["y"], threshold=0.5)], {"x": x}, ["y"]), {"x": x})


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_one_hot_encoder(check: Any, ml_model: Any, ml_node: Any, *, dtype: str) -> None:
    x = np.array([[3, 1], [7, 0], [-2, 3]], dtype=dtype)
    node = ml_node("OneHotEncoder", ["x"], ["y"], cats_int64s=[1, 3, 7], zeros=1)
    check(ml_model([node], {"x": x}, ["y"]), {"x": x})


@pytest.mark.parametrize("keys", ["int64s", "floats"])
@pytest.mark.parametrize("values", ["int64s", "floats"])
def test_label_encoder(check: Any, ml_model: Any, ml_node: Any, *, keys: str, values: str) -> None:
    whole, real = [3, 1, 7], [0.5, 1.0, 7.0]
    x = np.array([[3, 1], [7, 0], [1, 9]]).astype("int64" if keys == "int64s" else "float32")
    options: dict[str, Any] = {
        f"keys_{keys}": whole if keys == "int64s" else real,
        f"values_{values}": [10, 20, 30] if values == "int64s" else [0.1, 0.2, 0.3],
        "default_int64" if values == "int64s" else "default_float": 99,
    }
    if values == "floats":
        options["default_float"] = 9.5
    node = ml_node("LabelEncoder", ["x"], ["y"], **options)
    check(ml_model([node], {"x": x}, ["y"], ml_version=2), {"x": x})


def test_array_feature_extractor(check: Any, ml_model: Any, ml_node: Any) -> None:
    x = _floats(np.random.default_rng(1), 3, 5)
    node = ml_node("ArrayFeatureExtractor", ["x", "i"], ["y"])
    model = ml_model([node], {"x": x}, ["y"], {"i": np.array([[4, 0, 0]])})
    check(model, {"x": x})
    flat = ml_model(
        [
            helper.make_node("Reshape", ["x", "s"], ["f"]),
            ml_node("ArrayFeatureExtractor", ["f", "i"], ["y"]),
        ],
        {"x": x}, ["y"], {"i": np.array([14, 2]), "s": np.array([15])},
    )  # fmt: skip
    check(flat, {"x": x})


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32"])
def test_feature_vectorizer(check: Any, ml_model: Any, ml_node: Any, *, dtype: str) -> None:
    rng = np.random.default_rng(1)
    widths = {"a": 2, "b": 4, "c": 1}
    inputs = {name: (_floats(rng, 3, width) * 9).astype(dtype) for name, width in widths.items()}
    node = ml_node("FeatureVectorizer", list(inputs), ["y"], inputdimensions=[2, 3, 2])
    check(ml_model([node], inputs, ["y"]), inputs)


def test_a_map_gives_way_to_its_scores(ml_model: Any, ml_node: Any) -> None:
    import onnxruntime

    x = _floats(np.random.default_rng(1), 6, 2)
    nodes = [
        ml_node(
            "LinearClassifier", ["x"], ["label", "raw"], classlabels_ints=[0, 1, 2],
            coefficients=[1.0, 2.0, -1.0, 0.5, 0.0, 1.0], intercepts=[0.0, 0.1, 0.2],
        ),
        ml_node("ZipMap", ["raw"], ["scores"], classlabels_int64s=[0, 1, 2]),
    ]  # fmt: skip
    model = ml_model(nodes, {"x": x}, ["label", "scores"])
    expanded = expand_ml_operators(model, where="test")
    session = onnxruntime.InferenceSession(expanded.SerializeToString())
    assert session.run(["scores"], {"x": x})[0].shape == (6, 3)


def test_everything_that_cannot_be_said_is_named_at_once(ml_model: Any, ml_node: Any) -> None:
    x = np.zeros((1, 2), dtype=np.float32)
    nodes = [
        ml_node(
            "LinearClassifier", ["x"], ["name", "p"], name="judge",
            classlabels_strings=["cold", "hot"], coefficients=[1.0, 2.0], intercepts=[0.0],
        ),
        ml_node(
            "LabelEncoder", ["name"], ["n"], name="code", keys_strings=["cold"], values_int64s=[1]
        ),
        ml_node("Scaler", ["x"], ["s"], name="fine", offset=[0.0], scale=[1.0]),
        ml_node("CategoryMapper", ["n"], ["m"], name="maps", cats_int64s=[1], cats_strings=["a"]),
    ]  # fmt: skip
    with pytest.raises(UnsupportedModelError) as caught:
        expand_ml_operators(ml_model(nodes, {"x": x}, ["n", "m", "s", "p"]), where="test")
    for said in ("judge (LinearClassifier)", "code (LabelEncoder)", "maps (CategoryMapper)"):
        assert said in caught.value.what
    assert "fine" not in caught.value.what
    assert "--to onnx" in str(caught.value.fix)


def test_one_behind_another(check: Any, ml_model: Any, ml_node: Any) -> None:
    x = np.array([[1.0, np.nan], [-3.0, 4.0]], dtype=np.float32)
    nodes = [
        ml_node(
            "Imputer", ["x"], ["a"], replaced_value_float=float("nan"), imputed_value_floats=[2.0]
        ),
        ml_node("Scaler", ["a"], ["b"], offset=[1.0], scale=[2.0]),
        helper.make_node("Neg", ["b"], ["c"]),
        ml_node("Normalizer", ["c"], ["d"], norm="L2"),
        ml_node("Binarizer", ["d"], ["e"], threshold=0.0),
        ml_node("LinearRegressor", ["e"], ["y"], coefficients=[1.0, 3.0], targets=1),
    ]  # fmt: skip
    check(ml_model(nodes, {"x": x}, ["y", "d"]), {"x": x})


def test_a_model_without_them_is_left_alone(make_model: Any) -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"])
    assert expand_ml_operators(model, where="test") is model
