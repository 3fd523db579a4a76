"""scikit-learn: what ONNX answers is what `predict` answers, on every row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import GateFailedError, UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'edgekit[sklearn]'")
pytest.importorskip("skl2onnx", reason="needs skl2onnx: pip install 'edgekit[sklearn]'")
skops = pytest.importorskip("skops.io", reason="needs skops: pip install 'edgekit[sklearn]'")
pytestmark = pytest.mark.usefixtures("calm")


def _estimators() -> dict[str, tuple[str, Callable[[], Any]]]:
    from sklearn import ensemble, linear_model, naive_bayes, neural_network, svm, tree
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

    logistic = linear_model.LogisticRegression
    return {
        "linear": ("regression", linear_model.LinearRegression),
        "ridge": ("regression", linear_model.Ridge),
        "logistic-2": ("binary", logistic),
        "logistic-3": ("classes", logistic),
        "scaler": ("classes", lambda: make_pipeline(StandardScaler(), logistic())),
        "imputer": ("binary", lambda: make_pipeline(SimpleImputer(), Normalizer(), logistic())),
        "pca": ("classes", lambda: make_pipeline(PCA(3), logistic())),
        "tree": ("classes", lambda: tree.DecisionTreeClassifier(random_state=0)),
        "forest": ("classes", lambda: ensemble.RandomForestClassifier(10, random_state=0)),
        "forest-r": ("regression", lambda: ensemble.RandomForestRegressor(10, random_state=0)),
        "extra": ("binary", lambda: ensemble.ExtraTreesClassifier(10, random_state=0)),
        "gb-2": ("binary", lambda: ensemble.GradientBoostingClassifier(n_estimators=10)),
        "gb-3": ("classes", lambda: ensemble.GradientBoostingClassifier(n_estimators=10)),
        "gb-r": ("regression", lambda: ensemble.GradientBoostingRegressor(n_estimators=10)),
        "hist-2": ("binary", lambda: ensemble.HistGradientBoostingClassifier(max_iter=8)),
        "hist-r": ("regression", lambda: ensemble.HistGradientBoostingRegressor(max_iter=8)),
        "mlp": (
            "classes",
            lambda: make_pipeline(MinMaxScaler(), neural_network.MLPClassifier((16,), max_iter=99)),
        ),
        "mlp-r": (
            "regression",
            lambda: neural_network.MLPRegressor(hidden_layer_sizes=(16,), max_iter=99),
        ),
        "svc-2": ("binary", svm.SVC),
        "svc-3": ("classes", svm.SVC),
        "svc-linear": ("binary", lambda: svm.SVC(kernel="linear")),
        "svc-poly": ("binary", lambda: svm.SVC(kernel="poly", degree=2)),
        "svc-sigmoid": ("classes", lambda: svm.SVC(kernel="sigmoid")),
        "linear-svc": ("binary", svm.LinearSVC),
        "svr": ("regression", svm.SVR),
        "bayes": ("classes", naive_bayes.GaussianNB),
        "one-class": ("regression", lambda: svm.OneClassSVM(nu=0.2)),
        "isolation": (
            "regression",
            lambda: ensemble.IsolationForest(n_estimators=8, random_state=0),
        ),
    }


@pytest.mark.parametrize("target", list(ModelFormat))
@pytest.mark.parametrize("name", list(_estimators()))
def test_every_row_has_the_answer_of_predict(
    name: str, target: ModelFormat, convert: Any, table: Any, tmp_path: Path
) -> None:
    kind, make = _estimators()[name]
    features, wanted = table(kind)
    model = make().fit(features, wanted)
    source = tmp_path / "model.skops"
    skops.dump(model, source)
    session, report = convert(source, target=target)
    answer = session.run({"features": features})
    assert report.source_kind is SourceKind.SKOPS
    assert report.reference.startswith("scikit-learn ")
    assert [spec.shape for spec in session.inputs] == [(None, 6)]
    if "prediction" in answer:
        expected = model.predict(features)
        assert np.abs(answer["prediction"][:, 0] - expected).max() < 2e-5 * np.abs(expected).max()
        return
    scores = answer.get("probabilities", answer.get("scores"))
    expected = (
        model.predict_proba(features)
        if "probabilities" in answer
        else model.decision_function(features)
    )
    if expected.ndim == 1 and scores.shape[1] == 2:
        expected = np.stack([-expected, expected], axis=1)
    expected = expected.reshape(scores.shape)
    assert np.abs(scores - expected).max() < 2e-5 * np.abs(expected).max()
    labels = model.predict(features)
    differ = answer["label"].reshape(-1) != labels
    # On the border between two classes, and nowhere else.
    assert np.abs(np.sort(expected[differ], axis=1)[:, -1]).max(initial=0.0) < 1e-3


@pytest.mark.parametrize("target", list(ModelFormat))
def test_neighbours(target: ModelFormat, convert: Any, table: Any, tmp_path: Path) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    features, wanted = table("classes")
    model = KNeighborsClassifier(algorithm="brute").fit(features, wanted)
    skops.dump(model, tmp_path / "knn.skops")
    session, _ = convert(tmp_path / "knn.skops", target=target)
    answer = session.run({"features": features})
    assert np.allclose(answer["probabilities"], model.predict_proba(features), atol=1e-6)


def test_probabilities_of_support_vectors(convert: Any, table: Any, tmp_path: Path) -> None:
    from sklearn.svm import SVC

    for kind in ("binary", "classes"):
        features, wanted = table(kind)
        model = SVC(probability=True, random_state=0).fit(features, wanted)
        skops.dump(model, tmp_path / "svc.skops")
        session, _ = convert(tmp_path / "svc.skops")
        answer = session.run({"features": features})
        assert np.abs(answer["probabilities"] - model.predict_proba(features)).max() < 1e-4
    with pytest.raises(UnsupportedModelError, match="iteration"):
        convert(tmp_path / "svc.skops", target=ModelFormat.LITERT)


def test_classes_with_names(convert: Any, table: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    features, wanted = table("classes")
    names = np.array(["cold", "warm", "hot"])[wanted]
    model = LogisticRegression().fit(features, names)
    skops.dump(model, tmp_path / "named.skops")
    session, report = convert(tmp_path / "named.skops")
    answer = session.run({"features": features})
    assert (answer["label"] == model.predict(features)).all()
    assert report.artifacts[0].parity[0].max_abs_error == 0
    with pytest.raises(UnsupportedModelError, match=r"classes have names.*cold") as caught:
        convert(tmp_path / "named.skops", target=ModelFormat.LITERT)
    assert "--to onnx" in str(caught.value.fix)


def test_classes_with_other_numbers(convert: Any, table: Any, tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    features, wanted = table("classes")
    model = RandomForestClassifier(5, random_state=0).fit(features, wanted * 10 + 3)
    skops.dump(model, tmp_path / "numbers.skops")
    session, _ = convert(tmp_path / "numbers.skops")
    assert (session.run({"features": features})["label"] == model.predict(features)).all()


@pytest.mark.parametrize("target", list(ModelFormat))
def test_columns_of_categories(target: ModelFormat, convert: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    columns = np.random.default_rng(1).integers(0, 5, size=(200, 4))
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    model.fit(columns, columns.sum(axis=1) > 8)
    skops.dump(model, tmp_path / "m.skops")
    with pytest.raises(GateFailedError) as caught:
        convert(tmp_path / "m.skops", target=target)
    assert "--input-shape features:1,COLUMNS:int64" in str(caught.value.fix)
    session, _ = convert(tmp_path / "m.skops", "features:1,4:int64", target=target)
    answer = session.run({"features": columns + 1})
    expected = model.predict_proba(columns + 1)
    assert np.abs(answer["probabilities"] - expected).max() < 1e-6


def test_columns_of_a_data_frame(convert: Any, table: Any, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

    features, wanted = table("binary")
    rows = pandas.DataFrame(features[:, :2], columns=["width", "height"])
    rows["colour"] = np.array(["red", "green", "blue"])[np.arange(300) % 3]
    columns = make_column_transformer(
        (MinMaxScaler(), ["width", "height"]), (OneHotEncoder(), ["colour"])
    )
    model = make_pipeline(columns, LogisticRegression()).fit(rows, wanted)
    skops.dump(model, tmp_path / "frame.skops")
    names = ("width", "height")
    numbers = make_pipeline(
        make_column_transformer((MinMaxScaler(), ["width"]), remainder="passthrough"),
        LogisticRegression(),
    ).fit(rows[list(names)], wanted)
    skops.dump(numbers, tmp_path / "numbers.skops")
    np.savez(tmp_path / "columns.npz", width=features[:8, :1], height=features[:8, 1:2])
    session, _ = convert(tmp_path / "numbers.skops", example=tmp_path / "columns.npz")
    answer = session.run({"width": features[:, :1], "height": features[:, 1:2]})
    expected = numbers.predict_proba(rows[list(names)])
    assert np.abs(answer["probabilities"] - expected).max() < 1e-6
    np.savez(
        tmp_path / "example.npz",
        width=features[:8, :1], height=features[:8, 1:2],
        colour=np.array(rows["colour"][:8], dtype=str).reshape(-1, 1),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="no arrays of numbers"):
        convert(tmp_path / "frame.skops", example=tmp_path / "example.npz")


def test_a_fault_of_the_exporter_is_caught_and_named(
    convert: Any, table: Any, tmp_path: Path
) -> None:
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import SVC

    features, wanted = table("classes")
    # skl2onnx reads the sign of the two-class machines inside the wrong way round.
    skops.dump(OneVsRestClassifier(SVC()).fit(features, wanted), tmp_path / "ovr.skops")
    with pytest.raises(GateFailedError, match="so is the ONNX that skl2onnx"):
        convert(tmp_path / "ovr.skops")
    assert not (tmp_path / "made.onnx").exists()


def test_what_skl2onnx_does_not_know_is_named(convert: Any, table: Any, tmp_path: Path) -> None:
    from sklearn.cluster import DBSCAN
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    features, wanted = table("regression")
    model = make_pipeline(SplineTransformer(), RidgeCV()).fit(features, wanted)
    skops.dump(model, tmp_path / "spline.skops")
    with pytest.raises(UsageError, match="BSpline"):
        convert(tmp_path / "spline.skops")
    with pytest.raises(UnsupportedModelError, match="SplineTransformer"):
        convert(tmp_path / "spline.skops", trust_pickle=True)
    skops.dump(DBSCAN().fit(features), tmp_path / "dbscan.skops")
    with pytest.raises(UnsupportedModelError, match="no fitted estimator"):
        convert(tmp_path / "dbscan.skops")


def test_an_estimator_that_is_not_fitted(convert: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    skops.dump(LinearRegression(), tmp_path / "fresh.skops")
    with pytest.raises(UsageError, match="how many columns"):
        convert(tmp_path / "fresh.skops")
    with pytest.raises(UnsupportedModelError):
        convert(tmp_path / "fresh.skops", "features:1,4")


def test_a_tree_that_leads_nowhere(convert: Any, table: Any, tmp_path: Path) -> None:
    import io
    import zipfile

    from sklearn.tree import DecisionTreeClassifier

    features, wanted = table("binary")
    model = DecisionTreeClassifier(max_depth=2, random_state=0).fit(features, wanted)
    nodes = model.tree_.__getstate__()["nodes"].copy()
    sound = tmp_path / "sound.skops"
    skops.dump(model, sound)
    damaged = nodes.copy()
    damaged["left_child"][0] = 1_000_000
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(tmp_path / "bad.skops", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".npy"):
                array = np.load(io.BytesIO(content), allow_pickle=False)
                if array.dtype == nodes.dtype:
                    buffer = io.BytesIO()
                    np.save(buffer, damaged)
                    content = buffer.getvalue()
            new.writestr(name, content)
    convert(sound)
    with pytest.raises(UnsupportedModelError, match="tree of this model is damaged"):
        convert(tmp_path / "bad.skops")
