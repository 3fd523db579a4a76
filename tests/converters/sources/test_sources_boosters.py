"""XGBoost and LightGBM: what ONNX answers is what `predict` answers, missing values included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit_converters.sources.boosted_trees import floor32
from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import Session

ONNX, LITERT = ModelFormat.ONNX, ModelFormat.LITERT
pytestmark = pytest.mark.usefixtures("calm")

XGBOOST = {
    "binary": ("binary", {"objective": "binary:logistic"}),
    "classes": ("classes", {"objective": "multi:softprob", "num_class": 3}),
    "softmax": ("classes", {"objective": "multi:softmax", "num_class": 3}),
    "regression": ("regression", {"objective": "reg:squarederror"}),
    "absolute": ("regression", {"objective": "reg:absoluteerror"}),
    "logitraw": ("binary", {"objective": "binary:logitraw"}),
    "hinge": ("binary", {"objective": "binary:hinge"}),
    "logistic": ("binary", {"objective": "reg:logistic"}),
    "poisson": ("binary", {"objective": "count:poisson"}),
    "dart": ("binary", {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.3}),
    "forest": ("binary", {"objective": "binary:logistic", "num_parallel_tree": 4}),
    "linear": ("regression", {"objective": "reg:squarederror", "booster": "gblinear"}),
    "base": ("regression", {"objective": "reg:squarederror", "base_score": 7.5}),
}
LIGHTGBM = {
    "binary": ("binary", {"objective": "binary"}),
    "classes": ("classes", {"objective": "multiclass", "num_class": 3}),
    "ova": ("classes", {"objective": "multiclassova", "num_class": 3}),
    "regression": ("regression", {"objective": "regression"}),
    "sqrt": ("regression", {"objective": "regression", "reg_sqrt": True}),
    "mape": ("regression", {"objective": "mape"}),
    "quantile": ("regression", {"objective": "quantile", "alpha": 0.7}),
    "poisson": ("binary", {"objective": "poisson"}),
    "tweedie": ("binary", {"objective": "tweedie"}),
    "entropy": ("binary", {"objective": "cross_entropy"}),
    "entropy-lambda": ("binary", {"objective": "cross_entropy_lambda"}),
    "dart": ("binary", {"objective": "binary", "boosting": "dart"}),
    "forest": (
        "regression",
        {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
    ),
    "no-missing": ("regression", {"objective": "regression", "use_missing": False}),
    "sigmoid": ("binary", {"objective": "binary", "sigmoid": 2.0}),
}


def _hard_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows, then some with missing values, zeros, and values far out."""
    rng = np.random.default_rng(5)
    missing, zero = features.copy(), features.copy()
    missing[rng.random(features.shape) < 0.3] = np.nan
    zero[rng.random(features.shape) < 0.3] = 0
    return np.concatenate([features, missing, zero, features * 100])


def _check(session: Session, rows: NDArray[np.float32], expected: NDArray[Any]) -> None:
    answer = session.run({"features": rows})
    if "prediction" in answer:
        assert answer["prediction"].shape == (len(rows), 1)
        found = answer["prediction"][:, 0]
    elif expected.ndim == 1 and set(np.unique(expected)) <= {0.0, 1.0, 2.0}:
        found = answer["label"]
    else:
        found = answer["probabilities"]
        if expected.ndim == 1:
            expected = np.stack([1 - expected, expected], axis=1)
        assert (answer["label"] == found.argmax(axis=1)).all()
    assert np.abs(found - expected).max() <= 2e-6 * max(np.abs(expected).max(), 1e-3)


@pytest.mark.parametrize(("suffix", "target"), [("json", ONNX), ("ubj", ONNX), ("ubj", LITERT)])
@pytest.mark.parametrize("name", list(XGBOOST))
def test_xgboost(
    name: str, suffix: str, target: ModelFormat, convert: Any, table: Any, tmp_path: Path
) -> None:
    xgboost = pytest.importorskip("xgboost", reason="needs pip install 'edgekit[xgboost]'")
    kind, settings = XGBOOST[name]
    features, wanted = table(kind)
    settings = {"max_depth": 4, "nthread": 1, **settings}
    booster = xgboost.train(settings, xgboost.DMatrix(features, wanted), 8)
    source = tmp_path / f"model.{suffix}"
    booster.save_model(source)
    session, report = convert(source, target=target)
    assert report.source_kind is SourceKind.XGBOOST
    rows = _hard_rows(features)
    _check(session, rows, booster.predict(xgboost.DMatrix(rows)))


