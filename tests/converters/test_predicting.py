"""Which nodes an engine computes in integers, as the prediction of latency counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_converters.normalise import normalise
from edgekit_converters.predicting import PredictedLatency, integer_nodes
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import RangeMethod, collect_ranges
from edgekit_converters.repair.simulation import simulate
from edgekit_runtime.formats import ModelFormat

WEIGHTED = {"conv1", "dense1", "dense2"}


@pytest.fixture
def planned(small_cnn: Any) -> tuple[Any, QuantizationPlan]:
    model = normalise(small_cnn, where="test")
    images = np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32)
    seen = collect_ranges(model, [{"image": images}])
    ranges = {name: one.range(RangeMethod.MIN_MAX) for name, one in seen.items()}
    return model, QuantizationPlan(scheme=Scheme.INT8, ranges=ranges)


def _integers(model: Any, plan: QuantizationPlan, **changes: Any) -> set[str]:
    import dataclasses

    return set(integer_nodes(simulate(model, dataclasses.replace(plan, **changes)))) & WEIGHTED


def test_layers_that_compute_in_integers(planned: tuple[Any, QuantizationPlan]) -> None:
    model, plan = planned
    assert _integers(model, plan) == WEIGHTED
    assert _integers(model, plan, keep_float=frozenset({"dense1"})) == {"conv1", "dense2"}
    wide = _integers(model, plan, scheme=Scheme.MIXED, wide=frozenset({"dense2"}))
    assert wide == {"conv1", "dense1"}
    assert _integers(model, plan, scheme=Scheme.INT16X8) == set()
    assert integer_nodes(model) == frozenset()


def test_an_engine_without_integers(make_model: Any, weights: Any) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = make_model([node], {"x": ["n", 4]}, ["y"], {"w": weights(4, 4)})
    assert integer_nodes(model) == frozenset()


class Noting:
    """Answers with how many nodes compute in integers."""

    name = "noting"

    def latency_ms(self, model: Path, target: ModelFormat, *, integers: Any) -> float:
        assert model.is_file()
        assert target is ModelFormat.ONNX
        return float(len(integers))

    def kind(self, model: Path, target: ModelFormat) -> str:
        return f"{model.suffix} {target.value}"


@pytest.mark.parametrize("scheme", list(Scheme))
def test_what_computes_in_float_takes_as_long_as_float(
    scheme: Scheme, planned: tuple[Any, QuantizationPlan], tmp_path: Path
) -> None:
    model, plan = planned
    latency = PredictedLatency(Noting(), model, tmp_path)
    asked = QuantizationPlan(scheme=scheme, ranges=plan.ranges if scheme.needs_ranges else {})
    quick = latency.of_plan(model, asked, ModelFormat.ONNX)
    assert (quick > latency.of_float(ModelFormat.ONNX)) is (scheme in {Scheme.INT8, Scheme.MIXED})
    assert latency.kind(ModelFormat.ONNX) == ".onnx onnx"
