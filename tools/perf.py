"""Performance as ratios within one run: machines differ and are noisy, ratios carry over.

Run: `python tools/perf.py [--json]`. Each line compares a median of several runs with a baseline
that was measured in turn with it. Nothing here decides a test.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits" / "assets"
RUNS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two things timed in turn.

    Attributes:
        what: The thing and its baseline.
        seconds: Median of the thing.
        baseline_seconds: Median of the baseline.
        ratio: Median of the ratios, pair by pair.
    """

    what: str
    seconds: float
    baseline_seconds: float
    ratio: float


def compare(
    what: str, run: Callable[[], object], baseline: Callable[[], object], *, runs: int = RUNS
) -> Comparison:
    """Time two calls alternately, after one call of each that does not count."""
    pairs = []
    for number in range(runs + 1):
        pair = (timed(run), timed(baseline))
        if number:
            pairs.append(pair)
    return Comparison(
        what=what,
        seconds=statistics.median(first for first, _ in pairs),
        baseline_seconds=statistics.median(second for _, second in pairs),
        ratio=statistics.median(first / second for first, second in pairs),
    )


def timed(call: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def start_up() -> Comparison:
    """`edgekit --help` against a Python that does nothing."""

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)

    return compare(
        "edgekit --help / python -c pass",
        lambda: python("-m", "edgekit", "--help"),
        lambda: python("-c", "pass"),
    )


def conversion(folder: Path) -> Comparison:
    """ONNX to LiteRT with verification, imports done, against the engine's load of the model."""
    from edgekit_converters.convert import ConversionRequest, Precision, convert_model
    from edgekit_runtime.formats import ModelFormat
    from edgekit_runtime.session import open_session

    model = DIGITS / "digits_v2.onnx"
    request = ConversionRequest(
        source=model,
        output=folder / "model.tflite",
        targets=(ModelFormat.LITERT,),
        precisions=(Precision.FLOAT32,),
    )
    return compare(
        "convert digits_v2 to LiteRT, verified / onnxruntime's load of it",
        lambda: convert_model(request),
        lambda: open_session(model).close(),
    )


def measuring() -> Comparison:
    """Our measured median against a bare loop around the engine."""
    import numpy as np
    import onnxruntime

    from edgekit_benchmarks.measure import measure

    model = DIGITS / "digits_v2.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    image = np.zeros((1, 1, 8, 8), np.float32)

    def bare() -> float:
        return statistics.median(
            timed(lambda: session.run(None, {"image": image})) for _ in range(2000)
        )

    pairs = [(measure(model, min_seconds=0.3).latency.median_ms / 1000, bare()) for _ in range(3)]
    return Comparison(
        what="median of `edgekit bench` / of a bare loop around onnxruntime",
        seconds=statistics.median(first for first, _ in pairs),
        baseline_seconds=statistics.median(second for _, second in pairs),
        ratio=statistics.median(first / second for first, second in pairs),
    )


def chunking() -> Comparison:
    """Cutting and checking 5 MB of weights against hashing them once."""
    import hashlib

    import numpy as np

    from edgekit_runtime.bundle.index import assemble, build_index

    data = np.random.default_rng(7).bytes(5_000_000)

    def cut_and_join() -> None:
        index, wire = build_index("perf", "1.0.0", [("manifest.json", b"{}"), ("model", data)])
        for _ in assemble(index.file("model"), lambda chunk: wire[chunk.sha256]):
            pass

    return compare(
        "cut 5 MB into chunks, check and join them / SHA-256 of them",
        cut_and_join,
        lambda: hashlib.sha256(data).digest(),
    )


def main() -> None:
    """Print every comparison."""
    with tempfile.TemporaryDirectory() as folder:
        results = [start_up(), conversion(Path(folder)), measuring(), chunking()]
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return
    for result in results:
        print(
            f"{result.ratio:8.2f} x  {result.what}\n"
            f"            {result.seconds * 1e3:.3g} ms / {result.baseline_seconds * 1e3:.3g} ms"
        )


if __name__ == "__main__":
    main()
