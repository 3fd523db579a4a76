"""A model runs in a process of its own; whatever becomes of that process is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_benchmarks import process as process_module
from edgekit_benchmarks.measure import WORKER_COMMAND, Measurement, measure, measure_operators
from edgekit_runtime.engines.onnxruntime import CPU_PROVIDER
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError
from edgekit_runtime.files import sha256_of
from edgekit_runtime.session import open_session
from runtime.models import linear_model

LINUX = sys.platform.startswith("linux")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return linear_model(tmp_path / "linear.onnx")


def quick(model: Path, **options: object) -> Measurement:
    return measure(model, **{"runs": 5, "min_seconds": 0.0, **options})  # type: ignore[arg-type]


def program(source: str) -> Sequence[str]:
    """A measuring process that does something else."""
    return (sys.executable, "-c", source)


def test_says_what_was_measured_and_on_what(model: Path) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    steps: list[str] = []
    found = quick(model, threads=2, now=lambda: when, progress=steps.append)
    assert found.kind == "measured here"
    assert (found.runtime, found.threads) == ("onnxruntime", 2)
    assert found.sha256 == sha256_of(model)
    assert found.file_bytes == model.stat().st_size
    assert found.latency.runs == 5
    assert found.load_ms > 0
    assert found.first_ms > 0
    assert found.warm_up_runs >= 3
    assert [(entry.name, entry.shape) for entry in found.inputs] == [("x", (1, 3))]
    assert found.inputs_from == "generated"
    assert steps == ["measuring linear.onnx on 2 threads"]
    document = json.loads(json.dumps(found.to_json()))
    assert document["kind"] == "measured here"
    assert document["measured_at"] == "2026-01-02T03:04:05+00:00"
    assert document["format"] == "onnx"
    assert document["latency"]["median_ms"] == found.latency.median_ms


def test_goes_on_for_the_time_asked(model: Path) -> None:
    found = quick(model, runs=1, min_seconds=0.3)
    assert found.latency.runs > 1


@pytest.mark.skipif(not LINUX, reason="only Linux lets a process reset its memory peak")
def test_memory_is_the_models_and_not_the_engines(tmp_path: Path, model: Path) -> None:
    megabytes = 48
    weights = np.ones((1024, megabytes * 256), dtype=np.float32)
    heavy = linear_model(tmp_path / "heavy.onnx", weights)
    small_memory, heavy_memory = quick(model).memory, quick(heavy).memory
    assert small_memory.peak_bytes is not None
    assert heavy_memory.peak_bytes is not None
    assert heavy_memory.peak_bytes - small_memory.peak_bytes >= megabytes << 20
    # An engine takes more than 30 MB by itself: it must be in the baseline.
    assert small_memory.peak_bytes < 30 << 20
    assert "above Python, numpy and the imported engine" in heavy_memory.includes


def test_memory_that_was_not_measured_says_so(model: Path) -> None:
    command = program(
        "import json, sys; sys.stdin.readline();"
        "print(json.dumps({'observation': {'runtime': 'litert', 'runtime_version': '1',"
        "'load_ms': 1.0, 'first_ms': 1.0, 'warm_up_runs': 3, 'latencies_ms': [1.0, 2.0],"
        "'cpu_share': 0.5, 'process_seconds': 0.0, 'baseline_bytes': None,"
        "'memory': None, 'peak_bytes': None, 'inputs': [],"
        "'curve': []}}))"
    )
    found = quick(model, command=command)
    assert found.memory.peak_bytes is None
    assert found.memory.includes.startswith("not measured")
    assert found.latency.median_ms == 1.5
    assert any("50% of a core" in warning for warning in found.warnings)


def test_the_users_inputs_are_fed(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.ones((9, 3), np.float32))
    found = quick(model, inputs=path, input_shapes={"x": (4, 3)})
    assert found.inputs_from == "mine.npz"
    assert found.inputs[0].shape == (4, 3)


def test_a_free_axis_needs_a_shape(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "free",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length"])],
    )
    path = tmp_path / "free.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(path),
    )
    with pytest.raises(UsageError, match=r"'x' \[\?, \?\] along axis \[1\] is free"):
        quick(path)
    assert quick(path, input_shapes={"x": (1, 7)}).inputs[0].shape == (1, 7)


def test_a_model_that_the_engine_refuses(tmp_path: Path, model: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-20])
    with pytest.raises(UnsupportedModelError, match="onnxruntime refuses this model"):
        quick(cut)


def lookup_model(path: Path, *, rows: int) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["row"], name="lookup")],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, [8])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, [8, 2])],
        [numpy_helper.from_array(np.ones((rows, 2), np.float32), "table")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(path),
    )
    return path


def test_made_up_indices_that_do_not_fit_are_made_up_again(tmp_path: Path) -> None:
    """A table of one row: of the indices 0 and 1, only 0 is inside."""
    path = lookup_model(tmp_path / "one.onnx", rows=1)
    assert quick(path).latency.runs == 5
    assert measure_operators(path, threads=1)


def test_made_up_indices_that_never_fit_ask_for_real_ones(tmp_path: Path) -> None:
    path = lookup_model(tmp_path / "none.onnx", rows=0)
    with pytest.raises(UnsupportedModelError, match="failed while running") as caught:
        quick(path)
    assert "give real inputs with --inputs" in str(caught.value.fix)


def test_values_that_the_model_cannot_take(tmp_path: Path) -> None:
    path = lookup_model(tmp_path / "lookup.onnx", rows=3)
    assert quick(path).latency.runs == 5
    outside = tmp_path / "outside.npz"
    np.savez(outside, index=np.full(8, 99))
    with pytest.raises(UnsupportedModelError, match="failed while running the model"):
        quick(path, inputs=outside)


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"runs": 0}, {"runs": 10**9}, {"min_seconds": -1.0}, {"min_seconds": 700.0}],
)
def test_numbers_that_make_no_sense(model: Path, options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=name):
        quick(model, **options)


def test_files_that_are_not_there(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        quick(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="no such file"):
        quick(model, inputs=tmp_path / "none.npz")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("SIGKILL", EnvironmentLackError, "ran out of memory"),
        ("SIGSEGV", UnsupportedModelError, "signal SIGSEGV"),
    ],
)
def test_a_worker_that_is_killed(model: Path, name: str, error: type[Exception], text: str) -> None:
    command = program(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    with pytest.raises(error, match=text):
        quick(model, command=command)


def test_a_worker_that_fails_gives_its_last_words(model: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"exit code 7.*the last words"):
        quick(
            model,
            command=program("import sys; print('the last words', file=sys.stderr); sys.exit(7)"),
        )


@pytest.mark.parametrize("line", ["", "no json", "[]", "{}", '{"observation": {}}'])
def test_a_worker_that_gives_no_answer(model: Path, line: str) -> None:
    with pytest.raises(UnsupportedModelError, match="without an answer"):
        quick(model, command=program(f"print({line!r})"))


def test_a_worker_that_cannot_start(model: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="cannot start"):
        quick(model, command=["/nowhere/python"])


def test_a_worker_that_hangs_is_ended(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = record_processes(monkeypatch)
    with pytest.raises(EnvironmentLackError, match=r"longer than 0\.5 s"):
        quick(model, command=program("import time; time.sleep(60)"), timeout_s=0.5)
    assert [process.returncode is not None for process in started] == [True]


def test_ctrl_c_leaves_no_process(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = record_processes(monkeypatch)

    def interrupt(_process: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quick(model, command=program("import time; time.sleep(60)"))
    assert [process.returncode is not None for process in started] == [True]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_worker_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """The parent is killed outright: nobody is left to end the worker but itself."""
    model = linear_model(tmp_path / "linear.onnx")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from edgekit_benchmarks import process\n"
            "from edgekit_benchmarks.measure import measure\n"
            "popen = process.subprocess.Popen\n"
            "def start(*a, **k):\n"
            "    p = popen(*a, **k); print(p.pid, flush=True); return p\n"
            "process.subprocess.Popen = start\n"
            "measure(Path(sys.argv[1]), min_seconds=120.0, runs=100000)\n",
            str(model),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 30
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def test_nothing_heavy_is_imported_in_the_measured_process(model: Path) -> None:
    source = (
        "import sys; from edgekit_benchmarks.worker import observe\n"
        "from edgekit_benchmarks.job import Job; from pathlib import Path\n"
        f"observe(Job(model=Path({str(model)!r}), runtime=None, threads=1, runs=1,"
        " min_seconds=0.0, inputs=None, input_shapes={}))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    output = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "onnxruntime" in output
    heavy = {"onnx", "matplotlib", "scipy", "click", "tuf", "ai_edge_litert", "flatbuffers"}
    assert not heavy & set(output)


def test_the_worker_does_not_see_the_users_folder() -> None:
    assert "-P" in WORKER_COMMAND


def test_tflite_models_are_measured(shared_data: Path) -> None:
    found = quick(shared_data / "sine" / "hello_world_int8.tflite")
    assert found.runtime == "litert"
    assert found.format == "tflite"
    assert found.inputs[0].dtype == "int8"


def record_processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    class Recorded(popen):  # type: ignore[type-arg,misc,valid-type]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(process_module.subprocess, "Popen", Recorded)
    return started


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A zombie whose parent has not looked yet answers signals too.
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not LINUX, reason="memory is read from /proc")
def test_memory_is_told_apart_by_what_it_is_for(tmp_path: Path) -> None:
    """Sixteen megabytes of weights, and a result of eight."""
    weights = np.ones((2, 2 << 20), np.float32)
    found = quick(linear_model(tmp_path / "wide.onnx", weights)).memory
    assert found.model_bytes is not None
    assert found.activations_bytes is not None
    assert found.peak_bytes is not None
    assert found.model_bytes > 15 << 20
    assert 7 << 20 < found.activations_bytes < 20 << 20
    assert found.engine_bytes is not None
    assert found.peak_bytes >= found.model_bytes + found.activations_bytes
    assert found.mapped_bytes is not None


def test_a_course_under_sustained_load(model: Path) -> None:
    found = quick(model, sustained_seconds=0.5)
    assert len(found.curve) == 100
    times = [at for at, _ in found.curve]
    assert times == sorted(times)
    assert times[-1] >= 0.5
    assert all(value > 0 for _, value in found.curve)
    assert quick(model).curve == ()


def test_the_engines_plain_kernels(model: Path) -> None:
    found = quick(model, reference_kernels=True)
    assert found.reference_kernels
    assert "plain kernels" in found.engine
    assert found.latency.runs == 5


def test_an_execution_provider_is_chosen_by_any_of_its_names(model: Path) -> None:
    assert quick(model, provider="cpu").provider is None
    extra = next(
        (name for name in onnxruntime.get_available_providers() if name != CPU_PROVIDER), None
    )
    if extra is None:
        pytest.skip("this onnxruntime has the processor alone")
    found = quick(model, provider=extra.removesuffix("ExecutionProvider").lower())
    assert found.provider == extra
    assert extra in found.engine


def test_an_execution_provider_that_is_not_there(model: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="no execution provider 'tpu'") as caught:
        quick(model, provider="tpu")
    assert "CPU" in str(caught.value.fix)


def test_a_provider_that_does_not_start_is_not_replaced_unseen(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where CUDA's libraries are missing: onnxruntime only warns, and takes the processor."""
    names = ["CUDAExecutionProvider", CPU_PROVIDER]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(EnvironmentLackError, match="could not start CUDA"):
            open_session(model, provider="cuda")
