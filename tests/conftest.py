"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Timings never decide a test. In CI the examples are the same each time: what a change breaks is
# told from what chance finds; chance looks for faults on developers' machines.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

REPOSITORY = Path(__file__).resolve().parent.parent
# Test modules are imported by path (importlib mode); what they share is found by its folder.
sys.path.insert(0, str(REPOSITORY / "tests"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models with labelled data; a clone of the project alone does not have them."""
    folder = Path(os.environ.get("EDGEKIT_SHARED", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real models and data are not here: set EDGEKIT_SHARED to their folder")
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process more than processors: many tests wait for brokers, databases and devices."""
    if config.option.numprocesses != "auto" or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (own or 1) + 1
