"""XGBoost: its own JSON or UBJSON file, read by XGBoost, its trees said in ONNX."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.sources.boosted_trees import (
    INPUT,
    LABEL,
    PREDICTION,
    PROBABILITIES,
    BoostedTrees,
    Link,
    Split,
    Tree,
    finished,
    link_of,
    trees_to_onnx,
)
from edgekit_converters.sources.decision import Decision
from edgekit_converters.sources.imported import (
    ImportedModel,
    Progress,
    ReferenceSession,
    specs_of,
)
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line, quiet
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.session import RuntimeInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

# https://xgboost.readthedocs.io/en/stable/parameter.html#learning-task-parameters
_LINKS: Final = {
    "binary:logistic": Link.SIGMOID,
    "binary:logitraw": Link.IDENTITY,
    "binary:hinge": Link.POSITIVE,
    "multi:softprob": Link.SOFTMAX,
    "multi:softmax": Link.SOFTMAX,
    "reg:squarederror": Link.IDENTITY,
    "reg:squaredlogerror": Link.IDENTITY,
    "reg:pseudohubererror": Link.IDENTITY,
    "reg:absoluteerror": Link.IDENTITY,
    "reg:quantileerror": Link.IDENTITY,
    "reg:logistic": Link.SIGMOID,
    "reg:gamma": Link.EXP,
    "reg:tweedie": Link.EXP,
    "count:poisson": Link.EXP,
    "survival:cox": Link.EXP,
    "survival:aft": Link.EXP,
    "rank:ndcg": Link.IDENTITY,
    "rank:map": Link.IDENTITY,
    "rank:pairwise": Link.IDENTITY,
}
_CLASSIFIERS: Final = frozenset({"binary:logistic", "multi:softprob", "multi:softmax"})
_CATEGORICAL: Final = 1


def import_xgboost_file(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load a model that XGBoost saved.

    Raises:
        UnsupportedModelError: If it is damaged, or has an objective or trees that are not known.
        EnvironmentLackError: If the extra `xgboost` is not installed.
    """
    del options
    progress("loading XGBoost")
    xgboost: Any = require("xgboost", extra="xgboost")
    booster = xgboost.Booster()
    try:
        with quiet():
            booster.load_model(str(source))
    except Exception as error:
        raise UnsupportedModelError(
            f"XGBoost cannot load this model: {one_line(error)}",
            where=str(source),
            fix="it may be damaged, or saved by a newer XGBoost: save it again with "
            "booster.save_model('model.ubj'), or update xgboost",
        ) from error
    return import_booster(xgboost, booster, where=str(source), progress=progress)


def import_booster(
    xgboost: Any,
    booster: Any,
    *,
    where: str,
    progress: Progress,
    classes: Sequence[int | str] | None = None,
) -> ImportedModel:
    """Say a booster in ONNX.

    Args:
        xgboost: The package.
        booster: With the trees that are to be used.
        where: The source, for errors.
        progress: Told each step.
        classes: The labels, where they are not 0, 1, ...
    """
    require("onnx", extra="convert")
    progress("reading the trees")
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = str(learner["objective"]["name"])
    link = link_of(objective, _LINKS, where=where)
    targets = _targets(learner)
    labels: tuple[int | str, ...] = ()
    if objective in _CLASSIFIERS:
        labels = tuple(classes) if classes else tuple(range(max(targets, 2)))
    parts = learner["gradient_booster"]
    base = _base(learner, targets, link)
    if parts["name"] == "gblinear":
        model = _linear_to_onnx(parts, learner, base, link, labels, where)
    else:
        model = trees_to_onnx(
            BoostedTrees(
                trees=_trees(parts, where),
                features=int(learner["learner_model_param"]["num_feature"]),
                targets=targets,
                base=base,
                link=link,
                classes=labels,
            )
        )
    inputs, outputs = specs_of(model)
    return ImportedModel(
        model=model,
        reference=ReferenceSession(
            inputs=inputs,
            outputs=outputs,
            runtime=RuntimeInfo(name="xgboost", version=str(xgboost.__version__), threads=1),
            predict=_predictor(xgboost, booster, objective, labels),
            where=where,
        ),
        exporter="edgekit's reader of XGBoost",
        decision=Decision(label=LABEL, scores=PROBABILITIES, classes=labels) if labels else None,
    )


def _predictor(xgboost: Any, booster: Any, objective: str, classes: tuple[int | str, ...]) -> Any:
    def predict(inputs: Mapping[str, NDArray[np.generic]]) -> list[NDArray[Any]]:
        with quiet():
            rows = xgboost.DMatrix(inputs[INPUT])
            answer = np.asarray(booster.predict(rows, validate_features=False))
            if not classes:
                return [answer]
            if objective == "multi:softmax":
                margins = booster.predict(rows, validate_features=False, output_margin=True)
                scores = np.exp(margins - margins.max(axis=1, keepdims=True))
                probabilities = scores / scores.sum(axis=1, keepdims=True)
                positions = answer.astype(np.int64)
            elif objective == "multi:softprob":
                probabilities, positions = answer, answer.argmax(axis=1)
            else:
                probabilities = np.stack([1 - answer, answer], axis=1)
                positions = probabilities.argmax(axis=1)
        return [np.array(classes)[positions], probabilities]

    return predict


