"""The server process: holds the models, and answers applications until it is told to drain.

Started by the supervisor as `python -m edgekit_agent.server PLAN`. It says on a pipe when it is
ready, how it goes, and which model could not be loaded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from edgekit_agent.application import Application
from edgekit_agent.connections import MAX_CONNECTIONS, ConnectionPool
from edgekit_agent.lifeline import tie_to_parent
from edgekit_agent.logs import set_up_logs
from edgekit_agent.memory import resident_bytes
from edgekit_agent.metrics import MetricsPage
from edgekit_agent.plans import ServerPlan, read_server_plan
from edgekit_agent.release import AGENT_VERSION
from edgekit_agent.samples import SampleKeeper, SampleRing
from edgekit_agent.settings import STATUS_NAME, samples_folder
from edgekit_agent.telemetry.gauges import DeviceProbe
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.sealing.vault import open_vault

if TYPE_CHECKING:
    from edgekit_agent.hosted import HostedModel

REPORT_SECONDS: Final = 0.25
_SPARE_DESCRIPTORS: Final = 128


class Reports:
    """The pipe to the supervisor."""

    def __init__(self, descriptor: int) -> None:
        """Write to that pipe."""
        self._file = os.fdopen(descriptor, "w", encoding="ascii", buffering=1)
        self._last = ""

    def say(self, **message: object) -> None:
        """Send one object; a supervisor that is gone is no matter."""
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(message, separators=(",", ":")) + "\n")

    def say_stats(self, models: dict[str, HostedModel]) -> None:
        """Send the counters if they have changed."""
        counters = {name: model.stats.to_json() for name, model in list(models.items())}
        text = json.dumps(counters)
        if text != self._last:
            self._last = text
            self.say(stats=counters)


def load_models(
    plan: ServerPlan, reports: Reports, samples: SampleKeeper | None
) -> dict[str, HostedModel] | None:
    """Load every model; None, and a report of which and why, if one cannot be loaded.

    Newcomers come last: what they find no memory for is not the fault of those before them.
    """
    models: dict[str, HostedModel] = {}
    if not plan.models:
        return models
    # Numpy and the engines come with the first model.
    from edgekit_agent.hosted import HostedModel

    running = memoryview(mmap.mmap(plan.running, len(plan.models)))
    places = sorted(
        enumerate(plan.models), key=lambda place: (place[1].bundle in plan.newcomers, place[0])
    )
    for position, model in places:
        try:
            models[model.bundle] = HostedModel(
                model,
                running=running[position : position + 1],
                queue_requests=plan.queue_requests,
                samples=samples,
            )
        except (EdgekitError, OSError) as error:
            reports.say(failed=model.bundle, reason=str(error))
            return None
        taken = resident_bytes(os.getpid())
        if 0 < plan.ram_bytes < taken:
            reason = (
                f"with it the models take {taken >> 20} MB of memory; "
                f"[limits] ram_bytes allows {plan.ram_bytes >> 20} MB"
            )
            reports.say(failed=model.bundle, reason=reason)
            return None
    return models


def run(plan: ServerPlan) -> int:
    """Serve until SIGTERM; the exit code."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    # Ctrl-C in a terminal reaches the whole group; the supervisor tells us when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _allow_connections()
    reports = Reports(plan.reports)
    samples = keep_samples(plan)
    models = load_models(plan, reports, samples)
    if models is None:
        return 1
    metrics = MetricsPage(Path(plan.data) / STATUS_NAME, DeviceProbe(Path(plan.data)))
    pool = ConnectionPool(
        listeners=[socket.socket(fileno=descriptor) for descriptor in plan.listeners],
        handover_in=socket.socket(fileno=plan.handover_in),
        handover_out=socket.socket(fileno=plan.handover_out),
        answer=Application(models, version=AGENT_VERSION, metrics=metrics).answer,
        # All that may be computed or wait, one that says "busy", and one for the rest.
        threads=len(plan.models) * (plan.queue_requests + 1) + 2,
        max_body_bytes=plan.request_bytes,
    )
    pool.start()
    reports.say(ready=True)
    look = look_beside(plan, models)
    while not stop.wait(REPORT_SECONDS):
        reports.say_stats(models)
        look()
    pool.drain()
    if samples:
        samples.close()
    reports.say_stats(models)
    return 0


def keep_samples(plan: ServerPlan) -> SampleKeeper | None:
    """What keeps samples, if the owner allows it."""
    if not plan.samples.allow:
        return None
    ring = SampleRing(
        samples_folder(Path(plan.data)),
        most_bytes=plan.samples.ring_bytes,
        vault=open_vault(plan.data, plan.encryption),
    )
    return SampleKeeper(ring, plan.samples)


def look_beside(plan: ServerPlan, models: dict[str, HostedModel]) -> Callable[[], None]:
    """What is to be called now and then, so that what runs beside a model is given requests."""
    if not models:
        return lambda: None
    # Loads numpy, which came with the models.
    from edgekit_agent.shadow.tap import Taps

    taps = Taps(Path(plan.data))
    return lambda: taps.look(models)


def _allow_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _SPARE_DESCRIPTORS
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def main() -> None:
    """Run as a process of its own."""
    plan = read_server_plan(sys.argv[1])
    tie_to_parent(plan.life)
    set_up_logs("warning")
    code = run(plan)
    logging.shutdown()
    # Engines may hang or crash in their destructors; everything that matters is done.
    os._exit(code)


if __name__ == "__main__":
    main()
