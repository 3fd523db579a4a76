"""The HTTP door on its own: large tensors, plain bodies, and what happens when it is too much."""

from __future__ import annotations

import dataclasses
import http.client
import io
import json
import queue
import socket
import threading
import time
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgekit_agent.doors import Died, Doors, Opened, ServerEnded, ServerSaid
from edgekit_agent.hosted import BusyError, HostedModel
from edgekit_agent.http import BodyBuffer, BodyMemory
from edgekit_agent.listeners import open_unix_listener
from edgekit_runtime.bundle.archive import entry_of
from edgekit_runtime.bundle.golden import save_arrays
from edgekit_runtime.bundle.manifest import (
    MANIFEST_NAME,
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    Step,
    TensorContract,
    Variant,
)
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.formats import ModelFormat
from tests.simulators.hosted_models import OpenDoors, make_slot
from tests.simulators.local_agent import RunningAgent, infer_body, make_config
from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.tiny_bundles import GOLDEN, affine_bundle, bundle_files


def echo_bundle(
    shape: tuple[int | None, ...], dtype: str = "float32", steps: tuple[Step, ...] = ()
) -> dict[str, bytes]:
    """y = x, of any shape; the model itself computes in float32."""
    sizes = [1 if size is None else size for size in shape]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [s or "n" for s in shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [s or "n" for s in shape])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    zeros = np.zeros(sizes, np.float32)
    files = {
        "golden/inputs.npz": save_arrays({"x": zeros}),
        "golden/outputs.npz": save_arrays({"y": zeros}),
        "model.onnx": model.SerializeToString(),
    }
    manifest = Manifest(
        name="echo",
        version="1.0.0",
        task="regression",
        created="2026-01-01T00:00:00Z",
        inputs=(TensorContract(name="x", dtype=dtype, shape=shape),),
        outputs=(TensorContract(name="y", dtype="float32", shape=shape),),
        preprocessing=steps,
        variants=(
            Variant(
                id="plain",
                format=ModelFormat.ONNX,
                precision="float32",
                file="model.onnx",
                inputs={"x": Binding(tensor="x")},
                outputs={"y": Binding(tensor="y")},
                requires=Requirements(runtimes=("onnxruntime",)),
                golden=GoldenOutputs(file="golden/outputs.npz", atol=0, rtol=0),
            ),
        ),
        golden_inputs="golden/inputs.npz",
        golden_samples=1,
        files={path: entry_of(data) for path, data in files.items()},
    )
    return {MANIFEST_NAME: manifest.to_json(), **files}


def echo(folder: Path, shape: tuple[int | None, ...], **options: Any) -> HostedModel:
    return HostedModel(make_slot(folder, echo_bundle(shape, **options)))


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def answer_of(document: Any) -> NDArray[np.float32]:
    (output,) = document["outputs"]
    return np.asarray(output["data"], np.float32).reshape(output["shape"])


def binary_request(array: NDArray[np.float32], *, padding: int = 0) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode() + b" " * padding
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


@pytest.mark.parametrize("padding", range(5))
@pytest.mark.parametrize("width", [3, 40_000])
def test_binary_tensors_come_back_wherever_they_lie_in_the_body(
    tmp_path: Path, padding: int, width: int
) -> None:
    with OpenDoors(echo(tmp_path, (None, width))) as doors:
        client = doors.connect()
        for seed in range(3):
            array = np.random.default_rng(seed).random((1, width), np.float32)
            body, headers = binary_request(array, padding=padding)
            client.request("POST", "/v2/models/echo/infer", body, headers)
            response = client.getresponse()
            length = int(response.headers["Inference-Header-Content-Length"])
            data = response.read()
            assert response.status == 200
            np.testing.assert_array_equal(np.frombuffer(data[length:], np.float32), array[0])
        client.close()


def test_a_body_is_read_onto_a_boundary_and_its_room_used_again() -> None:
    buffer = BodyBuffer()
    for offset in (0, 1, 63, 64, 200):
        room = buffer.room(10_000, aligned_at=offset)
        array = np.frombuffer(room, np.uint8)
        assert (array.ctypes.data + offset) % 64 == 0
        assert len(room) == 10_000


def test_the_bytes_of_a_tensor_are_a_request(tmp_path: Path) -> None:
    with OpenDoors(echo(tmp_path, (None, 4))) as doors:
        rows = np.arange(8, dtype=np.float32).reshape(2, 4)
        raw = {"Inference-Header-Content-Length": "0"}
        status, document, _ = doors.ask("POST", "/v2/models/echo/infer", rows.tobytes(), raw)
        assert status == 200
        np.testing.assert_array_equal(answer_of(document), rows)
        status, document, _ = doors.ask("POST", "/v2/models/echo/infer", bytes(15), raw)
        assert status == 400
        assert "send 16 bytes, or a multiple of that" in document["error"]


IMAGE = {"Content-Type": "image/png"}


