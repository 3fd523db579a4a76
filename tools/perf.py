"""Performance as ratios within one run: machines differ and are noisy, ratios carry over.

Run: `python tools/perf.py [--json]`. Each line compares a median of several runs with a baseline
that was measured in turn with it, or a peak of memory with what it is about. Nothing here decides
a test.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_converters.request import ConversionRequest

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits" / "assets"
RUNS = 7
RUNS_OF_LARGE = 3
BLOCKS = 40
OPERATORS = 1000
FEWEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two things measured in turn.

    Attributes:
        what: The thing and its baseline.
        unit: "s" of the wall, "CPU s" of all threads, or "MB".
        value: Median of the thing.
        baseline: Median of the baseline.
        ratio: Median of the ratios, pair by pair.
    """

    what: str
    unit: str
    value: float
    baseline: float
    ratio: float


def compare(
    what: str,
    run: Callable[[], object],
    baseline: Callable[[], object],
    *,
    runs: int = RUNS,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time two calls alternately, after one call of each that does not count."""
    pairs = []
    for number in range(runs + 1):
        pair = (timed(run, clock), timed(baseline, clock))
        if number:
            pairs.append(pair)
    return compared(what, "s" if clock is time.perf_counter else "CPU s", pairs)


def compared(what: str, unit: str, pairs: Sequence[tuple[float, float]]) -> Comparison:
    """What pairs of a thing and its baseline say."""
    return Comparison(
        what=what,
        unit=unit,
        value=statistics.median(first for first, _ in pairs),
        baseline=statistics.median(second for _, second in pairs),
        ratio=statistics.median(first / second for first, second in pairs),
    )


def timed(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a call."""
    began = clock()
    call()
    return clock() - began


def start_up() -> Comparison:
    """`edgekit --help` against a Python that does nothing."""

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)

    return compare(
        "edgekit --help / python -c pass",
        lambda: python("-m", "edgekit", "--help"),
        lambda: python("-c", "pass"),
    )


def conversion_request(source: Path, folder: Path) -> ConversionRequest:
    """A file to float LiteRT, verified."""
    from edgekit_converters.report import Precision
    from edgekit_converters.request import ConversionRequest
    from edgekit_runtime.formats import ModelFormat

    return ConversionRequest(
        source=source,
        output=folder / "model.tflite",
        targets=(ModelFormat.LITERT,),
        precisions=(Precision.FLOAT32,),
    )


def conversion(source: Path, folder: Path, *, runs: int = RUNS) -> Comparison:
    """ONNX to LiteRT with verification, imports done, against the engine's load of the model."""
    from edgekit_converters.convert import convert_model
    from edgekit_runtime.session import open_session

    request = conversion_request(source, folder)
    return compare(
        f"convert {source.stem} to LiteRT, verified / onnxruntime's load of it",
        lambda: convert_model(request),
        lambda: open_session(source).close(),
        runs=runs,
        clock=time.process_time,
    )


def conversion_memory(source: Path, folder: Path) -> Comparison:
    """Peak resident memory of a process that converts, imports and all, against its allowance."""
    command = [sys.executable, __file__, "--peak-of", str(source), str(folder)]
    size_mb = source.stat().st_size / 1e6
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return compared(
        f"peak memory to convert {source.stem} / 3 x its {size_mb:.0f} MB + 300 MB",
        "MB",
        [(float(output), 3 * size_mb + 300)],
    )


def environment() -> Comparison:
    """What `pip install "edgekit[convert]"` puts beside Python, against 400 MB."""
    size = sum(_installed_bytes(name) for name in _required({("edgekit", "convert")}))
    return compared("installed size of edgekit[convert] / 400 MB", "MB", [(size / 1e6, 400.0)])


def _required(wanted: set[tuple[str, str]]) -> set[str]:
    """The distributions that some need, with their extras, all the way down."""
    from packaging.requirements import Requirement

    seen: set[tuple[str, str]] = set()
    while wanted:
        name, extra = wanted.pop()
        seen.add((name, extra))
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                found = {(requirement.name, each) for each in ("", *requirement.extras)}
                wanted |= found - seen
    return {name for name, _ in seen}


def _installed_bytes(name: str) -> int:
    files = metadata.files(name) or []
    return sum(
        path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file()
    )


