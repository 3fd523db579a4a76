"""Biases take out what quantization adds on average."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.repair.bias_correction import correct_biases
from edgekit_converters.repair.ratios import NoiseRatio
from edgekit_converters.repair.simulation import Run, answers, simulate
from edgekit_converters.repair.twins import own_noise
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from tests.converters.repair.chain_models import chain_model, images, int8_plan

RELU = helper.make_node("Relu", ["h0"], ["h1"])


@pytest.mark.parametrize("depthwise", [True, False])
def test_the_means_are_those_of_the_float_model(depthwise: bool) -> None:
    model = chain_model((RELU,), depthwise=depthwise)
    batches = images(8)
    plan = int8_plan(model, batches)
    corrected = correct_biases(model, plan, batches)
    expected = answers(model, batches)["y"].mean(axis=(0, 2, 3))
    before = answers(simulate(model, plan), batches)["y"].mean(axis=(0, 2, 3))
    after = answers(simulate(corrected, plan), batches)["y"].mean(axis=(0, 2, 3))
    assert np.abs(after - expected).max() < 0.5 * np.abs(before - expected).max()
    # The second layer had no bias.
    assert len(corrected.graph.node[-1].input) == 3
    assert len(model.graph.node[-1].input) == 2


def test_no_more_samples_are_read_than_means_need() -> None:
    model = chain_model((RELU,))
    batches = images(60)
    plan = int8_plan(model, batches)
    read = []

    def counted() -> Any:
        for batch in batches:
            read.append(len(batch["x"]))
            yield batch

    correct_biases(model, plan, counted())
    assert sum(read) == 128


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16X8])
def test_own_noise_is_that_of_the_layer_alone(scheme: Scheme) -> None:
    model = chain_model((RELU,))
    batches = images()
    plan = dataclasses.replace(int8_plan(model, batches), scheme=scheme)
    found = own_noise(model, simulate(model, plan), batches)
    assert [(one.node, one.value) for one in found] == [("first", "h0"), ("second", "y")]
    assert all(5 < one.sqnr_db < 120 for one in found)
    assert found[1].shift.shape == (8,)


def test_one_odd_sample_neither_hides_nor_makes_noise() -> None:
    expected = np.ones((20, 100))
    good = expected + 0.01
    assert ratio(expected, good) == pytest.approx(40)
    loud = expected.copy()
    loud[0, 0] = 1e4
    assert ratio(loud, np.rint(loud / 40) * 40) == pytest.approx(0)
    assert ratio(loud, np.minimum(loud, 1)) == 120
    spoilt = good.copy()
    spoilt[:3] += 100
    assert ratio(expected, spoilt) == pytest.approx(-40, abs=0.1)
    silent = np.vstack([expected, np.zeros((20, 100))])
    assert ratio(silent, silent + 0.01) == pytest.approx(40)
    assert ratio(expected, expected) == 120
    assert ratio(np.zeros(3), np.ones(3)) == -120
    assert ratio(expected, np.full_like(expected, np.nan)) == -120
    assert ratio(np.array([1.0, np.inf]), np.array([1.0, 7.0])) == 120
    assert ratio(np.zeros((0, 3)), np.zeros((0, 3))) == 120


def ratio(expected: Any, computed: Any) -> float:
    found = NoiseRatio()
    found.add(expected, computed)
    return found.decibels


def test_what_stays_float_has_no_noise() -> None:
    model = chain_model((RELU,))
    batches = images()
    plan = dataclasses.replace(int8_plan(model, batches), keep_float=frozenset({"first"}))
    found = own_noise(model, simulate(model, plan), batches)
    assert [one.node for one in found] == ["second"]
    everything = dataclasses.replace(plan, keep_float=frozenset({"first", "second"}))
    assert own_noise(model, simulate(model, everything), batches) == ()


def test_faults_of_the_data_and_the_plan_are_told() -> None:
    model = chain_model((RELU,))
    with pytest.raises(UsageError, match="no data"):
        answers(model, [])
    plan = int8_plan(model, images())
    with pytest.raises(UsageError, match="no fixed ranges"):
        simulate(model, dataclasses.replace(plan, scheme=Scheme.INT8_DYNAMIC))
    with pytest.raises(UnsupportedModelError, match="onnxruntime failed"):
        Run(model)({"x": np.zeros((1, 2), np.float32)})
    with pytest.raises(UnsupportedModelError, match="onnxruntime failed"):
        Run(model, ["no such value"])
