"""Models in this process, and a server's doors in front of them, without a supervisor."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit_agent.application import Application
from edgekit_agent.connections import ConnectionPool
from edgekit_agent.hosted import HostedModel
from edgekit_agent.listeners import open_listener
from edgekit_agent.plans import ModelPlan


def make_slot(folder: Path, files: Mapping[str, bytes], *, variant: str = "plain") -> ModelPlan:
    """Write a bundle's files into a folder, as they lie in a slot."""
    manifest = json.loads(files["manifest.json"])
    slot = folder / manifest["name"]
    for path, data in files.items():
        (slot / path).parent.mkdir(parents=True, exist_ok=True)
        (slot / path).write_bytes(data)
    return ModelPlan(
        bundle=manifest["name"],
        version=manifest["version"],
        digest=manifest["name"] + manifest["version"],
        folder=str(slot),
        variant=variant,
        runtime="onnxruntime",
        threads=1,
    )


class OpenDoors:
    """A connection pool over some models; use it in a `with` statement."""

    def __init__(self, *models: HostedModel, threads: int = 8, max_body_bytes: int = 1 << 20):
        self._listener = open_listener("127.0.0.1", 0)
        self._handover = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._handover[1].settimeout(0.0)
        self.application = Application({m.plan.bundle: m for m in models}, version="1.2.3")
        self.pool = ConnectionPool(
            listeners=[self._listener],
            handover_in=self._handover[0],
            handover_out=self._handover[1],
            answer=self.application.answer,
            threads=threads,
            max_body_bytes=max_body_bytes,
        )

    def __enter__(self) -> OpenDoors:
        self.pool.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.drain()
        self._listener.close()
        for end in self._handover:
            end.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self._listener.getsockname(), timeout=30)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of one request on a connection of its own."""
        client = self.connect()
        try:
            client.request(method, path, body, dict(headers or {}))
            response = client.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None, dict(response.getheaders())
        finally:
            client.close()
