"""Whatever a `.tflite` file holds, it is imported or refused: no crash, no hang, no other error."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.fuzz.child import Child
from converters.fuzz.mutations import Mutation, mutate_bytes, mutations
from converters.fuzz.profile import assert_survives, fuzzing
from converters.fuzz.tflite_mutations import mutate_tflite
from converters.tflite_builder import TfliteBuilder

IMPORTERS = ["import_tflite", "run_tflite"]


@pytest.fixture(scope="module", params=IMPORTERS)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    with Child(request.param) as child:
        yield child


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@cache
def _convolutional() -> bytes:
    build = TfliteBuilder()
    image = build.tensor("image", [-1, 6, 6, 2])
    wide = build.tensor("wide", [-1, 6, 6, 4])
    build.operator(
        "CONV_2D",
        [image, build.constant("w1", _weights(4, 3, 3, 2)), build.constant("b1", _weights(4))],
        [wide], "Conv2DOptions", padding=0, strideH=1, strideW=1, dilationHFactor=1,
        dilationWFactor=1, fusedActivationFunction=1,
    )  # fmt: skip
    small = build.tensor("small", [-1, 3, 3, 4])
    build.operator(
        "MAX_POOL_2D", [wide], [small], "Pool2DOptions", padding=1, strideH=2, strideW=2,
        filterHeight=2, filterWidth=2,
    )  # fmt: skip
    flat = build.tensor("flat", [-1, 36])
    sizes = build.constant("sizes", np.array([-1, 36], np.int32))
    build.operator("RESHAPE", [small, sizes], [flat], "ReshapeOptions", newShape=[-1, 36])
    scores = build.tensor("scores", [-1, 5])
    build.operator(
        "FULLY_CONNECTED",
        [flat, build.constant("w2", _weights(5, 36)), build.constant("b2", _weights(5))],
        [scores], "FullyConnectedOptions",
    )  # fmt: skip
    best = build.tensor("best", [-1, 5])
    build.operator("SOFTMAX", [scores], [best], "SoftmaxOptions", beta=1.0)
    return build.content([image], [best])


@cache
def _quantized() -> bytes:
    build = TfliteBuilder()
    image = build.tensor("image", [1, 4, 4, 2], "int8", scales=[0.1], zero_points=[3])
    deep = build.tensor("deep", [1, 4, 4, 2], "int8", scales=[0.2], zero_points=[-4])
    weights = np.ones((1, 3, 3, 2), np.int8)
    build.operator(
        "DEPTHWISE_CONV_2D",
        [image, build.constant("w", weights, scales=[0.1, 0.2], axis=3),
         build.constant("b", np.zeros(2, np.int32), scales=[0.01, 0.02])],
        [deep], "DepthwiseConv2DOptions", padding=0, strideH=1, strideW=1, depthMultiplier=1,
        dilationHFactor=1, dilationWFactor=1,
    )  # fmt: skip
    padded = build.tensor("padded", [1, 6, 6, 2], "int8", scales=[0.2], zero_points=[-4])
    around = build.constant("around", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    build.operator("PAD", [deep, around], [padded], "PadOptions")
    cut = build.tensor("cut", [1, 2, 2, 2], "int8", scales=[0.2], zero_points=[-4])
    bounds = [build.constant(name, np.array(values, np.int32)) for name, values in
              (("begin", [0, 1, 1, 0]), ("end", [1, 5, 5, 2]), ("step", [1, 2, 2, 1]))]  # fmt: skip
    build.operator("STRIDED_SLICE", [padded, *bounds], [cut], "StridedSliceOptions")
    mean = build.tensor("mean", [1, 2], "int8", scales=[0.2], zero_points=[-4])
    axes = build.constant("axes", np.array([1, 2], np.int32))
    build.operator("MEAN", [cut, axes], [mean], "ReducerOptions", keepDims=False)
    number = build.tensor("number", [1, 2])
    build.operator("DEQUANTIZE", [mean], [number], "DequantizeOptions")
    return build.content([image], [number])


@cache
def _indexing() -> bytes:
    build = TfliteBuilder()
    ids = build.tensor("ids", [3], "int32")
    rows = build.tensor("rows", [3, 4])
    build.operator(
        "GATHER", [build.constant("table", _weights(7, 4)), ids], [rows], "GatherOptions"
    )
    turned = build.tensor("turned", [4, 3])
    order = build.constant("order", np.array([1, 0], np.int32))
    build.operator("TRANSPOSE", [rows, order], [turned], "TransposeOptions")
    halves = [build.tensor(f"half{i}", [2, 3]) for i in range(2)]
    axis = build.constant("axis", np.array(0, np.int32))
    build.operator("SPLIT", [axis, turned], halves, "SplitOptions", numSplits=2)
    joined = build.tensor("joined", [2, 6])
    build.operator("CONCATENATION", halves, [joined], "ConcatenationOptions", axis=1)
    values, places = build.tensor("values", [2, 2]), build.tensor("places", [2, 2], "int32")
    build.operator(
        "TOPK_V2", [joined, build.constant("k", np.array(2, np.int32))], [values, places],
        "TopKV2Options",
    )  # fmt: skip
    return build.content([ids], [values, places])


SEEDS = {"convolutional": _convolutional, "quantized": _quantized, "indexing": _indexing}


@pytest.mark.parametrize("name", SEEDS)
def test_the_files_that_mutations_start_from_are_whole(name: str, child: Child) -> None:
    assert_survives(child, SEEDS[name](), ".tflite")


@pytest.mark.slow
@fuzzing(600)
@given(name=st.sampled_from(list(SEEDS)), changes=mutations(4))
def test_changed_fields(name: str, changes: list[Mutation], child: Child) -> None:
    assert_survives(child, mutate_tflite(SEEDS[name](), changes), ".tflite")


@pytest.mark.slow
@fuzzing(300)
@given(name=st.sampled_from(list(SEEDS)), changes=mutations(12))
def test_changed_bytes(name: str, changes: list[Mutation], child: Child) -> None:
    assert_survives(child, mutate_bytes(SEEDS[name](), changes), ".tflite")
