"""What a node computes: by onnxruntime, or by ONNX's own reference where that has no kernel."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


class Unfit(Exception):  # noqa: N818 - nothing went wrong, the next step is tried
    """A step that cannot be taken from here."""


def compute(
    node: Any, opset: int, constants: Mapping[str, Array], feeds: Sequence[Mapping[str, Array]]
) -> list[list[Array]]:
    """The outputs of one node for each set of inputs.

    Raises:
        Unfit: If the node is not valid for these inputs.
    """
    model = _model_of(node, opset, constants, feeds[0])
    try:
        session = _session(model)
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error) or "NotImplemented" in type(error).__name__:
            return [_by_reference(model, feed) for feed in feeds]
        raise Unfit(str(error)) from error
    try:
        return [list(session.run(list(node.output), dict(feed))) for feed in feeds]
    except Exception as error:
        raise Unfit(str(error)) from error


def run_reference(model: Any, feed: Mapping[str, Array]) -> list[Array]:
    """The outputs of a model by ONNX's reference."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, dict(feed))]


def run_onnxruntime(model: Any, feed: Mapping[str, Array]) -> list[Array]:
    """The outputs of a model by onnxruntime without optimisations."""
    nameless = type(model)()
    nameless.CopyFrom(model)
    for node in nameless.graph.node:
        # It takes no two nodes of one name.
        node.name = ""
    return list(_session(nameless).run(None, dict(feed)))


def _by_reference(model: Any, feed: Mapping[str, Array]) -> list[Array]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        results = run_reference(model, feed)
    except Exception as error:
        raise Unfit(str(error)) from error
    for value, array in zip(inferred.graph.output, results, strict=True):
        wanted = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if array.dtype != wanted:
            raise Unfit("the reference gives another type than the definition")
    return results


def _model_of(
    node: Any, opset: int, constants: Mapping[str, Array], feed: Mapping[str, Array]
) -> Any:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in feed.items()
    ]
    graph = helper.make_graph(
        [node],
        "node",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
