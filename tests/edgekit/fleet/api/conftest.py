from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from edgekit.fleet.access import Role, create_token
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.broker import start_broker
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.publisher import publish
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.release import release_bundle
from edgekit.fleet.storage.setting import open_bundles
from edgekit.fleet.store.database import Database
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState, Phase


@dataclass
class Site:
    """A running control plane, and a client for each role."""

    plane: ControlPlane
    url: str
    tokens: dict[Role, str] = field(default_factory=dict)
    _clients: list[httpx.Client] = field(default_factory=list)

    def client(self, role: Role | None, name: str = "") -> httpx.Client:
        headers = {}
        if role is not None:
            if name:
                _, token = create_token(
                    self.plane.database, name=name, role=role, days=1, actor="test"
                )
            else:
                token = self.tokens[role]
            headers["Authorization"] = f"Bearer {token}"
        client = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet without keys: nothing is signed here."""
    return Fleet.create(tmp_path / "fleet", "plant-7")


@pytest.fixture
def site(database: Database, fleet: Fleet) -> Iterator[Site]:
    plane = ControlPlane(fleet=fleet, database=database)
    server = PageServer(plane, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    made = Site(plane=plane, url=f"http://{server.address}")
    for role in Role:
        _, made.tokens[role] = create_token(
            database, name=f"a-{role.value}", role=role, days=1, actor="test"
        )
    deadline = time.monotonic() + 20
    while True:
        try:
            httpx.get(f"{made.url}/health").raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            break
    try:
        yield made
    finally:
        made.close()
        server.stop()
        thread.join()


@pytest.fixture
def admin(site: Site) -> httpx.Client:
    return site.client(Role.ADMIN)


@pytest.fixture
def viewer(site: Site) -> httpx.Client:
    return site.client(Role.VIEWER)


@pytest.fixture
def populated(site: Site, make_bundle: Callable[..., object]) -> Site:
    """Two devices, one of them in trouble; two registered versions; a rollout."""
    inventory = Inventory(site.plane.database, actor="test")
    hardware = {
        "architecture": "aarch64",
        "ram_bytes": 2_000_000_000,
        "runtimes": {"litert": "2.3.0"},
        "python": "3.11.2",
    }
    inventory.hear(
        [
            DeviceState(
                device="oven-1",
                online=True,
                agent="0.1.0",
                hardware=hardware,
                order_version=1,
                bundles={"digits": BundleState(phase=Phase.ACTIVE, active="1.0.0")},
            ),
            DeviceState(
                device="oven-2",
                online=False,
                bundles={
                    "digits": BundleState(
                        phase=Phase.ROLLED_BACK, active="1.0.0", reason="<b>p90</b> is 90 ms"
                    )
                },
            ),
        ],
        [
            DeviceEvent(
                device="oven-2",
                sequence=1,
                time=1.0,
                kind="update.rolled_back",
                bundle="digits",
                version="2.0.0",
                detail="<b>p90</b> is 90 ms",
            )
        ],
    )
    inventory.label("oven-1", {"site": "berlin"})
    registry = Registry(site.plane.database, open_bundles(site.plane.fleet), actor="test")
    registry.add(make_bundle("1.0.0"))  # type: ignore[arg-type]
    registry.add(make_bundle("2.0.0", model=b"other"))  # type: ignore[arg-type]
    return site


@pytest.fixture
def offered(populated: Site, tmp_path: Path, make_bundle: Callable[..., Path]) -> Iterator[Site]:
    """The same, with versions 1.0.0 and 2.0.0 released and published."""
    fleet = populated.plane.fleet
    init_keys(fleet)
    release_bundle(fleet, make_bundle("1.0.0"))
    release_bundle(fleet, make_bundle("2.0.0", model=b"other"))
    with start_broker(tmp_path / "broker") as running:
        publish(fleet, running.address)
        yield populated


@pytest.fixture
def plan() -> dict[str, object]:
    return {
        "id": "r1",
        "order": {"bundle": "digits", "version": "2.0.0"},
        "query": "site=berlin",
        "stages": [
            {"name": "canary", "count": 1, "criteria": {"min_seconds": 1}},
            {"name": "all", "percent": 100, "needs_approval": True},
        ],
    }
