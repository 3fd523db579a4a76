"""The suite of theupdateframework/tuf-conformance against the agent's verification.

It is not part of this repository: EDGEKIT_TUF_CONFORMANCE names a checkout of it. docs/security.md
says how to run it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CLIENT = Path(__file__).with_name("tuf_client.py")
SUITE = os.environ.get("EDGEKIT_TUF_CONFORMANCE", "")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not SUITE, reason="EDGEKIT_TUF_CONFORMANCE names no checkout of tuf-conformance"
    ),
    pytest.mark.skipif(
        shutil.which("faketime") is None, reason="the suite needs the program faketime"
    ),
]


@pytest.fixture
def broker_port(tmp_path: Path) -> Iterator[int]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        "set_tcp_nodelay true\nlog_type none\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def run_suite(*arguments: str) -> str:
    command = [sys.executable, str(CLIENT), *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tuf_conformance", "-q", "-p", "no:cacheprovider",
         "--entrypoint", " ".join(command)],
        cwd=SUITE,
        # Only the date is faked: with a stopped clock no thread of the client waits rightly.
        env={**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def test_the_suite_passes_over_http() -> None:
    output = run_suite("--transport", "http")
    assert "skipped" not in output
    assert "xfailed" not in output


def test_the_suite_passes_over_mqtt(broker_port: int) -> None:
    output = run_suite("--transport", "mqtt", "--broker-port", str(broker_port))
    assert "skipped" not in output
    assert "xfailed" not in output
