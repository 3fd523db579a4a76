"""How long an update takes over a broker on this machine: for `tools/perf.py`.

From the moment that a device's order is published until the version has passed its golden samples
on the device, serves, and has passed its gates. The device is the real command.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.fleet.folder import BrokerAddress, Fleet
    from edgekit.quickstart.device import Device

# Of each version: 5 MB of float32 that no other version has.
LAYERS, WIDTH = 5, 512
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
DEVICE = "perf"
WAIT_SECONDS = 120.0


def installing() -> list[tuple[float, float]]:
    """Seconds of each update, and of fetching the same chunks with nothing done about them."""
    from edgekit.fleet.broker import start_broker
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.keys import init_keys
    from edgekit.fleet.publisher import publish
    from edgekit.quickstart.device import Device

    with tempfile.TemporaryDirectory() as name, start_broker(Path(name) / "broker") as broker:
        folder = Path(name)
        fleet = Fleet.create(folder / "fleet", "perf")
        init_keys(fleet)
        released = [release(fleet, folder, version) for version in VERSIONS]
        publish(fleet, broker.address)
        device = Device.install(
            folder / "device",
            DEVICE,
            fleet=fleet.id,
            broker=broker.address,
            image_root=fleet.image_metadata / "1.root.json",
            director_root=fleet.director_metadata / "1.root.json",
            http_port=0,
        )
        device.start()
        try:
            device.wait_until(
                lambda status: bool(status["connected"]), what="connected", timeout_s=WAIT_SECONDS
            )
            return [
                (update(fleet, broker.address, device, version), fetch(broker.address, chunks))
                for version, chunks in zip(VERSIONS, released, strict=True)
            ]
        finally:
            device.stop()


def release(fleet: Fleet, folder: Path, version: str) -> list[str]:
    """Release a version with weights of its own; the names of its chunks."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.bundling.create import BundleRequest, create_bundle
    from edgekit.fleet.release import release_bundle

    random = np.random.default_rng(VERSIONS.index(version))
    weights, nodes, taken = [], [], "x"
    for layer in range(LAYERS):
        drawn = random.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(drawn, f"w{layer}"))
        made = "y" if layer == LAYERS - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [taken, f"w{layer}"], [made]))
        taken = made
    graph = helper.make_graph(
        nodes,
        "perf",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    source, data = folder / f"{version}.onnx", folder / "data.npz"
    onnx.save_model(model, str(source))
    np.savez(data, x=random.normal(size=(32, WIDTH)).astype(np.float32))
    bundle = folder / f"{version}.ekb"
    create_bundle(
        BundleRequest(
            name="perf",
            version=version,
            models=(source,),
            data=data,
            output=bundle,
            task="regression",
        )
    )
    before = chunks_of(fleet)
    release_bundle(fleet, bundle)
    return sorted(chunks_of(fleet) - before)


def chunks_of(fleet: Fleet) -> set[str]:
    """The names of all chunks that a fleet has."""
    return {path.name for path in fleet.chunks.rglob("*") if path.is_file()}


def update(fleet: Fleet, broker: BrokerAddress, device: Device, version: str) -> float:
    """Seconds from the order's publication until the version is active."""
    from edgekit.fleet.connection import connected_to
    from edgekit.fleet.ordering import order_device
    from edgekit.fleet.publisher import publish_order
    from edgekit_runtime.orders import BundleOrder, Gates

    gates = Gates(min_seconds=0.0)
    order_device(fleet, DEVICE, [BundleOrder(bundle="perf", version=version, gates=gates)])
    with connected_to(broker) as connection:
        began = time.perf_counter()
        publish_order(fleet, connection, DEVICE)

        def is_active(status: dict[str, object]) -> bool:
            bundle = status["state"]["bundles"].get("perf", {})  # type: ignore[index]
            return bool(bundle.get("phase") == "active" and bundle.get("active") == version)

        device.wait_until(is_active, what=f"{version} is active", timeout_s=WAIT_SECONDS)
        return time.perf_counter() - began


def fetch(broker: BrokerAddress, chunks: list[str]) -> float:
    """Seconds to get chunks from a broker, all asked for at once."""
    from edgekit.fleet.connection import BrokerConnection
    from edgekit_runtime.protocol import Topics

    missing = {Topics("perf").chunk(name) for name in chunks}
    come = threading.Event()

    def on_message(topic: str, _payload: bytes) -> None:
        missing.discard(topic)
        if not missing:
            come.set()

    began = time.perf_counter()
    connection = BrokerConnection(broker, topics=sorted(missing), on_message=on_message)
    if not come.wait(WAIT_SECONDS):
        raise SystemExit(f"{len(missing)} chunks did not come")
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


if __name__ == "__main__":
    for whole, bare in installing():
        print(f"{whole:.2f} s from order to active, {bare:.3f} s to fetch alone")
