"""Each LiteRT operator is imported as something that computes the same in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.tflite_builder import Array, assert_same, one_operator, types_of
from edgekit_converters.tflite_source.registry import registered

F = np.float32
_MASKS = ("begin", "end", "ellipsis", "newAxis", "shrinkAxis")


def w(*shape: int, seed: int = 1, scale: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(F)


def i32(*values: Any) -> Array:
    return np.array(values[0] if len(values) == 1 else values, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file of one operator."""

    code: str
    inputs: list[Array | None]
    constants: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ("float32",)
    output_shape: tuple[int, ...] = (1,)
    table: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-6
    free: bool = False


def case(code: str, *inputs: Array | None, table: str = "", **more: Any) -> Any:
    known = {"constants", "outputs", "output_shape", "tolerance", "free"}
    settings = {key: more.pop(key) for key in list(more) if key in known}
    arrays = [None if array is None else np.asarray(array) for array in inputs]
    made = Case(code=code, inputs=arrays, table=table, options=more, **settings)
    return pytest.param(made, id=f"{code}-{table and sorted(more.items())}"[:70])


IMAGE = w(2, 7, 9, 4)
POSITIVE = np.abs(w(2, 3, 5)) + F(0.1)
UNARY = ("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOGISTIC", "LOG_SOFTMAX",
         "NEG", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ROUND", "SIGN", "SIN", "SQUARE",
         "TANH", "ZEROS_LIKE")  # fmt: skip