@pytest.mark.parametrize("target", [ONNX, LITERT])
def test_xgboost_categories(target: ModelFormat, convert: Any, table: Any, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="needs pip install 'edgekit[xgboost]'")
    features, wanted = table("regression")
    features[:, 0] = np.arange(300) % 12
    wanted = wanted + np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])[np.arange(300) % 12]
    rows = xgboost.DMatrix(
        features, wanted, feature_types=["c", *["q"] * 5], enable_categorical=True
    )
    booster = xgboost.train({"max_depth": 4, "max_cat_to_onehot": 3, "nthread": 1}, rows, 8)
    booster.save_model(tmp_path / "model.json")
    assert json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"][0][
        "categories"
    ]
    session, _ = convert(tmp_path / "model.json", target=target)
    answer = session.run({"features": features})["prediction"][:, 0]
    assert np.abs(answer - booster.predict(rows)).max() < 1e-5


def test_xgboost_in_its_scikit_learn_form(convert: Any, table: Any, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="needs pip install 'edgekit[xgboost]'")
    joblib = pytest.importorskip("joblib", reason="needs pip install 'edgekit[sklearn]'")
    pytest.importorskip("skl2onnx", reason="needs pip install 'edgekit[sklearn]'")
    features, wanted = table("classes")
    model = xgboost.XGBClassifier(n_estimators=30, early_stopping_rounds=2, n_jobs=1)
    model.fit(features[:200], wanted[:200], eval_set=[(features[200:], wanted[200:])], verbose=0)
    joblib.dump(model, tmp_path / "model.joblib")
    session, report = convert(tmp_path / "model.joblib", trust_pickle=True)
    assert report.reference.startswith("xgboost ")
    answer = session.run({"features": features})
    assert np.abs(answer["probabilities"] - model.predict_proba(features)).max() < 1e-6
    assert (answer["label"] == model.predict(features)).all()


@pytest.mark.parametrize("target", [ONNX, LITERT])
@pytest.mark.parametrize("package", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_a_pipeline_that_ends_in_a_booster(
    kind: str, package: str, target: ModelFormat, convert: Any, table: Any, tmp_path: Path
) -> None:
    module = pytest.importorskip(package, reason=f"needs pip install 'edgekit[{package}]'")
    joblib = pytest.importorskip("joblib", reason="needs pip install 'edgekit[sklearn]'")
    pytest.importorskip("skl2onnx", reason="needs pip install 'edgekit[sklearn]'")
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, wanted = table(kind)
    name = {"xgboost": "XGB", "lightgbm": "LGBM"}[package]
    last = getattr(module, name + ("Classifier" if kind == "classes" else "Regressor"))
    quiet = {"verbose": -1} if package == "lightgbm" else {}
    model = make_pipeline(StandardScaler(), PCA(5), last(n_estimators=6, n_jobs=1, **quiet))
    model.fit(features, wanted)
    joblib.dump(model, tmp_path / "pipe.joblib")
    session, report = convert(tmp_path / "pipe.joblib", target=target, trust_pickle=True)
    assert report.exporter.startswith("skl2onnx")
    # XGBoost's thresholds are values of the training rows: there the last bit decides.
    features = features + np.float32(0.0123)
    answer = session.run({"features": features})
    if kind == "regression":
        found, expected = answer["prediction"][:, 0], model.predict(features)
    else:
        found, expected = answer["probabilities"], model.predict_proba(features)
    assert np.abs(found - expected).max() < 1e-5


def test_xgboost_that_is_damaged_or_unknown(convert_apart: Any, table: Any, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="needs pip install 'edgekit[xgboost]'")
    features, wanted = table("regression")
    settings = {"objective": "reg:quantileerror", "quantile_alpha": 0.5, "nthread": 1}
    booster = xgboost.train(settings, xgboost.DMatrix(features, wanted), 3)
    content = bytes(booster.save_raw("json"))
    (tmp_path / "cut.json").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnsupportedModelError, match="XGBoost cannot load"):
        convert_apart(tmp_path / "cut.json")
    document = json.loads(content)
    document["learner"]["gradient_booster"]["model"]["trees"][0]["tree_param"][
        "size_leaf_vector"
    ] = "2"
    (tmp_path / "vector.json").write_text(json.dumps(document))
    # XGBoost itself ends the process over this one.
    with pytest.raises(UnsupportedModelError, match="crashed"):
        convert_apart(tmp_path / "vector.json")


