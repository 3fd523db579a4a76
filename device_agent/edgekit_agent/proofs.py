"""Trials of staged candidates: when they may begin, what runs just now, how they ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from edgekit_agent.conditions import Surroundings, why_not_yet
from edgekit_agent.jobs import JobThread
from edgekit_agent.machine import Event, ProofBegun, Proven, VariantFailed
from edgekit_agent.plans import ModelPlan
from edgekit_agent.state import BundleRecord, Slot, Target
from edgekit_agent.trial import TrialOutcome, run_trial
from edgekit_runtime.errors import EdgekitError

# How often it is looked whether the conditions of an order hold.
_HELD_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDone:
    """A trial has ended."""

    bundle: str
    digest: str
    variant: str
    outcome: TrialOutcome
    stop: threading.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    digest: str
    variant: str
    stop: threading.Event


class Proofs:
    """Holds candidates back until their conditions hold, and runs their trials one by one."""

    def __init__(
        self,
        *,
        plan_of: Callable[[str, Slot], ModelPlan],
        look_around: Callable[[], Surroundings],
        apply: Callable[[str, Event, float], None],
        wait: Callable[[Target, str], None],
        post: Callable[[TrialDone], None],
        storage_trouble: Callable[[], str] = str,
    ) -> None:
        """Work with these.

        Args:
            plan_of: Gives what to load; raises `EdgekitError` if it cannot be loaded here.
            look_around: Tells by what conditions are judged.
            apply: Lets the machine decide about a bundle.
            wait: Told once of a candidate that has to wait, and for what.
            post: Takes the results of trials; they come back through `on_done`.
            storage_trouble: Tells why what is stored cannot be read now; empty if it can.
        """
        self._storage_trouble = storage_trouble
        self._plan_of = plan_of
        self._look_around = look_around
        self._apply = apply
        self._wait = wait
        self._post = post
        self._jobs = JobThread("trials")
        self._running: dict[str, _Trial] = {}
        # What staged candidates wait for, by bundle, and when that is looked at again.
        self._held: dict[str, str] = {}
        self._held_due = 0.0

    def waiting(self, bundle: str) -> str:
        """What a staged candidate waits for; empty for nothing."""
        return self._held.get(bundle, "")

    def begin(self, record: BundleRecord, now: float) -> None:
        """Start the trial of what is staged, or say what it waits for."""
        bundle, slot = record.bundle, record.staged
        if slot is None:
            return
        conditions = slot.target.order.conditions
        reason = self._storage_trouble() or why_not_yet(conditions, self._look_around())
        if reason:
            if bundle not in self._held:
                self._wait(slot.target, reason)
            self._held[bundle] = reason
            return
        self._held.pop(bundle, None)
        self._apply(bundle, ProofBegun(digest=slot.digest, variant=slot.variant), now)
        try:
            plan = self._plan_of(bundle, slot)
        except EdgekitError as error:
            failed = VariantFailed(digest=slot.digest, variant=slot.variant, reason=error.what)
            self._apply(bundle, failed, now)
            return
        self._run(bundle, slot, plan)

    def tick(self, records: Mapping[str, BundleRecord], now: float) -> None:
        """Look again at what waits."""
        if self._held and now >= self._held_due:
            self._held_due = now + _HELD_SECONDS
            for bundle in list(self._held):
                self.begin(records[bundle], now)

    def on_done(self, message: TrialDone, now: float) -> None:
        """Go on after a trial."""
        if message.stop.is_set():
            return
        self._running.pop(message.bundle, None)
        outcome = message.outcome
        if outcome.passed:
            event: Event = Proven(digest=message.digest, variant=message.variant)
        else:
            event = VariantFailed(
                digest=message.digest, variant=message.variant, reason=outcome.reason
            )
        self._apply(message.bundle, event, now)

    def stop_stale(self, record: BundleRecord) -> None:
        """End what a record does not ask for any more."""
        bundle, slot = record.bundle, record.staged
        if slot is None:
            self._held.pop(bundle, None)
        trial = self._running.get(bundle)
        if trial is not None and (
            slot is None or (slot.digest, slot.variant) != (trial.digest, trial.variant)
        ):
            trial.stop.set()
            del self._running[bundle]

    def close(self, *, seconds: float) -> None:
        """End every trial."""
        for trial in self._running.values():
            trial.stop.set()
        self._jobs.close(seconds=seconds)

    def _run(self, bundle: str, slot: Slot, plan: ModelPlan) -> None:
        stop = threading.Event()
        budget = slot.target.order.budget
        self._running[bundle] = _Trial(digest=slot.digest, variant=slot.variant, stop=stop)

        def job() -> None:
            outcome = run_trial(plan, budget, stop=stop)
            self._post(
                TrialDone(
                    bundle=bundle,
                    digest=slot.digest,
                    variant=slot.variant,
                    outcome=outcome,
                    stop=stop,
                )
            )

        self._jobs.submit(job)
