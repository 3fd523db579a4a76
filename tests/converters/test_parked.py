"""What is parked comes back as it was, as often as it is asked for."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.parked import Parked, ParkedModel


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    weights = [
        numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "plain"),
        numpy_helper.from_array(np.array(["a", "b"]), "texts"),
        helper.make_tensor("typed", TensorProto.INT64, [2], [1, -1]),
        helper.make_tensor("none", TensorProto.FLOAT, [0], []),
    ]
    node = helper.make_node("Identity", ["plain"], ["y"], name="n", doc_string="why")
    graph = helper.make_graph(
        [node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])], weights
    )
    model = helper.make_model(graph, producer_name="p", functions=[])
    helper.set_model_props(model, {"key": "value"})
    before = model.SerializeToString(deterministic=True)
    parked = ParkedModel(model, tmp_path / "model")
    for _ in range(2):
        assert parked.load().SerializeToString(deterministic=True) == before


def test_arrays_that_are_shared_stay_shared(tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3).T
    first, second = Parked((array, array), tmp_path / "arrays").load()
    assert first is second
    np.testing.assert_array_equal(first, array)
