"""An agent in this process (its servers and trials are processes of their own), and its client."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit_agent.config import AgentConfig, Limits
from edgekit_agent.supervisor import Supervisor
from edgekit_runtime.orders import BundleOrder
from tests.simulators.memory_broker import MemoryBroker
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle

DEVICE = "device-1"
WAIT_SECONDS = 60.0


@dataclass
class RunningAgent:
    """A supervisor on a thread, with the simulators around it."""

    config: AgentConfig
    fleet: SignedFleet = field(default_factory=SignedFleet)
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    supervisor: Supervisor | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.broker.states.clear()
        self.supervisor = Supervisor(self.config, transport=self.broker.connect)
        self.thread = threading.Thread(target=self.supervisor.run)
        self.thread.start()

    def stop(self) -> None:
        if self.supervisor and self.thread:
            self.supervisor.stop()
            self.thread.join(30)
            assert not self.thread.is_alive()
            self.supervisor = self.thread = None

    def release(self, name: str, version: str, files: dict[str, bytes]) -> str:
        digest = self.fleet.release(name, version, files)
        self.broker.publish_chunks(self.fleet.chunks)
        self.broker.publish_metadata(self.fleet.image_message())
        return digest

    def order(self, *orders: BundleOrder, **options: Any) -> None:
        self.broker.publish_order(self.fleet.order(DEVICE, *orders, **options))

    def install(self, version: str, scale: float, name: str = "double") -> str:
        digest = self.release(name, version, affine_bundle(name, version, scale))
        self.order(quick_order(name, version))
        self.wait_for(lambda: self.bundle(name).get("active") == version and self.is_active(name))
        return digest

    def is_active(self, name: str) -> bool:
        return self.bundle(name).get("phase") == "active"

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.broker.states[-1]) if self.broker.states else {}
        return state

    def bundle(self, name: str = "double") -> dict[str, Any]:
        found: dict[str, Any] = self.state.get("bundles", {}).get(name, {})
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in list(self.broker.events)]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    def details(self, kind: str) -> list[str]:
        return [event["detail"] for event in self.events if event["kind"] == kind]

    def wait_for(self, holds: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, (self.state, self.events[-8:])
            time.sleep(0.02)

    def wait_for_phase(self, phase: str, name: str = "double") -> None:
        self.wait_for(lambda: self.bundle(name).get("phase") == phase)

    @property
    def port(self) -> int:
        assert self.supervisor
        return self.supervisor._doors.address[1]

    @property
    def server_pid(self) -> int | None:
        assert self.supervisor
        return self.supervisor._doors.pid

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            client.request(method, path, None if body is None else json.dumps(body))
            response = client.getresponse()
            return response.status, json.loads(response.read())
        finally:
            client.close()

    def infer(self, values: list[float], name: str = "double") -> tuple[int, Any]:
        return self.request("POST", f"/v2/models/{name}/infer", infer_body(values))

    def served_versions(self, name: str = "double") -> list[str]:
        status, document = self.request("GET", f"/v2/models/{name}")
        return list(document["versions"]) if status == 200 else []

    def answer(self, name: str = "double") -> list[float]:
        """What the model says to [1, 2, 3, 4]."""
        status, document = self.infer([1.0, 2.0, 3.0, 4.0], name)
        assert status == 200, document
        data: list[float] = document["outputs"][0]["data"]
        return data


def infer_body(values: list[float]) -> dict[str, object]:
    return {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, len(values)], "data": values}]
    }


def make_config(folder: Path, fleet: SignedFleet, **limits: float) -> AgentConfig:
    (folder / "image-root.json").write_bytes(fleet.image.first_root)
    (folder / "director-root.json").write_bytes(fleet.director.first_root)
    usual = Limits(chunk_timeout_seconds=0.5)
    return AgentConfig(
        device=DEVICE,
        fleet="test",
        data=folder / "data",
        image_root=folder / "image-root.json",
        director_root=folder / "director-root.json",
        broker_host="127.0.0.1",
        broker_port=1,
        tls=None,
        http_host="127.0.0.1",
        http_port=0,
        log_level="info",
        limits=replace(usual, **limits),  # type: ignore[arg-type]
    )
