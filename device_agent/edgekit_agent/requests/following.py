"""Carry out what the fleet asked for, with what the supervisor has: updates, doors, desk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgekit_agent.doors import Doors
from edgekit_agent.hardware import RUNTIMES
from edgekit_agent.plans import ModelPlan
from edgekit_agent.requests.desk import (
    Desk,
    DeskMessage,
    RenewalKnown,
    ReplyReady,
    RequestProven,
)
from edgekit_agent.trial import run_trial
from edgekit_agent.updates import Updates
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.installed import installed_version
from edgekit_runtime.orders import Budget
from edgekit_runtime.requests import RequestKind

_log = logging.getLogger(__name__)

# A measurement that was asked for is no trial: it may take what the device has.
_BENCH: Final = Budget(trial_seconds=120.0, memory_bytes=1 << 40)

_MAX_BOARD: Final = 100


class RequestFollower:
    """Follows proven requests; for the supervisor's thread."""

    def __init__(
        self,
        *,
        desk: Desk,
        updates: Updates,
        doors: Doors,
        stop: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        """Work with these.

        Args:
            desk: Answers.
            updates: Tells of it, and knows what is served.
            doors: Restarts the server.
            stop: Ends the agent.
            stopping: Set when the agent ends: a measurement ends with it.
        """
        self._desk = desk
        self._updates = updates
        self._doors = doors
        self._stop = stop
        self._stopping = stopping

    def handle(self, message: DeskMessage, now: float) -> None:
        """Take in what the desk's thread has found out or done."""
        match message:
            case RequestProven():
                self._follow(message, now)
            case RenewalKnown():
                self._desk.on_renewal_known(message)
            case ReplyReady():
                self._desk.reply(message)

    def _follow(self, proven: RequestProven, now: float) -> None:
        try:
            accepted = self._desk.accept(proven)
        except EnvironmentLackError as error:
            _log.error("a request is not followed: %s", error)
            return
        if proven.refusal:
            self._updates.refuse(proven.refusal, now)
        if not accepted or proven.kind is None:
            return
        self._updates.tell("request.followed", detail=f"{proven.kind} (number {proven.number})")
        if proven.kind is RequestKind.RESTART:
            self._restart(proven)
            return
        held = [*self._updates.models(now)]
        held += [beside.candidate for beside in self._updates.shadows(now).values()]
        self._desk.carry_out(proven, bench=lambda name, version: self._bench(held, name, version))

    def _restart(self, proven: RequestProven) -> None:
        what = proven.arguments.get("what", "server")
        done = {"restarting": what}
        self._desk.reply(ReplyReady(number=proven.number, ok=True, parts=(done,)))
        if what == "agent":
            # Whoever started the agent starts it again: systemd does.
            self._stop()
        else:
            self._doors.restart()

    def _bench(self, held: list[ModelPlan], bundle: str, version: str) -> dict[str, object]:
        """Measure what serves, or the version that is named: it may be the one beside."""
        found = [m for m in held if m.bundle == bundle and version in ("", m.version)]
        if not found:
            return {"error": f"no such {'version' if version else 'bundle'} is served here"}
        model = found[0]
        outcome = run_trial(model, _BENCH, stop=self._stopping)
        if not outcome.passed:
            return {"error": outcome.reason}
        return {
            "bundle": model.bundle,
            "version": model.version,
            "variant": model.variant,
            "runtime": model.runtime,
            "runtime_version": installed_version(RUNTIMES[model.runtime]) or "",
            "threads": model.threads,
            "board": board_name(),
            "median_ms": outcome.latency_ms,
            "peak_bytes": outcome.peak_bytes,
        }


def board_name(root: Path = Path("/")) -> str:
    """What the device tree calls this board: "Raspberry Pi 4 Model B Rev 1.4"; empty for none."""
    try:
        data = (root / "proc" / "device-tree" / "model").read_bytes()
    except OSError:
        return ""
    return data.decode(errors="replace").strip("\0 \n")[:_MAX_BOARD]
