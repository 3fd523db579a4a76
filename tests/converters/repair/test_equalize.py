"""Channels are scaled where that computes the same, and makes int8 finer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.graph import read_graph
from edgekit_converters.ranges import collect_ranges
from edgekit_converters.repair.chains import find_chains
from edgekit_converters.repair.equalize import equalize
from edgekit_converters.repair.simulation import answers, simulate
from tests.converters.repair.chain_models import chain_model, images, int8_plan, sqnr_db

RELU = helper.make_node("Relu", ["h0"], ["h1"])
RELU6 = helper.make_node("Clip", ["h0", "zero", "six"], ["h1"])


@pytest.mark.parametrize(
    "between",
    [
        (),
        (RELU,),
        (helper.make_node("LeakyRelu", ["h0"], ["h1"], alpha=0.1),),
        (RELU, helper.make_node("MaxPool", ["h1"], ["h2"], kernel_shape=[2, 2])),
        (helper.make_node("AveragePool", ["h0"], ["h1"], kernel_shape=[2, 2]),),
    ],
)
@pytest.mark.parametrize("depthwise", [True, False])
def test_the_float_model_computes_the_same(between: tuple[Any, ...], depthwise: bool) -> None:
    model = chain_model(between, depthwise=depthwise)
    batches = images()
    equalized = equalize(model, collect_ranges(model, batches))
    assert equalized.layers == ("first",)
    unseen = images(seed=9, scale=5)
    expected = answers(model, unseen)["y"]
    assert np.allclose(answers(equalized.model, unseen)["y"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("between", [(RELU,), (RELU6,)])
@pytest.mark.parametrize(("depthwise", "gain_db"), [(True, 15), (False, 6)])
def test_int8_becomes_finer(between: tuple[Any, ...], depthwise: bool, gain_db: float) -> None:
    model = chain_model(between, depthwise=depthwise)
    batches = images()
    equalized = equalize(model, collect_ranges(model, batches)).model
    expected = answers(model, batches)["y"]
    before = answers(simulate(model, int8_plan(model, batches)), batches)["y"]
    after = answers(simulate(equalized, int8_plan(equalized, batches)), batches)["y"]
    assert sqnr_db(expected, after) > sqnr_db(expected, before) + gain_db


def test_a_relu6_cuts_nothing_that_was_seen() -> None:
    model = chain_model((RELU6,))
    # Some channels reach six, and must be left alone; others never come near it.
    batches = images(scale=4)
    equalized = equalize(model, collect_ranges(model, batches))
    assert equalized.layers == ("first",)
    expected = answers(model, batches)["y"]
    assert (collect_ranges(model, batches)["h0"].channel_high > 6).any()
    assert np.allclose(answers(equalized.model, batches)["y"], expected, rtol=1e-4, atol=1e-4)


def test_what_nothing_reads_does_not_widen_the_range() -> None:
    model = chain_model((RELU,))
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "w2":
            array[-1] = 0
        elif tensor.name == "b1":
            array[-1] = 500
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    batches = images()
    equalized = equalize(model, collect_ranges(model, batches)).model
    assert collect_ranges(equalized, batches)["h1"].high < 20
    assert np.allclose(
        answers(equalized, batches)["y"], answers(model, batches)["y"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "between",
    [
        (helper.make_node("Sigmoid", ["h0"], ["h1"]),),
        (helper.make_node("Clip", ["h0", "six"], ["h1"]),),
        (helper.make_node("Mul", ["h0", "h0"], ["h1"]),),
    ],
)
def test_what_does_not_scale_is_no_chain(between: tuple[Any, ...]) -> None:
    assert not find_chains(read_graph(chain_model(between)))


def test_an_output_between_the_layers_is_left_alone() -> None:
    assert find_chains(read_graph(chain_model((RELU,))))
    assert not find_chains(read_graph(chain_model((RELU,), ends=2)))


def test_equal_channels_are_left_alone() -> None:
    model = chain_model((RELU,), apart=1.0)
    batches = images()
    equalized = equalize(model, {})
    assert equalized.layers == ()
    assert equalized.model.SerializeToString() == model.SerializeToString()
    assert collect_ranges(model, batches)
