"""What is seen inside a model, beside the values that the engine gives when asked for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.normalise import normalise
from edgekit_converters.ranges import RangeMethod, RangeStatistics, collect_ranges
from edgekit_runtime.errors import UnsupportedModelError, UsageError

MakeModel = Callable[..., Any]
node = helper.make_node


def inferred(model: Any) -> Any:
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def batches(count: int, size: int, *shape: int, name: str = "image") -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(5)
    for _ in range(count):
        yield {name: rng.normal(size=(size, *shape)).astype(np.float32)}


def values_of(model: Any, names: list[str], data: list[dict[str, Any]]) -> dict[str, Any]:
    """The values themselves, every batch behind the other."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    for name in names:
        asked.graph.output.add().name = name
    session = onnxruntime.InferenceSession(asked.SerializeToString())
    runs = [session.run(None, batch) for batch in data]
    return {name: np.concatenate(parts) for name, *parts in zip(names, *runs, strict=True)}


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_the_extremes_are_those_of_all_values(opset: int, small_cnn: Any) -> None:
    model = normalise(small_cnn, where="test")
    model = inferred(onnx.version_converter.convert_version(model, max(opset, 17)))
    if opset < 17:
        model.opset_import[0].version = opset
    data = list(batches(3, 4, 1, 8, 8))
    seen = collect_ranges(model, data)
    computed = [name for n in model.graph.node for name in n.output]
    assert list(seen) == ["image", *computed]
    values = values_of(model, computed, data) | {
        "image": np.concatenate([batch["image"] for batch in data])
    }
    for name, found in seen.items():
        expected = values[name]
        assert found.low == pytest.approx(expected.min(), rel=1e-5, abs=1e-6), name
        assert found.high == pytest.approx(expected.max(), rel=1e-5, abs=1e-6), name
        axes = tuple(axis for axis in range(expected.ndim) if axis != 1)
        assert found.channel_axis == 1
        np.testing.assert_allclose(found.channel_low, expected.min(axes), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.channel_high, expected.max(axes), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.channel_mean, expected.mean(axes), rtol=1e-4, atol=1e-5)
        # Small values are drawn whole.
        assert found.histogram.total == expected.size
        assert found.finite
        assert found.batches == 3


def test_the_model_itself_is_left_as_it_was(small_cnn: Any) -> None:
    model = normalise(small_cnn, where="test")
    before = model.SerializeToString(deterministic=True)
    collect_ranges(model, batches(1, 1, 1, 8, 8))
    assert model.SerializeToString(deterministic=True) == before


def test_large_values_are_drawn_evenly(make_model: MakeModel) -> None:
    model = inferred(
        make_model([node("Relu", ["image"], ["y"])], {"image": ["n", 3, 100, 90]}, ["y"])
    )
    seen = collect_ranges(model, batches(6, 2, 3, 100, 90))["image"]
    assert 6 * 2 * 2048 <= seen.histogram.total <= 6 * 2 * 4096
    assert seen.bins().quantile(0.9) == pytest.approx(1.2816, abs=0.05)


def test_only_the_named_values_are_watched(small_cnn: Any) -> None:
    model = normalise(small_cnn, where="test")
    name = model.graph.node[1].output[0]
    assert set(collect_ranges(model, batches(1, 2, 1, 8, 8), names=[name, "image"])) == {
        name, "image",
    }  # fmt: skip
    with pytest.raises(UsageError, match="'absent'"):
        collect_ranges(model, batches(1, 2, 1, 8, 8), names=["absent", name])


def test_no_batches(small_cnn: Any) -> None:
    with pytest.raises(UsageError, match="no calibration data"):
        collect_ranges(normalise(small_cnn, where="test"), [])


def test_data_that_the_model_refuses(small_cnn: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="ranges were collected"):
        collect_ranges(normalise(small_cnn, where="test"), batches(1, 2, 1, 8, 9))