@pytest.mark.parametrize("target", [ONNX, LITERT])
@pytest.mark.parametrize("name", list(LIGHTGBM))
def test_lightgbm(name: str, target: ModelFormat, convert: Any, table: Any, tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="needs pip install 'edgekit[lightgbm]'")
    kind, settings = LIGHTGBM[name]
    features, wanted = table(kind)
    rows = features.copy()
    rows[::7, 1] = np.nan
    settings = {"num_leaves": 15, "verbose": -1, "num_threads": 1, **settings}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, wanted), 8)
    source = tmp_path / "model.txt"
    booster.save_model(source)
    session, report = convert(source, target=target)
    assert report.source_kind is SourceKind.LIGHTGBM
    hard = _hard_rows(features)
    _check(session, hard, booster.predict(hard))


@pytest.mark.parametrize("target", [ONNX, LITERT])
def test_lightgbm_categories(target: ModelFormat, convert: Any, table: Any, tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="needs pip install 'edgekit[lightgbm]'")
    features, wanted = table("regression")
    features[:, 0] = np.arange(300) % 12
    wanted = wanted + np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])[np.arange(300) % 12]
    settings = {"num_leaves": 15, "verbose": -1, "num_threads": 1, "min_data_per_group": 5}
    booster = lightgbm.train(
        settings, lightgbm.Dataset(features, wanted, categorical_feature=[0]), 8
    )
    booster.save_model(tmp_path / "model.txt")
    assert "==" in json.dumps(booster.dump_model())
    session, _ = convert(tmp_path / "model.txt", target=target)
    rows = features.copy()
    rows[::9, 0] = np.nan
    answer = session.run({"features": rows})["prediction"][:, 0]
    assert np.abs(answer - booster.predict(rows)).max() < 1e-5


def test_lightgbm_with_names_for_its_classes(convert: Any, table: Any, tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="needs pip install 'edgekit[lightgbm]'")
    joblib = pytest.importorskip("joblib", reason="needs pip install 'edgekit[sklearn]'")
    pytest.importorskip("skl2onnx", reason="needs pip install 'edgekit[sklearn]'")
    features, wanted = table("classes")
    model = lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1)
    model.fit(features, np.array(["low", "middle", "high"])[wanted])
    joblib.dump(model, tmp_path / "model.joblib")
    session, _ = convert(tmp_path / "model.joblib", trust_pickle=True)
    answer = session.run({"features": features})
    assert (answer["label"] == model.predict(features)).all()
    assert np.abs(answer["probabilities"] - model.predict_proba(features)).max() < 1e-6


def test_lightgbm_that_cannot_be_said(convert: Any, table: Any, tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="needs pip install 'edgekit[lightgbm]'")
    features, wanted = table("regression")
    settings = {"num_leaves": 7, "verbose": -1, "num_threads": 1}
    linear = {**settings, "linear_tree": True}
    lightgbm.train(linear, lightgbm.Dataset(features, wanted), 3).save_model(
        tmp_path / "linear.txt"
    )
    with pytest.raises(UnsupportedModelError, match="linear models"):
        convert(tmp_path / "linear.txt")
    zeros = {**settings, "zero_as_missing": True}
    features[::2, :3] = 0
    booster = lightgbm.train(zeros, lightgbm.Dataset(features, wanted), 5)
    booster.save_model(tmp_path / "zeros.txt")
    with pytest.raises(UnsupportedModelError, match="zeros of column"):
        convert(tmp_path / "zeros.txt")
    (tmp_path / "cut.txt").write_text("tree\nversion=v4\nnum_class=1\n")
    with pytest.raises(UnsupportedModelError, match="LightGBM cannot load"):
        convert(tmp_path / "cut.txt")


def test_a_threshold_between_two_floats_goes_down() -> None:
    one = float(np.float32(1))
    after = float(np.nextafter(np.float32(1), np.float32(2)))
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        threshold = one + share * (after - one)
        assert floor32(threshold) == one
    assert floor32(after) == after
    assert floor32(-1e-50) < 0
