"""The installing process: looks what a target lacks, installs it if that is nothing, ends.

Started by the supervisor as `python -m edgekit_agent.install_worker PLAN`, with the target on
standard input.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.fetching import Fetcher
from edgekit_agent.hardware import Hardware
from edgekit_agent.installation import InstallPlan, describe_result, read_install_plan
from edgekit_agent.lifeline import tie_to_parent
from edgekit_agent.needs import Missing, Ready
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import read_target
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.sealing.vault import Vault, read_encryption


def take_step(plan: InstallPlan, document: bytes) -> Missing | Ready | EdgekitError:
    """Plan or install one target; what is missing, what is ready, or why not."""
    reader = FieldReader(json.loads(document))
    target = read_target(reader, "target")
    if target is None or reader.faults:
        return VerificationError("the target is damaged: " + "; ".join(reader.faults))
    hardware: dict[str, object] = plan.hardware
    data = Path(plan.data)
    vault = Vault(data, read_encryption(plan.encryption))
    fetcher = Fetcher(
        chunks=ChunkStore(data / "chunks", vault),
        slots=SlotStore(data / "slots", vault),
        hardware=Hardware(**hardware),  # type: ignore[arg-type]
        store_bytes=plan.store_bytes,
    )
    try:
        return fetcher.install(target, plan.failed, reuse=plan.reuse)
    except EdgekitError as error:
        return error


def main() -> None:
    """Run as a process of its own."""
    plan = read_install_plan(sys.argv[1])
    tie_to_parent(plan.life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    result = take_step(plan, sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(describe_result(result)))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
