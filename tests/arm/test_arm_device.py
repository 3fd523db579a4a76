"""A packaged agent on an emulated arm64 Debian: from the workstation's commands to an answer.

`make test-arm` makes the Debian and runs this; it takes root, qemu and some minutes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.fleet.broker import start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import director_root, image_root
from edgekit.quickstart.assets import digits_assets
from edgekit_runtime.session import open_session

pytestmark = pytest.mark.slow

# Emulated, everything is some twenty times slower.
WAIT_SECONDS = 300
IMAGES = 60
AGENT = "/opt/edgekit/bin/edgekit-agent"
CONFIG = "/etc/edgekit/agent.toml"
# Everything below which the package may write.
PLACES = ("etc", "opt", "usr", "var")


@pytest.fixture(scope="module")
def root() -> Path:
    named = os.environ.get("EDGEKIT_ARM_ROOT")
    if not named:
        pytest.skip("EDGEKIT_ARM_ROOT names no arm64 Debian: `make test-arm` makes one")
    return Path(named).resolve()


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A fleet whose one bundle has a model in int8 and in float, with golden samples."""
    assets = digits_assets()
    data = str(assets.test)
    calibration = str(assets.calibration)
    convert = ["convert", str(assets.model_v2), "--to", "tflite", "--with-float"]
    edgekit(tmp_path, *convert, "--quantize", "int8", "--calibration", calibration, "-o", "made")
    variants = ["--variant", "made/digits_v2-int8.tflite", "--variant", "made/digits_v2.tflite"]
    edgekit(tmp_path, "bundle", "create", "digits", "--version", "1.0.0", *variants, "--data", data)
    edgekit(tmp_path, "fleet", "init", "--id", "arm", "fleet")
    edgekit(tmp_path, "keys", "init")
    edgekit(tmp_path, "release", "add", "digits-1.0.0.ekb")
    gates = ["--min-requests", "5", "--min-seconds", "1", "--deadline-seconds", str(WAIT_SECONDS)]
    edgekit(tmp_path, "fleet", "order", "board-1", "digits@1.0.0", *gates)
    return tmp_path


def edgekit(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "edgekit", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inside(root: Path, *command: str) -> str:
    entering = ["chroot", str(root), *command]
    done = subprocess.run(entering, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def entered(root: Path) -> Iterator[None]:
    """The root with /proc, as a machine has it."""
    mount, umount = ["mount", "-t", "proc", "proc"], ["umount"]
    subprocess.run([*mount, str(root / "proc")], check=True)
    try:
        yield
    finally:
        subprocess.run([*umount, str(root / "proc")], check=True)


@contextmanager
def running(root: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The agent, started as its unit starts it."""
    command = ["chroot", "--userspec=edgekit:edgekit", str(root), AGENT, "run", "--config", CONFIG]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(WAIT_SECONDS) == 0, log.read_text()


def files(root: Path) -> set[str]:
    return {str(path) for place in PLACES for path in (root / place).rglob("*")}


def test_a_packaged_agent_proves_and_serves_a_bundle_on_arm(
    root: Path, fleet: Path, tmp_path: Path
) -> None:
    made = fleet / "made" / "digits_v2-int8.tflite"
    with start_broker(tmp_path / "broker") as broker, entered(root):
        port = free_port()
        package(fleet, str(broker.address), port)
        edgekit(fleet, "fleet", "publish", "--broker", str(broker.address))
        shutil.rmtree(root / "package", ignore_errors=True)
        shutil.copytree(fleet / "package", root / "package")
        program = next((root / "package").glob("*.pyz")).name
        before = files(root)
        inside(root, "python3", f"/package/{program}", "install", "--agent", "/package/agent")
        assert inside(root, AGENT, "check", "--config", CONFIG)
        with running(root, tmp_path / "agent.log") as agent, np.load(digits_assets().test) as test:
            images = test["image"][:IMAGES]

            def answers() -> list[Any] | None:
                return classify(port, images) if agent.poll() is None else None

            got = np.concatenate(wait_for(answers, tmp_path / "agent.log"))
            state = wait_for(lambda: active_state(root), tmp_path / "agent.log")
        inside(root, AGENT, "uninstall")
        left = {path for path in files(root) - before if "/var/log/" not in path}
    assert state["hardware"]["architecture"] == "aarch64"
    assert state["bundles"]["digits"]["variant"] == "litert-int8"
    assert not left
    session = open_session(made)
    want = np.concatenate(
        [next(iter(session.run({"image": image[None]}).values())) for image in images]
    )
    session.close()
    # The tolerance of golden samples: integer kernels may round a step apart.
    assert np.abs(got - want).max() <= golden_tolerance(fleet)
    assert (got.argmax(axis=1) == want.argmax(axis=1)).all()


def package(fleet: Path, broker: str, port: int) -> None:
    """The agent's folder and its installation file, as they go to the device."""
    keys = Fleet.open(fleet / "fleet")
    arguments = [
        *("--device", "board-1", "--fleet", "arm", "--broker", broker, "--folder", "agent"),
        *("--image-root", str(image_root(keys)), "--director-root", str(director_root(keys))),
        *("--http-port", str(port)),
    ]
    command = [sys.executable, "-m", "edgekit_agent", "init", *arguments]
    subprocess.run(command, cwd=fleet, check=True, capture_output=True)
    target = ["--arch", "aarch64", "--python", "3.11", "--agent", "agent", "--output", "package"]
    edgekit(fleet, "device", "package", *target)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for(found: Callable[[], Any], log: Path) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while (result := found()) is None:
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(1)
    return result


def classify(port: int, images: Any) -> list[Any] | None:
    """The model's answers through the device's door; None as long as it has none."""
    answers = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    with contextlib.closing(connection):
        for image in images:
            tensor = {
                "name": "image",
                "shape": [1, *image.shape],
                "datatype": "FP32",
                "data": image.reshape(-1).tolist(),
            }
            try:
                connection.request(
                    "POST", "/v2/models/digits/infer", json.dumps({"inputs": [tensor]})
                )
                response = connection.getresponse()
                document = json.load(response)
            except OSError:
                return None
            if response.status != http.HTTPStatus.OK:
                return None
            answers.append(np.array(document["outputs"][0]["data"], np.float32)[None])
    return answers


def active_state(root: Path) -> dict[str, Any] | None:
    """What the agent says of itself, once its bundle has passed all gates."""
    status = json.loads((root / "var/lib/edgekit/status.json").read_bytes())
    state: dict[str, Any] = status["state"]
    return state if state["bundles"]["digits"]["phase"] == "active" else None


def golden_tolerance(fleet: Path) -> float:
    with zipfile.ZipFile(fleet / "digits-1.0.0.ekb") as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
    tolerance: float = manifest["variants"][0]["golden"]["atol"]
    return tolerance
