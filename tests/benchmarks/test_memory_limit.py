"""A memory limit ends a process that needs more, and lets one that needs less be."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit_benchmarks import memory_limit
from edgekit_benchmarks.measure import measure
from edgekit_benchmarks.memory_limit import KERNEL, WATCHED, limit_memory, parse_bytes
from edgekit_runtime.errors import GateFailedError, UsageError
from runtime.models import linear_model

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is limited through Linux's interfaces"
)
HOG = "import time; b = bytearray({size}); b[::4096] = b'x' * len(b[::4096]); time.sleep({wait})"


@pytest.fixture(params=["kernel", "watched"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where control groups are, or a folder without any."""
    if request.param == "watched":
        return tmp_path
    with limit_memory(1 << 30) as limit:
        if limit.how != KERNEL:
            pytest.skip("this user may not make memory control groups here")
    return Path("/sys/fs/cgroup")


def run(size: int, limit_bytes: int, root: Path, wait: float = 0.3) -> tuple[int, bool]:
    with limit_memory(limit_bytes, root=root) as limit:
        command = (sys.executable, "-c", HOG.format(size=size, wait=wait))
        process = subprocess.Popen(limit.command(command), stderr=subprocess.DEVNULL)
        limit.started(process.pid)
        return process.wait(timeout=60), limit.exceeded()


def test_a_process_that_needs_more_is_ended(root: Path) -> None:
    code, exceeded = run(300 << 20, 100 << 20, root)
    assert code != 0
    assert exceeded


def test_a_process_that_needs_less_is_let_be(root: Path) -> None:
    assert run(50 << 20, 200 << 20, root, wait=0.0) == (0, False)


def test_a_group_does_not_stay_behind(root: Path) -> None:
    run(1 << 20, 200 << 20, root, wait=0.0)
    left = [p for p in root.rglob("edgekit-bench-*") if p.is_dir()]
    assert left == []


def test_who_sees_to_it_is_said(tmp_path: Path) -> None:
    with limit_memory(1 << 30, root=tmp_path) as limit:
        assert limit.how == WATCHED


def test_a_model_under_a_limit(tmp_path: Path) -> None:
    """A hundred megabytes of weights do not run in what a small model runs in."""
    small = linear_model(tmp_path / "small.onnx")
    large = linear_model(tmp_path / "large.onnx", np.ones((1, 25 << 20), np.float32))
    found = measure(small, runs=1, min_seconds=0.0, memory_limit_bytes=170 << 20)
    assert found.limit is not None
    assert found.limit.limit_bytes == 170 << 20
    with pytest.raises(GateFailedError, match=r"does not run in 178\.3 MB") as caught:
        measure(large, runs=1, min_seconds=0.0, memory_limit_bytes=170 << 20, timeout_s=60)
    assert caught.value.exit_code == 1
    assert measure(small, runs=1, min_seconds=0.0).limit is None


def test_another_death_is_not_taken_for_the_limit(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "small.onnx")
    command = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Exception, match="was killed") as caught:
        measure(model, command=command, memory_limit_bytes=1 << 30)
    assert not isinstance(caught.value, GateFailedError)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64MB", 64_000_000),
        ("64 mb", 64_000_000),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        ("0.5GB", 500_000_000),
        ("2097152", 2 << 20),
    ],
)
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "64 bananas", "100B", "9999999999GB"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="no amount of memory"):
        parse_bytes(text)


def test_a_watch_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "_POLL_SECONDS", 0.001)
    assert run(1 << 20, 500 << 20, tmp_path, wait=0.0) == (0, False)
    time.sleep(0.01)
