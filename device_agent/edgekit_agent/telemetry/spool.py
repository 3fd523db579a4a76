"""What models in other processes of this device did: counters in files, for the supervisor.

A program that loads a model into its own process writes what it has counted into a folder of the
agent; the supervisor adds it to the next window, and deletes the file. Whoever may not write there
is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from edgekit_agent.live_stats import LiveStats, read_stats
from edgekit_agent.plans import ModelPlan
from edgekit_runtime.fields import FieldReader

_FOLDER: Final = "local"
_MAX_FILE_BYTES: Final = 1 << 20
# More than that waits for a supervisor that does not run.
_MAX_FILES: Final = 500


def write_counted(data: Path, plan: ModelPlan, stats: LiveStats) -> bool:
    """Leave counters for the supervisor; whether that was possible.

    Args:
        data: The agent's folder.
        plan: Which version.
        stats: What was counted since the last time.
    """
    folder = data / _FOLDER
    name = f"{time.time_ns()}-{os.getpid()}.json"
    document = {"plan": asdict(plan), "stats": stats.to_json()}
    try:
        folder.mkdir(mode=0o770, exist_ok=True)
        if sum(1 for _ in folder.iterdir()) >= _MAX_FILES:
            return False
        partial = folder / f".{name}"
        partial.write_text(json.dumps(document), encoding="ascii")
        partial.replace(folder / name)
    except OSError:
        return False
    return True


def take_counted(data: Path) -> list[tuple[ModelPlan, LiveStats]]:
    """Take what others have left; what is no such file is deleted."""
    found = []
    for file in sorted((data / _FOLDER).glob("*.json"))[:_MAX_FILES]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            with file.open("rb") as stream:
                document = json.loads(stream.read(_MAX_FILE_BYTES))
            reader = FieldReader(document["stats"])
            stats = read_stats(reader)
            if not reader.faults:
                found.append((ModelPlan(**document["plan"]), stats))
        with contextlib.suppress(OSError):
            file.unlink()
    return found
