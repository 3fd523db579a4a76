"""Which releases of the runtimes take a model is judged by what was measured of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.load_check import LoadCheck
from edgekit_runtime.graph.model import Graph, Operator, Tensor
from edgekit_runtime.graph.read import read_graph
from edgekit_runtime.graph.runtimes import judge_runtimes, known_runtimes
from runtime.graph.tflite_files import conv_model, pack
from runtime.models import linear_model

LOADS = LoadCheck(loads=True, runtime="an engine 1.0")


@pytest.fixture
def linear(tmp_path: Path) -> Graph:
    return read_graph(linear_model(tmp_path / "linear.onnx"))


def lite(*operators: Operator, weights: Tensor | None = None, source: str = "float32") -> Graph:
    tensors = [Tensor(name="x", dtype=source, shape=(1, 4)), *([weights] if weights else [])]
    return Graph(
        format=ModelFormat.LITERT, version=3, opsets={}, producer="", description="", metadata={},
        inputs=(), outputs=(), operators=operators, inner_operators=(),
        tensors={tensor.name: tensor for tensor in tensors},
    )  # fmt: skip


def step(kind: str, *, version: int = 1, custom: bool = False) -> Operator:
    return Operator(
        type=kind, name="y", inputs=("x", "w"), outputs=("y",), version=version, custom=custom
    )


def test_the_measurements_are_in_order() -> None:
    known = known_runtimes()
    opsets = [release.opset for release in known.onnx]
    versions = [tuple(map(int, release.version.split("."))) for release in known.onnx]
    assert opsets == sorted(opsets)
    assert versions == sorted(versions)
    assert len(known.tflite_operators) > 150
    assert all(1 <= low <= high for low, high in known.tflite_operators.values())


@pytest.mark.parametrize(
    ("opset", "ir_version", "release"),
    [
        (7, 3, "1.16.3"),
        (19, 9, "1.16.3"),
        (18, 10, "1.18.1"),
        (22, 10, "1.21.1"),
        (22, 11, "1.23.2"),
    ],
)
def test_the_first_release_with_the_opset_and_the_ir(
    opset: int, ir_version: int, release: str, linear: Graph
) -> None:
    graph = replace(linear, opsets={"ai.onnx": opset}, version=ir_version)
    (fit,) = judge_runtimes(graph, LOADS)
    assert (fit.runtime, fit.runs) == (f"onnxruntime {release} and newer", True)


def test_an_opset_from_the_future(linear: Graph) -> None:
    (fit,) = judge_runtimes(replace(linear, opsets={"ai.onnx": 99}), LOADS)
    assert fit.runs is False
    assert "opset 99" in fit.reason


def test_custom_onnx_operators_are_not_known(linear: Graph) -> None:
    odd = replace(linear.operators[0], type="Magic", custom=True)
    (fit,) = judge_runtimes(replace(linear, operators=(odd,)), LOADS)
    assert fit.runs is None
    assert "Magic" in fit.reason


def test_what_the_engine_here_refuses_is_not_known_elsewhere(linear: Graph) -> None:
    (fit,) = judge_runtimes(linear, LoadCheck(loads=False, runtime="an engine 1.0"))
    assert fit.runs is None
    assert "an engine 1.0 refuses the file" in fit.reason


def test_a_plain_tflite_file(tmp_path: Path) -> None:
    path = tmp_path / "conv.tflite"
    path.write_bytes(pack(conv_model()))
    (fit,) = judge_runtimes(read_graph(path), LOADS)
    assert (fit.runtime, fit.runs) == ("tflite-runtime 2.14.0", True)


def test_operators_and_versions_that_tflite_runtime_lacks() -> None:
    graph = lite(
        step("CONV_2D", version=8), step("STABLEHLO_CASE"), step("RELU", custom=True), step("TANH")
    )
    (fit,) = judge_runtimes(graph, LOADS)
    assert fit.runs is False
    assert (
        fit.reason == "CONV_2D version 8, it has 7; STABLEHLO_CASE is not in it; RELU is not in it"
    )


@pytest.mark.parametrize(
    ("source", "scales", "runs"), [("float32", 4, False), ("float32", 1, True), ("int8", 4, True)]
)
def test_dynamic_range_that_tflite_runtime_computes_wrongly(
    source: str, scales: int, runs: bool
) -> None:
    weights = Tensor(name="w", dtype="int8", shape=(4, 4), constant_bytes=16, scales=scales)
    (fit,) = judge_runtimes(lite(step("FULLY_CONNECTED"), weights=weights, source=source), LOADS)
    assert fit.runs is runs
    assert ("wrongly, without an error" in fit.reason) is not runs


def test_an_operator_without_operands() -> None:
    bare = Operator(type="FULLY_CONNECTED", name="y", inputs=(), outputs=("y",))
    (fit,) = judge_runtimes(lite(bare), LOADS)
    assert fit.runs is True
