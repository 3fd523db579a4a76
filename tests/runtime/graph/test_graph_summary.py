"""A summary says what the file is, how much memory it plans, and whether the engine takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekit_runtime import session
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph import load_check
from edgekit_runtime.graph.lifetimes import plan_memory
from edgekit_runtime.graph.load_check import answer_for, check_loads
from edgekit_runtime.graph.model import Graph, Operator, Tensor
from edgekit_runtime.graph.summary import summarise
from edgekit_runtime.tensors import TensorSpec
from runtime.graph.tflite_files import conv_model, pack
from runtime.models import linear_model

KIB = 1024


def graph_of(operators: list[Operator], sizes: Mapping[str, int], last: str) -> Graph:
    """A graph of byte tensors that starts at "x"."""
    return Graph(
        format=ModelFormat.ONNX,
        version=8,
        opsets={"ai.onnx": 17},
        producer="",
        description="",
        metadata={},
        inputs=(TensorSpec(name="x", dtype="uint8", shape=(sizes["x"],)),),
        outputs=(TensorSpec(name=last, dtype="uint8", shape=(sizes[last],)),),
        operators=tuple(operators),
        inner_operators=(),
        tensors={n: Tensor(name=n, dtype="uint8", shape=(s,)) for n, s in sizes.items()},
    )


def step(inputs: list[str], output: str, kind: str = "Softmax") -> Operator:
    return Operator(type=kind, name=output, inputs=tuple(inputs), outputs=(output,))


def test_a_chain_needs_two_neighbours_and_the_input() -> None:
    sizes = {"x": KIB, "a": 4 * KIB, "b": 2 * KIB, "y": KIB}
    chain = [step(["x"], "a"), step(["a"], "b"), step(["b"], "y")]
    plan = plan_memory(graph_of(chain, sizes, "y"))
    # x lives throughout; a and b overlap at the second step.
    assert (plan.live_bytes, plan.peak_bytes, plan.busiest) == (7 * KIB, 7 * KIB, "b")


def test_a_branch_keeps_its_source_alive_and_a_view_costs_nothing() -> None:
    sizes = {"x": KIB, "a": 4 * KIB, "view": 4 * KIB, "b": 2 * KIB, "y": 4 * KIB}
    operators = [
        step(["x"], "a"),
        step(["a"], "view", "Reshape"),
        step(["a"], "b"),
        step(["view", "b"], "y", "Add"),
    ]
    assert plan_memory(graph_of(operators, sizes, "y")).peak_bytes == (1 + 4 + 2 + 4) * KIB


def test_a_model_without_operators_has_no_busiest_one(tmp_path: Path) -> None:
    model = conv_model()
    model.subgraphs[0].operators, model.subgraphs[0].outputs = [], [0]
    path = tmp_path / "nothing.tflite"
    path.write_bytes(pack(model))
    summary = summarise(path)
    assert (summary.operators, summary.memory.busiest) == ({}, "")
    assert summary.memory.peak_bytes == 128


def test_weights_in_files_beside_the_model_count(tmp_path: Path) -> None:
    path = linear_model(tmp_path / "linear.onnx")
    whole = summarise(path).file_bytes
    model = onnx.load_model(str(path))
    beside = tmp_path / "beside.onnx"
    onnx.save_model(
        model, str(beside), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    found = summarise(beside).file_bytes
    assert found == beside.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert found > whole - 50


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20)), min_size=1, max_size=20))
def test_no_plan_is_below_what_is_alive_or_above_the_sum(steps: list[tuple[int, int]]) -> None:
    names, operators, sizes = ["x"], [], {"x": 64}
    for number, (size, source) in enumerate(steps):
        operators.append(step([names[source % len(names)]], f"t{number}"))
        names.append(f"t{number}")
        sizes[names[-1]] = size
    plan = plan_memory(graph_of(operators, sizes, names[-1]))
    assert plan.live_bytes <= plan.peak_bytes <= sum(-(-s // 64) * 64 for s in sizes.values())
    assert plan.unknown == 0


def test_an_onnx_summary(tmp_path: Path) -> None:
    path = linear_model(tmp_path / "linear.onnx")
    summary = summarise(path)
    assert summary.loads.loads is True
    assert summary.loads.runtime.startswith("onnxruntime ")
    data = json.loads(json.dumps(summary.to_json()))
    assert data["format"] == "onnx"
    assert data["file_bytes"] == path.stat().st_size
    assert data["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": [None, 3], "quantization": None}
    ]
    assert data["operators"] == {"MatMul": 1}
    assert data["workload"]["macs"] == data["workload"]["parameters"] == 6
    assert data["activation_memory"]["kind"] == "planned"
    assert data["quantization"]["kind"] == "float32"


def test_a_tflite_summary(tmp_path: Path) -> None:
    path = tmp_path / "conv.tflite"
    path.write_bytes(pack(conv_model()))
    summary = summarise(path)
    assert summary.loads.loads is True
    assert summary.operators == {"CONV_2D": 1, "RELU6": 1, "MEAN": 1}
    assert summary.custom_operators == ()


def test_a_model_that_the_engine_refuses_is_described_all_the_same(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Magic", ["x"], ["y"], domain="example.org")],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.org", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    summary = summarise(path)
    assert summary.custom_operators == ("Magic",)
    assert summary.loads.loads is False
    assert "Magic" in summary.loads.reason


def test_no_engine_is_neither_yes_nor_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(path: Path) -> None:
        raise EnvironmentLackError("not installed", where=str(path), fix="install it")

    monkeypatch.setattr(session, "open_session", lacking)
    found = answer_for(linear_model(tmp_path / "linear.onnx"))
    assert found.loads is None
    assert "install it" in found.reason


def test_an_engine_that_dies_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "dying"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(load_check.sys, "executable", str(script))
    found = check_loads(linear_model(tmp_path / "linear.onnx"), ModelFormat.ONNX)
    assert found.loads is False
    assert "signal 11" in found.reason


@pytest.mark.parametrize("content", [b"hello, I am no model", b"\x08\x08", bytes(64)])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError):
        summarise(path)


def test_a_file_that_litert_refuses_says_why(shared_data: Path) -> None:
    summary = summarise(shared_data / "bad-person-detect" / "person_detect.tflite")
    assert summary.loads.loads is False
    assert "quantized_dimension must be in range" in summary.loads.reason
    (fit,) = summary.runtimes
    assert fit.runs is None
    assert "litert refuses the file" in fit.reason
