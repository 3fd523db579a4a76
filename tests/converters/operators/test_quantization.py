"""Quantized numbers: to and from them, and their products, against integer arithmetic."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32
QUANTIZED = ["int8", "uint8", "int16", "uint16"]


def spread(parameter: Any, shape: tuple[int, ...], axis: int, block: int = 0) -> Any:
    parameter = np.asarray(parameter)
    if parameter.size == 1:
        return parameter.reshape(())
    if block:
        return np.repeat(parameter, block, axis=axis).take(range(shape[axis]), axis=axis)
    return parameter.reshape([-1 if at == axis % len(shape) else 1 for at in range(len(shape))])


def parameters(dtype: str, granularity: str, shape: tuple[int, ...], axis: int, block: int) -> Any:
    rng = np.random.default_rng(2)
    sizes = {"tensor": (), "vector of one": (1,), "axis": (shape[axis],)}
    if granularity == "blocks":
        blocks = list(shape)
        blocks[axis] = -(-shape[axis] // block)
        sizes["blocks"] = tuple(blocks)
    scale = rng.uniform(0.05, 0.2, sizes[granularity]).astype(F)
    limits = np.iinfo(dtype)
    zero = rng.integers(limits.min // 2, limits.max // 2, sizes[granularity]).astype(dtype)
    return np.asarray(scale), np.asarray(zero)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("convolved", [True, False])
@pytest.mark.parametrize(
    ("granularity", "axis"),
    [("tensor", 1), ("vector of one", 1), ("axis", 0), ("axis", 1), ("axis", -1), ("axis", 2),
     ("blocks", 1), ("blocks", 3), ("blocks", -2)],
)  # fmt: skip
def test_there_and_back(
    granularity: str, axis: int, convolved: bool, constant: bool, evaluate: Any
) -> None:
    image = np.random.default_rng(1).normal(scale=3, size=(2, 3, 4, 5)).astype(F)
    block = 2 if granularity == "blocks" else 0
    for dtype in QUANTIZED:
        scale, zero = parameters(dtype, granularity, image.shape, axis, block)
        attributes = {"axis": axis} | ({"block_size": block} if block else {})
        nodes = [
            node("QuantizeLinear", ["c" if convolved else "x", "s", "z"], ["q"], **attributes),
            node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
        ]
        arrays, constants = {"x": image}, {}
        (constants if constant else arrays).update(s=scale, z=zero)
        if convolved:
            nodes.insert(0, node("Conv", ["x", "w"], ["c"]))
            constants["w"] = np.eye(3, dtype=F)[:, :, None, None]
        found = evaluate(nodes, arrays, ["q", "y"], constants=constants)
        wide_scale, wide_zero = (spread(p, image.shape, axis, block) for p in (scale, zero))
        limits = np.iinfo(dtype)
        expected = np.rint(image / wide_scale) + wide_zero
        quantized = np.clip(expected, limits.min, limits.max).astype(dtype)
        np.testing.assert_array_equal(found.outputs["q"], quantized)
        assert found.outputs["q"].dtype == dtype
        np.testing.assert_allclose(
            found.y, (quantized.astype(F) - wide_zero.astype(F)) * wide_scale, rtol=1e-6
        )
        if convolved and granularity != "blocks":
            assert found.codes.count("TRANSPOSE") == 3


def test_halves_go_to_even_and_ends_are_cut(evaluate: Any) -> None:
    values = F([-5, -1, -0.5, 0, 0.5, 1, 1.5, 2.5, 1e9, -1e9, np.inf])
    constants = {"s": F(1), "z": np.uint8(10)}
    quantize = node("QuantizeLinear", ["x", "s", "z"], ["y"])
    computed = evaluate(quantize, {"x": values}, constants=constants, free=True).y
    assert computed.tolist() == [5, 9, 10, 10, 10, 11, 12, 12, 255, 0, 255]


def test_without_a_zero_point(evaluate: Any) -> None:
    values = F([-5, 1.4, 300])
    quantize = node("QuantizeLinear", ["x", "s"], ["y"])
    assert evaluate(quantize, {"x": values}, constants={"s": F(1)}).y.tolist() == [0, 1, 255]
    quantize = node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=TensorProto.INT16)
    assert evaluate(quantize, {"x": values}, constants={"s": F(1)}).y.tolist() == [-5, 1, 300]
    dequantize = node("DequantizeLinear", ["x", "s"], ["y"])
    arrays = {"x": np.array([-(2**31), 7], dtype=np.int32)}
    assert evaluate(dequantize, arrays, constants={"s": F(0.5)}).y.tolist() == [-(2.0**30), 3.5]


def test_half_precision_divides_in_half_precision(evaluate: Any) -> None:
    values = np.linspace(-3, 3, 999).astype(np.float16)
    scale = np.float16(0.0111)
    quantize = node("QuantizeLinear", ["x", "s", "z"], ["y"])
    computed = evaluate(quantize, {"x": values}, constants={"s": scale, "z": np.int16(3)}).y
    np.testing.assert_array_equal(computed, np.rint(values / scale).astype(np.int16) + 3)


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.int4, ml_dtypes.uint4, np.int8, ml_dtypes.float8_e4m3fn, np.int32]
)
@pytest.mark.parametrize("block", [0, 2])
def test_constant_weights_are_weights(dtype: Any, block: int, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 8, (4, 6)).astype(dtype)
    scale = rng.uniform(0.1, 1, (2, 6) if block else (6,)).astype(F)
    image = rng.normal(size=(3, 4)).astype(F)
    attributes = {"axis": 0, "block_size": 2} if block else {"axis": 1}
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"], **attributes),
        node("MatMul", ["x", "d"], ["y"]),
    ]
    found = evaluate(nodes, {"x": image}, constants={"w": weights, "s": scale}, free=True)
    wide = weights.astype(F) * spread(scale, weights.shape, attributes["axis"], block)
    np.testing.assert_allclose(found.y, image @ wide, rtol=1e-5)
    assert found.codes == ("FULLY_CONNECTED",)


def test_weights_that_training_quantized_are_weights(evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    weights, image = (
        rng.normal(size=(4, 3, 1, 1)).astype(F),
        rng.normal(size=(1, 3, 5, 5)).astype(F),
    )
    scale, zero = rng.uniform(0.01, 0.02, 4).astype(F), np.zeros(4, dtype=np.int8)
    nodes = [
        node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
        node("Conv", ["x", "d"], ["y"]),
    ]
    constants = {"w": weights, "s": scale, "z": zero}
    found = evaluate(nodes, {"x": image}, constants=constants, free=True)
    wide = scale[:, None, None, None]
    rounded = (np.clip(np.rint(weights / wide), -128, 127) * wide)[:, :, 0, 0]
    np.testing.assert_allclose(found.y, np.einsum("oi,nihw->nohw", rounded, image), rtol=1e-4)
    assert found.codes == ("TRANSPOSE", "CONV_2D", "TRANSPOSE")


def test_a_dequantized_constant_may_be_an_output(evaluate: Any) -> None:
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], ["y"]),
        node("Relu", ["x"], ["other"]),
    ]
    constants = {"w": np.int8([1, 2, 3]), "s": F(0.5), "z": np.int8(1)}
    found = evaluate(nodes, {"x": F([1])}, ["y", "other"], constants=constants)
    assert found.y.tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("values", [F([[0, 2, -3], [-2.5, 1.34, 0.5]]), F([[-1, -2.1, -1.3]]),
                                    F([[1, 2.1, 1.3], [4, 3, 9]])])  # fmt: skip
def test_dynamic_quantization(values: Any, free: bool, evaluate: Any) -> None:
    dynamic = node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    found = evaluate(dynamic, {"x": values}, ["y", "scale", "zero"], free=free)
    low, high = min(values.min(), F(0)), max(values.max(), F(0))
    scale = (high - low) / F(255)
    zero = np.rint(np.clip(-low / scale, 0, 255))
    np.testing.assert_allclose(found.outputs["scale"], scale, rtol=1e-6)
    assert found.outputs["scale"].shape == found.outputs["zero"].shape == ()
    assert found.outputs["zero"] == zero
    assert found.outputs["zero"].dtype == np.uint8
    np.testing.assert_array_equal(found.y, np.clip(np.rint(values / scale) + zero, 0, 255))


def test_dynamic_quantization_of_nothing_but_zeros(evaluate: Any) -> None:
    dynamic = node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    found = evaluate(dynamic, {"x": np.zeros((2, 3), F)}, ["y", "scale", "zero"])
    assert found.outputs["scale"] == 1
    assert not found.y.any()


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("depth", [3, 258, 700])
@pytest.mark.parametrize("types", [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")])
def test_products_of_integers_are_exact(
    types: Any, depth: int, constant: bool, evaluate: Any
) -> None:
    rng = np.random.default_rng(1)
    # Mostly the largest, so that sums in float32 would be rounded.
    first, second = (
        np.where(rng.random(shape) < 0.9, np.iinfo(t).max, np.iinfo(t).max - 1).astype(t)
        for t, shape in zip(types, [(2, 5, depth), (depth, 4)], strict=True)
    )
    zeros = [np.asarray(np.iinfo(t).min, dtype=t) for t in types]
    arrays, constants = {"a": first}, {"az": zeros[0], "bz": zeros[1]}
    (constants if constant else arrays)["b"] = second
    product = node("MatMulInteger", ["a", "b", "az", "bz"], ["y"])
    found = evaluate(product, arrays, constants=constants, free=constant)
    wide = [
        array.astype(np.int32) - zero for array, zero in zip((first, second), zeros, strict=True)
    ]
    np.testing.assert_array_equal(found.y, wide[0] @ wide[1])
    assert found.y.dtype == np.int32
    assert found.codes.count("FULLY_CONNECTED" if constant else "BATCH_MATMUL") == -(-depth // 258)


@pytest.mark.parametrize("shapes", [((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,))])
def test_vectors_of_integers(shapes: Any, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 255, shape).astype(np.uint8) for shape in shapes)
    found = evaluate(node("MatMulInteger", ["a", "b"], ["y"]), {"a": first, "b": second})
    np.testing.assert_array_equal(found.y, first.astype(np.int32) @ second.astype(np.int32))


def test_zero_points_of_rows_and_columns(evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 255, s).astype(np.uint8) for s in [(2, 3), (3, 4)])
    rows, columns = np.uint8([3, 200]), np.uint8([1, 2, 3, 250])
    arrays = {"a": first, "b": second, "az": rows, "bz": columns}
    found = evaluate(node("MatMulInteger", [*arrays], ["y"]), arrays)
    wide = first.astype(np.int32) - rows[:, None], second.astype(np.int32) - columns
    np.testing.assert_array_equal(found.y, wide[0] @ wide[1])


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantized_matmul(dtype: str, columns: bool, constant: bool, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    limits = np.iinfo(dtype)
    first, second = (
        rng.integers(limits.min, limits.max, shape).astype(dtype) for shape in [(5, 300), (300, 4)]
    )
    count = (4,) if columns else ()
    scales = {"as": F(0.01), "bs": rng.uniform(0.001, 0.01, count).astype(F), "ys": F(0.3)}
    zeros = {"az": np.asarray(5, dtype), "bz": rng.integers(0, 9, count).astype(dtype),
             "yz": np.asarray(17, dtype)}  # fmt: skip
    arrays, constants = {"a": first}, {}
    (constants if constant else arrays).update(b=second, **scales, **zeros)
    names = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
    found = evaluate(node("QLinearMatMul", names, ["y"]), arrays, constants=constants)
    total = (first.astype(np.int64) - zeros["az"].astype(int)) @ (
        second.astype(np.int64) - zeros["bz"].astype(int)
    )
    expected = np.rint(total * (scales["as"] * scales["bs"] / scales["ys"])) + 17
    off = np.abs(found.y.astype(int) - np.clip(expected, limits.min, limits.max))
    # A product next to a half may be rounded either way.
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


CONVOLUTIONS = [
    ((2, 3, 6, 7), (4, 3, 3, 3), 1, {"pads": [1, 1, 1, 1]}),
    ((1, 4, 5, 5), (4, 1, 3, 3), 4, {"strides": [2, 2]}),
    ((1, 4, 5, 5), (6, 2, 2, 2), 2, {"dilations": [2, 2], "pads": [1, 0, 0, 1]}),
    ((1, 40, 4, 4), (3, 40, 3, 3), 1, {}),
    ((1, 80, 4, 4), (2, 40, 3, 3), 2, {}),
    ((2, 3, 9), (4, 3, 3), 1, {"pads": [1, 1]}),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("image", "weights", "groups", "attributes"), CONVOLUTIONS)
def test_convolution_of_integers(
    image: Any, weights: Any, groups: int, attributes: Any, constant: bool, evaluate: Any
) -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(200, 256, image).astype(np.uint8)
    kernel = rng.integers(200, 256, weights).astype(np.uint8)
    zeros = {"xz": np.uint8(3), "wz": rng.integers(0, 9, weights[0]).astype(np.uint8)}
    arrays, constants = {"x": values}, dict(zeros)
    (constants if constant else arrays)["w"] = kernel
    convolution = node("ConvInteger", ["x", "w", "xz", "wz"], ["y"], group=groups, **attributes)
    found = evaluate(convolution, arrays, constants=constants, free=constant)
    centred = kernel.astype(np.float64) - zeros["wz"].reshape(-1, *[1] * (len(weights) - 1))
    reference = node("Conv", ["x", "w"], ["y"], group=groups, **attributes)
    (expected,) = ReferenceEvaluator(reference).run(
        None, {"x": values.astype(np.float64) - 3, "w": centred}
    )
    np.testing.assert_array_equal(found.y, expected.astype(np.int32))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantized_convolution(dtype: str, constant: bool, bias: bool, evaluate: Any) -> None:
    rng = np.random.default_rng(1)
    limits = np.iinfo(dtype)
    image = rng.integers(limits.min, limits.max, (2, 3, 6, 7)).astype(dtype)
    weights = rng.integers(limits.min, limits.max, (4, 3, 1, 1)).astype(dtype)
    zeros = rng.integers(0, 9, 3).astype(dtype)
    scales = rng.uniform(0.001, 0.01, 4).astype(F)
    others = {
        "xs": F(0.01), "xz": zeros[0], "w": weights, "ws": scales,
        "wz": np.full(4, zeros[1]), "ys": F(0.02), "yz": zeros[2],
    }  # fmt: skip
    if bias:
        others["b"] = rng.integers(-(2**20), 2**20, 4).astype(np.int32)
    arrays, constants = {"x": image}, {}
    (constants if constant else arrays).update(others)
    convolution = node("QLinearConv", ["x", *others], ["y"])
    found = evaluate(convolution, arrays, constants=constants, free=constant)
    total = np.einsum(
        "oi,nihw->nohw", weights[:, :, 0, 0].astype(int) - zeros[1], image.astype(int) - zeros[0]
    )
    total = total + others.get("b", np.zeros(4, int)).reshape(-1, 1, 1)
    scale = (F(0.01) * scales / F(0.02)).reshape(-1, 1, 1)
    expected = np.clip(np.rint(total.astype(F) * scale) + zeros[2], limits.min, limits.max)
    np.testing.assert_array_equal(found.y, expected.astype(dtype))


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear"])
def test_types_that_litert_lacks_are_refused_by_name(operator: str, evaluate: Any) -> None:
    zero = np.zeros((), dtype=ml_dtypes.int4)
    quantize = node("QuantizeLinear", ["x", "s", "z"], ["q"], name="first")
    dequantize = node("DequantizeLinear", ["q", "s", "z"], ["y"], name="second")
    with pytest.raises(UnsupportedModelError, match="int4") as caught:
        evaluate([quantize, dequantize], {"x": F([1, 2])}, constants={"s": F(1), "z": zero})
    assert "first (QuantizeLinear)" in caught.value.what
