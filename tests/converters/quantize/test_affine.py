"""Integers for reals: how close they come, whatever the ranges and the weights are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.quantize.affine import (
    INT8,
    INT16,
    UINT8,
    WEIGHTS_INT4,
    WEIGHTS_INT8,
    Affine,
    Codes,
    affine_of,
    pack_nibbles,
    quantize_blocks,
    weight_affine,
    weight_scales,
    widen_for_bias,
)
from edgekit_converters.quantize.plan import Range

finite = st.floats(-(2.0**99), 2.0**99, allow_nan=False, width=32)


def reals(affine: Affine, integers: NDArray[Any]) -> NDArray[Any]:
    return (integers - affine.zero_point) * affine.scale.astype(np.float64)


@given(finite, finite, st.sampled_from([UINT8, INT8, INT16]))
def test_a_range_fits_to_half_a_step_and_zero_is_exact(a: float, b: float, codes: Codes) -> None:
    low, high = sorted((a, b))
    affine = affine_of(Range(low=low, high=high), codes)
    assert affine.scale > 0
    assert codes.low <= affine.zero_point <= codes.high
    assert reals(affine, affine.integers(np.zeros(1))) == 0
    values = np.linspace(low, high, 33)
    if max(high, 0) - min(low, 0) >= 1e-30:
        error = np.abs(reals(affine, affine.integers(values)) - values).max()
        # The zero point is rounded too, which can cost as much at the ends.
        assert error <= affine.scale * 1.01


def test_a_range_of_one_number_is_told_exactly() -> None:
    for value in (3.0, -3.0):
        affine = affine_of(Range(low=value, high=value), UINT8)
        assert reals(affine, affine.integers(np.array([value])))[0] == pytest.approx(value)
    assert affine_of(Range(low=0, high=0), UINT8).scale == 1


def test_values_outside_of_the_range_become_its_ends() -> None:
    affine = affine_of(Range(low=-1, high=1), UINT8)
    assert affine.integers(np.array([-9.0, 9.0])).tolist() == [0, 255]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=finite),
    st.sampled_from([0, 1, None]),
)
def test_weights_are_within_half_a_step(weights: NDArray[Any], axis: int | None) -> None:
    scales = weight_scales(weights, axis, WEIGHTS_INT8)
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    affine = weight_affine(scales, WEIGHTS_INT8)
    integers = affine.integers(weights, axis)
    assert np.abs(integers).max() <= 127
    steps = scales if axis is None else np.expand_dims(scales, 1 - axis)
    assert (np.abs(integers * steps.astype(np.float64) - weights) <= 0.501 * steps + 1e-30).all()


def test_a_channel_without_weights_has_its_neighbours_scale() -> None:
    weights = np.array([[1.27, 0], [0, 0], [2.54, 1]], np.float32)
    assert weight_scales(weights, 0, WEIGHTS_INT8).tolist() == pytest.approx([0.01, 0.015, 0.02])
    assert weight_scales(np.zeros((2, 2), np.float32), 0, WEIGHTS_INT8).tolist() == [1, 1]


def test_the_searched_scale_is_never_worse_than_the_widest() -> None:
    weights = np.random.default_rng(1).normal(size=(64, 32)).astype(np.float32)
    errors = []
    for search in (False, True):
        scales = weight_scales(weights, 0, WEIGHTS_INT4, search=search)
        integers = weight_affine(scales, WEIGHTS_INT4).integers(weights, 0)
        errors.append(np.square(integers * scales[:, None] - weights).sum(axis=1))
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < 0.9 * errors[0].sum()


def test_a_bias_always_fits_into_32_bits() -> None:
    scales = np.array([1e-12, 1e-3], np.float32)
    bias = np.array([5.0, 5.0], np.float32)
    widened = widen_for_bias(scales, bias, 0.01)
    assert (np.abs(bias) / (widened.astype(np.float64) * 0.01) < 2**30 * 1.001).all()
    assert widened[1] == scales[1]


@pytest.mark.parametrize("shape", [(64, 3), (70, 3), (5, 3), (32, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_are_read_as_the_onnx_specification_says(shape: tuple[int, int], axis: int) -> None:
    weights = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    weights = weights if axis == 0 else np.ascontiguousarray(weights.T)
    integers, scales = quantize_blocks(weights, axis, 32, WEIGHTS_INT4)
    assert integers.shape == weights.shape
    assert scales.shape[axis] == -(-weights.shape[axis] // 32)
    steps = np.repeat(scales, 32, axis=axis)
    steps = steps[: shape[0]] if axis == 0 else steps[:, : shape[0]]
    error = np.abs(integers * steps - weights)
    assert (error <= 0.5 * steps * 1.001).mean() > 0.9
    assert error.max() < 0.6


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=9))
def test_nibbles_are_packed_as_onnx_reads_them(values: list[int]) -> None:
    packed = pack_nibbles(np.array(values))
    tensor = helper.make_tensor("t", TensorProto.INT4, [len(values)], packed, raw=True)
    assert numpy_helper.to_array(tensor).astype(int).tolist() == values
