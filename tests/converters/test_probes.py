"""The inputs that are tried, and the whole numbers that a graph allows in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converters.onnx_files import model_of
from edgekit_converters.input_ranges import InputRange, input_ranges
from edgekit_converters.probes import probes_for, user_probes
from edgekit_converters.samples import Samples
from edgekit_runtime.tensors import TensorSpec

node = helper.make_node
F = np.float32


def _spec(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _samples(**arrays: Any) -> Samples:
    count = len(next(iter(arrays.values())))
    return Samples(path=Path("x"), sha256="", arrays=arrays, labels=None, count=count)


def test_every_kind_of_probe_with_one_and_three_samples() -> None:
    probes = list(probes_for([_spec("x", "float32", None, 5)], None))
    assert [probe.label for probe in probes] == [
        "random, batch 1", "random, wide, batch 1", "random, 0 to 1, batch 1", "zeros, batch 1",
        "ones, batch 1", "negative, batch 1", "denormals, batch 1", "extremes, batch 1",
        "random, batch 3", "extremes, batch 3",
    ]  # fmt: skip
    arrays = {probe.label: probe.inputs["x"] for probe in probes}
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    assert arrays["random, batch 3"].shape == (3, 5)
    assert not np.array_equal(arrays["random, batch 1"][0], arrays["random, batch 3"][0])
    assert (arrays["negative, batch 1"] < 0).all()
    assert (arrays["denormals, batch 1"] > 0).all()
    assert (arrays["denormals, batch 1"] < np.finfo(F).tiny).all()
    assert set(np.abs(arrays["extremes, batch 3"]).reshape(-1)) == {1000.0}


def test_extremes_in_half_precision_can_be_multiplied() -> None:
    probes = {p.label: p.inputs["x"] for p in probes_for([_spec("x", "float16", 64)], None)}
    with np.errstate(over="raise"):
        assert np.isfinite(probes["extremes"] * probes["extremes"]).all()
    assert [p.edge for p in probes_for([_spec("x", "float16", 64)], None)] == [
        False, True, False, True, True, True, True, True, False,
    ]  # fmt: skip


def test_scalars_are_arrays() -> None:
    for probe in probes_for([_spec("x", "float32"), _spec("i", "int64")], None):
        for name, dtype in (("x", np.float32), ("i", np.int64)):
            array = probe.inputs[name]
            assert isinstance(array, np.ndarray)
            assert (array.shape, array.dtype) == ((), dtype)


def test_the_same_probes_each_time() -> None:
    specs = [_spec("x", "float32", None, 5), _spec("i", "int64", 3)]
    first, second = (list(probes_for(specs, None)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_a_fixed_batch_is_tried_with_other_random_numbers_as_well() -> None:
    probes = list(probes_for([_spec("x", "float32", 1, 4)], None))
    assert probes[-1].label == "random, again"
    assert {probe.inputs["x"].shape for probe in probes} == {(1, 4)}


def test_other_free_axes_are_tried_in_two_sizes_or_in_the_users() -> None:
    specs = [_spec("x", "float32", None, None, 3)]
    assert {p.inputs["x"].shape for p in probes_for(specs, None)} == {(1, 16, 3), (3, 24, 3)}
    samples = _samples(x=np.zeros((5, 7, 3), F))
    shapes = {probe.inputs["x"].shape for probe in probes_for(specs, samples)}
    assert shapes == {(1, 7, 3), (3, 7, 3), (64, 7, 3)}


def test_the_users_samples_come_last_and_are_named() -> None:
    specs = [_spec("x", "float32", 4, 2)]
    samples = _samples(x=np.arange(12, dtype=F).reshape(6, 2))
    probes = list(user_probes(specs, samples))
    assert [probe.label for probe in probes] == ["your samples 1 to 4", "your samples 5 to 6"]
    assert list(probes_for(specs, samples))[-1].label == "your samples 5 to 6"


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("bool", 0, 1), ("uint8", 0, 255), ("int8", -128, 127), ("int32", 0, 1), ("int64", 0, 1)],
)
def test_whole_numbers_of_unknown_use(dtype: str, low: int, high: int) -> None:
    probes = {p.label: p.inputs["x"] for p in probes_for([_spec("x", dtype, 64)], None)}
    assert all(array.dtype.name == dtype for array in probes.values())
    assert (probes["zeros"] == low).all()
    assert (probes["ones"] == high).all()
    values = probes["random"].astype(int)
    assert low <= values.min() < values.max() <= high


def test_known_ranges_are_kept_and_reached() -> None:
    specs = [_spec("i", "int64", None, 50), _spec("f", "float32", None, 50)]
    ranges = {"i": InputRange(low=2, high=9), "f": InputRange(low=0, high=3)}
    for probe in probes_for(specs, None, ranges):
        assert probe.inputs["i"].min() >= 2
        assert probe.inputs["i"].max() <= 9
        assert set(probe.inputs["f"].reshape(-1)) <= {0.0, 1.0, 2.0, 3.0}
        if probe.label.startswith("zeros"):
            assert (probe.inputs["i"] == 2).all()
        if probe.label.startswith("ones"):
            assert (probe.inputs["i"] == 9).all()


# What a graph says about its inputs.


def _learned(
    nodes: Any, inputs: Any, constants: Any = None, *, dtype: int = TensorProto.INT64
) -> dict[str, tuple[int, int]]:
    model = model_of(nodes, inputs=inputs, constants=constants, dtype=dtype, outputs=["y"])
    for value in model.graph.output:
        value.type.Clear()
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return {name: (r.low, r.high) for name, r in input_ranges(model).items()}


TABLE = {"table": np.ones((11, 4), F)}


@pytest.mark.parametrize(
    ("nodes", "constants", "expected"),
    [
        ([node("Gather", ["table", "i"], ["y"])], TABLE, (0, 10)),
        ([node("Gather", ["table", "i"], ["y"], axis=1)], TABLE, (0, 3)),
        ([node("Cast", ["i"], ["j"], to=6), node("Gather", ["table", "j"], ["y"])], TABLE, (0, 10)),
        ([node("Add", ["i", "two"], ["j"]), node("Gather", ["table", "j"], ["y"])],
         {**TABLE, "two": np.int64(2)}, (-2, 8)),
        ([node("Sub", ["i", "one"], ["j"]), node("Gather", ["table", "j"], ["y"])],
         {**TABLE, "one": np.int64(1)}, (1, 11)),
        ([node("Unsqueeze", ["i", "a"], ["j"]), node("Concat", ["j", "j"], ["k"], axis=0),
          node("Gather", ["table", "k"], ["y"])], {**TABLE, "a": np.array([0])}, (0, 10)),
        # Two tables: the smaller one counts.
        ([node("Gather", ["table", "i"], ["a"]), node("Gather", ["few", "i"], ["b"]),
          node("Add", ["a", "b"], ["y"])], {**TABLE, "few": np.ones((3, 4), F)}, (0, 2)),
        ([node("GatherND", ["table", "i"], ["y"])], {"table": np.ones((5, 7, 6, 9), F)}, (0, 4)),
        ([node("OneHot", ["i", "depth", "values"], ["y"])],
         {"depth": np.int64(6), "values": np.array([0, 1], F)}, (0, 5)),
        ([node("Mod", ["n", "i"], ["y"])], {"n": np.array([7, 9, 11])}, (1, 8)),
        ([node("Mul", ["i", "i"], ["y"])], {}, (-8, 8)),
        ([node("Tile", ["table", "i"], ["y"])], {"table": np.ones((2, 2, 2), F)}, (1, 4)),
    ],
)  # fmt: skip
def test_what_whole_numbers_are_used_for(
    nodes: Any, constants: Any, expected: tuple[int, int]
) -> None:
    assert _learned(nodes, {"i": [3]}, constants) == {"i": expected}


def test_a_float_that_is_used_as_an_index() -> None:
    nodes = [node("Cast", ["x"], ["j"], to=7), node("Gather", ["table", "j"], ["y"])]
    assert _learned(nodes, {"x": [3]}, TABLE, dtype=1) == {"x": (0, 10)}


def test_an_index_inside_a_branch() -> None:
    inner = helper.make_graph(
        [node("Gather", ["table", "i"], ["o"])], "b", [],
        [helper.make_tensor_value_info("o", 1, None)],
    )  # fmt: skip
    choice = node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    assert _learned([choice], {"i": [3]}, {**TABLE, "c": np.array(True)}) == {"i": (0, 10)}


def test_what_a_loop_counts_is_small() -> None:
    body = helper.make_graph(
        [node("Identity", ["going"], ["on"]), node("Add", ["a", "a"], ["b"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("going", TensorProto.BOOL, []),
         helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    nodes = [
        node("Div", ["limit", "step"], ["d"]),
        node("Cast", ["d"], ["trips"], to=TensorProto.INT64),
        node("Loop", ["trips", "yes", "x"], ["y"], body=body),
    ]
    learned = _learned(nodes, {"limit": [], "step": [], "x": [2]}, {"yes": np.array(True)}, dtype=1)
    assert learned == {"limit": (1, 4), "step": (1, 4)}


def test_lengths_of_sequences() -> None:
    lstm = node("LSTM", ["x", "w", "r", "", "n"], ["y"], hidden_size=2)
    model = model_of(
        [lstm], inputs={"x": [9, 3, 4]},
        constants={"w": np.ones((1, 8, 4), F), "r": np.ones((1, 8, 2), F)},
    )  # fmt: skip
    model.graph.input.append(helper.make_tensor_value_info("n", TensorProto.INT32, [3]))
    assert input_ranges(model) == {"n": InputRange(low=1, high=9)}


def test_floats_and_masks_have_no_range() -> None:
    model = model_of([node("Where", ["c", "x", "x"], ["y"])], inputs={"x": [3]})
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, [3]))
    assert input_ranges(model) == {}