CASES = [
    *(case(code, w(2, 3, 5, scale=3)) for code in UNARY),
    *(case(code, POSITIVE) for code in ("LOG", "RSQRT", "SQRT")),
    case("ROUND", F([0.5, 1.5, -0.5, -2.5, 2.4999998])),
    case("GELU", w(4, 5), table="GeluOptions", approximate=False, tolerance=1e-5),
    case("GELU", w(4, 5), table="GeluOptions", approximate=True, tolerance=1e-4),
    case("LEAKY_RELU", w(4, 5), table="LeakyReluOptions", alpha=0.3),
    case("PRELU", IMAGE, w(1, 1, 4, seed=3), constants=(1,)),
    case("SOFTMAX", w(3, 4), table="SoftmaxOptions", beta=1.0),
    case("SOFTMAX", w(2, 3, 4), table="SoftmaxOptions", beta=0.5),
    case("L2_NORMALIZATION", w(3, 4), table="L2NormOptions"),
    case("L2_NORMALIZATION", np.zeros((3, 4), F), table="L2NormOptions"),
    case("LOCAL_RESPONSE_NORMALIZATION", IMAGE, table="LocalResponseNormalizationOptions",
         radius=1, bias=1.5, alpha=0.4, beta=0.6),
    *(case(code, w(2, 3, 4), w(2, 3, 4, seed=2), table=f"{code.title()}Options",
           fusedActivationFunction=number)
      for code in ("ADD", "SUB", "MUL", "DIV") for number in range(4)),
    *(case(code, w(2, 3, 4), w(3, 1, seed=2), table=table) for code, table in (
        ("ADD", "AddOptions"), ("MAXIMUM", ""), ("MINIMUM", ""), ("SQUARED_DIFFERENCE", ""),
        ("FLOOR_DIV", ""), ("FLOOR_MOD", ""))),
    case("ATAN2", F([0, 1, -1, 0, -0.5, 2, -0.0, 0, -0.0, 0, 1]),
         F([1, 0, 0, -1, -3, -1, -2, 0, 0, -0.0, -0.0]), tolerance=1e-5),
    case("POW", POSITIVE, w(5, seed=2), tolerance=1e-5),
    case("ADD_N", w(3, 4), w(3, 4, seed=2), w(3, 4, seed=3)),
    case("ADD_N", i32([1, 2]), i32([30, 40]), outputs=("int32",)),
    *(case(code, i32([7, -7, 7, -7, 6]), i32([3, 3, -3, -3, 2]), outputs=("int32",))
      for code in ("DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MUL", "BITWISE_XOR")),
    *(case(code, i32([7, -7, 5]), i32([3, 3, -4]), outputs=("int32",))
      for code in ("STABLEHLO_ADD", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM",
                   "STABLEHLO_AND")),
    case("STABLEHLO_AND", np.array([True, False]), np.array([True, True]), outputs=("bool",)),
    *(case(code, np.array([7, -7, 5], np.int16), np.array([3, 3, -4], np.int16),
           outputs=("int16",)) for code in ("STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM")),
    *(case(code, i32([[1, 2, 3]]), i32([[1, 3, 2]]), outputs=("bool",))
      for code in ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")),
    *(case(code, np.array([True, True, False]), np.array([True, False, False]), outputs=("bool",))
      for code in ("LOGICAL_AND", "LOGICAL_OR")),
    case("LOGICAL_NOT", np.array([True, False]), outputs=("bool",)),
    case("SELECT_V2", np.array([[True], [False]]), w(2, 3), w(1, 3, seed=2)),
    case("SELECT", np.array([True, False]), w(2, 3), w(2, 3, seed=2)),
    case("SELECT", np.array([[True, False]]), w(1, 2), w(1, 2, seed=2)),
    case("WHERE", np.array([[True, False, True], [False, True, True]]), outputs=("int64",)),
    case("CONV_2D", IMAGE, w(5, 3, 3, 4), w(5), constants=(1, 2), table="Conv2DOptions",
         padding=0, strideH=2, strideW=1, fusedActivationFunction=1, tolerance=1e-5, free=True),
    case("CONV_2D", IMAGE, w(5, 2, 3, 4), w(5), constants=(1, 2), table="Conv2DOptions",
         padding=1, strideH=1, strideW=3, fusedActivationFunction=3, tolerance=1e-5),
    case("CONV_2D", IMAGE, w(5, 2, 3, 4), w(5), constants=(1, 2), table="Conv2DOptions",
         padding=0, strideH=1, strideW=1, dilationHFactor=2, dilationWFactor=3, tolerance=1e-5),
    case("CONV_2D", IMAGE, w(6, 3, 3, 2), w(6), constants=(1, 2), table="Conv2DOptions",
         padding=0, strideH=1, strideW=1, tolerance=1e-5),
    case("CONV_2D", IMAGE, w(5, 3, 3, 4), w(5), constants=(2,), table="Conv2DOptions",
         padding=0, strideH=1, strideW=1, tolerance=1e-5),
    case("DEPTHWISE_CONV_2D", IMAGE, w(1, 3, 3, 4), w(4), constants=(1, 2), padding=0,
         table="DepthwiseConv2DOptions", strideH=2, strideW=2, depthMultiplier=1, tolerance=1e-5),
    case("DEPTHWISE_CONV_2D", IMAGE, w(1, 2, 3, 8), w(8), constants=(1, 2), padding=1,
         table="DepthwiseConv2DOptions", strideH=1, strideW=1, depthMultiplier=2,
         dilationHFactor=2, dilationWFactor=2, tolerance=1e-5),
    *(case("TRANSPOSE_CONV", i32([2, h, v, 3]), w(3, 3, 2, 4), IMAGE, constants=(0, 1),
           table="TransposeConvOptions", padding=padding, strideH=2, strideW=3, tolerance=1e-5)
      for padding, h, v in ((0, 14, 27), (0, 13, 25), (1, 15, 26), (1, 16, 27))),
    case("TRANSPOSE_CONV", i32([2, 14, 18, 3]), w(3, 3, 3, 4), IMAGE, w(3), constants=(0, 1, 3),
         table="TransposeConvOptions", padding=0, strideH=2, strideW=2, fusedActivationFunction=1,
         tolerance=1e-5),
    case("CONV_3D", w(1, 4, 5, 6, 2), w(2, 3, 3, 2, 5), w(5), constants=(1, 2), padding=0,
         table="Conv3DOptions", strideD=1, strideH=2, strideW=1, tolerance=1e-5),
    *(case("CONV_3D_TRANSPOSE", i32([1, d, h, v, 3]), w(3, 3, 2, 3, 2), w(1, 4, 5, 6, 2),
           constants=(0, 1), padding=padding, table="Conv3DOptions", strideD=2, strideH=3,
           strideW=1, tolerance=1e-5, output_shape=(1, d, h, v, 3))
      for padding, d, h, v in ((1, 9, 15, 7), (0, 8, 15, 6), (0, 7, 13, 6))),
    *(case(code, IMAGE, table="Pool2DOptions", padding=padding, strideH=2, strideW=3,
           filterHeight=3, filterWidth=2, fusedActivationFunction=activation)
      for code in ("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D") for padding in (0, 1)
      for activation in ((0, 1) if padding else (0,))),
    case("FULLY_CONNECTED", w(3, 6), w(4, 6), w(4), constants=(1, 2), free=True,
         table="FullyConnectedOptions", fusedActivationFunction=1, tolerance=1e-5),
    case("FULLY_CONNECTED", w(2, 3, 6), w(4, 6), w(4), constants=(1, 2), keepNumDims=True,
         table="FullyConnectedOptions", tolerance=1e-5),
    case("FULLY_CONNECTED", w(2, 3, 6), w(4, 6), None, constants=(1,), keepNumDims=True,
         table="FullyConnectedOptions", fusedActivationFunction=3, tolerance=1e-5),
    case("FULLY_CONNECTED", w(2, 3, 6), w(4, 6), None, constants=(1,), tolerance=1e-5,
         table="FullyConnectedOptions"),
    case("FULLY_CONNECTED", w(2, 6), w(4, 6), w(4), table="FullyConnectedOptions", tolerance=1e-5),
    *(case("BATCH_MATMUL", w(*(2, 4, 3) if x else (2, 3, 4)), w(*(2, 5, 4) if y else (2, 4, 5)),
           table="BatchMatMulOptions", adjX=x, adjY=y, tolerance=1e-5)
      for x in (False, True) for y in (False, True)),
    case("BATCH_MATMUL", w(2, 3, 4), w(2, 5, 4), constants=(1,), table="BatchMatMulOptions",
         adjY=True, tolerance=1e-5),
    *(case(code, w(2, 3, 4), i32(axes), constants=(1,), table="ReducerOptions", keepDims=keep,
           tolerance=1e-5)
      for code in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
      for keep in (False, True) for axes in ([1], [-1, 0])),
    *(case(code, np.array([[True, False], [True, True]]), i32([1]), constants=(1,),
           outputs=("bool",), table="ReducerOptions") for code in ("REDUCE_ANY", "REDUCE_ALL")),
    *(case(code, F([[1, 3, 3, 0], [2, 2, 0, 0]]), i32([axis]), constants=(1,), outputs=(kind,),
           table=f"{code.title().replace('_', '')}Options", outputType=2 if kind == "int32" else 4)
      for code in ("ARG_MAX", "ARG_MIN") for axis in (0, -1) for kind in ("int32", "int64")),
    case("CUMSUM", w(2, 5), i32(1), table="CumsumOptions", tolerance=1e-5),
    case("TOPK_V2", F([[1, 3, 3, 0], [2, 5, 0, 9]]), i32(2), constants=(1,),
         outputs=("float32", "int32")),
    *(case("CUMSUM", w(2, 5), i32(axis), constants=(1,), table="CumsumOptions", exclusive=e,
           reverse=r, tolerance=1e-5) for axis in (0, -1) for e in (False, True)
      for r in (False, True)),
    case("RESHAPE", w(2, 3, 4), i32([4, -1]), constants=(1,)),
    case("RESHAPE", w(2, 3, 4), i32([4, 6])),
    case("RESHAPE", w(2, 3, 4), table="ReshapeOptions", newShape=[6, 4]),
    case("SQUEEZE", w(1, 3, 1, 2), table="SqueezeOptions", squeezeDims=[-2]),
    case("SQUEEZE", w(1, 3, 1, 2), table="SqueezeOptions"),
    case("EXPAND_DIMS", w(3, 2), i32([-1]), constants=(1,)),
    case("TRANSPOSE", w(2, 3, 4), i32([2, 0, 1]), constants=(1,)),
    case("TILE", w(2, 3), i32([2, 2])),
    case("TILE", w(2, 3), i32([1, 3]), constants=(1,)),
    case("BROADCAST_TO", w(3, 1), i32([2, 3, 4]), constants=(1,)),
    case("CONCATENATION", w(2, 3), w(2, 1, seed=2), table="ConcatenationOptions", axis=-1),
    case("CONCATENATION", w(2, 3), w(1, 3), constants=(1,), table="ConcatenationOptions", axis=0),
    case("PACK", w(2, 3), w(2, 3, seed=2), table="PackOptions", axis=1, valuesCount=2),
    case("PACK", np.int32(3), np.int32(4), outputs=("int32",), table="PackOptions", valuesCount=2),
    case("UNPACK", w(2, 3), outputs=("float32",) * 3, table="UnpackOptions", axis=-1, num=3),
    case("UNPACK", w(1, 3), table="UnpackOptions", axis=0, num=1),
    case("SPLIT", i32(1), w(2, 6), constants=(0,), outputs=("float32",) * 3,
         table="SplitOptions", numSplits=3),
    case("SPLIT_V", w(2, 6), i32([1, -1, 2]), i32(-1), constants=(1, 2),
         outputs=("float32",) * 3, table="SplitVOptions", numSplits=3),
    case("SPLIT_V", w(2, 6), i32([1, 3, 2]), i32(-1), constants=(2,), outputs=("float32",) * 3,
         table="SplitVOptions", numSplits=3),
    case("SLICE", w(3, 4, 5), i32([1, 0, 2]), i32([2, -1, 3]), constants=(1, 2),
         output_shape=(2, 4, 3)),
    case("SLICE", w(3, 4), i32([1, 0]), i32([2, 3]), constants=(2,), output_shape=(2, 3)),
    case("SLICE", w(3, 4), i32([1, 0]), i32([2, 3]), output_shape=(2, 3)),
    *(case("STRIDED_SLICE", w(4, 5, 6), *(i32(part) for part in bounds), constants=(1, 2, 3),
           table="StridedSliceOptions",
           **{f"{k}Mask": v for k, v in zip(_MASKS, masks, strict=True)})
      for bounds, masks in (
          (([1, 0, 2], [3, 5, 6], [1, 2, 3]), (0, 0, 0, 0, 0)),
          (([1, 0, 2], [3, 5, 6], [1, 2, 3]), (0b101, 0b010, 0, 0, 0)),
          (([-1, 4, -2], [0, 0, -7], [1, -2, -1]), (0, 0b010, 0, 0, 0b001)),
          (([3, 4, 5], [0, 0, 0], [-1, -1, -1]), (0b111, 0b111, 0, 0, 0)),
          (([0, 2], [0, 4], [1, 1]), (0, 0, 0b01, 0, 0)),
          (([1, 0, 0, 1], [2, 0, 0, 3], [1, 1, 1, 1]), (0, 0, 0b0100, 0b0010, 0b0001)),
          (([0, 1], [0, 2], [1, 1]), (0, 0, 0, 0b01, 0b10)),
      )),
    case("STRIDED_SLICE", w(4, 5), i32([1, 2]), i32([2, 3]), i32([1, 1]), constants=(1, 2, 3),
         table="StridedSliceOptions", offset=True),
    *(case("STRIDED_SLICE", w(4, 5, 6), *(i32(part) for part in bounds), constants=(3,),
           table="StridedSliceOptions", **{f"{k}Mask": v for k, v in masks.items()})
      for bounds, masks in (
          (([1, -4, 2], [3, 5, 6], [1, 2, 3]), {}),
          (([1, 0], [-1, 4], [2, 1]), {"begin": 0b01, "end": 0b10}),
          (([-1, 2, 0], [0, 0, 0], [1, 1, 2]), {"shrinkAxis": 0b011, "end": 0b100}),
      )),
    case("REVERSE_V2", w(3, 4), i32([1]), constants=(1,)),
    case("REVERSE_SEQUENCE", w(3, 4, 2), i32([2, 4, 1]), table="ReverseSequenceOptions",
         seqDim=1, batchDim=0),
    case("GATHER", w(4, 5), i32([[3, 0], [1, 1]]), table="GatherOptions", axis=1),
    case("GATHER", w(3, 5, 2), i32([[3, 0], [1, 1], [4, 2]]), table="GatherOptions", axis=1,
         batchDims=1),
    case("EMBEDDING_LOOKUP", i32([2, 0, 2]), w(4, 5), constants=(1,)),
    case("GATHER_ND", w(3, 4, 2), i32([[0, 1], [2, 3]])),
    case("SCATTER_ND", i32([[1], [3], [1]]), w(3, 2), i32([5, 2]), constants=(2,)),
    case("ONE_HOT", i32([1, -1, 3, 0]), i32(4), F(2), F(-1), constants=(1, 2, 3),
         table="OneHotOptions", axis=-1),
    case("ONE_HOT", i32([1, 2]), i32(3), F(1), F(0), constants=(1, 2, 3), table="OneHotOptions",
         axis=0),
    case("ONE_HOT", i32([1, 2]), i32(3), F(1), F(0), constants=(2, 3), table="OneHotOptions",
         axis=-1),
    case("CAST", F([1.7, -1.7, 0, 3]), outputs=("int32",)),
    case("CAST", i32([0, 1, -2]), outputs=("bool",)),
    case("CAST", np.array([True, False])),
    case("SHAPE", w(2, 3, 4), outputs=("int32",), table="ShapeOptions", outType=2),
    case("SHAPE", w(2, 3, 4), outputs=("int64",), table="ShapeOptions", outType=4),
    case("RANK", w(2, 3, 4), outputs=("int32",)),
    case("RANGE", i32(2), i32(11), i32(3), outputs=("int32",)),
    case("RANGE", F(2), F(0), F(-0.5)),
    case("FILL", i32([2, 3]), F(1.5)),
    case("PAD", IMAGE, i32([[0, 0], [1, 2], [0, 3], [2, 0]]), constants=(1,)),
    case("PAD", w(2, 3), i32([[1, 0], [2, 1]])),
    case("PADV2", w(2, 3), i32([[1, 0], [2, 1]]), F(1.5), constants=(1,)),
    case("PADV2", w(2, 3), i32([[1, 0], [2, 1]]), F([2.5]), constants=(1, 2)),
    case("MIRROR_PAD", w(4, 5), i32([[2, 1], [0, 3]]), constants=(1,), table="MirrorPadOptions"),
    case("MIRROR_PAD", w(4, 5), i32([[2, 1], [0, 5]]), constants=(1,), table="MirrorPadOptions",
         mode=1),
    *(case("RESIZE_BILINEAR", IMAGE, i32(size), constants=(1,), table="ResizeBilinearOptions",
           alignCorners=align, halfPixelCenters=half, tolerance=1e-5)
      for size in ([14, 18], [3, 5], [10, 7])
      for align, half in ((False, False), (True, False), (False, True))),
    *(case("RESIZE_NEAREST_NEIGHBOR", IMAGE, i32(size), constants=(1,), alignCorners=align,
           halfPixelCenters=half, table="ResizeNearestNeighborOptions")
      for size in ([14, 18], [3, 5], [10, 7], [21, 27], [1, 1], [39, 31])
      for align, half in ((False, False), (True, False), (False, True))),
    # Sizes at which ONNX's Resize takes other neighbours than LiteRT.
    *(case("RESIZE_NEAREST_NEIGHBOR", w(1, size, 1, 1), i32([target, 1]), constants=(1,),
           alignCorners=align, halfPixelCenters=half, table="ResizeNearestNeighborOptions")
      for size, target, align, half in (
          (14, 1, False, True), (14, 39, False, True), (3, 97, False, False),
          (23, 97, False, False), (49, 97, True, False))),
    *(case(code, IMAGE, i32(14, 18), constants=(1,), free=True, table=f"{table}Options")
      for code, table in (("RESIZE_BILINEAR", "ResizeBilinear"),
                          ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor"))),
    case("SPACE_TO_DEPTH", w(2, 4, 6, 3), table="SpaceToDepthOptions", blockSize=2),
    case("DEPTH_TO_SPACE", w(2, 2, 3, 12), table="DepthToSpaceOptions", blockSize=2),
    case("SPACE_TO_BATCH_ND", w(2, 3, 5, 2), i32([2, 3]), i32([[1, 0], [0, 1]]),
         constants=(1, 2)),
    case("BATCH_TO_SPACE_ND", w(12, 2, 2, 2), i32([2, 3]), i32([[1, 0], [0, 1]]),
         constants=(1, 2)),
    case("DEQUANTIZE", np.array([1, 2.5], np.float16), constants=(0,)),
    case("DEQUANTIZE", np.array([1, 2.5], np.float16)),
]  # fmt: skip


@pytest.mark.parametrize("made", CASES)
def test_operator(made: Case, tmp_path: Path) -> None:
    _, content = one_operator(
        made.code,
        made.inputs,
        constants=made.constants,
        outputs=made.outputs,
        output_shape=made.output_shape,
        table=made.table,
        free=made.free,
        **made.options,
    )
    feeds = [a for i, a in enumerate(made.inputs) if a is not None and i not in made.constants]
    assert_same(content, tmp_path, feeds, tolerance=made.tolerance)


def test_every_importer_has_a_case() -> None:
    # Those that need several tensors of their own kind are tested beside.
    elsewhere = {
        "QUANTIZE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
    }  # fmt: skip
    covered = {parameter.values[0].code for parameter in CASES}
    assert registered().keys() - covered == elsewhere
    assert len(registered()) >= 100


def test_an_image_stays_channels_first_between_two_convolutions(tmp_path: Path) -> None:
    from converters.tflite_builder import TfliteBuilder

    build = TfliteBuilder()
    image = build.tensor("image", [-1, 8, 8, 3])
    kernels = [build.constant(f"w{i}", w(4, 3, 3, c, seed=i)) for i, c in enumerate((3, 4))]
    pads = build.constant("pads", i32([[0, 0], [1, 1], [1, 1], [0, 0]]))
    biases = [build.constant(f"b{i}", w(4, seed=i)) for i in (5, 6)]
    scale = build.constant("scale", w(4, seed=7))
    inner = [build.tensor(name, [-1, 8, 8, 4]) for name in ("c1", "scaled", "c2")]
    padded = build.tensor("padded", [-1, 10, 10, 4])
    axes = build.constant("axes", i32([1, 2]))
    mean = build.tensor("mean", [-1, 4])
    options = {"padding": 0, "strideH": 1, "strideW": 1, "fusedActivationFunction": 1}
    build.operator(
        "CONV_2D", [image, kernels[0], biases[0]], [inner[0]], "Conv2DOptions", **options
    )
    build.operator("MUL", [inner[0], scale], [inner[1]], "MulOptions")
    build.operator("PAD", [inner[1], pads], [padded])
    options["padding"] = 1
    build.operator(
        "CONV_2D", [padded, kernels[1], biases[1]], [inner[2]], "Conv2DOptions", **options
    )
    build.operator("MEAN", [inner[2], axes], [mean], "ReducerOptions")
    content = build.content([image], [mean])
    model = assert_same(content, tmp_path, [w(3, 8, 8, 3)], tolerance=1e-5)
    assert types_of(model).count("Transpose") == 1
    names = {name for node in model.graph.node for name in node.output}
    assert {"c1", "scaled", "padded", "c2", "mean"} <= names
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_reduction_that_keeps_channels_in_front_turns_them_back(tmp_path: Path) -> None:
    from converters.tflite_builder import TfliteBuilder

    build = TfliteBuilder()
    image = build.tensor("image", [2, 6, 5, 3])
    pool = build.tensor("pool", [2, 3, 2, 3])
    axes = build.constant("axes", i32([1]))
    mean = build.tensor("mean", [2, 2, 3])
    build.operator(
        "MAX_POOL_2D", [image], [pool], "Pool2DOptions", padding=1, strideH=2, strideW=2,
        filterHeight=2, filterWidth=2,
    )  # fmt: skip
    build.operator("MEAN", [pool, axes], [mean], "ReducerOptions")
    assert_same(build.content([image], [mean]), tmp_path, [w(2, 6, 5, 3)])
