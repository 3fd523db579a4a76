"""A control plane in a process of its own, as a user starts it, and how to speak with it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from edgekit.fleet.access import Role, create_token
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import device_order, order_bundle
from edgekit.fleet.release import release_bundle
from edgekit.fleet.simulation.behaviour import device_name
from edgekit.fleet.store.database import open_fleet_database
from edgekit_runtime.orders import BundleOrder, Gates
from tests.simulators.carried_bundles import write_carried


class Command:
    """A running `edgekit` command, and what it has printed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._log = folder / f"{arguments[1]}.log"
        self._began = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgekit", *arguments], stdout=output, stderr=output
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        return self._log.read_bytes()[self._began :].decode()


def wait_for(get: Callable[[], Any], what: str, *, seconds: float = 150.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := get()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


def two_versions(folder: Path, *, devices: int) -> Fleet:
    """A fleet with two released versions of `digits`, the first ordered for all devices."""
    made = Fleet.create(folder / "fleet", "plant-7")
    init_keys(made)
    first = BundleOrder(bundle="digits", version="1.0.0", gates=Gates(min_seconds=1.0))
    for version in ("1.0.0", "2.0.0"):
        release_bundle(made, write_carried(folder, version, model=version.encode() * 9000))
    for number in range(devices):
        order_bundle(made, device_name(number), first)
    return made


def serve(fleet: Fleet, *options: str) -> Command:
    own = ("--port", "0", "--fleet", str(fleet.path))
    return Command(fleet.path.parent, "fleet", "serve", *own, *options)


@contextmanager
def client_of(
    command: Command, fleet: Fleet, *, database: str | None = None
) -> Iterator[httpx.Client]:
    """Speaks with it as an admin."""
    url = wait_for(lambda: re.findall(r"http://\S+:\d+", command.said()), "it serves")[0]
    opened = open_fleet_database(fleet, database)
    _, token = create_token(opened, name="test", role=Role.ADMIN, days=1, actor="test")
    opened.close()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        yield client


def serving(client: httpx.Client) -> dict[str, int]:
    """How many devices serve which version of `digits`, as the control plane knows it."""
    found = client.get("/api/v1/status").json()["versions"]
    return {v["version"]: v["devices"] for v in found if v["phase"] == "active"}


def order_versions(fleet: Fleet, *, devices: int) -> dict[str, int]:
    names = [device_name(number) for number in range(devices)]
    return {name: device_order(fleet, name).version for name in names}
