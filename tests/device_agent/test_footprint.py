"""The supervisor stays small: what only an update needs is never in its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.device_agent.test_mqtt import AgentProcess, Mosquitto, needs_mosquitto, publish, wait_for
from tests.simulators.local_agent import DEVICE
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle

LIMIT_BYTES = 30 << 20
ENCRYPTION_BYTES = 10 << 20


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path)
    yield running
    running.stop()


@needs_mosquitto
def test_connected_and_idle_it_takes_less_than_30_mb(tmp_path: Path, broker: Mosquitto) -> None:
    fleet = SignedFleet()
    agent = AgentProcess(tmp_path, fleet, broker.port)
    try:
        wait_for(lambda: agent.status().get("connected"))
        assert agent.status()["supervisor_rss_bytes"] < LIMIT_BYTES
        # An update is verified and installed in other processes: it leaves little behind.
        fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0, padding=2_000_000))
        publish(broker, fleet, fleet.order(DEVICE, quick_order("double", "1.0.0")))
        wait_for(lambda: agent.is_active("1.0.0"), seconds=60, say=agent.status)
        assert agent.status()["supervisor_rss_bytes"] < 1.1 * LIMIT_BYTES
    finally:
        agent.stop()


@needs_mosquitto
def test_with_encrypted_storage_it_takes_little_more(tmp_path: Path, broker: Mosquitto) -> None:
    agent = AgentProcess(tmp_path, SignedFleet(), broker.port)
    try:
        agent.stop()
        key = agent.folder / "storage.key"
        agent.command("storage-key", key, config=False)
        with (agent.folder / "agent.toml").open("a") as file:
            file.write('[encryption]\nkey_file = "storage.key"\n')
        agent.start()
        wait_for(lambda: agent.status().get("connected"))
        # The package `cryptography`, which is not loaded without this option.
        assert agent.status()["supervisor_rss_bytes"] < LIMIT_BYTES + ENCRYPTION_BYTES
    finally:
        agent.stop()


def test_the_supervisor_imports_nothing_that_only_an_update_needs() -> None:
    program = (
        "import sys, edgekit_agent.supervisor, edgekit_agent.transports.configured\n"
        "import edgekit_agent.transports.mqtt\n"
        "print(*sorted(set(sys.modules) & {'tuf', 'securesystemslib', 'cryptography', 'numpy',\n"
        "    'click', 'edgekit_agent.fetching', 'edgekit_agent.sources',\n"
        "    'edgekit_runtime.bundle.index', 'edgekit_runtime.bundle.delta'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.skipif(find_spec("socks") is not None, reason="PySocks is installed: paho asks for it")
def test_paho_brings_neither_http_nor_email() -> None:
    program = (
        "import sys\n"
        "from edgekit_agent.transports.lean_paho import load_paho\n"
        "load_paho()\n"
        "import edgekit_agent.transports.mqtt\n"
        "print(*sorted(set(sys.modules) & {'http.client', 'email', 'urllib.request'}))\n"
        # Whoever wants it has it.
        "from urllib import request\n"
        "import urllib.request\n"
        "print(request.Request is urllib.request.Request)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\nTrue\n"
