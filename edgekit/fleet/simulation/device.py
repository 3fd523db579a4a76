"""One simulated device: what it is told and what time it is -> what it says. No I/O.

It keeps a record for each bundle and lets the agent's own state machine and gates decide; what a
device would do (fetch, prove, serve) becomes a moment at which it will be done.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.fleet.simulation.behaviour import Behaviour, Lot, hardware_of
from edgekit.fleet.telemetry.sketches import bucket_of
from edgekit_agent.gates import Verdict, judge
from edgekit_agent.live_stats import LatencyHistogram, LiveStats
from edgekit_agent.machine import (
    Action,
    Announce,
    Event,
    Fetch,
    GatesFailed,
    GatesPassed,
    Installed,
    Ordered,
    Prove,
    Proven,
    Serve,
    Unusable,
    VariantFailed,
    Withdrawn,
    transition,
)
from edgekit_agent.state import BundleRecord, Target
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import DeviceEvent, DeviceState, Phase
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts, Window, pack_batch

_VARIANT = "simulated"
_JUDGE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Something to publish with QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """The device vanishes: its connection breaks, and does not come back."""


Said = Outgoing | Gone
# Of a feature that every simulated model has.
_REFERENCE = (0.25, 0.25, 0.25, 0.25)
_DRIFTED = (0.05, 0.1, 0.15, 0.7)


class SimulatedDevice:
    """A device.

    Args:
        name: Its id.
        topics: Of its fleet.
        behaviour: Of the crowd.
        version: Of the agent that it pretends to have.
        waits_for_chunks: Whether a version is there when `fetched` says so, not after a time.
    """

    __slots__ = (
        "_behaviour",
        "_due",
        "_lots",
        "_measured",
        "_random",
        "_since",
        "_stream",
        "_topics",
        "_waits",
        "gone",
        "name",
        "order_version",
        "records",
        "sequence",
        "telemetry_sequence",
        "version",
    )

    def __init__(
        self,
        name: str,
        *,
        topics: Topics,
        behaviour: Behaviour,
        version: str = "simulated",
        waits_for_chunks: bool = False,
    ) -> None:
        self.name = name
        self.version = version
        self.records: dict[str, BundleRecord] = {}
        self.order_version = 0
        self.sequence = 0
        self.telemetry_sequence = 0
        self.gone = False
        self._topics = topics
        self._behaviour = behaviour
        self._waits = waits_for_chunks
        # Bundle -> what will happen, and when.
        self._due: dict[str, tuple[float, Event | None]] = {}
        self._lots: dict[str, Lot] = {}
        self._since: dict[str, float] = {}
        self._measured: dict[str, float] = {}
        self._stream = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._random = random.Random(f"{behaviour.seed}/{name}")  # noqa: S311 - no secret

    @property
    def due(self) -> float | None:
        """When something happens next by itself; None for nothing."""
        if self.gone:
            return None
        moments = [moment for moment, _ in self._due.values()]
        if self._behaviour.telemetry_seconds and self._measured:
            moments.append(min(self._measured.values()) + self._behaviour.telemetry_seconds)
        return min(moments, default=None)

    def state(self, now: float, *, online: bool = True) -> Outgoing:
        """The retained state message."""
        state = DeviceState(
            device=self.name,
            online=online,
            time=round(now, 3),
            agent=self.version,
            hardware=hardware_of(self.name),
            order_version=self.order_version,
            bundles={name: record.report() for name, record in sorted(self.records.items())},
        )
        return Outgoing(self._topics.state(self.name), state.to_json(), retain=True)

    def last_will(self) -> Outgoing:
        """What the broker says of it when it is gone."""
        state = DeviceState(device=self.name, online=False, agent=self.version)
        return Outgoing(self._topics.state(self.name), state.to_json(), retain=True)

    def follow(self, order_version: int, targets: tuple[Target, ...], now: float) -> list[Said]:
        """Do what a verified order says."""
        if order_version <= self.order_version or self.gone:
            return []
        self.order_version = order_version
        said: list[Said] = []
        for target in targets:
            said += self._apply(target.bundle, Ordered(target=target), now)
        if any(self._lots.get(target.version) is Lot.VANISHES for target in targets):
            self.gone = True
            return [*said, Gone()]
        named = {target.bundle for target in targets}
        for bundle in [name for name in self.records if name not in named]:
            said += self._apply(bundle, Withdrawn(order_version=order_version), now)
            del self.records[bundle]
            self._measured.pop(bundle, None)
        return [*said, self.state(now)]

    def fetches(self, target: Target) -> bool:
        """Whether a version is to be fetched now."""
        record = self.records.get(target.bundle)
        return bool(
            record
            and record.candidate
            and record.candidate.digest == target.digest
            and record.phase is Phase.FETCHING
        )

    def fetched(self, target: Target, now: float) -> None:
        """Have what a version needs: it is installed at the next tick."""
        if self._waits and self.fetches(target):
            event = Installed(digest=target.digest, variant=_VARIANT)
            self._due[target.bundle] = now, event

    def tick(self, now: float) -> list[Said]:
        """Let happen what is due."""
        said: list[Said] = []
        changed = False
        for bundle, (moment, planned) in list(self._due.items()):
            if moment > now or self.gone:
                continue
            del self._due[bundle]
            event = planned or self._judge(bundle, now)
            if event is not None:
                said += self._apply(bundle, event, now)
                changed = True
        if changed:
            said.append(self.state(now))
        if self._behaviour.telemetry_seconds and not self.gone:
            said += self._measure(now)
        return said

    def traffic(self, version: str, seconds: float) -> LiveStats:
        """What a version answered in a time."""
        behaviour = self._behaviour
        requests = int(behaviour.requests_per_second * seconds + self._random.random())
        lot = self._lots.get(version, Lot.WORKS)
        share = behaviour.degraded_error_share if lot is Lot.DEGRADES else behaviour.error_share
        errors = sum(self._random.random() < share for _ in range(requests))
        counts: dict[int, int] = {}
        for _ in range(requests - errors):
            bucket = bucket_of(behaviour.latency_ms * self._random.lognormvariate(0.0, 0.2))
            counts[bucket] = counts.get(bucket, 0) + 1
        return LiveStats(requests=requests, errors=errors, latency=LatencyHistogram(counts))

    def _apply(self, bundle: str, event: Event, now: float) -> list[Said]:
        before = self.records.get(bundle) or BundleRecord(bundle=bundle)
        record, actions = transition(before, event, now)
        self.records[bundle] = record
        if record.active is not None and bundle not in self._measured:
            self._measured[bundle] = now
        said: list[Said] = []
        for action in actions:
            if isinstance(action, Announce):
                said.append(self._announce(bundle, action, now))
            else:
                self._plan(bundle, record, action, now)
        return said

    def _plan(self, bundle: str, record: BundleRecord, action: Action, now: float) -> None:
        candidate = record.candidate
        if candidate is None:
            self._due.pop(bundle, None)
            return
        version, digest = candidate.version, candidate.digest
        match action:
            case Fetch():
                self._lots[version] = self._behaviour.lot_of(
                    self.name, version, first=record.active is None
                )
                if record.failed:
                    reason = "no variant is left to try"
                    self._due[bundle] = now, Unusable(digest=digest, reason=reason)
                elif self._waits:
                    self._due.pop(bundle, None)
                else:
                    event: Event = Installed(digest=digest, variant=_VARIANT)
                    self._due[bundle] = now + self._lasts(self._behaviour.fetch_seconds), event
            case Prove():
                event = Proven(digest=digest, variant=_VARIANT)
                if self._lots.get(version) is Lot.REJECTED:
                    event = VariantFailed(
                        digest=digest, variant=_VARIANT, reason="the golden samples do not match"
                    )
                self._due[bundle] = now + self._lasts(self._behaviour.prove_seconds), event
            case Serve() if record.phase is Phase.TRYING:
                self._since[bundle] = now
                self._due[bundle] = now + _JUDGE_SECONDS, None
            case _:
                return

    def _judge(self, bundle: str, now: float) -> Event | None:
        record = self.records[bundle]
        candidate = record.candidate
        if record.phase is not Phase.TRYING or candidate is None:
            return None
        seconds = now - self._since[bundle]
        stats = self.traffic("", seconds)
        if self._lots.get(candidate.version) is Lot.ROLLED_BACK:
            stats.insane = stats.requests = max(stats.requests, 1)
        judgement = judge(stats, candidate.order.gates, seconds=seconds)
        if judgement.verdict is Verdict.PASSED:
            return GatesPassed(digest=candidate.digest)
        if judgement.verdict is Verdict.FAILED:
            return GatesFailed(digest=candidate.digest, reason=judgement.reason)
        self._due[bundle] = now + _JUDGE_SECONDS, None
        return None

    def _measure(self, now: float) -> Iterator[Said]:
        for bundle, since in list(self._measured.items()):
            serving = self.records[bundle].serving if bundle in self.records else None
            if serving is None or now - since < self._behaviour.telemetry_seconds:
                continue
            self._measured[bundle] = now
            self.telemetry_sequence += 1
            window = Window(
                start=round(since, 3),
                end=round(now, 3),
                bundle=bundle,
                version=serving.version,
                model=self._counts(serving.version, self.traffic(serving.version, now - since)),
            )
            row = json.dumps(window.to_json(), separators=(",", ":")).encode()
            message = pack_batch(self.name, self._stream, 0, [(self.telemetry_sequence, row)])
            yield Outgoing(self._topics.telemetry(self.name), message)

    def _counts(self, version: str, stats: LiveStats) -> ModelCounts:
        drifts = self._lots.get(version) is Lot.DEGRADES
        bins = [0] * len(_REFERENCE)
        places = range(len(bins))
        for place in self._random.choices(
            places, _DRIFTED if drifts else _REFERENCE, k=stats.requests
        ):
            bins[place] += 1
        return ModelCounts(
            requests=stats.requests,
            errors=stats.errors,
            insane=stats.insane,
            latency=stats.latency.counts,
            features={"input:x": FeatureCounts(expected=_REFERENCE, counts=tuple(bins))},
        )

    def _announce(self, bundle: str, action: Announce, now: float) -> Outgoing:
        self.sequence += 1
        event = DeviceEvent(
            device=self.name,
            sequence=self.sequence,
            time=round(now, 3),
            kind=action.kind,
            bundle=bundle,
            version=action.version,
            detail=action.detail,
        )
        return Outgoing(self._topics.events(self.name), event.to_json())

    def _lasts(self, seconds: float) -> float:
        return seconds * (0.5 + self._random.random())
