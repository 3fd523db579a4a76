"""The entry point: every operator of `ai.onnx.ml` in a model, replaced or refused."""

from __future__ import annotations

from typing import Any, Final

from edgekit_converters.ml_operators import (  # noqa: F401 - each registers its operators
    encoding,
    linear,
    scaling,
    svm,
    tree_classifier,
    tree_regressor,
)
from edgekit_converters.ml_operators.registry import (
    DOMAIN,
    CannotExpandError,
    Expansion,
    UnknownInputError,
    expander,
)
from edgekit_converters.onnx_graphs import opset_of, replace_nodes
from edgekit_runtime.errors import UnsupportedModelError

_OLDEST_OPSET: Final = 13
_REASONS: Final = {
    "CastMap": "it takes a dictionary, and there are only arrays",
    "CategoryMapper": "it maps texts, and there are only numbers",
    "DictVectorizer": "it takes a dictionary, and there are only arrays",
}


def expand_ml_operators(model: Any, *, where: str) -> Any:
    """Say every operator of `ai.onnx.ml` in ONNX's own operators.

    What is computed is what onnxruntime computes for the operator, to the order of additions;
    comparisons with thresholds are exact. A ZipMap gives way to the scores that it wraps.

    Args:
        model: An `onnx.ModelProto` of opset 13 or newer with static types; it is not changed.
        where: The model's path, for errors.

    Returns:
        A new model, or the same one where there is nothing to do. Shapes are to be inferred again.

    Raises:
        UnsupportedModelError: Naming every operator that has no such form, and why.
    """
    if not any(node.domain == DOMAIN for node in model.graph.node):
        return model
    import onnx

    expanded = onnx.ModelProto()
    expanded.CopyFrom(model)
    # Inference knows few of these operators: what follows one is known when that one is said.
    while True:
        reasons = _expand_known(onnx, expanded)
        if reasons is None:
            break
        if reasons:
            raise _refusal(reasons, where)
    kept = [opset for opset in expanded.opset_import if opset.domain != DOMAIN]
    versions = [opset.SerializeToString() for opset in kept]
    del expanded.opset_import[:]
    for version in versions:
        expanded.opset_import.add().MergeFromString(version)
    if not versions:
        expanded.opset_import.add(domain="", version=_OLDEST_OPSET)
    return expanded


def _expand_known(onnx: Any, model: Any) -> list[str] | None:
    """Replace every operator whose inputs are known.

    Returns:
        None when there are none left; an empty list after progress; else why not, a reason for
        each operator that is left.
    """
    graph = model.graph
    types, ranks = _known(onnx, model)
    opset = opset_of(model) or _OLDEST_OPSET
    nodes: list[Any] = []
    refused: list[str] = []
    waiting: list[str] = []
    progress = False
    for node in graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        if node.op_type == "ZipMap":
            nodes.append(_without_map(onnx, graph, node, types))
            progress = True
            continue
        expand = expander(node.op_type)
        expansion = Expansion(node, types, ranks, opset)
        named = f"{node.name or next(filter(None, node.output), node.op_type)} ({node.op_type})"
        try:
            if expand is None:
                refused.append(f"{named}: {_REASONS.get(node.op_type, 'it is not known')}")
                nodes.append(node)
                continue
            expand(expansion)
        except UnknownInputError as error:
            waiting.append(f"{named}: {error}")
            nodes.append(node)
        except CannotExpandError as error:
            refused.append(f"{named}: {error}")
            nodes.append(node)
        else:
            progress = True
            nodes += expansion.nodes
            graph.initializer.extend(expansion.constants)
    replace_nodes(graph, nodes)
    del graph.value_info[:]
    if not refused and not waiting:
        return None
    return [] if progress else refused or waiting


def _refusal(reasons: list[str], where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "LiteRT has no form of these operators of classical machine learning: "
        + "; ".join(reasons),
        where=where,
        fix="convert with --to onnx; for LiteRT, take that part out of the model and leave it to "
        "the program that uses it",
    )


def _known(onnx: Any, model: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Element types and numbers of axes of all values, as far as inference can tell."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types = {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    ranks = {tensor.name: len(tensor.dims) for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type:
            types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            ranks[value.name] = len(kind.shape.dim)
    return types, ranks


def _without_map(onnx: Any, graph: Any, node: Any, types: dict[str, int]) -> Any:
    """An Identity in a ZipMap's place, and an array in the place of its output."""
    for output in graph.output:
        if output.name == node.output[0]:
            columns = len(node.attribute[0].ints) or len(node.attribute[0].strings)
            kind = types.get(node.input[0], onnx.TensorProto.FLOAT)
            output.CopyFrom(
                onnx.helper.make_tensor_value_info(output.name, kind, ["batch", columns])
            )
    return onnx.helper.make_node(
        "Identity", [node.input[0]], [node.output[0]], name=node.name or node.output[0]
    )
