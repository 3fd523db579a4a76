"""What the agent's doors cost beside the model itself: for `tools/perf.py`, as ratios."""

from __future__ import annotations

import http.client
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_agent.doors import Doors
    from edgekit_agent.plans import ModelPlan

    Array = NDArray[Any]

# 602 KB of float32.
IMAGE_SHAPE = (1, 3, 224, 224)
# A model of about 10 ms there.
LARGE_LAYERS = 32
TINY_SIZE = 8
REQUESTS = 150
WARM_UP = 5
TINY_REQUESTS = 3000
SETTLE_SECONDS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorCosts:
    """What was measured in turn: seconds of a door and of what it is compared with.

    Attributes:
        in_process: `HostedModel.infer`, with checks, statistics and sanity, and the bare engine;
            CPU seconds.
        http: A binary request over loopback, and in process.
        unix: The same over a Unix socket, and in process.
        tiny_cpu_ms: Server CPU of a request to a tiny model.
    """

    in_process: list[tuple[float, float]]
    http: list[tuple[float, float]]
    unix: list[tuple[float, float]]
    tiny_cpu_ms: float


def in_turn(
    call: Callable[[], object],
    baseline: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Seconds of two calls, pair by pair; two only, because more would fight for the caches."""
    pairs = []
    for number in range(REQUESTS + WARM_UP):
        began = clock()
        call()
        between = clock()
        baseline()
        if number >= WARM_UP:
            pairs.append((between - began, clock() - between))
    return pairs


def make_bundle(
    folder: Path,
    name: str,
    *,
    layers: int,
    size: int,
    convert: Callable[[Path], Path] | None = None,
) -> ModelPlan:
    """A slot with a float model: `layers` 3x3 convolutions on a [1, 3, size, size] image.

    Args:
        folder: Where the slot goes.
        name: Of the bundle.
        layers: How many convolutions.
        size: Height and width.
        convert: Makes a LiteRT model of the ONNX file; None to serve that itself.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    from edgekit_agent.plans import ModelPlan
    from edgekit_runtime.bundle.archive import entry_of
    from edgekit_runtime.bundle.golden import save_arrays
    from edgekit_runtime.bundle.manifest import (
        MANIFEST_NAME,
        Binding,
        GoldenOutputs,
        Manifest,
        Requirements,
        TensorContract,
        Variant,
    )
    from edgekit_runtime.formats import ModelFormat
    from edgekit_runtime.session import open_session

    random = np.random.default_rng(3)
    width, taken = 16, "x"
    nodes, weights = [], []
    for layer in range(layers):
        kernel = random.normal(0, 0.1, (width, 3 if layer == 0 else width, 3, 3))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{layer}"))
        strides = [2, 2] if layer == 0 and size > TINY_SIZE else [1, 1]
        nodes.append(
            helper.make_node(
                "Conv", [taken, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1], strides=strides
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        taken = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [taken], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    image = np.zeros((1, 3, size, size), np.float32)
    files = {
        "golden/inputs.npz": save_arrays({"x": image}),
        "golden/outputs.npz": save_arrays({"y": np.zeros((1, width), np.float32)}),
        "model.onnx": model.SerializeToString(),
    }
    tensors, served = ("x", "y"), "model.onnx"
    if convert:
        source = folder / f"{name}.onnx"
        source.write_bytes(files["model.onnx"])
        converted, served = convert(source), "model.tflite"
        files[served] = converted.read_bytes()
        session = open_session(converted)
        tensors = (session.inputs[0].name, session.outputs[0].name)
        session.close()
    manifest = Manifest(
        name=name,
        version="1.0.0",
        task="classification",
        created="2026-01-01T00:00:00Z",
        inputs=(TensorContract(name="x", dtype="float32", shape=(1, 3, size, size)),),
        outputs=(TensorContract(name="y", dtype="float32", shape=(1, width)),),
        variants=(
            Variant(
                id="plain",
                format=ModelFormat.LITERT if convert else ModelFormat.ONNX,
                precision="float32",
                file=served,
                inputs={"x": Binding(tensor=tensors[0])},
                outputs={"y": Binding(tensor=tensors[1])},
                requires=Requirements(runtimes=("litert" if convert else "onnxruntime",)),
                golden=GoldenOutputs(file="golden/outputs.npz", atol=1e-5, rtol=1e-5),
            ),
        ),
        golden_inputs="golden/inputs.npz",
        golden_samples=1,
        files={path: entry_of(data) for path, data in files.items()},
    )
    slot = folder / name
    for path, data in {MANIFEST_NAME: manifest.to_json(), **files}.items():
        (slot / path).parent.mkdir(parents=True, exist_ok=True)
        (slot / path).write_bytes(data)
    return ModelPlan(
        bundle=name,
        version="1.0.0",
        digest=name,
        folder=str(slot),
        variant="plain",
        runtime="litert" if convert else "onnxruntime",
        threads=1,
    )


@contextmanager
def served(*models: ModelPlan) -> Iterator[Doors]:
    """A server process with these models."""
    from edgekit_agent.doors import Doors, ServerEnded, ServerSaid

    said: queue.SimpleQueue[ServerSaid | ServerEnded] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as name:
        doors = Doors(
            host="127.0.0.1",
            port=0,
            request_bytes=64 << 20,
            post=said.put,
            socket_path=Path(name) / "models.sock",
        )
        try:
            doors.serve(models, time.monotonic())
            doors.tick(time.monotonic())
            while not doors.settled:
                doors.handle(said.get(timeout=60), time.monotonic())
            yield doors
        finally:
            doors.close(seconds=10)


class Asker:
    """One connection that sends the same binary request again and again."""

    def __init__(self, connection: http.client.HTTPConnection, model: str, array: Array) -> None:
        """Prepare the request."""
        tensor = {
            "name": "x",
            "datatype": "FP32",
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        head = json.dumps(document).encode()
        self._connection = connection
        self._path = f"/v2/models/{model}/infer"
        self._body = head + array.tobytes()
        self._headers = {"Inference-Header-Content-Length": str(len(head))}

    def __call__(self) -> None:
        """Send it, and read the answer."""
        self._connection.request("POST", self._path, self._body, self._headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(data.decode())


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        """Connect there."""
        super().__init__("localhost")
        self._socket_path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._socket_path))


def measure_doors() -> DoorCosts:
    """Measure each door in turn with its baseline, so that noise is the same for both."""
    import numpy as np
    import onnxruntime

    from edgekit_agent.hosted import HostedModel

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = make_bundle(folder, "large", layers=LARGE_LAYERS, size=IMAGE_SHAPE[-1])
        tiny = make_bundle(folder, "tiny", layers=1, size=TINY_SIZE)
        file = Path(large.folder) / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        bare = onnxruntime.InferenceSession(str(file), options)
        hosted = HostedModel(large)
        image = np.random.default_rng(1).random(IMAGE_SHAPE, np.float32)
        small = np.zeros((1, 3, TINY_SIZE, TINY_SIZE), np.float32)
        with served(large, tiny) as doors:
            tcp = http.client.HTTPConnection(*doors.address)
            unix = UnixConnection(doors.socket_path or Path())
            in_process = in_turn(
                lambda: hosted.infer({"x": image}),
                lambda: bare.run(None, {"x": image}),
                time.process_time,
            )
            over_http = in_turn(Asker(tcp, "large", image), lambda: hosted.infer({"x": image}))
            over_unix = in_turn(Asker(unix, "large", image), lambda: hosted.infer({"x": image}))
            ask_tiny = Asker(tcp, "tiny", small)
            for _ in range(100):
                ask_tiny()
            before = _processor_seconds(doors.pid)
            for _ in range(TINY_REQUESTS):
                ask_tiny()
            tiny_cpu = (_processor_seconds(doors.pid) - before) / TINY_REQUESTS
            tcp.close()
            unix.close()
        return DoorCosts(
            in_process=in_process, http=over_http, unix=over_unix, tiny_cpu_ms=tiny_cpu * 1e3
        )


def agent_memory(convert: Callable[[Path], Path]) -> tuple[float, float]:
    """Resident megabytes of an idle supervisor, and of a server with a small LiteRT model.

    The supervisor is the real command, with a broker that does not answer.

    Args:
        convert: Makes a LiteRT model of an ONNX file.
    """
    from edgekit_agent.memory import resident_bytes
    from edgekit_agent.provision import create_agent

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "root.json"
        root.write_text('{"signed": {"_type": "root"}}')
        config = create_agent(
            folder / "agent",
            device="perf",
            fleet="perf",
            broker_host="127.0.0.1",
            broker_port=9,
            image_root=root,
            director_root=root,
            http_port=0,
        )
        command = [sys.executable, "-m", "edgekit_agent", "run", "--config", str(config)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            time.sleep(SETTLE_SECONDS)
            supervisor = resident_bytes(process.pid)
        finally:
            process.terminate()
            process.wait(30)
        plan = make_bundle(folder, "small", layers=2, size=TINY_SIZE, convert=convert)
        with served(plan) as doors:
            time.sleep(1.0)
            server = resident_bytes(doors.pid or 0)
    return supervisor / 1e6, server / 1e6


def _processor_seconds(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
