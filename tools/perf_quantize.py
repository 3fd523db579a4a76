"""What quantization costs beside the runs of the model that it calibrates with."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 224
BATCH = 16
FEW, MANY = 200, 10_000


def batches(count: int) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Noise in the form of images, one batch at a time."""
    rng = np.random.default_rng(1)
    for start in range(0, count, BATCH):
        shape = (min(BATCH, count - start), 3, SIDE, SIDE)
        yield {"image": rng.standard_normal(shape, np.float32)}


def quantize(model: Path, folder: Path, count: int) -> None:
    """Calibrate with so many images, and write the int8 form in both formats."""
    import onnx

    from edgekit_converters.litert.compile import compile_to_litert
    from edgekit_converters.normalise import normalise
    from edgekit_converters.quantize.plan import QuantizationPlan
    from edgekit_converters.quantize.scheme import Scheme
    from edgekit_converters.quantize.source import float_source
    from edgekit_converters.quantize.write_litert import write_litert
    from edgekit_converters.quantize.write_onnx import write_onnx
    from edgekit_converters.ranges import DEFAULT_METHOD, collect_ranges

    plain = normalise(onnx.load_model(str(model)), where=model.name)
    ready, _ = float_source(plain, where=model.name, samples=next(batches(BATCH)))
    seen = collect_ranges(ready, batches(count))
    ranges = {name: value.range(DEFAULT_METHOD) for name, value in seen.items()}
    plan = QuantizationPlan(scheme=Scheme.INT8, ranges=ranges)
    write_onnx(ready, plan, folder / "int8.onnx", where=model.name)
    compiled = compile_to_litert(ready, where=model.name)
    target = folder / "int8.tflite"
    write_litert(compiled, plan, target, where=model.name, normalised=ready)


def infer(model: Path, count: int) -> None:
    """Run the float model on the same images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))
    for batch in batches(count):
        session.run(None, batch)


def seconds(model: Path, folder: Path) -> tuple[float, float]:
    """CPU seconds of quantization, and what they may be: 1.5 times the inferences and 10 s."""
    spent = []
    for call in (lambda: quantize(model, folder, FEW), lambda: infer(model, FEW)):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return spent[0], 1.5 * spent[1] + 10


def peaks(model: Path, count: int = MANY) -> tuple[float, float]:
    """Peak resident megabytes of processes that quantize with many images, and with few."""
    found = []
    for images in (count, FEW):
        command = [sys.executable, __file__, str(model), str(images)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found.append(float(output))
    return found[0], found[1]


def main() -> None:
    """Quantize in this process, and print its peak."""
    import resource

    with tempfile.TemporaryDirectory() as folder:
        quantize(Path(sys.argv[1]), Path(folder), int(sys.argv[2]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, units of 1024 elsewhere.
    print(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


if __name__ == "__main__":
    main()