def _targets(learner: Mapping[str, Any]) -> int:
    sizes = learner["learner_model_param"]
    return max(int(sizes["num_class"]), int(sizes.get("num_target", 1)), 1)


def _base(learner: Mapping[str, Any], targets: int, link: Link) -> tuple[float, ...]:
    """What the sums start from: the model's base score, before the link is applied."""
    text = str(learner["learner_model_param"]["base_score"])
    found = json.loads(text) if text.startswith("[") else [float(text)]
    values = [float(value) for value in found]
    if link is Link.SIGMOID:
        values = [math.log(value / (1 - value)) for value in values]
    elif link is Link.EXP:
        values = [math.log(value) for value in values]
    return tuple(values * targets if len(values) == 1 else values)


def _trees(parts: Mapping[str, Any], where: str) -> tuple[Tree, ...]:
    dart = parts["name"] == "dart"
    model = parts["gbtree"]["model"] if dart else parts["model"]
    weights = parts["weight_drop"] if dart else [1.0] * len(model["trees"])
    return tuple(
        Tree(nodes=_nodes(tree, float(weight), where), target=int(target))
        for tree, target, weight in zip(model["trees"], model["tree_info"], weights, strict=True)
    )


def _nodes(tree: Mapping[str, Any], weight: float, where: str) -> tuple[Split | float, ...]:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise UnsupportedModelError(
            "its trees have a vector in each leaf (multi_strategy='multi_output_tree')",
            where=where,
            fix="train it with multi_strategy='one_output_per_tree'",
        )
    members = {
        int(node): tree["categories"][start : start + size]
        for node, start, size in zip(
            tree["categories_nodes"],
            tree["categories_segments"],
            tree["categories_sizes"],
            strict=True,
        )
    }
    nodes: list[Split | float] = []
    for number, left in enumerate(tree["left_children"]):
        right = int(tree["right_children"][number])
        value = float(np.float32(tree["split_conditions"][number]))
        default_left = bool(tree["default_left"][number])
        feature = int(tree["split_indices"][number])
        if left < 0:
            nodes.append(float(np.float32(value) * np.float32(weight)))
        elif int(tree["split_type"][number]) == _CATEGORICAL:
            # The listed categories go to the right.
            nodes.append(
                Split(
                    feature=feature,
                    threshold=0.0,
                    mode="BRANCH_MEMBER",
                    members=tuple(float(value) for value in members.get(number, ())),
                    nan_is_true=not default_left,
                    if_true=right,
                    if_false=int(left),
                )
            )
        else:
            nodes.append(
                Split(
                    feature=feature,
                    threshold=value,
                    mode="BRANCH_LT",
                    nan_is_true=default_left,
                    if_true=int(left),
                    if_false=right,
                )
            )
    return tuple(nodes)


def _linear_to_onnx(
    parts: Mapping[str, Any],
    learner: Mapping[str, Any],
    base: tuple[float, ...],
    link: Link,
    classes: tuple[int | str, ...],
    where: str,
) -> Any:
    """A linear booster: one weight a column and a bias, missing values counting as zero."""
    from onnx import TensorProto, helper

    if link not in {Link.IDENTITY, Link.EXP} or classes:
        raise UnsupportedModelError(
            "a linear booster is read for regression alone",
            where=where,
            fix="train sklearn.linear_model.LogisticRegression for the same kind of model",
        )
    features = int(learner["learner_model_param"]["num_feature"])
    weights = np.array(parts["model"]["weights"], dtype=np.float32).reshape(features + 1, -1)
    constants: dict[str, NDArray[Any]] = {
        "weights": weights[:-1],
        "bias": (weights[-1] + np.array(base, dtype=np.float32)).astype(np.float32),
        "zero": np.zeros(1, dtype=np.float32),
    }
    nodes = [
        helper.make_node("IsNaN", [INPUT], ["missing"], name="missing"),
        helper.make_node("Where", ["missing", "zero", INPUT], ["known"], name="known"),
        helper.make_node("Gemm", ["known", "weights", "bias"], ["sums"], name="sums"),
        helper.make_node(
            "Exp" if link is Link.EXP else "Identity", ["sums"], [PREDICTION], name=PREDICTION
        ),
    ]
    return finished(
        nodes,
        constants,
        outputs=[(PREDICTION, weights.shape[1])],
        features=features,
        ml_version=3,
        label_type=TensorProto.INT64,
    )
