"""An agent with simulators around it, for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators.babbler import Babbler
from tests.simulators.local_agent import RunningAgent, make_config
from tests.simulators.signed_fleet import SignedFleet


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    fleet = SignedFleet()
    running = RunningAgent(config=make_config(tmp_path, fleet), fleet=fleet)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def babbler() -> Iterator[Babbler]:
    running = Babbler()
    yield running
    running.close()
