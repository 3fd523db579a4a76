"""What the control plane's work costs: measurements taken in, decisions made, orders signed.

Parts of it are run by `tools/perf.py`; alone: `python tools/perf_fleet.py [DEVICES]` rolls a bundle
of 5 MB out to so many simulated devices (10,000 by default) in three stages, through mosquitto, and
prints the report, with what it may cost beside what it did.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.fleet.rollouts.plan import RolloutPlan

BATCHES = 4_000
AT_ONCE = 200
DEVICES = 10_000
# Of the devices, those that fetch all of a version chunk by chunk; the others its index.
FETCHING = 0.02
# What a control plane has to take in on two cores, and what a rollout may cost it.
BATCHES_PER_SECOND = 2_000.0
STEP_SECONDS = 1.0
ROLLOUT_CPU_SECONDS = 60.0
ROLLOUT_RSS_BYTES = 300_000_000


def taking_in() -> tuple[float, float]:
    """CPU seconds to take batches in, durably, against those that they may take."""
    from edgekit.fleet.store.database import open_database
    from edgekit.fleet.telemetry.ledger import Ledger
    from edgekit_runtime.telemetry import FeatureCounts, ModelCounts, Window, pack_batch

    counts = ModelCounts(
        requests=100,
        errors=1,
        latency={80 + place: 11 for place in range(9)},
        features={
            f"input:{place}": FeatureCounts(expected=(0.05,) * 20, counts=(5,) * 20)
            for place in range(4)
        },
    )
    window = Window(start=1e9, end=1e9 + 60, bundle="digits", version="2.0.0", model=counts)
    row = json.dumps(window.to_json(), separators=(",", ":")).encode()
    messages = [
        (f"d{number % 500}", pack_batch(f"d{number % 500}", "0" * 16, 0, [(number + 1, row)]))
        for number in range(BATCHES)
    ]
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(Path(folder) / "fleet.db")
        ledger = Ledger(database)
        began = time.process_time()
        for start in range(0, BATCHES, AT_ONCE):
            taken = ledger.take(messages[start : start + AT_ONCE], now=1e9)
            if taken.records != AT_ONCE:
                raise SystemExit(f"{taken.records} of {AT_ONCE} records were taken")
        seconds = time.process_time() - began
        database.close()
    return seconds, BATCHES / BATCHES_PER_SECOND


def deciding() -> tuple[float, float]:
    """CPU seconds of one step of the engine with ten thousand devices under way, against one."""
    from dataclasses import replace

    from edgekit.fleet.rollouts.engine import step
    from edgekit.fleet.rollouts.observations import Observation
    from edgekit.fleet.rollouts.state import RolloutState
    from edgekit.fleet.telemetry.health import Health
    from edgekit.fleet.telemetry.sketches import LatencySketch

    plan = plan_of(3)
    old = replace(plan.order, version="0.0.1")
    health = Health(requests=100, latency=LatencySketch({80 + p: 11 for p in range(9)}))
    seen = {
        f"d{number}": Observation(order_version=1, ordered=old, health=health)
        for number in range(DEVICES)
    }
    state = step(plan, RolloutState(), seen, 1.0).state
    state = replace(state, stage=2)
    state = step(plan, state, seen, 2.0).state
    began = time.process_time()
    step(plan, state, seen, 3.0)
    return time.process_time() - began, STEP_SECONDS


def plan_of(stages: int) -> RolloutPlan:
    """A plan in so many stages."""
    from edgekit.fleet.rollouts.plan import Criteria, RolloutPlan, Stage
    from edgekit_runtime.orders import BundleOrder, Gates

    criteria = Criteria(min_seconds=5.0, max_failed_share=0.1)
    sizes = (1.0, 25.0, 100.0)[-stages:]
    return RolloutPlan(
        id="perf",
        order=BundleOrder(bundle="model", version="1.0.0", gates=Gates(min_seconds=5.0)),
        query="",
        stages=tuple(Stage(name=f"{s:g}%", percent=s, criteria=criteria) for s in sizes),
        created_by="perf",
        created=0.0,
        device_timeout_seconds=60.0,
    )


def main() -> None:
    """Roll out to simulated devices, and print how it went."""
    from edgekit.fleet.simulation.behaviour import Behaviour
    from edgekit.fleet.simulation.fetching import FetchPlan
    from edgekit.fleet.simulation.trial import TrialSettings, try_rollout

    devices = int(sys.argv[1]) if len(sys.argv) > 1 else DEVICES
    report = try_rollout(
        plan_of(3),
        TrialSettings(
            devices=devices,
            behaviour=Behaviour(
                reject=0.005, vanish=0.005, fetch_seconds=5.0, telemetry_seconds=60.0
            ),
            fetch=FetchPlan(everything=FETCHING, index=True),
            bundle_bytes=5 << 20,
        ),
        say=lambda text: print(text, file=sys.stderr),
        on_decision=lambda _plan, decision: print(decision.what, decision.reason, file=sys.stderr),
    )
    wanted = {
        "control_cpu_of_wanted": report.control_cpu_seconds / ROLLOUT_CPU_SECONDS,
        "control_rss_of_wanted": report.control_rss_bytes / ROLLOUT_RSS_BYTES,
    }
    print(json.dumps(report.to_json() | wanted, indent=1))
    if report.wrong or report.crowd.refused:
        raise SystemExit("devices are in a wrong state, or got what was not signed")
    if set(report.published.values()) != {1}:
        raise SystemExit("a chunk was published more than once")


if __name__ == "__main__":
    main()