def test_a_picture_is_a_request(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    steps = (
        Step(op="image", tensor="x", parameters={"colour": "bgr"}),
        Step(
            op="affine",
            tensor="x",
            parameters={"scale": [1.0, 0.5, 0.25], "offset": [0, -1, 1], "axis": 1},
        ),
    )
    with OpenDoors(echo(tmp_path, (None, 3, 6, 8), steps=steps)) as doors:
        status, document, _ = doors.ask("POST", "/v2/models/echo/infer", png(pixels), IMAGE)
    assert status == 200, document
    expected = pixels[:, :, ::-1].transpose(2, 0, 1) * np.array([1, 0.5, 0.25])[:, None, None]
    expected += np.array([0, -1, 1])[:, None, None]
    np.testing.assert_allclose(answer_of(document)[0], expected, rtol=1e-6)


def test_a_picture_gets_the_size_of_the_input(tmp_path: Path) -> None:
    pixels = np.full((20, 10), 200, np.uint8)
    steps = (Step(op="image", tensor="x", parameters={"fit": "pad"}),)
    with OpenDoors(echo(tmp_path, (None, 5, 5, 1), steps=steps)) as doors:
        _, document, _ = doors.ask("POST", "/v2/models/echo/infer", png(pixels), IMAGE)
    image = answer_of(document)[0, :, :, 0]
    assert image[:, 0].tolist() == [0] * 5
    assert image[2, 2] == 200


@pytest.mark.parametrize(
    ("shape", "steps", "body", "kind", "text"),
    [
        ((None, 3, 4, 4), (), b"", "image/png", "does not say how a picture becomes"),
        ((None, 9), ("image",), b"", "image/png", "takes no pictures"),
        ((None, 3, 4, 4), ("image",), b"no picture", "image/jpeg", "cannot be read"),
        ((None, 9), (), b"", "audio/wav", "does not say how a sound becomes"),
        ((None, 9), ("sound",), b"no sound", "audio/wav", "cannot be read"),
        ((None, 9), ("sound",), b"ID3", "audio/mpeg", "send audio/wav"),
        ((None, 9, 9), ("sound",), b"", "audio/wav", "takes no sound"),
    ],
)
def test_what_cannot_be_understood_is_said(
    tmp_path: Path,
    shape: tuple[int | None, ...],
    steps: tuple[str, ...],
    body: bytes,
    kind: str,
    text: str,
) -> None:
    made = tuple(Step(op=op, tensor="x", parameters={"sample_rate_hz": 8000}) for op in steps)
    made = tuple(Step(op=s.op, tensor="x") if s.op == "image" else s for s in made)
    with OpenDoors(echo(tmp_path, shape, steps=made)) as doors:
        status, document, _ = doors.ask(
            "POST", "/v2/models/echo/infer", body, {"Content-Type": kind}
        )
    assert status == 400
    assert text in document["error"]


def test_a_sound_is_a_request(tmp_path: Path) -> None:
    samples = np.array([0, 8192, -8192, 16384], np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((2, 2, 8000, 4, "NONE", ""))
        sound.writeframes(np.repeat(samples, 2).tobytes())
    steps = (Step(op="sound", tensor="x", parameters={"sample_rate_hz": 8000}),)
    with OpenDoors(echo(tmp_path, (None, 6), steps=steps)) as doors:
        status, document, _ = doors.ask(
            "POST", "/v2/models/echo/infer", file.getvalue(), {"Content-Type": "audio/wav"}
        )
    assert status == 200, document
    assert answer_of(document)[0].tolist() == [0, 0.25, -0.25, 0.5, 0, 0]


class Blocked:
    """A session that computes until it is let go."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, inputs: Mapping[str, Any]) -> Any:
        self.entered.release()
        assert self.go.wait(30)
        return self.session.run(inputs)


def blocked_model(folder: Path, *, queue_requests: int) -> tuple[HostedModel, Blocked]:
    plan = make_slot(folder, affine_bundle("double", "1.0.0", 2.0))
    model = HostedModel(plan, queue_requests=queue_requests)
    model._session = blocked = Blocked(model._session)  # type: ignore[assignment]
    return model, blocked


def test_more_than_may_wait_are_told_to_come_back(tmp_path: Path) -> None:
    model, blocked = blocked_model(tmp_path, queue_requests=2)
    body = json.dumps(infer_body([1.0, 2.0, 3.0, 4.0])).encode()
    with OpenDoors(model, threads=5) as doors:
        clients = [doors.connect() for _ in range(3)]
        for client in clients:
            client.request("POST", "/v2/models/double/infer", body)
        assert blocked.entered.acquire(timeout=30)
        deadline = time.monotonic() + 30
        while model._inside < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        status, document, headers = doors.ask("POST", "/v2/models/double/infer", body)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert document == {"error": "busy: 3 requests wait for double"}
        # Whoever asks for something else is answered all the while.
        assert doors.ask("GET", "/v2/health/ready")[0] == 200
        blocked.go.set()
        for client in clients:
            assert client.getresponse().status == 200
            client.close()
    assert (model.stats.requests, model.stats.busy, model.stats.errors) == (3, 1, 0)


def test_python_in_process_hears_of_busy_too(tmp_path: Path) -> None:
    model, blocked = blocked_model(tmp_path, queue_requests=0)
    x = {"x": np.ones((1, 4), np.float32)}
    thread = threading.Thread(target=model.infer, args=(x,))
    thread.start()
    assert blocked.entered.acquire(timeout=30)
    with pytest.raises(BusyError, match="1 requests wait"):
        model.infer(x)
    blocked.go.set()
    thread.join()
    assert model.infer(x)["y"].tolist() == [[2, 2, 2, 2]]


def test_large_bodies_share_a_bounded_memory(tmp_path: Path) -> None:
    memory = BodyMemory(200_000)
    assert memory.take(150_000)
    assert not memory.take(100_000)
    assert memory.take(60_000)
    memory.give_back(150_000)
    assert memory.take(200_000)
    with OpenDoors(echo(tmp_path, (None, 4)), max_body_bytes=100_000) as doors:
        waiting = []
        for _ in range(2):
            client = socket.create_connection(doors._listener.getsockname(), timeout=30)
            client.sendall(b"POST /v2 HTTP/1.1\r\nContent-Length: 100000\r\n\r\nbegin")
            waiting.append(client)
        deadline = time.monotonic() + 30
        while doors.pool._memory._free and time.monotonic() < deadline:
            time.sleep(0.01)
        status, document, headers = doors.ask("POST", "/v2/models/echo/infer", bytes(90_000))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "too many large requests" in document["error"]
        for client in waiting:
            client.sendall(bytes(99_995))
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 405
            client.close()
        deadline = time.monotonic() + 30
        while doors.pool._memory._free < 200_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert doors.pool._memory._free == 200_000


def test_the_models_are_listed(tmp_path: Path) -> None:
    with OpenDoors(echo(tmp_path, (None, 4))) as doors:
        _, document, _ = doors.ask("GET", "/v2/models")
    assert document == {"models": [{"name": "echo", "version": "1.0.0", "state": "READY"}]}


def test_a_unix_socket_answers_as_well(tmp_path: Path) -> None:
    fleet = SignedFleet()
    config = make_config(tmp_path, fleet)
    path = tmp_path / "models.sock"
    agent = RunningAgent(config=dataclasses.replace(config, http_socket=path), fleet=fleet)
    agent.start()
    try:
        agent.install("1.0.0", 2.0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(str(path))
            body = json.dumps(infer_body([1.0, 2.0, 3.0, 4.0])).encode()
            client.sendall(
                b"POST /v2/models/double/infer HTTP/1.1\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
            )
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer_of(json.loads(answer.read())).tolist() == [[2, 4, 6, 8]]
        assert path.stat().st_mode & 0o777 == 0o660
    finally:
        agent.stop()
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "models.sock"
    open_unix_listener(path).close()
    with open_unix_listener(path), pytest.raises(EnvironmentLackError, match="in use"):
        open_unix_listener(path)
    path.unlink()
    path.write_text("a file")
    with pytest.raises(EnvironmentLackError, match="something else"):
        open_unix_listener(path)
    assert path.read_text() == "a file"


def test_a_newcomer_that_does_not_fit_into_the_memory_is_blamed(tmp_path: Path) -> None:
    said: queue.SimpleQueue[ServerSaid | ServerEnded] = queue.SimpleQueue()
    small = make_slot(tmp_path, affine_bundle("double", "1.0.0", 2.0))
    # Sorted before the other, and still the one that does not fit.
    big = make_slot(tmp_path, heavy_bundle("big", megabytes=60))
    doors = Doors(
        host="127.0.0.1", port=0, request_bytes=1 << 20, post=said.put, ram_bytes=150 << 20
    )

    def next_of(kind: type[Opened] | type[Died]) -> Any:
        while not isinstance(found := doors.handle(said.get(timeout=60), 0.0), kind):
            doors.tick(0.0)
        return found

    try:
        doors.serve((small,), 0.0)
        doors.tick(0.0)
        assert next_of(Opened).models == (small,)
        doors.serve((big, small), 0.0)
        doors.tick(0.0)
        died = next_of(Died)
        assert (died.blamed, died.unloadable) == ((big,), True)
        assert "ram_bytes allows 150 MB" in died.reason
    finally:
        doors.close(seconds=10)


def heavy_bundle(name: str, *, megabytes: int) -> dict[str, bytes]:
    """y = x, with weights that the engine has to keep."""
    rows = megabytes << 18 >> 2
    ones = np.full((4, rows), 1.0 / rows, np.float32)
    eye = np.tile(np.eye(1, 4, dtype=np.float32) * 0, (rows, 1))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "ones"], ["wide"]),
            helper.make_node("MatMul", ["wide", "zeros"], ["none"]),
            helper.make_node("Add", ["x", "none"], ["y"]),
        ],
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(ones, "ones"), numpy_helper.from_array(eye, "zeros")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bundle_files(name, "1.0.0", [("plain", model.SerializeToString())], expected=GOLDEN)
