"""`kill -9` of the whole agent, supervisor, server and workers, at any instant of an update.

Afterwards a working model serves, always, and the update completes or is refused with the reason.
The suite takes some of the instants, `make test-kills` all.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from tests.simulators.killed_agents import KilledAgent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ALL = bool(os.environ.get("EDGEKIT_ALL_KILLS"))
INSTANTS = 500 if ALL else 8
SIDE_BY_SIDE = 2
# From when a stick is put in until the new version has passed its gates, and somewhat more.
LONGEST_SECONDS = 2.0
TOOK_DOWN = "times while this version was being"


def updated(folder: Path) -> KilledAgent:
    """An agent that runs its first version."""
    agent = KilledAgent(folder)
    agent.release_next()
    agent.start()
    assert agent.assert_completes() == ""
    return agent


def assert_works(agent: KilledAgent) -> None:
    agent.assert_serves()
    reason = agent.assert_completes()
    if reason:
        # Three kills while it was proven or tried look like a version that takes the device down.
        assert TOOK_DOWN in reason
        agent.order_again()
        assert agent.assert_completes() == ""


class Countdown:
    """How many instants are left, for several threads."""

    def __init__(self, instants: int) -> None:
        self._left = instants
        self._lock = threading.Lock()

    def take(self, most: int) -> int:
        with self._lock:
            taken = min(most, self._left)
            self._left -= taken
            return taken


def kill_at_random(agent: KilledAgent, countdown: Countdown, seed: int) -> int:
    """Updates that are killed once to three times each; how many kills there were."""
    rng = random.Random(seed)  # noqa: S311 - it only chooses instants
    kills = 0
    while times := countdown.take(rng.randrange(1, 4)):
        agent.release_next()
        for _ in range(times):
            time.sleep(rng.uniform(0.0, LONGEST_SECONDS))
            agent.kill()
            kills += 1
            agent.start()
            # One in four is killed again before it has come up.
            if rng.random() < 0.75:
                agent.assert_serves()
        assert_works(agent)
    return kills


def test_kills_at_random_instants(tmp_path: Path) -> None:
    agents = [updated(tmp_path / f"agent-{number}") for number in range(SIDE_BY_SIDE)]
    countdown = Countdown(INSTANTS)
    try:
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            kills = pool.map(
                kill_at_random, agents, [countdown] * SIDE_BY_SIDE, range(SIDE_BY_SIDE)
            )
            assert sum(kills) == INSTANTS
    finally:
        for agent in agents:
            agent.stop()


@pytest.mark.parametrize("moment", ["before", "after"] if ALL else ["after"])
def test_a_kill_at_every_step_of_the_journal(tmp_path: Path, moment: str) -> None:
    agent = updated(tmp_path / "agent")
    for step in count():
        agent.stop()
        agent.release_next()
        agent.start(kill_at=(step, moment))
        while not (killed := agent.ended()):
            bundle = agent.bundle()
            if (bundle.get("phase"), bundle.get("active")) == ("active", f"{agent.number}.0.0"):
                break
            time.sleep(0.02)
        if not killed:
            break
        agent.start()
        assert_works(agent)
    agent.stop()
    # Fetching, staged, the trial begun, trying, active; and what was ordered.
    assert step >= 5
