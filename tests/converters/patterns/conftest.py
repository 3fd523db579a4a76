from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from edgekit_converters.normalise import settle_constants
from edgekit_converters.patterns import simplify

Arrays = Mapping[str, NDArray[Any]]


def settle(model: Any) -> Any:
    return settle_constants(model, "test")


def read(text: str, constants: Arrays | None = None, *, opset: int = 17) -> Any:
    """A model from ONNX's own notation: `inputs => outputs { nodes }`, "n" a free size."""
    graph = parser.parse_graph(f"test {text}")
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in (constants or {}).items()
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )
    onnx.checker.check_model(model)
    return settle(model)


def run(model: Any, inputs: Arrays) -> list[NDArray[Any]]:
    """What the engine computes without changes of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(inputs)))


def random_inputs(model: Any, free: int, *, low: float, high: float) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(7)
    arrays = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else free for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        arrays[value.name] = rng.uniform(low, high, shape).astype(dtype)
    return arrays


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def assert_same(
    before: Any, after: Any, *, low: float = -4.0, high: float = 4.0, tolerance: float = 1e-6
) -> None:
    """Both models answer alike, whatever the free size is."""
    for free in (1, 3):
        inputs = random_inputs(before, free, low=low, high=high)
        for expected, computed in zip(run(before, inputs), run(after, inputs), strict=True):
            assert computed.shape == expected.shape
            assert computed.dtype == expected.dtype
            scale = np.abs(expected).max(initial=1e-6)
            np.testing.assert_allclose(computed, expected, rtol=0, atol=tolerance * scale)


def simplified(model: Any, **options: Any) -> Any:
    """The model after all patterns; that it computes the same is asserted."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    result = simplify(copy, settle=settle)
    onnx.checker.check_model(result, full_check=True)
    assert [v.name for v in result.graph.input] == [v.name for v in model.graph.input]
    assert [v.name for v in result.graph.output] == [v.name for v in model.graph.output]
    assert_same(model, result, **options)
    return result


@pytest.fixture(name="left")
def _left() -> Callable[..., dict[str, int]]:
    """Which operators are left of a graph in ONNX's notation, as a count of each."""

    def left(
        text: str, constants: Arrays | None = None, *, opset: int = 17, **options: Any
    ) -> dict[str, int]:
        return dict(operators(simplified(read(text, constants, opset=opset), **options)))

    return left


@pytest.fixture(name="simplified")
def _simplified() -> Callable[..., Any]:
    """The simplified model of a graph in ONNX's notation."""

    def make(text: str, constants: Arrays | None = None, *, opset: int = 17, **options: Any) -> Any:
        return simplified(read(text, constants, opset=opset), **options)

    return make
