"""The process of a version that runs beside: is given inputs and answers, computes its own, counts.

Started by the supervisor as `python -m edgekit_agent.shadow.worker PLAN`. It says on a pipe what
it has counted, once a second: one that is silent for too long hangs. Inputs are in memory only.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from edgekit_agent.hosted import HostedModel, InsaneAnswerError
from edgekit_agent.lifeline import tie_to_parent
from edgekit_agent.shadow.counting import Comparison, Meaning
from edgekit_agent.shadow.frames import Frame, receive_frame
from edgekit_agent.shadow.place import open_place
from edgekit_agent.shadow.plans import ShadowPlan, read_shadow_plan
from edgekit_agent.slot_files import SlotFiles
from edgekit_runtime.bundle.manifest import Manifest
from edgekit_runtime.errors import EdgekitError

SAY_SECONDS: Final = 1.0
_NICENESS: Final = 19
_MAX_FILE_BYTES: Final = 16 << 20
# A server that has begun to send a message sends the rest of it.
_FRAME_SECONDS: Final = 10.0


class Watcher:
    """Servers and their requests on one side, the version beside on the other."""

    def __init__(self, plan: ShadowPlan, model: HostedModel, listener: socket.socket) -> None:
        """Take what comes in at the listener."""
        self._plan = plan
        self._model = model
        self._listener = listener
        self._servers: dict[socket.socket, Meaning | None] = {}
        self.comparison = Comparison(
            run=plan.run,
            active=plan.active.version,
            tolerance=plan.tolerance,
            candidate=meaning_of(model.manifest),
        )

    def turn(self, seconds: float) -> None:
        """Do what there is to do, one request of each server at most; else wait so long."""
        ready, _, _ = select.select([self._listener, *self._servers], [], [], seconds)
        for channel in ready:
            if channel is self._listener:
                self._welcome()
                continue
            try:
                self._take(channel, receive_frame(channel))
            except (OSError, KeyError, TypeError, ValueError):
                # It has ended, or has another version by now.
                del self._servers[channel]
                channel.close()

    def _welcome(self) -> None:
        channel, _ = self._listener.accept()
        channel.settimeout(_FRAME_SECONDS)
        hello = {
            "active": self._plan.active.digest,
            "rate": self._plan.rate,
            "max_per_second": self._plan.max_per_second,
        }
        try:
            channel.sendall(json.dumps(hello).encode() + b"\n")
        except OSError:
            channel.close()
        else:
            self._servers[channel] = None

    def _take(self, channel: socket.socket, frame: Frame) -> None:
        meaning = self._servers[channel]
        if meaning is None:
            self._servers[channel] = Meaning(task=frame.head["task"], labels=frame.head["labels"])
            return
        sides: dict[str, dict[str, object]] = {"input": {}, "output": {}}
        for name, array in frame.arrays.items():
            side, _, own = name.partition(":")
            sides[side][own] = array
        active_ms = float(frame.head["latency_ms"])
        self.comparison.drop(int(frame.head["dropped"]))
        started = time.perf_counter()
        try:
            answer = self._model.infer(sides["input"])  # type: ignore[arg-type]
        except InsaneAnswerError:
            self.comparison.fail(insane=True)
        except (EdgekitError, MemoryError, RuntimeError):
            self.comparison.fail(insane=False)
        else:
            self.comparison.add(
                sides["output"],  # type: ignore[arg-type]
                answer,
                meaning=meaning,
                latency_ms=(time.perf_counter() - started) * 1e3,
                active_latency_ms=active_ms,
            )


def meaning_of(manifest: Manifest) -> Meaning:
    """What a version's answers mean, by its manifest."""
    return Meaning(
        task=manifest.task, labels={output.name: output.labels for output in manifest.outputs}
    )


def stand_back(memory_file_bytes: int) -> None:
    """Take only what others leave: processor, memory, disk.

    Args:
        memory_file_bytes: The largest file in memory that it needs all the same.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _MAX_FILE_BYTES + memory_file_bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    os.nice(_NICENESS)
    # Runs only on a processor that is idle; the kernel ends it first when memory is short.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Run as a process of its own."""
    plan = read_shadow_plan(sys.argv[1])
    tie_to_parent(plan.life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stand_back(SlotFiles(plan.candidate).most_memory_file_bytes())
    with os.fdopen(plan.reports, "w", encoding="ascii", buffering=1) as reports:
        try:
            model = HostedModel(plan.candidate)
            listener = open_place(Path(plan.place), plan.candidate.bundle)
        except (EdgekitError, OSError, MemoryError, RuntimeError) as error:
            reports.write(json.dumps({"failed": str(error) or type(error).__name__}) + "\n")
            reports.flush()
            os._exit(0)
        watcher = Watcher(plan, model, listener)
        due = 0.0
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + SAY_SECONDS
                reports.write(json.dumps({"counts": watcher.comparison.counts.to_json()}) + "\n")
            watcher.turn(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