def print_peak(source: Path, folder: Path) -> None:
    """Convert a model, and print this process's peak resident memory in megabytes."""
    import resource

    from edgekit_converters.convert import convert_model

    convert_model(conversion_request(source, folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, units of 1024 elsewhere.
    print(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


def measuring(
    model: Path, other: Callable[[Path, Mapping[str, NDArray[np.generic]]], Callable[[], object]]
) -> Comparison:
    """The median that `edgekit bench` takes, against a bare loop around another call of the engine.

    Both in one process, in turn, in blocks of a tenth of a second: the same state of the process,
    of the clock and of the caches.
    """
    from edgekit_benchmarks.inputs import make_inputs, resolve_shapes
    from edgekit_benchmarks.worker import time_runs
    from edgekit_runtime.session import open_session

    session = open_session(model)
    inputs = make_inputs(session.inputs, resolve_shapes(session.inputs, {}))
    call, bare = session.prepare(inputs), other(model, inputs)

    def ours() -> float:
        return statistics.median(time_runs(call, runs=FEWEST, min_seconds=0.1)) / 1e9

    def theirs() -> float:
        times = []
        end = time.perf_counter() + 0.1
        while len(times) < FEWEST or time.perf_counter() < end:
            began = time.perf_counter()
            bare()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    ours(), theirs()
    # First the one, then the other: whoever runs second would be the warmer.
    pairs = []
    for number in range(BLOCKS):
        second = theirs() if number % 2 else None
        pairs.append((ours(), theirs() if second is None else second))
    baseline = "benchmark_litert_model's" if other is tool_call else "a bare loop's"
    return compared(f"median of `edgekit bench {model.name}` / {baseline}", "s", pairs)


def prediction(folder: Path) -> Comparison:
    """A family of boards predicted for a graph of a thousand operators, against 2 s."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgekit_benchmarks.bench import run_bench
    from edgekit_benchmarks.plan import Plan

    shape, name, nodes = [1, 16, 56, 56], "x", []
    for number in range(OPERATORS // 2):
        nodes += [
            helper.make_node("Conv", [name, "w"], [f"c{number}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"]),
        ]
        name = f"r{number}"
    weights = numpy_helper.from_array(np.zeros((16, 16, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "long.onnx"
    onnx.save_model(model, str(path))
    plan = Plan(profiles=("raspberrypi",), measure_here=False)
    seconds = [timed(lambda: run_bench([path], plan)) for _ in range(RUNS)]
    return compared(
        f"four boards predicted for {OPERATORS} operators / 2 s",
        "s",
        [(value, 2.0) for value in seconds],
    )


def converted(source: Path, folder: Path) -> Path:
    """An ONNX file as LiteRT."""
    from edgekit_converters.convert import convert_model

    request = conversion_request(source, folder)
    convert_model(request)
    return request.output.rename(source.with_suffix(".tflite"))


def bare_call(model: Path, inputs: Mapping[str, NDArray[np.generic]]) -> Callable[[], object]:
    """One inference by the engine's own Python interface, without edgekit."""
    if model.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        return lambda: session.run(None, inputs)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    return lambda: interpreter.invoke()  # noqa: PLW0108 - as a user would write it


def tool_call(model: Path, inputs: Mapping[str, NDArray[np.generic]]) -> Callable[[], object]:
    """What LiteRT's own `benchmark_litert_model` times, set up as it does."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.options import Options

    compiled = CompiledModel.from_file(
        str(model), options=Options(cpu_options=CpuOptions(num_threads=1))
    )
    signature = next(iter(compiled.get_signature_list()))
    names = compiled.get_signature_list()[signature]
    into = {name: compiled.create_input_buffer_by_name(signature, name) for name in names["inputs"]}
    out = {
        name: compiled.create_output_buffer_by_name(signature, name) for name in names["outputs"]
    }
    for buffer, values in zip(into.values(), inputs.values(), strict=True):
        buffer.write(values)
    return lambda: compiled.run_by_name(signature, into, out)


def chunking() -> Comparison:
    """Cutting and checking 5 MB of weights against hashing them once."""
    import hashlib

    import numpy as np

    from edgekit_runtime.bundle.build import build_index
    from edgekit_runtime.bundle.index import assemble

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


def quantization(model: Path, folder: Path) -> list[Comparison]:
    """Int8 in both formats beside the inferences that it calibrates with."""
    from perf_quantize import peaks, seconds

    return [
        compared(
            f"calibrate {model.stem} with 200 images, int8 in both formats / "
            "1.5 x their inferences + 10 s",
            "CPU s",
            [seconds(model, folder)],
        ),
        compared(
            f"peak memory to quantize {model.stem} with 1,000 images / with 200",
            "MB",
            [peaks(model, 1000)],
        ),
    ]


def agent_doors() -> list[Comparison]:
    """What the agent's doors cost beside the model, with a 602 KB input and a tiny one."""
    from perf_agent import measure_doors

    costs = measure_doors()
    return [
        compared("agent in process / bare engine", "CPU s", costs.in_process),
        compared("agent over binary HTTP / in process", "s", costs.http),
        compared("agent over a Unix socket / in process", "s", costs.unix),
        compared("server CPU of a tiny request / 0.3 ms", "ms", [(costs.tiny_cpu_ms, 0.3)]),
    ]


def fleet_work() -> list[Comparison]:
    """What the control plane does all day, against what it may take."""
    from perf_fleet import BATCHES, DEVICES, deciding, taking_in

    return [
        compared(
            f"{BATCHES:,} batches of measurements into SQLite / at 2,000 a second",
            "CPU s",
            [taking_in() for _ in range(RUNS_OF_LARGE)],
        ),
        compared(
            f"a step of the rollout engine with {DEVICES:,} devices / a turn of 1 s",
            "CPU s",
            [deciding() for _ in range(RUNS_OF_LARGE)],
        ),
    ]


def travelling() -> list[Comparison]:
    """What is sent of two kinds of new version, the index included, against their targets."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    random = np.random.default_rng(7)
    floats = {f"layer{n}": random.normal(0, 0.05, (256, 1024)).astype("f4") for n in range(12)}
    floats["head"] = random.normal(0, 0.05, (100, 1024)).astype("f4")
    noise = 1 + random.normal(0, 0.01, floats["head"].shape)
    retrained = floats | {"head": (floats["head"] * noise).astype("f4")}
    integers = {
        name: np.clip(random.normal(0, 40, array.shape), -127, 127).astype("i1")
        for name, array in floats.items()
    }
    stepped = {}
    for name, array in integers.items():
        steps = random.choice([-1, 0, 1], array.shape, p=[0.025, 0.95, 0.025])
        stepped[name] = np.clip(array + steps, -128, 127).astype("i1")

    def file(weights: dict[str, np.ndarray]) -> bytes:
        initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        graph = helper.make_graph([], "perf", [], [], initializers)
        return bytes(onnx.ModelProto.SerializeToString(helper.make_model(graph)))

    return [
        travelled("last layer retrained / 10 % of the bundle", file(floats), file(retrained), 0.10),
        travelled(
            "int8, 5 % of values +-1 / 5 % of the bundle", file(integers), file(stepped), 0.05
        ),
    ]


def travelled(what: str, old: bytes, new: bytes, target: float) -> Comparison:
    """What is sent of a new version to a device with the old one, against a share of the bundle."""
    from edgekit_runtime.bundle.build import Base, build_index
    from edgekit_runtime.bundle.index import assemble

    manifest = ("manifest.json", b"{}")
    before, wire = build_index("perf", "1.0.0", [manifest, ("model.onnx", old)])
    base = Base(
        index=before, read=lambda entry: b"".join(assemble(entry, lambda c: wire[c.sha256]))
    )
    after, _ = build_index("perf", "1.1.0", [manifest, ("model.onnx", new)], bases=[base])
    sent = len(after.to_json())
    for entry in after.files:
        steps = [step for delta in entry.deltas for step in delta.steps]
        sent += sum(step.wire_bytes for step in steps)
        told = {place for s in steps for place in range(s.first, s.first + s.count)}
        sent += sum(
            chunk.wire_bytes
            for place, chunk in enumerate(entry.chunks)
            if place not in told and chunk.sha256 not in wire
        )
    return compared(f"sent of a new version, {what}", "MB", [(sent / 1e6, target * len(new) / 1e6)])


def agent_memory(folder: Path) -> list[Comparison]:
    """Resident memory of an idle agent, against what a small device can spare."""
    import perf_agent

    from edgekit_converters.convert import convert_model

    def convert(source: Path) -> Path:
        request = conversion_request(source, folder)
        convert_model(request)
        return request.output

    supervisor, server = perf_agent.agent_memory(convert)
    return [
        compared("resident supervisor, idle / 30 MB", "MB", [(supervisor, 30.0)]),
        compared("with a server and a LiteRT model / 75 MB", "MB", [(supervisor + server, 75.0)]),
    ]


def update() -> list[Comparison]:
    """An update over a broker here, against what it may take and what fetching alone takes."""
    import perf_update

    pairs = perf_update.installing()
    what = "order to active, 5 MB over a local broker"
    return [
        compared(f"{what} / 5 s", "s", [(whole, 5.0) for whole, _ in pairs]),
        compared(f"{what} / fetching the chunks alone", "s", pairs),
    ]


def main() -> None:
    """Print every comparison."""
    if sys.argv[1:2] == ["--peak-of"]:
        print_peak(*map(Path, sys.argv[2:4]))
        return
    import onnx
    from mobilenet import mobilenet
    from resnet import resnet

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = folder / "mobilenet_v2.onnx", folder / "resnet_50.onnx"
        onnx.save_model(mobilenet(), str(small))
        onnx.save_model(resnet(), str(large))
        lite = converted(small, folder)
        results = [
            start_up(),
            conversion(DIGITS / "digits_v2.onnx", folder),
            conversion(small, folder),
            conversion(large, folder, runs=RUNS_OF_LARGE),
            conversion_memory(small, folder),
            conversion_memory(large, folder),
            *quantization(small, folder),
            environment(),
            prediction(folder),
            measuring(DIGITS / "digits_v2.onnx", bare_call),
            measuring(small, bare_call),
            measuring(lite, bare_call),
            measuring(lite, tool_call),
            chunking(),
            *travelling(),
            *agent_doors(),
            *agent_memory(folder),
            *update(),
            *fleet_work(),
        ]
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return
    for result in results:
        print(
            f"{result.ratio:8.2f} x  {result.what}\n"
            f"            {result.value:.3g} {result.unit} / {result.baseline:.3g} {result.unit}"
        )


if __name__ == "__main__":
    main()
