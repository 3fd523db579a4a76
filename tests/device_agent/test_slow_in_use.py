"""What is right and quick on its golden samples, and slow on what the world sends."""

from __future__ import annotations

import numpy as np

from tests.simulators.local_agent import RunningAgent
from tests.simulators.signed_fleet import quick_order
from tests.simulators.tiny_bundles import bundle_files, looping_model

# The model computes in as many steps: no computer makes so many in the milliseconds allowed.
STEPS = 100_000.0
ALLOWED_MS = 5.0


def test_a_version_that_is_slow_in_use_is_rolled_back(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    golden = np.ones((1, 4), dtype=np.float32)
    files = bundle_files(
        "double", "2.0.0", [("loop", looping_model())], expected=2 * golden, golden=golden
    )
    agent.release("double", "2.0.0", files)
    agent.order(quick_order("double", "2.0.0", min_requests=10, max_p90_ms=ALLOWED_MS))
    agent.wait_for_phase("trying")
    while agent.bundle()["phase"] == "trying":
        assert agent.infer([STEPS] * 4)[0] == 200
    agent.wait_for_phase("rolled_back")
    assert "the 90th percentile of its latency is" in agent.bundle()["reason"]
    assert "5 ms are allowed" in agent.bundle()["reason"]
    agent.wait_for(lambda: agent.answer() == [2.0, 4.0, 6.0, 8.0])
