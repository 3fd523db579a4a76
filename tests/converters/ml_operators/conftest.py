from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.ml_operators import expand_ml_operators
from edgekit_converters.ml_operators.registry import DOMAIN

Arrays = Mapping[str, NDArray[Any]]


def ml_model(
    nodes: Sequence[Any],
    inputs: Arrays,
    outputs: Sequence[str],
    constants: Arrays | None = None,
    *,
    ml_version: int = 3,
    opset: int = 18,
) -> Any:
    """A model of `ai.onnx.ml` nodes whose inputs have the types and columns of arrays."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), ["n", *array.shape[1:]]
            )
            for name, array in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, ml_version)],
        ir_version=8,
    )


def run(model: Any, inputs: Arrays) -> list[NDArray[Any]]:
    """What onnxruntime answers, on one thread: the order of additions is then the same."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    answer: list[NDArray[Any]] = session.run(None, dict(inputs))
    return answer


def check(model: Any, inputs: Arrays, *, tolerance: float = 1e-6) -> Any:
    """Expand a model, and compare it with itself; returns the expanded model."""
    expanded = expand_ml_operators(model, where="test")
    assert {node.domain for node in expanded.graph.node} <= {""}
    assert {opset.domain for opset in expanded.opset_import} == {""}
    for expected, computed in zip(run(model, inputs), run(expanded, inputs), strict=True):
        assert computed.shape == expected.shape
        assert computed.dtype == expected.dtype
        if expected.dtype.kind == "f":
            finite = np.isfinite(expected)
            assert (np.isfinite(computed) == finite).all()
            scale = np.abs(expected[finite]).max(initial=1e-6)
            assert np.abs(expected - computed)[finite].max(initial=0) <= tolerance * scale
        else:
            assert (expected == computed).all()
    return expanded


@pytest.fixture(name="ml_model")
def _ml_model() -> Callable[..., Any]:
    return ml_model


@pytest.fixture(name="check")
def _check() -> Callable[..., Any]:
    return check


def make_ml_node(op: str, inputs: Sequence[str], outputs: Sequence[str], **options: Any) -> Any:
    """A node of `ai.onnx.ml`."""
    return helper.make_node(op, list(inputs), list(outputs), domain=DOMAIN, **options)


@pytest.fixture(name="ml_node")
def _ml_node() -> Callable[..., Any]:
    return make_ml_node


FLOAT = TensorProto.FLOAT