def test_the_average_forgets_an_exceptional_batch(make_model: MakeModel) -> None:
    model = inferred(make_model([node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"]))
    data = [{"x": np.array([[-1.0, scale]], np.float32)} for scale in [100.0, *[1.0] * 30]]
    seen = collect_ranges(model, data)["x"]
    assert seen.range(RangeMethod.MIN_MAX).high == 100
    assert 1 < seen.range(RangeMethod.MOVING_AVERAGE).high < 5
    assert seen.range(RangeMethod.MOVING_AVERAGE).low == pytest.approx(-1)


def test_channels_that_are_the_last_axis(make_model: MakeModel) -> None:
    model = inferred(
        make_model(
            [node("MatMul", ["x", "w"], ["y"]), node("Add", ["y", "b"], ["z"])],
            {"x": ["n", 5, 3]}, ["z"],
            {"w": np.eye(3, 4, dtype=np.float32) * 8, "b": np.arange(4, dtype=np.float32)},
        )
    )  # fmt: skip
    seen = collect_ranges(model, batches(1, 2, 5, 3, name="x"))
    assert seen["z"].channel_axis == 2
    assert seen["z"].channel_low[3] == seen["z"].channel_high[3] == 3


def test_channels_keep_ranges_of_their_own(make_model: MakeModel) -> None:
    scale = np.array([1, 100, 0], np.float32).reshape(3, 1, 1)
    model = inferred(
        make_model(
            [
                node("Mul", ["image", "s"], ["m"]),
                node("MaxPool", ["m"], ["y"], kernel_shape=[1, 1]),
            ],
            {"image": ["n", 3, 4, 4]}, ["y"], {"s": scale},
        )
    )  # fmt: skip
    ones = np.ones((2, 3, 4, 4), np.float32)
    seen = collect_ranges(model, [{"image": ones}])
    assert seen["m"].channel_axis == 1
    assert seen["m"].channel_high.tolist() == [1, 100, 0]


@pytest.mark.parametrize(
    ("bad", "at"), [(np.nan, 0), (np.nan, 40_001), (np.inf, 7), (-np.inf, 59_999)]
)
def test_one_value_that_is_not_finite_is_noticed(
    bad: float, at: int, make_model: MakeModel
) -> None:
    model = inferred(
        make_model([node("Neg", ["image"], ["y"])], {"image": ["n", 1, 200, 300]}, ["y"])
    )
    image = np.linspace(-3, 5, 60_000, dtype=np.float32).reshape(1, 1, 200, 300)
    image.reshape(-1)[at] = bad
    seen = collect_ranges(model, [{"image": image}])["y"]
    assert not seen.finite
    assert seen.low == pytest.approx(-5, rel=0.02)
    assert seen.high == pytest.approx(3, rel=0.02)
    for method in RangeMethod:
        assert np.isfinite(seen.range(method).high)


def test_nothing_finite_at_all(make_model: MakeModel) -> None:
    model = inferred(make_model([node("Log", ["x"], ["y"])], {"x": ["n", 3]}, ["y"]))
    seen = collect_ranges(model, [{"x": np.full((1, 3), -1, np.float32)}])["y"]
    assert not seen.finite
    assert (seen.low, seen.high) == (0, 0)
    for method in RangeMethod:
        assert (seen.range(method).low, seen.range(method).high) == (0, 0)


def test_empty_values_have_no_range(make_model: MakeModel) -> None:
    graph = helper.make_graph(
        [
            node("NonZero", ["x"], ["where"]),
            node("Transpose", ["where"], ["rows"]),
            node("GatherND", ["x", "rows"], ["picked"]),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("picked", TensorProto.FLOAT, ["k"])],
    )  # fmt: skip
    model = inferred(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    assert set(collect_ranges(model, [{"x": np.zeros((2, 3), np.float32)}])) == {"x"}
    some = [{"x": np.array([[0, 2, 0]], np.float32)}, {"x": np.zeros((1, 3), np.float32)}]
    assert collect_ranges(model, some)["picked"].low == 2


def test_integers_and_bodies_are_not_watched(make_model: MakeModel) -> None:
    def branch(name: str, operator: str) -> Any:
        return helper.make_graph(
            [node(operator, ["x"], [name])], name, [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3])],
        )  # fmt: skip

    branches = {"then_branch": branch("a", "Exp"), "else_branch": branch("b", "Neg")}
    graph = helper.make_graph(
        [
            node("ReduceSum", ["x"], ["sum"], keepdims=0),
            node("Greater", ["sum", "zero"], ["flag"]),
            node("If", ["flag"], ["y"], **branches),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )  # fmt: skip
    model = inferred(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    seen = collect_ranges(model, batches(2, 2, 3, name="x"))
    assert set(seen) == {"x", "sum", "y"}
    assert seen["sum"].channel_axis is None


def test_names_of_the_model_are_not_taken_for_probes(make_model: MakeModel) -> None:
    model = inferred(
        make_model([node("Relu", ["watched/limit"], ["watched/0/low"])],
                   {"watched/limit": ["n", 2]}, ["watched/0/low"])
    )  # fmt: skip
    seen = collect_ranges(model, batches(1, 1, 2, name="watched/limit"))
    assert set(seen) == {"watched/limit", "watched/0/low"}
    assert isinstance(seen["watched/0/low"], RangeStatistics)


def test_a_model_without_floats_has_nothing_to_watch(make_model: Any) -> None:
    model = make_model(
        [helper.make_node("Add", ["x", "x"], ["y"])], {"x": [2]}, ["y"], dtype=TensorProto.INT64
    )
    assert collect_ranges(model, [{"x": np.array([1, 2])}]) == {}
