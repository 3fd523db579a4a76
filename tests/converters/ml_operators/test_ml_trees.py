"""Trees in ONNX's own operators answer what onnxruntime's own trees do, whatever is compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from converters.conformance.cases import generated_cases
from edgekit_converters.ml_operators import expand_ml_operators
from edgekit_runtime.errors import UnsupportedModelError

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
FEATURES = 4
# Values that thresholds and inputs share, so that equality happens.
VALUES = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, -1e-40, 3.4e38, -3.4e38, np.inf, -np.inf, 2.0, 1.0000001],
    dtype=np.float32,
)


def random_trees(
    rng: np.random.Generator, trees: int, depth: int, modes: list[str], *, missing: bool
) -> dict[str, list[Any]]:
    """The `nodes_*` attributes of random trees, and the ids of their leaves."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
            "falsenodeids", "missing_value_tracks_true",
        )
    }  # fmt: skip
    leaves: list[Any] = []
    for tree in range(trees):
        waiting, number = [(0, depth)], 1
        while waiting:
            node, left = waiting.pop()
            leaf = left == 0 or (node > 0 and rng.random() < 0.2)
            yes, no = (0, 0) if leaf else (number, number + 1)
            row = (
                tree, node, int(rng.integers(FEATURES)), float(rng.choice(VALUES)),
                "LEAF" if leaf else str(rng.choice(modes)), yes, no,
                int(missing and rng.random() < 0.5),
            )  # fmt: skip
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
            if leaf:
                leaves.append((tree, node))
            else:
                waiting += [(yes, left - 1), (no, left - 1)]
                number += 2
    return {f"nodes_{name}": values for name, values in columns.items()} | {"leaves": leaves}


def rows(rng: np.random.Generator, count: int = 60) -> NDArray[np.float32]:
    """Inputs that hit thresholds, and NaN."""
    values = rng.choice(np.append(VALUES, [np.nan, 7.0]), size=(count, FEATURES))
    return values.astype(np.float32)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31), mode=st.sampled_from([*MODES, "mixed"]), missing=st.booleans(),
    targets=st.integers(1, 3), aggregate=st.sampled_from(["SUM", "AVERAGE", "MIN", "MAX"]),
    transform=st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]),
    based=st.booleans(),
)  # fmt: skip
def test_a_regressor_answers_as_onnxruntime_does(
    check: Any, ml_model: Any, ml_node: Any, *, seed: int, mode: str, missing: bool, targets: int,
    aggregate: str, transform: str, based: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    trees = random_trees(
        rng, int(rng.integers(1, 6)), int(rng.integers(1, 5)),
        MODES if mode == "mixed" else [mode], missing=missing,
    )  # fmt: skip
    leaves = [(tree, node, t) for tree, node in trees.pop("leaves") for t in range(targets)]
    node = ml_node(
        "TreeEnsembleRegressor", ["x"], ["y"], n_targets=targets, aggregate_function=aggregate,
        post_transform=transform, target_treeids=[leaf[0] for leaf in leaves],
        target_nodeids=[leaf[1] for leaf in leaves], target_ids=[leaf[2] for leaf in leaves],
        target_weights=rng.normal(size=len(leaves)).astype(np.float32).tolist(),
        **({"base_values": rng.normal(size=targets).tolist()} if based else {}), **trees,
    )  # fmt: skip
    x = rows(rng)
    check(ml_model([node], {"x": x}, ["y"]), {"x": x}, tolerance=2e-6)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31), classes=st.integers(2, 4), sparse=st.booleans(),
    sided=st.sampled_from(["both", "first", "second"]), positive=st.booleans(),
    transform=st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]),
    base=st.sampled_from(["none", "one", "all"]), plain=st.booleans(),
)  # fmt: skip
def test_a_classifier_answers_as_onnxruntime_does(
    check: Any, ml_model: Any, ml_node: Any, *, seed: int, classes: int, sparse: bool, sided: str,
    positive: bool, transform: str, base: str, plain: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, int(rng.integers(1, 6)), 3, ["BRANCH_LEQ"], missing=False)
    chosen = {"both": range(classes), "first": [0], "second": [1]}[
        sided if classes == 2 else "both"
    ]
    leaves = [
        (tree, node, int(c))
        for tree, node in trees.pop("leaves")
        for c in ([rng.integers(classes)] if sparse and classes > 2 else chosen)
    ]
    weights = rng.normal(size=len(leaves)).astype(np.float32)
    if positive:
        weights = np.abs(weights) * np.float32(0.3)
    bases = {"none": 0, "one": 1 if classes == 2 else 0, "all": classes}[base]
    node = ml_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], post_transform=transform,
        classlabels_int64s=list(range(classes)) if plain else [7, 3, 11, 2][:classes],
        class_treeids=[leaf[0] for leaf in leaves], class_nodeids=[leaf[1] for leaf in leaves],
        class_ids=[leaf[2] for leaf in leaves], class_weights=weights.tolist(),
        **({"base_values": rng.normal(size=bases).tolist()} if bases else {}), **trees,
    )  # fmt: skip
    x = rows(rng)
    check(ml_model([node], {"x": x}, ["label", "scores"]), {"x": x}, tolerance=2e-6)


