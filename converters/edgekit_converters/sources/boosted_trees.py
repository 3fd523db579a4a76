"""Say boosted trees in ONNX: one TreeEnsemble for the sums, standard operators for the rest.

The readers of XGBoost and LightGBM bring their trees into the form below; what is written here is
the same for both. Thresholds are float32, as the input is: a reader rounds its own towards the side
that keeps every comparison of a float32 exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUT: Final = "features"
LABEL: Final = "label"
PROBABILITIES: Final = "probabilities"
PREDICTION: Final = "prediction"
OPSET: Final = 18
_IR_VERSION: Final = 8
_SUMS: Final = "sums"
_COLUMNS: Final = "columns"
# TreeEnsemble of ai.onnx.ml 5: the codes of its modes, and of no transformation at the end.
_MODES: Final = {"BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_MEMBER": 6}


class Link(StrEnum):
    """What turns the trees' sum into the prediction."""

    IDENTITY = "identity"
    SIGMOID = "sigmoid"
    EXP = "exp"
    SOFTMAX = "softmax"
    POSITIVE = "positive"
    SIGNED_SQUARE = "signed-square"
    SOFTPLUS = "softplus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A node that asks a question.

    Attributes:
        feature: The column that is looked at.
        threshold: A float32 value; unused with `members`.
        mode: "BRANCH_LT", "BRANCH_LEQ" or "BRANCH_MEMBER".
        members: For "BRANCH_MEMBER": the values that lead to `if_true`.
        nan_is_true: Where a missing value goes.
        if_true: The position of the next node in its tree.
        if_false: The same for the other answer.
    """

    feature: int
    threshold: float
    mode: str
    members: tuple[float, ...] = ()
    nan_is_true: bool
    if_true: int
    if_false: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A tree: its nodes, the root first, a leaf being its value; and the sum that it adds to."""

    nodes: tuple[Split | float, ...]
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostedTrees:
    """A whole model.

    Attributes:
        trees: At least one.
        features: How many columns the input has.
        targets: How many sums there are: one, or one a class.
        base: What each sum starts from.
        average: Whether the trees' mean is meant instead of their sum.
        link: What follows the sum.
        scale: What the sum is multiplied with before the link.
        classes: For a classifier, its labels; with one sum there are two.
        toward_zero: How a category that is no whole number is read: without its fraction, instead
            of as the next lower whole number.
    """

    trees: tuple[Tree, ...]
    features: int
    targets: int
    base: tuple[float, ...]
    average: bool = False
    link: Link
    scale: float = 1.0
    classes: tuple[int | str, ...] = ()
    toward_zero: bool = False


def trees_to_onnx(model: BoostedTrees) -> Any:
    """The model as an `onnx.ModelProto`.

    A classifier gives `label` (n) and `probabilities` (n, classes); anything else `prediction`
    (n, targets). The input is `features`, float32 (n, features).
    """
    from onnx import TensorProto, helper

    categorical = {
        node.feature
        for tree in model.trees
        for node in tree.nodes
        if isinstance(node, Split) and node.mode == "BRANCH_MEMBER"
    }
    plain = not categorical
    constants: dict[str, NDArray[Any]] = {}
    nodes = [_regressor(model)] if plain else _whole(model, categorical, constants)
    sums = _SUMS
    base = np.array(model.base, dtype=np.float32)
    if base.any() and (model.average or not plain):
        constants["base"] = base
        nodes.append(helper.make_node("Add", [sums, "base"], [f"{sums}/based"], name="base"))
        sums = f"{sums}/based"
    if model.scale != 1.0:
        constants["scale"] = np.array([model.scale], dtype=np.float32)
        nodes.append(helper.make_node("Mul", [sums, "scale"], [f"{sums}/scaled"], name="scale"))
        sums = f"{sums}/scaled"
    nodes += _linked(model, sums, constants)
    return finished(
        nodes,
        constants,
        outputs=_outputs(model),
        features=model.features,
        ml_version=3 if plain else 5,
        label_type=TensorProto.STRING
        if any(isinstance(name, str) for name in model.classes)
        else TensorProto.INT64,
    )


