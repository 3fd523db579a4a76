"""Where the time goes: the engines' own profilers, and their times beside the measured ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.networks import NETWORKS
from edgekit.cli.convert import convert
from edgekit_benchmarks import bench
from edgekit_benchmarks.bench import run_bench
from edgekit_benchmarks.inputs import make_inputs, resolve_shapes
from edgekit_benchmarks.litert_profiler import OperatorEvent, profile_litert, summarize
from edgekit_benchmarks.measure import measure_operators
from edgekit_benchmarks.operators import name_operators, read_profile
from edgekit_benchmarks.plan import Plan
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.graph.read import read_graph
from edgekit_runtime.session import open_session
from runtime.models import linear_model

LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="LiteRT's profiler is known on Linux alone"
)

EVENTS = [
    {"cat": "Session", "name": "model_loading", "dur": 9000},
    *(
        {"cat": "Node", "name": "a_kernel_time", "dur": duration, "args": {"op_name": "Conv"}}
        for duration in (9000, 100, 200)
    ),
    {"cat": "Node", "name": "a_fence_before", "dur": 5, "args": {"op_name": "Conv"}},
    {"cat": "Node", "name": "b_kernel_time", "dur": 50, "args": {"op_name": "Relu"}},
]


def to_tflite(source: Path) -> Path:
    path = source.with_suffix(".tflite")
    done = CliRunner().invoke(convert, [str(source), "--to", "tflite", "-o", str(path)])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_tflite(NETWORKS["vgg"](tmp_path_factory.mktemp("nets") / "vgg.onnx"))


def test_the_median_of_each_operator() -> None:
    a, b = read_profile(EVENTS)
    assert (a.name, a.type, a.milliseconds) == ("a", "Conv", 0.2)
    assert (b.name, b.type, b.milliseconds) == ("b", "Relu", 0.05)


def test_a_models_operators_add_up_to_what_was_measured(tmp_path: Path) -> None:
    model = NETWORKS["swish_net"](tmp_path / "net.onnx")
    (entry,) = run_bench([model], Plan(runs=3, min_seconds=0.0, operators=True)).models
    assert len(entry.operators) >= 5
    assert {found.type for found in entry.operators} >= {"Conv"}
    total = sum(found.milliseconds for found in entry.operators)
    assert entry.measurement is not None
    assert total == pytest.approx(entry.measurement.latency.median_ms)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x07 not a model")
    with pytest.raises(UnsupportedModelError):
        measure_operators(path, threads=1)


@LINUX
def test_a_litert_models_operators_add_up_to_what_was_measured(tflite: Path) -> None:
    (entry,) = run_bench([tflite], Plan(runs=3, min_seconds=0.0, operators=True)).models
    assert not [note for note in entry.notes if "no times" in note]
    # XNNPACK names what it made of the layers.
    assert any(found.name.startswith("Convolution (NHWC, F32)") for found in entry.operators)
    assert entry.measurement is not None
    total = sum(found.milliseconds for found in entry.operators)
    assert total == pytest.approx(entry.measurement.latency.median_ms)


@LINUX
def test_plain_kernels_have_the_files_operators(tflite: Path) -> None:
    found = measure_operators(tflite, threads=2, reference_kernels=True)
    assert [entry.type for entry in found] == [
        operator.type for operator in read_graph(tflite).operators
    ]


def test_a_prepared_call_finds_its_inputs_every_time(tflite: Path) -> None:
    """The memory of inputs is not used again for activations, however often it runs."""
    session = open_session(tflite)
    inputs = make_inputs(session.inputs, resolve_shapes(session.inputs, {}))
    (expected,) = session.run(inputs).values()
    call = session.prepare(inputs)
    for _ in range(3):
        call()
    interpreter = session._interpreter
    (output,) = interpreter.get_output_details()
    assert np.array_equal(interpreter.get_tensor(output["index"]), expected)
    for detail in interpreter.get_input_details():
        assert np.array_equal(interpreter.get_tensor(detail["index"]), inputs[detail["name"]])


def test_each_inference_adds_to_the_middle_of_its_operator() -> None:
    inferences = [
        [OperatorEvent(type="CONV_2D", microseconds=us), OperatorEvent(type="ADD", microseconds=1)]
        for us in (4, 900, 5, 6, 5, 0, 5, 5)
    ]
    conv, add = summarize(inferences)
    assert (conv.type, conv.microseconds) == ("CONV_2D", 5.0)
    assert (add.type, add.microseconds) == ("ADD", 1.0)


def test_operators_are_numbered_in_their_order() -> None:
    events = [
        OperatorEvent(type="Convolution (NHWC, F32) IGEMM", microseconds=3.0),
        OperatorEvent(type="Static Reshape (NC)", microseconds=0.0),
    ]
    first, second = name_operators(events, where="model.tflite")
    assert (first.name, first.type) == ("Convolution (NHWC, F32) IGEMM #0", "Convolution")
    assert first.milliseconds == 0.003
    assert second.name == "Static Reshape (NC) #1"


def test_times_below_what_the_profiler_tells_are_none() -> None:
    with pytest.raises(EnvironmentLackError, match="less than a microsecond"):
        name_operators([OperatorEvent(type="ADD", microseconds=0.0)], where="model.tflite")


def test_a_profiler_that_does_not_take_a_model_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise EnvironmentLackError("LiteRT's profiler does not take this model")

    monkeypatch.setattr(bench, "measure_operators", refuse)
    model = linear_model(tmp_path / "linear.onnx")
    (entry,) = run_bench([model], Plan(runs=3, min_seconds=0.0, operators=True)).models
    assert entry.operators == ()
    assert "no times of its operators: LiteRT's profiler does not take this model" in entry.notes


@LINUX
def test_a_file_that_the_profiler_does_not_take(tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3 not a model")
    with pytest.raises(EnvironmentLackError, match="does not take"):
        profile_litert(path, {}, threads=1, reference_kernels=False)
