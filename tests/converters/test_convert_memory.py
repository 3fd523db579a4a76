"""Converting takes less than three times the model's size and 300 MB, whatever it is given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from converters.onnx_files import model_of, write

LAYERS, WIDTH = 28, 1024
# A process's own peak, which starts again when a program is loaded; getrusage's does not.
PROGRAM = """
import sys
from pathlib import Path
from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_runtime.formats import ModelFormat

convert_model(
    ConversionRequest(
        source=Path(sys.argv[1]),
        output=Path(sys.argv[2]),
        targets=tuple(ModelFormat),
        precisions=(Precision.FLOAT32,),
    )
)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_large_model_takes_less_than_three_times_its_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants, nodes, value = {}, [], "x"
    for layer in range(LAYERS):
        constants[f"w{layer}"] = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 32
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]))
        value = f"r{layer}"
    source = tmp_path / "large.onnx"
    write(model_of(nodes, inputs={"x": ["n", WIDTH]}, outputs=[value], constants=constants), source)
    size = source.stat().st_size
    assert size > 110e6
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), str(tmp_path / "made")],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    for name in ("large.onnx", "large.tflite"):
        assert (tmp_path / "made" / name).stat().st_size == pytest.approx(size, rel=0.01)
    assert int(found.stdout) * 1024 < 3 * size + 300e6


CALIBRATING = """
import sys
from pathlib import Path
from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_runtime.formats import ModelFormat

report = convert_model(
    ConversionRequest(
        source=Path(sys.argv[1]),
        output=Path(sys.argv[2]),
        targets=tuple(ModelFormat),
        precisions=(Precision.INT8,),
        calibration=Path(sys.argv[3]),
        evaluation=Path(sys.argv[3]),
    )
)
print(report.evaluation.samples)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_ten_thousand_samples_take_the_memory_of_two_hundred(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    constants = {
        "w": rng.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "m": rng.normal(size=(16, 10)).astype(np.float32),
    }
    source = tmp_path / "small.onnx"
    model = model_of(nodes, inputs={"x": ["n", 3, 32, 32]}, outputs=["y"], constants=constants)
    write(model, source)
    peaks = []
    for count in (200, 10_000):
        images = rng.normal(size=(count, 3, 32, 32)).astype(np.float32)
        np.savez(tmp_path / "data.npz", x=images, labels=rng.integers(0, 10, count))
        found = subprocess.run(
            [sys.executable, "-c", CALIBRATING, str(source), str(tmp_path / "made"),
             str(tmp_path / "data.npz")],
            capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        samples, peak = found.stdout.split()
        assert int(samples) == count
        peaks.append(int(peak))
    assert peaks[1] < 1.1 * peaks[0], peaks
