"""Ten thousand samples take the memory that two hundred take."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

PROGRAM = """
import sys
from pathlib import Path
import onnx
from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.ranges import RangeMethod, collect_ranges
from edgekit_runtime.tensors import TensorSpec

spec = TensorSpec(name="image", dtype="float32", shape=(None, 3, 32, 32))
calibration = CalibrationSet.load(Path(sys.argv[2]), [spec])
seen = collect_ranges(onnx.load(sys.argv[1]), calibration.batches(), threads=1)
for statistics in seen.values():
    for method in RangeMethod:
        statistics.range(method)
status = Path("/proc/self/status").read_text()
peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
print(calibration.count, len(seen), peak)
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    sizes = [3, 16, 32, 32]
    nodes, constants, value = [], [], "image"
    for layer, (before, after) in enumerate(pairwise(sizes)):
        weights = rng.normal(size=(after, before, 3, 3)).astype(np.float32) / 10
        constants.append(numpy_helper.from_array(weights, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [value, f"w{layer}"], [f"c{layer}"], strides=[2, 2]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        value = f"r{layer}"
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("image", 1, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info(value, 1, ["n", 32, 3, 3])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
    return path


def _peak_kib(model: Path, samples: int, save: Any, folder: Path) -> int:
    path = folder / f"{samples}.npz"
    pixels = np.random.default_rng(samples).integers(0, 256, (samples, 3, 32, 32), np.uint8)
    save(path, image=pixels)
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(path)],
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    path.unlink()
    count, values, peak = map(int, found.stdout.split())
    assert (count, values) == (samples, 7)
    return peak


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_samples(save: Any, model_file: Path, tmp_path: Path) -> None:
    few = _peak_kib(model_file, 200, save, tmp_path)
    many = _peak_kib(model_file, 10_000, save, tmp_path)
    assert many <= 1.1 * few
