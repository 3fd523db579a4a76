"""The whole road, as a user walks it: the command, its page, its end by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "edgekit", "quickstart"]

pytestmark = pytest.mark.slow


def processes_naming(folder: Path) -> list[str]:
    """The command lines of processes that were started for a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and str(os.getpid()) != entry.parent.name:
            found.append(line)
    return found


@pytest.mark.timeout(240)
def test_the_whole_road(tmp_path: Path) -> None:
    folder = tmp_path / "road"
    done = subprocess.run(
        [*COMMAND, "--folder", str(folder), "--json"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert figures == json.loads((folder / "quickstart.json").read_text())

    accuracy = {(v["model"], v["variant"]): v["accuracy"] for v in figures["variants"]}
    assert len(accuracy) == 6
    for (model, variant), value in accuracy.items():
        assert value > (0.94 if "1.0.0" in model else 0.98), variant
    assert accuracy["digits 2.0.0", "LiteRT int8"] > accuracy["digits 1.0.0", "LiteRT int8"]
    assert all(0 < v["median_ms"] <= v["p90_ms"] for v in figures["variants"])

    boards = {prediction["board"] for prediction in figures["predictions"]}
    assert len(boards) == 4
    assert all(p["low_ms"] <= p["latency_ms"] <= p["high_ms"] for p in figures["predictions"])

    update = figures["update"]
    assert (update["before"], update["after"]) == ("1.0.0", "2.0.0")
    assert update["refused"] == 0
    assert update["requests"] > 100
    assert {request["version"] for request in figures["requests"]} == {"1.0.0", "2.0.0"}

    said = {item["threat"]: (item["outcome"], item["reason"]) for item in figures["protections"]}
    expected = {
        "bit": ("refused", "hash"),
        "another fleet's key": ("refused", "key"),
        "replayed": ("refused", "replay"),
        "other weights": ("refused", "golden samples do not match"),
        "NaN": ("rolled back", "NaN"),
    }
    for threat, (outcome, reason) in expected.items():
        match = [value for name, value in said.items() if threat in name]
        assert match, threat
        assert match[0][0] == outcome
        assert reason in match[0][1]
    assert all(item["still_serving"] in ("2.0.0", "2.1.0") for item in figures["protections"])

    # What a client saw is what the workstation measured: the same samples, the same variant.
    first = figures["serving"][0]
    assert first["requests"] == 540
    assert first["accuracy"] == pytest.approx(accuracy["digits 1.0.0", "LiteRT int8"], abs=0.005)
    assert "without a broker" in figures["serving"][-1]["version"]
    assert figures["serving"][-1]["accuracy"] > 0.98
    if sys.platform == "linux":
        assert 5e6 < figures["supervisor_rss_bytes"] < 45e6

    page = (folder / "quickstart.html").read_text()
    assert page.count("<svg") == 5
    # It opens offline: nothing is loaded from anywhere.
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page.replace("xlink:href", ""))
    assert "@import" not in page.replace("@import url", "")
    assert processes_naming(folder) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "road"
    process = subprocess.Popen(
        [*COMMAND, "--folder", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 90
    # In the middle: the broker and the agent are running.
    while not (folder / "device" / "data" / "status.json").exists():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert processes_naming(folder)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == (130 if number is signal.SIGINT else 143)
    assert b"Traceback" not in stderr
    assert processes_naming(folder) == []
    if number is signal.SIGINT:
        assert not folder.exists()


def test_somebody_elses_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("five years of work")
    done = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "the quickstart did not make it" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "five years of work"


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--folder", str(tmp_path / "road"), "--http-port", str(port)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 4
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_naming(tmp_path / "road") == []
