"""Carries out what the state machine decides, for every bundle, and writes the journal first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.conditions import Surroundings, look_around
from edgekit_agent.doors import Died
from edgekit_agent.downloads import Downloads
from edgekit_agent.events import EventLog
from edgekit_agent.gates import Verdict, judge
from edgekit_agent.hardware import Hardware, choose_runtime
from edgekit_agent.jobs import JobThread
from edgekit_agent.journal import Journal, delete_strays, load_journal, save_journal
from edgekit_agent.live_stats import LiveStats
from edgekit_agent.machine import (
    ACTIVE_CRASH_LIMIT,
    Action,
    Announce,
    Collect,
    Crashed,
    Event,
    Fetch,
    GatesFailed,
    GatesPassed,
    Ordered,
    Prove,
    Restarted,
    SlotLost,
    Withdrawn,
    transition,
)
from edgekit_agent.plans import ModelPlan
from edgekit_agent.proofs import Proofs, TrialDone
from edgekit_agent.shadow.plans import Beside
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import UNDER_WAY, BundleRecord, Slot, Target
from edgekit_agent.verifier import VerifiedOrder
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError, VerificationError
from edgekit_runtime.reports import DeviceEvent, Phase, ShadowPhase
from edgekit_runtime.sealing.keys import StorageLockedError
from edgekit_runtime.sealing.vault import Encryption
from edgekit_runtime.telemetry import FeatureCounts

_log = logging.getLogger(__name__)

# A version that keeps taking the server down, and has none before it, is left out so long: the
# other bundles are served meanwhile.
BENCH_SECONDS: Final = 60.0
# How often it is looked whether the key of what is stored is there again.
_STORAGE_SECONDS: Final = 5.0

_INSTALLED: Final = (ShadowPhase.STAGED, ShadowPhase.WATCHING)

FeaturesOf = Callable[[ModelPlan, LiveStats], Mapping[str, FeatureCounts]]


class Updates:
    """Every bundle's record, and the hands of the machine that changes it."""

    def __init__(
        self,
        *,
        journal_file: Path,
        slots: SlotStore,
        chunks: ChunkStore,
        hardware: Hardware,
        inference_threads: int,
        jobs: JobThread,
        wall_clock: Callable[[], float],
        publish: Callable[[DeviceEvent], None],
        post: Callable[[TrialDone], None],
        device: str,
        data: Path = Path(),
        encryption: Encryption | None = None,
        look_around: Callable[[float], Surroundings] = look_around,
    ) -> None:
        """Work with these; `start` begins.

        Args:
            journal_file: Where the journal is.
            slots: Where bundles are installed.
            chunks: Where fetched chunks are.
            hardware: Of this device.
            inference_threads: How many threads one inference may use.
            jobs: Where slow work on files is done.
            wall_clock: Seconds since 1970, as well as is known.
            publish: Told of every event, after it was journalled.
            post: Takes the results of trials; they come back through `proofs.on_done`.
            device: This device's id.
            data: The agent's folder, for the processes that load what is stored there.
            encryption: How files are kept in it; None for plain.
            look_around: Tells, at a time, by what the conditions of orders are judged.
        """
        self._journal_file = journal_file
        self._slots = slots
        self._chunks = chunks
        self._hardware = hardware
        self._inference_threads = inference_threads
        self._jobs = jobs
        self._wall_clock = wall_clock
        self._publish = publish
        self._device = device
        self._data = data
        self._encryption = (encryption or Encryption()).to_text()
        self._storage_due = 0.0
        self.storage_trouble = ""
        self._plans: dict[tuple[str, str], ModelPlan] = {}
        self._live: dict[str, tuple[str, float]] = {}
        self._benched: dict[str, float] = {}
        self._collect_due = False
        self.records: dict[str, BundleRecord] = {}
        self.order_version = 0
        self.time_floor = 0.0
        self.journal_trouble = ""
        self.events = EventLog(device=device, sequence=0)
        self.downloads: Downloads
        self.proofs = Proofs(
            plan_of=self._plan,
            look_around=lambda: look_around(wall_clock()),
            apply=self.apply,
            wait=self._tell_held,
            post=post,
            storage_trouble=lambda: self.storage_trouble,
        )

    @property
    def under_way(self) -> bool:
        """Whether any bundle, or what is to run beside one, is on its way to somewhere."""
        return any(
            record.phase in UNDER_WAY or record.fetching or record.staged
            for record in self.records.values()
        )

    @property
    def has_shadows(self) -> bool:
        """Whether anything is to run beside what serves now."""
        return any(
            record.shadow is not None and record.shadow.phase is ShadowPhase.WATCHING
            for record in self.records.values()
        )

    def waiting(self, bundle: str) -> str:
        """What a bundle's update is waiting for; empty for nothing."""
        return self.proofs.waiting(bundle) or self.downloads.waiting(bundle) or self.storage_trouble

    def load(self, *, events_before: int = 0) -> None:
        """Read the journal, or rebuild it from the slots if it is damaged.

        Args:
            events_before: The number of the last event that is known otherwise: should the
                journal be lost, no later one may have it again.
        """
        delete_strays(self._journal_file)
        try:
            journal = load_journal(self._journal_file)
        except VerificationError as error:
            recovered = self._slots.recover()
            journal = Journal(bundles=recovered)
            self.events = EventLog(device=self._device, sequence=events_before)
            found = ", ".join(
                f"{name} {r.active.version}" for name, r in recovered.items() if r.active
            )
            self.tell(
                "journal.lost", detail=f"{error.what}; found on the disk: {found or 'nothing'}"
            )
        else:
            self.events = EventLog(device=self._device, sequence=journal.event_sequence)
        self.records = dict(journal.bundles)
        self.order_version = journal.order_version
        self.time_floor = journal.time_floor

    def start(self, now: float) -> None:
        """Check what is installed, and take every bundle up where it was left."""
        self._check_slots(now)
        self._look_at_storage(now)
        for bundle, record in list(self.records.items()):
            # What was just found lost is being fetched already.
            if record.fetching is None or not self.downloads.fetches(bundle):
                self.apply(bundle, Restarted(), now)

    def follow(self, order: VerifiedOrder, now: float) -> None:
        """Do what a verified order says."""
        self.order_version = order.order_version
        # Only what was signed moves it: this device's own clock may be wrong, and that for good.
        self.time_floor = max(self.time_floor, order.signed_time)
        named = {target.bundle for target in order.targets}
        for target in order.targets:
            self.apply(target.bundle, Ordered(target=target), now)
        for bundle in [name for name in self.records if name not in named]:
            self.apply(bundle, Withdrawn(order_version=order.order_version), now)
            del self.records[bundle]
        self.save()

    def apply(self, bundle: str, event: Event, now: float) -> None:
        """Let the machine decide, write it down, carry it out."""
        before = self.records.get(bundle) or BundleRecord(bundle=bundle)
        record, actions = transition(before, event, now)
        if record == before and not actions:
            return
        _log.info(
            "%s: %s -> %s",
            type(event).__name__,
            before.phase.value,
            record.phase.value,
            extra={"bundle": bundle},
        )
        self.records[bundle] = record
        told = [
            self._note(action.kind, bundle=bundle, version=action.version, detail=action.detail)
            for action in actions
            if isinstance(action, Announce)
        ]
        self._mark_proven(before, record)
        self.save()
        for one in told:
            self._publish(one)
        self._stop_stale_work(record)
        for action in actions:
            self._perform(action, record, now)

    def tell(self, kind: str, *, bundle: str = "", version: str = "", detail: str = "") -> None:
        """Report something that changes no record."""
        event = self._note(kind, bundle=bundle, version=version, detail=detail)
        self.save()
        self._publish(event)

    def refuse(self, reason: str, now: float, *, bundle: str = "", version: str = "") -> None:
        """Report that something from outside did not prove what it claims; once."""
        if self.events.is_new_refusal(reason, now=now):
            self.tell("security.refused", bundle=bundle, version=version, detail=reason)

    def models(self, now: float) -> tuple[ModelPlan, ...]:
        """What the server must hold now."""
        plans = []
        for bundle in sorted(self.records):
            plan = self._servable(bundle, now)
            if plan and self._benched.get(plan.digest, now) <= now:
                plans.append(plan)
        return tuple(plans)

    def shadows(self, now: float) -> dict[str, Beside]:
        """What is to run beside what serves now, by bundle."""
        found = {}
        for bundle in sorted(self.records):
            active, shadow = self.records[bundle].active, self.records[bundle].shadow
            if active is None or shadow is None or shadow.phase is not ShadowPhase.WATCHING:
                continue
            serves = self._servable(bundle, now)
            try:
                candidate = self._plan(bundle, shadow.slot)
            except StorageLockedError:
                continue
            except EdgekitError as error:
                self.apply(bundle, SlotLost(digest=shadow.target.digest, reason=str(error)), now)
                continue
            if serves is not None:
                found[bundle] = Beside(
                    candidate=candidate,
                    active=serves,
                    order=shadow.order,
                    seconds=shadow.seconds,
                )
        return found

    def on_opened(self, models: tuple[ModelPlan, ...], now: float) -> None:
        """Start the time of every candidate that answers now."""
        for model in models:
            record = self.records.get(model.bundle)
            if (
                record is not None
                and record.phase is Phase.TRYING
                and record.serving is not None
                and record.serving.digest == model.digest
                and self._live.get(model.bundle, ("", 0.0))[0] != model.digest
            ):
                self._live[model.bundle] = (model.digest, now)

    def on_died(self, died: Died, now: float) -> None:
        """Hold those responsible to account."""
        if died.unloadable and self._slots.vault.trouble(fresh=True):
            # Nobody is: the key went away while the agent ran.
            self._look_at_storage(now)
            return
        for model in died.blamed:
            record = self.records.get(model.bundle)
            if record is None or record.serving is None:
                continue
            if died.unloadable and record.phase is Phase.TRYING:
                self.apply(model.bundle, GatesFailed(digest=model.digest, reason=died.reason), now)
                continue
            self.apply(model.bundle, Crashed(digest=model.digest, reason=died.reason), now)
            record = self.records[model.bundle]
            if len(record.active_crashes) >= ACTIVE_CRASH_LIMIT:
                self._benched[model.digest] = now + BENCH_SECONDS

    def judge(
        self,
        stats_of: Callable[[str], LiveStats],
        now: float,
        *,
        features_of: FeaturesOf | None = None,
    ) -> None:
        """Ask the gates of every candidate in live use.

        Args:
            stats_of: What a version has done, by its digest.
            now: Seconds on a clock that never goes back.
            features_of: What a version has seen, in the bins of its reference; None for unknown.
        """
        for bundle, (digest, since) in list(self._live.items()):
            record = self.records.get(bundle)
            if record is None or record.phase is not Phase.TRYING or record.candidate is None:
                del self._live[bundle]
                continue
            stats, gates = stats_of(digest), record.candidate.order.gates
            asks = gates.max_psi > 0 or gates.max_nonfinite_share < 1
            plan = self._servable(bundle, now) if asks else None
            features = features_of(plan, stats) if plan and features_of else None
            judgement = judge(stats, gates, seconds=now - since, features=features)
            if judgement.verdict is Verdict.PASSED:
                self.apply(bundle, GatesPassed(digest=digest), now)
            elif judgement.verdict is Verdict.FAILED:
                self.apply(bundle, GatesFailed(digest=digest, reason=judgement.reason), now)

    def tick(self, *, connected: bool, now: float) -> bool:
        """Do what was put off; whether what is stored can be read again since the last time."""
        unlocked = now >= self._storage_due and self._look_at_storage(now)
        if self.journal_trouble:
            self.save()
        self.downloads.tick(now, connected=connected)
        self.proofs.tick(self.records, now)
        if self._collect_due and not (self.journal_trouble or self.storage_trouble):
            self._collect_due = False
            self._collect()
        return unlocked

    def save(self) -> None:
        """Write the journal; a full disk is noted and tried again, and stops nothing.

        Nothing is deleted meanwhile, so the older journal on the disk still leads to a working
        model.
        """
        journal = Journal(
            order_version=self.order_version,
            event_sequence=self.events.sequence,
            time_floor=self.time_floor,
            bundles=self.records,
        )
        try:
            save_journal(self._journal_file, journal)
        except EnvironmentLackError as error:
            if not self.journal_trouble:
                _log.error("the journal cannot be written: %s", error)
            self.journal_trouble = str(error)
        else:
            self.journal_trouble = ""

    def close(self, *, seconds: float) -> None:
        """End every trial."""
        self.proofs.close(seconds=seconds)

    def _look_at_storage(self, now: float) -> bool:
        """See whether what is stored can be read; whether it could not, and can again.

        Nothing that cannot be read just now is given up: the key may come back.
        """
        before = self.storage_trouble
        self._storage_due = now + _STORAGE_SECONDS
        self.storage_trouble = self._slots.vault.trouble()
        if self.storage_trouble and not before:
            self.tell("storage.locked", detail=self.storage_trouble)
        if before and not self.storage_trouble:
            self.tell("storage.unlocked", detail="the key is there again")
            self._check_slots(now)
            return True
        return False

    def _check_slots(self, now: float) -> None:
        for bundle, record in list(self.records.items()):
            held = [record.active, record.previous]
            if record.phase in (Phase.STAGED, Phase.TRYING) and record.candidate:
                held.append(Slot(target=record.candidate, variant=record.variant))
            if record.shadow and record.shadow.phase in _INSTALLED:
                held.append(record.shadow.slot)
            for slot in held:
                try:
                    damage = self._slots.check(bundle, slot) if slot else ""
                except StorageLockedError:
                    continue
                if slot and damage:
                    self.apply(bundle, SlotLost(digest=slot.digest, reason=damage), now)

    def _tell_held(self, target: Target, reason: str) -> None:
        self.tell("update.waiting", bundle=target.bundle, version=target.version, detail=reason)

    def _note(self, kind: str, *, bundle: str, version: str, detail: str) -> DeviceEvent:
        _log.info("%s %s", kind, detail, extra={"bundle": bundle, "version": version})
        return self.events.note(
            kind, time=self._wall_clock(), bundle=bundle, version=version, detail=detail
        )

    def _perform(self, action: Action, record: BundleRecord, now: float) -> None:
        match action:
            case Fetch() if record.fetching is not None:
                target, failed = record.fetching
                self.downloads.begin(target, tuple(variant for variant, _ in failed), now)
            case Prove() if record.staged is not None:
                self.proofs.begin(self.records[record.bundle], now)
            case Collect():
                self._collect_due = True
            case _:
                # The server is brought in line with the records on every turn of the loop.
                return

    def _stop_stale_work(self, record: BundleRecord) -> None:
        bundle = record.bundle
        if record.fetching is None:
            self.downloads.cancel(bundle)
        self.proofs.stop_stale(record)
        if record.phase is not Phase.TRYING:
            self._live.pop(bundle, None)

    def _servable(self, bundle: str, now: float) -> ModelPlan | None:
        """The plan of what a bundle serves; a slot that has become useless is given up."""
        while (slot := self.records[bundle].serving) is not None:
            try:
                return self._plan(bundle, slot)
            except StorageLockedError:
                return None
            except EdgekitError as error:
                self.apply(bundle, SlotLost(digest=slot.digest, reason=str(error)), now)
        return None

    def _plan(self, bundle: str, slot: Slot) -> ModelPlan:
        key = (slot.digest, slot.variant)
        if key not in self._plans:
            manifest = self._slots.manifest(bundle, slot.digest)
            self._plans[key] = ModelPlan(
                bundle=bundle,
                version=slot.version,
                digest=slot.digest,
                folder=str(self._slots.path(bundle, slot.digest)),
                variant=slot.variant,
                runtime=choose_runtime(manifest.variant(slot.variant), self._hardware),
                threads=self._inference_threads,
                data=str(self._data) if self._encryption else "",
                encryption=self._encryption,
            )
        return self._plans[key]

    def _mark_proven(self, before: BundleRecord, record: BundleRecord) -> None:
        if record.active is None or record.active == before.active:
            return
        try:
            self._slots.mark_proven(record.bundle, record.active, sequence=self.events.sequence)
        except EnvironmentLackError as error:
            # Only a lost journal would miss it.
            _log.warning("a slot could not be marked: %s", error)

    def _collect(self) -> None:
        held = {bundle: record.digests for bundle, record in self.records.items()}
        fetching = self.downloads.busy
        kept = {digest for digests in held.values() for digest in digests}
        self._plans = {key: plan for key, plan in self._plans.items() if key[0] in kept}

        def job() -> None:
            self._slots.keep_only({bundle: set(digests) for bundle, digests in held.items()})
            if not fetching:
                self._chunks.keep_only(())

        self._jobs.submit(job)
