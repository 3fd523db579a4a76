"""Quantized `.tflite` models keep their integers, and mean the same by them in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.tflite_builder import Array, TfliteBuilder, assert_same, one_operator, types_of

F = np.float32
IN, OUT = (0.05, -3), (0.07, 5)


def q(*shape: int, seed: int = 1, dtype: str = "int8") -> Array:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(limits.min, limits.max + 1, size=shape).astype(dtype)


def i32(*values: Any) -> Array:
    return np.array(values, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operator on 8-bit integers."""

    code: str
    inputs: list[Array]
    scales: dict[int, tuple[float, int]]
    out: tuple[float, int] = OUT
    outputs: tuple[str, ...] = ("int8",)
    constants: tuple[int, ...] = ()
    table: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 1
    kept: bool = False


def case(code: str, *inputs: Array, table: str = "", **more: Any) -> Any:
    known = {"scales", "out", "outputs", "constants", "steps", "kept"}
    settings = {key: more.pop(key) for key in list(more) if key in known}
    settings.setdefault("scales", {0: IN})
    made = Case(code=code, inputs=list(inputs), table=table, options=more, **settings)
    return pytest.param(made, id=f"{code}-{table and sorted(more.items())}"[:70])


IMAGE = q(2, 6, 7, 4)
BOTH = {0: IN, 1: (0.03, 7)}
POOL = {"padding": 0, "strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 2}
CASES = [
    *(case(code, IMAGE) for code in ("RELU", "RELU6", "ABS", "NEG") if code not in {"NEG"}),
    case("LOGISTIC", IMAGE, out=(1 / 256, -128)),
    case("TANH", IMAGE, out=(1 / 128, 0)),
    case("SOFTMAX", q(3, 5), out=(1 / 256, -128), table="SoftmaxOptions", beta=1.0),
    case("LEAKY_RELU", IMAGE, table="LeakyReluOptions", alpha=0.2),
    case("HARD_SWISH", IMAGE),
    case("PRELU", IMAGE, q(1, 1, 4, seed=3), scales={0: IN, 1: (0.01, 2)}, constants=(1,)),
    *(case(code, IMAGE, q(2, 6, 7, 4, seed=2), scales=BOTH, table=f"{code.title()}Options",
           fusedActivationFunction=activation)
      for code in ("ADD", "SUB", "MUL") for activation in (0, 1, 3)),
    *(case(code, IMAGE, q(2, 6, 7, 4, seed=2), scales={0: IN, 1: IN}, out=IN)
      for code in ("MAXIMUM", "MINIMUM")),
    *(case("MAX_POOL_2D", IMAGE, out=IN, table="Pool2DOptions", fusedActivationFunction=activation,
           **POOL) for activation in (0, 1, 3)),
    *(case("AVERAGE_POOL_2D", IMAGE, out=IN, table="Pool2DOptions",
           fusedActivationFunction=activation, **POOL) for activation in (0, 1)),
    *(case(code, IMAGE, i32(1, 2), constants=(1,), table="ReducerOptions")
      for code in ("MEAN", "SUM")),
    *(case(code, IMAGE, i32(1, 2), constants=(1,), out=IN, table="ReducerOptions")
      for code in ("REDUCE_MAX", "REDUCE_MIN")),
    case("PAD", IMAGE, i32([0, 0], [1, 2], [0, 3], [0, 0]), constants=(1,), out=IN, steps=0),
    case("PADV2", IMAGE, i32([0, 0], [1, 2], [0, 3], [0, 0]), q(seed=4), scales={0: IN, 2: IN},
         constants=(1, 2), out=IN, steps=0),
    case("RESHAPE", IMAGE, i32(4, -1), constants=(1,), out=IN, steps=0, kept=True),
    case("TRANSPOSE", IMAGE, i32(0, 3, 1, 2), constants=(1,), out=IN, steps=0, kept=True),
    case("CONCATENATION", q(2, 3), q(2, 3, seed=2), scales={0: IN, 1: IN}, out=IN, steps=0,
         table="ConcatenationOptions", axis=1, kept=True),
    case("STRIDED_SLICE", q(4, 5), i32(1, 0), i32(4, 5), i32(2, 2), constants=(1, 2, 3), out=IN,
         table="StridedSliceOptions", steps=0, kept=True),
    case("GATHER", q(4, 5), i32(2, 0), constants=(1,), out=IN, table="GatherOptions", axis=1,
         steps=0, kept=True),
    case("SPLIT", i32(1).reshape(()), q(2, 6), scales={1: IN}, constants=(0,), out=IN,
         outputs=("int8",) * 3, table="SplitOptions", numSplits=3, steps=0, kept=True),
    case("RESIZE_NEAREST_NEIGHBOR", IMAGE, i32(12, 14), constants=(1,), out=IN, steps=0,
         table="ResizeNearestNeighborOptions", halfPixelCenters=True),
    case("RESIZE_BILINEAR", IMAGE, i32(12, 14), constants=(1,), out=IN,
         table="ResizeBilinearOptions", halfPixelCenters=True),
    case("DEPTH_TO_SPACE", IMAGE, out=IN, table="DepthToSpaceOptions", blockSize=2, steps=0),
    case("SPACE_TO_DEPTH", IMAGE[:, :, :6], out=IN, table="SpaceToDepthOptions", blockSize=2,
         steps=0),
    case("QUANTIZE", IMAGE, table="QuantizeOptions"),
    case("QUANTIZE", IMAGE, outputs=("uint8",), out=(0.05, 125), table="QuantizeOptions", steps=0),
    *(case("ARG_MAX", q(3, 9), i32(1), constants=(1,), outputs=("int32",), out=(),
           table="ArgMaxOptions", outputType=2, steps=0) for _ in range(1)),
    case("BATCH_MATMUL", q(2, 3, 4), q(2, 4, 5, seed=2), scales=BOTH, out=(0.3, 1),
         table="BatchMatMulOptions"),
]  # fmt: skip


@pytest.mark.parametrize("made", CASES)
def test_operator(made: Case, tmp_path: Path) -> None:
    _, content = one_operator(
        made.code,
        made.inputs,
        constants=made.constants,
        outputs=made.outputs,
        table=made.table,
        input_scales=made.scales,
        output_scale=made.out or None,
        **made.options,
    )
    feeds = [a for i, a in enumerate(made.inputs) if i not in made.constants]
    model = assert_same(content, tmp_path, feeds, steps=made.steps)
    # What only moves numbers moves the integers themselves.
    assert ("DequantizeLinear" in types_of(model)) is not made.kept


def convolution(dtype: str = "int8", *, code: str = "CONV_2D") -> bytes:
    """Per-channel weights, a 32-bit bias, Relu6."""
    rng = np.random.default_rng(5)
    build = TfliteBuilder()
    scale, zero_point = IN if dtype == "int8" else (0.05, 125)
    image = build.tensor("image", [2, 6, 7, 4], dtype, scales=[scale], zero_points=[zero_point])
    deep = code == "DEPTHWISE_CONV_2D"
    scales = rng.uniform(0.001, 0.01, 8 if deep else 5).astype(F)
    shape = (1, 3, 3, 8) if deep else (5, 3, 3, 4)
    weights = build.constant(
        "weights", rng.integers(-127, 128, shape).astype(np.int8), scales=scales.tolist(),
        axis=3 if deep else 0,
    )  # fmt: skip
    bias = build.constant(
        "bias", rng.integers(-2000, 2000, len(scales)).astype(np.int32),
        scales=(scales * F(scale)).tolist(),
    )  # fmt: skip
    out = build.tensor(
        "out", [2, 3, 4, len(scales)], dtype, scales=[6 / 255],
        zero_points=[-128 if dtype == "int8" else 0],
    )  # fmt: skip
    options: dict[str, Any] = {
        "padding": 0, "strideH": 2, "strideW": 2, "fusedActivationFunction": 3,
    }  # fmt: skip
    table = "Conv2DOptions"
    if deep:
        table, options["depthMultiplier"] = "DepthwiseConv2DOptions", 2
    build.operator(code, [image, weights, bias], [out], table, **options)
    return build.content([image], [out])


@pytest.mark.parametrize("code", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_convolution_with_a_scale_for_each_channel(code: str, tmp_path: Path) -> None:
    model = assert_same(convolution(code=code), tmp_path, [IMAGE], steps=1)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    assert stored["weights"].data_type == 3  # int8
    assert [d for d in model.graph.node if d.op_type == "DequantizeLinear"]
    assert model.graph.output[0].type.tensor_type.elem_type == 3


def test_uint8_model(tmp_path: Path) -> None:
    # As converters before 2019 made them: one scale, weights around a zero point.
    rng = np.random.default_rng(6)
    build = TfliteBuilder()
    rows = build.tensor("rows", [3, 6], "uint8", scales=[0.05], zero_points=[120])
    weights = build.constant(
        "weights", q(4, 6, dtype="uint8"), scales=[0.02], zero_points=[131]
    )  # fmt: skip
    bias = build.constant("bias", rng.integers(-900, 900, 4).astype(np.int32), scales=[0.001])
    out = build.tensor("out", [3, 4], "uint8", scales=[0.08], zero_points=[128])
    build.operator("FULLY_CONNECTED", [rows, weights, bias], [out], "FullyConnectedOptions")
    assert_same(build.content([rows], [out]), tmp_path, [q(3, 6, dtype="uint8")], steps=1)


def test_int16_activations_with_a_64_bit_bias(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    build = TfliteBuilder()
    rows = build.tensor("rows", [3, 6], "int16", scales=[0.0005])
    weights = build.constant("weights", q(4, 6), scales=[0.02])
    bias = build.constant("bias", rng.integers(-900, 900, 4).astype(np.int64), scales=[0.00001])
    out = build.tensor("out", [3, 4], "int16", scales=[0.004])
    build.operator("FULLY_CONNECTED", [rows, weights, bias], [out], "FullyConnectedOptions")
    feeds = [q(3, 6, dtype="int16")]
    assert_same(build.content([rows], [out]), tmp_path, feeds, steps=1)


def test_packed_4_bit_weights(tmp_path: Path) -> None:
    build = TfliteBuilder()
    rows = build.tensor("rows", [3, 6], "int8", scales=[0.05])
    values = np.random.default_rng(8).integers(-7, 8, (4, 6)).astype(np.int8)
    flat = values.reshape(-1).view(np.uint8) & 15
    weights = build.tensor(
        "weights", [4, 6], "int4", data=flat[::2] | (flat[1::2] << 4), scales=[0.1]
    )
    bias = build.constant("bias", np.arange(4, dtype=np.int32), scales=[0.005])
    out = build.tensor("out", [3, 4], "int8", scales=[0.2])
    build.operator("FULLY_CONNECTED", [rows, weights, bias], [out], "FullyConnectedOptions")
    model = assert_same(build.content([rows], [out]), tmp_path, [q(3, 6)], steps=1)
    stored = {t.name: t for t in model.graph.initializer}["weights"]
    assert stored.raw_data == values.tobytes()


def test_weights_in_half_precision(tmp_path: Path) -> None:
    build = TfliteBuilder()
    rng = np.random.default_rng(9)
    rows = build.tensor("rows", [-1, 6])
    half = build.constant("weights/half", rng.normal(size=(4, 6)).astype(np.float16))
    weights = build.tensor("weights", [4, 6])
    bias = build.constant("bias", rng.normal(size=4).astype(F))
    out = build.tensor("out", [-1, 4])
    build.operator("DEQUANTIZE", [half], [weights])
    build.operator("FULLY_CONNECTED", [rows, weights, bias], [out], "FullyConnectedOptions")
    feeds = [rng.normal(size=(3, 6)).astype(F)]
    model = assert_same(build.content([rows], [out]), tmp_path, feeds, tolerance=1e-5)
    assert "Cast" in types_of(model)
    assert {t.name: t.data_type for t in model.graph.initializer}["weights/half"] == 10


def test_dynamic_range_model_says_that_its_activations_stay_floats(tmp_path: Path) -> None:
    build = TfliteBuilder()
    rng = np.random.default_rng(10)
    rows = build.tensor("rows", [2, 64])
    weights = build.constant("weights", np.maximum(q(32, 64), -127), scales=[0.02])
    bias = build.constant("bias", rng.normal(size=32).astype(F))
    out = build.tensor("out", [2, 32])
    build.operator("FULLY_CONNECTED", [rows, weights, bias], [out], "FullyConnectedOptions")
    feeds = [rng.normal(size=(2, 64)).astype(F)]
    # LiteRT rounds the rows to 8 bits, this model does not.
    model = assert_same(build.content([rows], [out]), tmp_path, feeds, tolerance=2e-2)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert "out" in notes["edgekit.float_activations"]
    assert "DequantizeLinear" in types_of(model)


def test_two_readers_of_one_tensor_dequantize_it_once(tmp_path: Path) -> None:
    build = TfliteBuilder()
    x = build.tensor("x", [2, 3], "int8", scales=[0.1])
    one = build.tensor("one", [2, 3], "int8", scales=[0.1])
    two = build.tensor("two", [2, 3], "int8", scales=[0.2])
    build.operator("RELU", [x], [one])
    build.operator("ADD", [x, x], [two], "AddOptions")
    model = assert_same(build.content([x], [one, two]), tmp_path, [q(2, 3)], steps=1)
    assert types_of(model).count("DequantizeLinear") == 1
