"""The trial process: loads a candidate, runs its golden samples, says how that went, ends.

Started by the supervisor as `python -m edgekit_agent.trial_worker PLAN`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import sys
import time
from typing import Final

from edgekit_agent.lifeline import tie_to_parent
from edgekit_agent.memory import peak_memory_bytes
from edgekit_agent.plans import ModelPlan, read_trial_plan
from edgekit_agent.slot_files import SlotFiles
from edgekit_runtime.errors import EdgekitError

_NICENESS: Final = 10
# An engine that fills the disk with messages is a broken one.
_MAX_FILE_BYTES: Final = 16 << 20
_TIMING_SECONDS: Final = 1.0
_TIMING_RUNS: Final = 200
_MAX_REASON: Final = 8192


def prove_model(plan: ModelPlan) -> float:
    """Run the golden samples, and return the median latency in ms.

    Raises:
        EdgekitError: If the model cannot be loaded or run, or does not compute what it should.
    """
    from edgekit_runtime.bundle.golden import load_arrays, prove, run_variant, samples_of

    files = SlotFiles(plan)
    manifest = files.manifest()
    variant = manifest.variant(plan.variant)
    session = files.open_session(variant)
    inputs, expected = (
        load_arrays(files.read(name), where=name)
        for name in (manifest.golden_inputs, variant.golden.file)
    )
    prove(session, variant, inputs, expected)
    samples = list(samples_of(inputs))
    latencies: list[float] = []
    end = time.perf_counter() + _TIMING_SECONDS
    while len(latencies) < _TIMING_RUNS and (not latencies or time.perf_counter() < end):
        sample = samples[len(latencies) % len(samples)]
        started = time.perf_counter()
        run_variant(session, variant, sample)
        latencies.append((time.perf_counter() - started) * 1e3)
    return statistics.median(latencies)


def main() -> None:
    """Run as a process of its own."""
    plan = read_trial_plan(sys.argv[1])
    tie_to_parent(plan.life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _MAX_FILE_BYTES + SlotFiles(plan.model).most_memory_file_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    os.nice(_NICENESS)
    result: dict[str, object]
    try:
        latency_ms = prove_model(plan.model)
        result = {"passed": True, "latency_ms": latency_ms}
    except EdgekitError as error:
        where = f" ({error.where})" if error.where else ""
        result = {"passed": False, "reason": f"{error.what}{where}"}
    except MemoryError:
        result = {"passed": False, "reason": "it ran out of memory"}
    except Exception as error:  # noqa: BLE001 - engines raise anything: a failed proof too
        result = {"passed": False, "reason": f"{type(error).__name__}: {error}"[:_MAX_REASON]}
    result["peak_bytes"] = peak_memory_bytes(os.getpid())
    os.write(plan.reports, json.dumps(result).encode() + b"\n")
    # Engines may hang or crash in their destructors; the proof is done.
    os._exit(0)


if __name__ == "__main__":
    main()