def _tensor(values: Any, dtype: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype))


def test_sets_of_values_and_missing_ones(check: Any, ml_model: Any, ml_node: Any) -> None:
    node = ml_node(
        "TreeEnsemble", ["x"], ["y"], n_targets=2, aggregate_function=1, post_transform=0,
        tree_roots=[0], nodes_modes=_tensor([6, 6, 0], np.uint8), nodes_featureids=[0, 1, 1],
        nodes_splits=_tensor([0, 0, 0.5], np.float32), nodes_truenodeids=[1, 0, 2],
        nodes_falsenodeids=[2, 1, 3], nodes_trueleafs=[0, 1, 1], nodes_falseleafs=[0, 1, 1],
        nodes_missing_value_tracks_true=[1, 0, 1], leaf_targetids=[0, 1, 1, 0],
        leaf_weights=_tensor([1, 2, 4, 8], np.float32),
        membership_values=_tensor([1, 2, 7, np.nan, 0.5, np.nan], np.float32),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    x = rng.choice([0, 1, 2, 7, 0.5, 3, np.nan], size=(80, 2)).astype(np.float32)
    model = ml_model([node], {"x": x}, ["y"], ml_version=5)
    expanded = check(model, {"x": x})
    assert len(expanded.graph.node) < 100


@pytest.mark.parametrize("name", ["single_tree", "set_membership"])
def test_the_conformance_cases_of_trees(name: str) -> None:
    # Not collected by operator: the package imports each module of cases once, for the first asker.
    (case,) = (
        case for case in generated_cases() if case.name == f"test_ai_onnx_ml_tree_ensemble_{name}"
    )
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
        with pytest.raises(UnsupportedModelError, match="float64"):
            expand_ml_operators(model, where="test")
        return
    inputs, outputs = case.data_sets[0]
    model.opset_import.add(domain="", version=18)
    expanded = expand_ml_operators(model, where="test")
    import onnxruntime

    session = onnxruntime.InferenceSession(expanded.SerializeToString())
    (answer,) = session.run(None, {model.graph.input[0].name: inputs[0]})
    assert np.allclose(answer, outputs[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes_truenodeids": [9, 0, 0]}, "leads nowhere"),
        ({"nodes_modes": ["BRANCH_LIKE", "LEAF", "LEAF"]}, "BRANCH_LIKE"),
        ({"nodes_values": [0.0]}, "differ in length"),
        ({"target_ids": [0, 5]}, "no target"),
        ({"n_targets": 0}, "number of targets"),
    ],
)
def test_trees_that_are_none(
    changes: dict[str, Any], said: str, ml_model: Any, ml_node: Any
) -> None:
    options = {
        "n_targets": 1, "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0], "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0], "target_nodeids": [1, 2],
        "target_ids": [0, 0], "target_weights": [1.0, 2.0], **changes,
    }  # fmt: skip
    x = np.zeros((1, 1), dtype=np.float32)
    model = ml_model([ml_node("TreeEnsembleRegressor", ["x"], ["y"], **options)], {"x": x}, ["y"])
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        expand_ml_operators(model, where="test")
    assert "TreeEnsembleRegressor" in caught.value.what


def test_a_tree_in_a_circle(ml_model: Any, ml_node: Any) -> None:
    node = ml_node(
        "TreeEnsembleRegressor", ["x"], ["y"], n_targets=1, nodes_treeids=[0] * 3,
        nodes_nodeids=[0, 1, 2], nodes_featureids=[0] * 3, nodes_values=[0.0] * 3,
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"], nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 2, 0], target_treeids=[0], target_nodeids=[2], target_ids=[0],
        target_weights=[1.0],
    )  # fmt: skip
    model = ml_model([node], {"x": np.zeros((1, 1), dtype=np.float32)}, ["y"])
    with pytest.raises(UnsupportedModelError, match="back to where it came from"):
        expand_ml_operators(model, where="test")


def test_whole_numbers_and_doubles_as_inputs(check: Any, ml_model: Any, ml_node: Any) -> None:
    rng = np.random.default_rng(3)
    trees = random_trees(rng, 3, 3, ["BRANCH_LT"], missing=False)
    leaves = trees.pop("leaves")
    node = ml_node(
        "TreeEnsembleClassifier", ["x"], ["y", "z"], classlabels_int64s=[0, 1],
        class_treeids=[tree for tree, _ in leaves], class_nodeids=[node for _, node in leaves],
        class_ids=[0] * len(leaves), class_weights=rng.normal(size=len(leaves)).tolist(), **trees,
    )  # fmt: skip
    x = rng.integers(-3, 3, size=(40, FEATURES))
    for dtype in ("int64", "int32"):
        inputs = {"x": x.astype(dtype)}
        check(ml_model([node], inputs, ["y", "z"]), inputs)
    double = x.astype(np.float64)
    with pytest.raises(UnsupportedModelError, match="double"):
        expand_ml_operators(ml_model([node], {"x": double}, ["y", "z"]), where="test")
