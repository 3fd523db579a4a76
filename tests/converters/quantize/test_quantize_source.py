"""What may be quantized: float models, and those whose weights alone are integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.source import float_source
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_runtime.errors import UnsupportedModelError
from tests.converters.quantize.measured import min_max_ranges, operators, run_onnx, sqnr_db


@pytest.fixture
def plain(make_model: Any) -> Any:
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    model = make_model([node], {"x": ["n", 64]}, ["y"], {"w": weights})
    return normalise(model, where="test")


def feeds() -> dict[str, Any]:
    return {"x": np.random.default_rng(2).normal(size=(32, 64)).astype(np.float32)}


def written(model: Any, scheme: Scheme, path: Path) -> Any:
    ranges = min_max_ranges(model, [feeds()]) if scheme.needs_ranges else {}
    write_onnx(model, QuantizationPlan(scheme=scheme, ranges=ranges), path, where="test")
    return normalise(onnx.load(str(path)), where="test")


def test_a_float_model_is_what_it_is(plain: Any) -> None:
    assert float_source(plain, where="test") == (plain, ())


def test_weights_stored_as_integers_are_opened(plain: Any, tmp_path: Path) -> None:
    stored = written(plain, Scheme.INT8_WEIGHTS, tmp_path / "stored.onnx")
    before = stored.SerializeToString()
    opened, remarks = float_source(stored, where="test")
    assert stored.SerializeToString() == before
    assert "keeps 1 of its weights as integers" in remarks[0]
    assert [node.op_type for node in opened.graph.node] == ["MatMul"]
    expected = run_onnx(opened, feeds())["y"]
    assert sqnr_db(expected, run_onnx(stored, feeds(), optimise=False)["y"]) > 90
    written(opened, Scheme.INT8, tmp_path / "int8.onnx")
    assert "QuantizeLinear" in operators(tmp_path / "int8.onnx")
    assert sqnr_db(expected, run_onnx(tmp_path / "int8.onnx", feeds())["y"]) > 33


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_DYNAMIC])
def test_a_model_that_computes_in_integers_is_refused(
    plain: Any, tmp_path: Path, scheme: Scheme
) -> None:
    quantized = written(plain, scheme, tmp_path / "quantized.onnx")
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        float_source(quantized, where="test")
