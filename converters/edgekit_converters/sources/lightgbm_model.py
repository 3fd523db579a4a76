"""LightGBM: its own text file, read by LightGBM, its trees said in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.sources.boosted_trees import (
    INPUT,
    LABEL,
    PROBABILITIES,
    BoostedTrees,
    Link,
    Split,
    Tree,
    floor32,
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

# https://lightgbm.readthedocs.io/en/stable/Parameters.html#objective
_LINKS: Final = {
    "regression": Link.IDENTITY,
    "regression_l1": Link.IDENTITY,
    "huber": Link.IDENTITY,
    "fair": Link.IDENTITY,
    "quantile": Link.IDENTITY,
    "mape": Link.IDENTITY,
    "poisson": Link.EXP,
    "gamma": Link.EXP,
    "tweedie": Link.EXP,
    "binary": Link.SIGMOID,
    "multiclass": Link.SOFTMAX,
    "multiclassova": Link.SIGMOID,
    "cross_entropy": Link.SIGMOID,
    "cross_entropy_lambda": Link.SOFTPLUS,
    "lambdarank": Link.IDENTITY,
    "rank_xendcg": Link.IDENTITY,
}
_CLASSIFIERS: Final = frozenset({"binary", "multiclass", "multiclassova"})
# LightGBM calls everything between -1e-35 and 1e-35 zero.
_ZERO: Final = 1e-35


def import_lightgbm_file(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load a model that LightGBM saved.

    Raises:
        UnsupportedModelError: If it is damaged, or has an objective or trees that are not known.
        EnvironmentLackError: If the extra `lightgbm` is not installed.
    """
    del options
    progress("loading LightGBM")
    lightgbm: Any = require("lightgbm", extra="lightgbm")
    try:
        with quiet():
            # By its text: the file's name may have letters that LightGBM cannot open.
            booster = lightgbm.Booster(model_str=source.read_text(encoding="utf-8"))
            # It reads numbers that are none, and writes them so that nobody can read them.
            booster.dump_model()
    except Exception as error:
        raise UnsupportedModelError(
            f"LightGBM cannot load this model: {one_line(error)}",
            where=str(source),
            fix="it may be damaged: save it again with booster.save_model('model.txt')",
        ) from error
    return import_booster(lightgbm, booster, where=str(source), progress=progress)


def import_booster(
    lightgbm: Any,
    booster: Any,
    *,
    where: str,
    progress: Progress,
    classes: Sequence[int | str] | None = None,
) -> ImportedModel:
    """Say a booster in ONNX.

    Args:
        lightgbm: The package.
        booster: With the trees that are to be used: all up to its best iteration.
        where: The source, for errors.
        progress: Told each step.
        classes: The labels, where they are not 0, 1, ...
    """
    require("onnx", extra="convert")
    progress("reading the trees")
    dump = booster.dump_model()
    objective, *settings = str(dump.get("objective", "")).split()
    link = link_of(objective, _LINKS, where=where)
    if "sqrt" in settings:
        link = Link.SIGNED_SQUARE
    scale = next((float(s[8:]) for s in settings if s.startswith("sigmoid:")), 1.0)
    targets = int(dump["num_tree_per_iteration"])
    labels: tuple[int | str, ...] = ()
    if objective in _CLASSIFIERS:
        labels = tuple(classes) if classes else tuple(range(max(targets, 2)))
    trees = tuple(
        Tree(nodes=_nodes(info["tree_structure"], where), target=number % targets)
        for number, info in enumerate(dump["tree_info"])
    )
    average = bool(dump.get("average_output", False))
    model = trees_to_onnx(
        BoostedTrees(
            # The operator's mean is over all trees; each class has its share of them.
            trees=_scaled(trees, targets) if average and targets > 1 else trees,
            features=int(dump["max_feature_idx"]) + 1,
            targets=targets,
            base=(0.0,) * targets,
            average=average,
            link=link,
            scale=scale if objective in {"binary", "multiclassova"} else 1.0,
            classes=labels,
            toward_zero=True,
        )
    )
    inputs, outputs = specs_of(model)
    return ImportedModel(
        model=model,
        reference=ReferenceSession(
            inputs=inputs,
            outputs=outputs,
            runtime=RuntimeInfo(name="lightgbm", version=str(lightgbm.__version__), threads=1),
            predict=_predictor(booster, labels),
            where=where,
        ),
        exporter="edgekit's reader of LightGBM",
        decision=Decision(label=LABEL, scores=PROBABILITIES, classes=labels) if labels else None,
    )


def _predictor(booster: Any, classes: tuple[int | str, ...]) -> Any:
    def predict(inputs: Mapping[str, NDArray[np.generic]]) -> list[NDArray[Any]]:
        with quiet():
            answer = np.asarray(booster.predict(inputs[INPUT]))
        if not classes:
            return [answer]
        probabilities = answer if answer.ndim > 1 else np.stack([1 - answer, answer], axis=1)
        return [np.array(classes)[probabilities.argmax(axis=1)], probabilities]

    return predict


def _scaled(trees: tuple[Tree, ...], factor: int) -> tuple[Tree, ...]:
    return tuple(
        Tree(
            nodes=tuple(n if isinstance(n, Split) else n * factor for n in tree.nodes),
            target=tree.target,
        )
        for tree in trees
    )


def _nodes(root: Mapping[str, Any], where: str) -> tuple[Split | float, ...]:
    """Number a tree's nodes, the root first; without recursion, for a tree may be a long chain."""
    order: list[Mapping[str, Any]] = [root]
    children: list[tuple[int, int]] = []
    for node in order:
        if "split_feature" in node:
            children.append((len(order), len(order) + 1))
            order += [node["left_child"], node["right_child"]]
        else:
            children.append((0, 0))
    return tuple(_node(node, *places, where) for node, places in zip(order, children, strict=True))


def _node(node: Mapping[str, Any], left: int, right: int, where: str) -> Split | float:
    if "split_feature" not in node:
        if node.get("leaf_coeff"):
            raise UnsupportedModelError(
                "its leaves hold linear models (linear_tree)",
                where=where,
                fix="train it with linear_tree=False",
            )
        return float(node["leaf_value"])
    feature, missing = int(node["split_feature"]), str(node["missing_type"])
    default_left = bool(node["default_left"])
    if node["decision_type"] == "==":
        members = tuple(float(text) for text in str(node["threshold"]).split("||"))
        return Split(
            feature=feature, threshold=0.0, mode="BRANCH_MEMBER", members=members,
            nan_is_true=False, if_true=left, if_false=right,
        )  # fmt: skip
    threshold = float(node["threshold"])
    if missing == "Zero" and default_left != (threshold >= _ZERO) and abs(threshold) != _ZERO:
        raise UnsupportedModelError(
            f"zeros of column {feature} count as missing (zero_as_missing)",
            where=where,
            fix="train it with zero_as_missing=False, and NaN for what is missing",
        )
    # Without a rule for missing values NaN counts as zero.
    nan_is_true = threshold >= 0.0 if missing == "None" else default_left
    return Split(
        feature=feature, threshold=floor32(threshold), mode="BRANCH_LEQ",
        nan_is_true=nan_is_true, if_true=left, if_false=right,
    )  # fmt: skip