def finished(
    nodes: Sequence[Any],
    constants: dict[str, NDArray[Any]],
    *,
    outputs: Sequence[tuple[str, int | None]],
    features: int,
    ml_version: int,
    label_type: int,
) -> Any:
    """A model of nodes from `features` to outputs, each with how many columns it has."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        list(nodes),
        "boosted_trees",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", features])],
        [
            helper.make_tensor_value_info(name, label_type, ["batch"])
            if columns is None
            else helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", columns])
            for name, columns in outputs
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", OPSET),
            helper.make_opsetid("ai.onnx.ml", ml_version),
        ],
        ir_version=_IR_VERSION,
        producer_name="edgekit",
    )


def link_of(objective: str, links: Mapping[str, Link], *, where: str) -> Link:
    """What a library's objective makes of the trees' sum.

    Raises:
        UnsupportedModelError: If it is none of those known.
    """
    link = links.get(objective)
    if link is None:
        raise UnsupportedModelError(
            f"the objective {objective!r} is not known: what it makes of the trees' sum cannot be "
            "said",
            where=where,
            fix=f"known are {', '.join(links)}",
        )
    return link


def floor32(value: float) -> float:
    """The largest float32 that is not above a value: no float32 lies between the two."""
    nearest = np.float32(value)
    if float(nearest) > value:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def _outputs(model: BoostedTrees) -> list[tuple[str, int | None]]:
    if model.classes:
        return [(LABEL, None), (PROBABILITIES, len(model.classes))]
    return [(PREDICTION, model.targets)]


def _linked(model: BoostedTrees, sums: str, constants: dict[str, NDArray[Any]]) -> list[Any]:
    from onnx import TensorProto, helper

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, [output], name=output, **attributes)

    linked = PROBABILITIES if model.classes else PREDICTION
    single = bool(model.classes) and model.targets == 1
    target = "positive" if single else linked
    if model.link is Link.POSITIVE:
        constants["zero"] = np.zeros(1, dtype=np.float32)
        nodes = [
            node("Greater", [sums, "zero"], "above"),
            node("Cast", ["above"], target, to=TensorProto.FLOAT),
        ]
    elif model.link is Link.SIGNED_SQUARE:
        nodes = [node("Abs", [sums], "size"), node("Mul", [sums, "size"], target)]
    elif model.link is Link.SOFTMAX:
        nodes = [node("Softmax", [sums], target, axis=-1)]
    else:
        op = {"sigmoid": "Sigmoid", "exp": "Exp", "softplus": "Softplus"}.get(model.link)
        nodes = [node(op or "Identity", [sums], target)]
    if single:
        constants["one"] = np.ones(1, dtype=np.float32)
        nodes += [
            node("Sub", ["one", target], "negative"),
            node("Concat", ["negative", target], linked, axis=1),
        ]
    if model.classes:
        named = model.classes != tuple(range(len(model.classes)))
        best = "position" if named else LABEL
        nodes.append(node("ArgMax", [linked], best, axis=1, keepdims=0))
        if named:
            constants["classes"] = np.array(model.classes)
            nodes.append(node("Gather", ["classes", best], LABEL))
    return nodes


def _regressor(model: BoostedTrees) -> Any:
    from onnx import helper

    columns: dict[str, list[Any]] = {
        "nodes_treeids": [], "nodes_nodeids": [], "nodes_featureids": [], "nodes_values": [],
        "nodes_modes": [], "nodes_truenodeids": [], "nodes_falsenodeids": [],
        "nodes_missing_value_tracks_true": [], "target_treeids": [], "target_nodeids": [],
        "target_ids": [], "target_weights": [],
    }  # fmt: skip
    for number, tree in enumerate(model.trees):
        for position, item in enumerate(tree.nodes):
            split = item if isinstance(item, Split) else None
            row = (
                (split.feature, split.threshold, split.mode, split.if_true, split.if_false)
                if split
                else (0, 0.0, "LEAF", 0, 0)
            )
            names = ("featureids", "values", "modes", "truenodeids", "falsenodeids")
            for name, value in zip(names, row, strict=True):
                columns[f"nodes_{name}"].append(value)
            columns["nodes_treeids"].append(number)
            columns["nodes_nodeids"].append(position)
            columns["nodes_missing_value_tracks_true"].append(
                int(bool(split and split.nan_is_true))
            )
            if not isinstance(item, Split):
                columns["target_treeids"].append(number)
                columns["target_nodeids"].append(position)
                columns["target_ids"].append(tree.target)
                columns["target_weights"].append(item)
    attributes: dict[str, Any] = dict(columns)
    if any(model.base) and not model.average:
        attributes["base_values"] = [float(value) for value in model.base]
    return helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [_SUMS],
        name="trees",
        domain="ai.onnx.ml",
        n_targets=model.targets,
        aggregate_function="AVERAGE" if model.average else "SUM",
        post_transform="NONE",
        **attributes,
    )


def _whole(
    model: BoostedTrees, categorical: set[int], constants: dict[str, NDArray[Any]]
) -> list[Any]:
    """The trees behind what reads the columns of categories as whole numbers."""
    from onnx import helper

    constants["categorical"] = np.isin(np.arange(model.features), list(categorical))
    steps = (
        [("Abs", INPUT, "size"), ("Floor", "size", "whole"), ("Sign", INPUT, "sign")]
        if model.toward_zero
        else [("Floor", INPUT, "categories")]
    )
    nodes = [helper.make_node(op, [given], [made], name=made) for op, given, made in steps]
    if model.toward_zero:
        nodes.append(helper.make_node("Mul", ["sign", "whole"], ["categories"], name="categories"))
    nodes.append(
        helper.make_node("Where", ["categorical", "categories", INPUT], [_COLUMNS], name=_COLUMNS)
    )
    return [*nodes, _ensemble(model)]


def _ensemble(model: BoostedTrees) -> Any:
    """The operator that knows sets of values; its branches and leaves are numbered apart."""
    from onnx import helper, numpy_helper

    table = _EnsembleTable()
    for tree in model.trees:
        table.add(tree)
    members = np.array(table.members, dtype=np.float32)
    tensors: dict[str, NDArray[Any]] = {
        "nodes_modes": np.array(table.modes, dtype=np.uint8),
        "nodes_splits": np.array(table.splits, dtype=np.float32),
        "leaf_weights": np.array(table.weights, dtype=np.float32),
        "membership_values": members,
    }
    attributes: dict[str, Any] = {
        name: numpy_helper.from_array(array, name) for name, array in tensors.items()
    }
    return helper.make_node(
        "TreeEnsemble",
        [_COLUMNS],
        [_SUMS],
        name="trees",
        domain="ai.onnx.ml",
        n_targets=model.targets,
        aggregate_function=0 if model.average else 1,
        post_transform=0,
        tree_roots=table.roots,
        nodes_featureids=table.features,
        nodes_truenodeids=table.if_true,
        nodes_falsenodeids=table.if_false,
        nodes_trueleafs=table.true_is_leaf,
        nodes_falseleafs=table.false_is_leaf,
        nodes_missing_value_tracks_true=table.missing,
        leaf_targetids=table.targets,
        **attributes,
    )


class _EnsembleTable:
    """The columns of a TreeEnsemble, filled tree by tree."""

    def __init__(self) -> None:
        self.roots: list[int] = []
        self.features: list[int] = []
        self.modes: list[int] = []
        self.splits: list[float] = []
        self.members: list[float] = []
        self.if_true: list[int] = []
        self.if_false: list[int] = []
        self.true_is_leaf: list[int] = []
        self.false_is_leaf: list[int] = []
        self.missing: list[int] = []
        self.weights: list[float] = []
        self.targets: list[int] = []

    def add(self, tree: Tree) -> None:
        nodes = tree.nodes
        if not isinstance(nodes[0], Split):
            # A tree that is one leaf: the operator wants a question before it.
            asked = Split(
                feature=0, threshold=0.0, mode="BRANCH_LEQ", nan_is_true=True, if_true=1, if_false=1
            )
            nodes = (asked, nodes[0])
        place: dict[int, int] = {}
        leaves, splits = len(self.weights), len(self.features)
        for position, node in enumerate(nodes):
            if isinstance(node, Split):
                place[position] = splits
                splits += 1
            else:
                place[position] = leaves
                leaves += 1
                self.weights.append(node)
                self.targets.append(tree.target)
        self.roots.append(place[0])
        for node in nodes:
            if not isinstance(node, Split):
                continue
            self.features.append(node.feature)
            self.modes.append(_MODES[node.mode])
            self.splits.append(node.threshold)
            if node.mode == "BRANCH_MEMBER":
                self.members += [*node.members, float("nan")]
            self.if_true.append(place[node.if_true])
            self.if_false.append(place[node.if_false])
            self.true_is_leaf.append(int(not isinstance(nodes[node.if_true], Split)))
            self.false_is_leaf.append(int(not isinstance(nodes[node.if_false], Split)))
            self.missing.append(int(node.nan_is_true))
