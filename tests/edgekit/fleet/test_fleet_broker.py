from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.fleet import broker as broker_module
from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit_runtime.errors import EnvironmentLackError, UsageError

NAMES = [
    pytest.param(
        "mosquitto",
        marks=pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
    ),
    "amqtt",
]
# What a process that starts a broker does when it is killed: nothing.
VICTIM = """
import os, signal, sys
from pathlib import Path
from edgekit.fleet.broker import start_broker
broker = start_broker(Path(sys.argv[1]), prefer=sys.argv[2])
print(broker.port, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def test_it_runs_until_it_is_stopped(broker: RunningBroker) -> None:
    assert broker.running
    assert broker.host == "127.0.0.1"
    assert broker.version[0].isdigit()
    assert accepts(broker.port)
    broker.stop()
    broker.stop()
    assert not broker.running
    assert not accepts(broker.port)


def test_nobody_else_on_the_network_reaches_it(broker: RunningBroker) -> None:
    """It lets everybody in, so it must not listen on any other address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with pytest.raises(OSError, match=r"."):
        socket.create_connection((address, broker.port), timeout=1.0).close()


@pytest.mark.parametrize("name", NAMES)
def test_a_port_in_use_is_named(tmp_path: Path, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentLackError, match=f"port {port} cannot be used") as caught:
            start_broker(tmp_path, port=port, prefer=name)
    assert "another port" in str(caught.value.fix)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_again_on_the_same_port(tmp_path: Path, name: str) -> None:
    with start_broker(tmp_path, prefer=name) as first:
        port = first.port
    with start_broker(tmp_path, port=port, prefer=name) as second:
        assert second.port == port


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_outlive_a_killed_parent(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(tmp_path), name],
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while accepts(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not accepts(int(done.stdout))


def test_a_broker_that_does_not_start_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such option: moon')"]
    monkeypatch.setattr(
        broker_module, "_program", lambda *_: broker_module._Program("amqtt", command)
    )
    with pytest.raises(EnvironmentLackError, match="no such option: moon") as caught:
        start_broker(tmp_path)
    assert caught.value.where == str(tmp_path / "amqtt.log")


def test_without_mosquitto_the_embedded_broker_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with start_broker(tmp_path) as running:
        assert running.name == "amqtt"
    with pytest.raises(EnvironmentLackError, match="mosquitto is not installed"):
        start_broker(tmp_path, prefer="mosquitto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(EnvironmentLackError) as caught:
        start_broker(tmp_path)
    assert "pip install" in str(caught.value.fix)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no broker 'hivemq'"):
        start_broker(tmp_path, prefer="hivemq")
    with pytest.raises(UsageError, match="no port"):
        start_broker(tmp_path, port=70_000)
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentLackError):
        start_broker(tmp_path / "file")


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_the_configuration_says_what_it_is_for(tmp_path: Path) -> None:
    with start_broker(tmp_path, prefer="mosquitto") as running:
        text = (tmp_path / "mosquitto.conf").read_text()
        assert f"listener {running.port} 127.0.0.1" in text
        assert "development on this machine only" in text
        assert running.log.parent.samefile(tmp_path)
