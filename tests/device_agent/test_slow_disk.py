"""A disk on which everything takes long to be safe: nobody who asks the models notices."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.simulators.local_agent import RunningAgent
from tests.simulators.signed_fleet import quick_order
from tests.simulators.tiny_bundles import affine_bundle

SLOW = """\
import os, time
real = os.fsync
def fsync(handle):
    time.sleep({seconds})
    real(handle)
os.fsync = fsync
"""
SECONDS = 0.05


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every fsync of the agent and of its processes takes long; when those of this one were."""
    folder = tmp_path / "slow"
    folder.mkdir()
    # Python imports it when it starts: the processes that write slots have the same disk.
    (folder / "sitecustomize.py").write_text(SLOW.format(seconds=SECONDS))
    places = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    waits: list[float] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        began = time.monotonic()
        time.sleep(SECONDS)
        real(handle)
        waits.append(time.monotonic() - began)

    monkeypatch.setattr(os, "fsync", fsync)
    return waits


@pytest.mark.slow
def test_an_update_on_a_slow_disk_completes_and_refuses_no_request(
    agent: RunningAgent, slow_disk: list[float]
) -> None:
    agent.install("1.0.0", 2.0)
    agent.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0, padding=200_000))
    stopping = threading.Event()
    answers: list[list[float]] = []

    def ask() -> None:
        while not stopping.is_set():
            answers.append(agent.answer())

    application = threading.Thread(target=ask)
    application.start()
    try:
        before = len(slow_disk)
        agent.order(quick_order("double", "2.0.0"))
        agent.wait_for(
            lambda: agent.bundle().get("active") == "2.0.0" and agent.is_active("double")
        )
        agent.wait_for(lambda: agent.answer() == [3.0, 6.0, 9.0, 12.0])
    finally:
        stopping.set()
        application.join()
    assert len(slow_disk) - before >= 5
    # Each was answered, by one of both versions.
    assert {tuple(answer) for answer in answers} == {(2.0, 4.0, 6.0, 8.0), (3.0, 6.0, 9.0, 12.0)}
