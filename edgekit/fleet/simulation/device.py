"""One simulated device: what it is told and what time it is -> what it says. No I/O.

It keeps a record for each bundle and lets the agent's own state machine and gates decide; what a
device would do (fetch, prove, serve, answer) becomes a moment at which it will be done. A version
that runs beside takes the time to fetch it, and is not fetched.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from edgekit.fleet.simulation.answering import answer_request
from edgekit.fleet.simulation.behaviour import Behaviour, Lot, hardware_of
from edgekit.fleet.simulation.beside import compare_beside
from edgekit.fleet.simulation.counting import count_traffic, counts_of
from edgekit_agent.gates import Verdict, judge
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
    Restarted,
    Serve,
    ShadowSeen,
    Unusable,
    VariantFailed,
    Withdrawn,
    transition,
)
from edgekit_agent.state import BundleRecord, ShadowRecord, Target
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import DeviceEvent, DeviceState, Phase, ShadowPhase
from edgekit_runtime.requests import DeviceRequest, RequestKind
from edgekit_runtime.telemetry import Window, pack_batch

_VARIANT = "simulated"
_JUDGE_SECONDS = 1.0
# Kept for who asks for the log: enough to see what a device has done.
_LOG_LINES: Final = 20


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
        "_asked",
        "_behaviour",
        "_beside",
        "_due",
        "_log",
        "_lots",
        "_measured",
        "_random",
        "_refused",
        "_since",
        "_stream",
        "_topics",
        "_waits",
        "_watched",
        "gone",
        "last_request",
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
        self.last_request = 0
        self.gone = False
        self._topics = topics
        self._behaviour = behaviour
        self._waits = waits_for_chunks
        # Bundle -> what will happen, and when.
        self._due: dict[str, tuple[float, Event | None]] = {}
        self._lots: dict[str, Lot] = {}
        self._since: dict[str, float] = {}
        self._measured: dict[str, float] = {}
        # The same of what runs beside; since when it has run there, as far as not yet noted.
        self._beside: dict[str, tuple[float, Event]] = {}
        self._watched: dict[str, float] = {}
        self._asked: list[tuple[float, DeviceRequest]] = []
        self._refused = ""
        self._log: list[tuple[float, str, str, str, str]] = []
        self._stream = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._random = random.Random(f"{behaviour.seed}/{name}")  # noqa: S311 - no secret

    @property
    def due(self) -> float | None:
        """When something happens next by itself; None for nothing."""
        if self.gone:
            return None
        moments = [moment for moment, _ in self._due.values()]
        if self._beside or self._watched or self._asked:
            moments += [moment for moment, _ in (*self._beside.values(), *self._asked)]
            moments += [self._next_look(bundle) for bundle in self._watched]
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
            for kept in (self._measured, self._watched, self._beside):
                kept.pop(bundle, None)
        return [*said, self.state(now)]

    def ask(self, request: DeviceRequest, now: float) -> list[Said]:
        """Follow a request that was proven; the answer comes with a later tick."""
        if self.gone or request.number <= self.last_request:
            return []
        self.last_request = request.number
        self._asked.append((now + self._lasts(self._behaviour.answer_seconds), request))
        detail = f"{request.kind} (number {request.number})"
        return [self._tell("request.followed", now, detail=detail)]

    def refuse(self, reason: str, now: float) -> list[Said]:
        """Tell that something from outside did not prove what it claims; the same once."""
        if self.gone or reason == self._refused:
            return []
        self._refused = reason
        return [self._tell("security.refused", now, detail=reason)]

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
        for bundle, (moment, event) in list(self._beside.items()):
            if moment <= now and not self.gone:
                del self._beside[bundle]
                said += self._apply(bundle, event, now)
                changed = True
        for bundle in [name for name in self._watched if self._next_look(name) <= now]:
            said += self._look_beside(bundle, now)
            changed |= bundle not in self._watched
        due, self._asked = self._asked, [item for item in self._asked if item[0] > now]
        for _, request in (item for item in due if item[0] <= now):
            said += self._answer(request, now)
        if changed:
            said.append(self.state(now))
        if self._behaviour.telemetry_seconds and not self.gone:
            said += self._measure(now)
        return said

    def _apply(self, bundle: str, event: Event, now: float) -> list[Said]:
        before = self.records.get(bundle) or BundleRecord(bundle=bundle)
        record, actions = transition(before, event, now)
        self.records[bundle] = record
        if record.active is not None and bundle not in self._measured:
            self._measured[bundle] = now
        phase = record.shadow.phase if record.shadow else None
        if phase is ShadowPhase.WATCHING:
            self._watched.setdefault(bundle, now)
        else:
            self._watched.pop(bundle, None)
        if phase not in (ShadowPhase.FETCHING, ShadowPhase.STAGED):
            self._beside.pop(bundle, None)
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
            if record.shadow is not None:
                self._plan_beside(bundle, record.shadow, action, now)
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
                event = self._proof(digest, self._lots.get(version))
                self._due[bundle] = now + self._lasts(self._behaviour.prove_seconds), event
            case Serve() if record.phase is Phase.TRYING:
                self._since[bundle] = now
                self._due[bundle] = now + _JUDGE_SECONDS, None
            case _:
                return

    def _plan_beside(self, bundle: str, shadow: ShadowRecord, action: Action, now: float) -> None:
        digest, version = shadow.target.digest, shadow.target.version
        match action, shadow.phase:
            case Fetch(), ShadowPhase.FETCHING if shadow.failed:
                reason = "no variant is left to try"
                self._beside[bundle] = now, Unusable(digest=digest, reason=reason)
            case Fetch(), ShadowPhase.FETCHING:
                event: Event = Installed(digest=digest, variant=_VARIANT)
                self._beside[bundle] = now + self._lasts(self._behaviour.fetch_seconds), event
            case Prove(), ShadowPhase.STAGED:
                event = self._proof(digest, self._lot_beside(version))
                self._beside[bundle] = now + self._lasts(self._behaviour.prove_seconds), event
            case _:
                return

    def _proof(self, digest: str, lot: Lot | None) -> Event:
        if lot is Lot.REJECTED:
            reason = "the golden samples do not match"
            return VariantFailed(digest=digest, variant=_VARIANT, reason=reason)
        return Proven(digest=digest, variant=_VARIANT)

    def _lot_beside(self, version: str) -> Lot:
        return self._behaviour.lot_of(self.name, version, first=False)

    def _next_look(self, bundle: str) -> float:
        """When what runs beside is looked at: its time may be over."""
        shadow = self.records[bundle].shadow
        assert shadow is not None  # noqa: S101 - it is watched
        left = shadow.order.seconds - shadow.seconds
        return self._watched[bundle] + min(left, self._behaviour.telemetry_seconds or left)

    def _look_beside(self, bundle: str, now: float) -> list[Said]:
        """Report what was compared, and note how long it has run."""
        record, since = self.records[bundle], self._watched[bundle]
        shadow, active = record.shadow, record.active
        assert shadow is not None  # noqa: S101 - it is watched
        assert active is not None  # noqa: S101 - it runs beside that
        self._watched[bundle] = now
        said: list[Said] = []
        if self._behaviour.telemetry_seconds:
            counts = compare_beside(
                shadow.order,
                active=active.version,
                seconds=now - since,
                lot=self._lot_beside(shadow.target.version),
                behaviour=self._behaviour,
                chance=self._random,
            )
            version = shadow.target.version
            said.append(
                self._batch(
                    Window(
                        start=round(since, 3),
                        end=round(now, 3),
                        bundle=bundle,
                        version=version,
                        shadows=(counts,),
                    )
                )
            )
        seen = ShadowSeen(digest=shadow.target.digest, seconds=shadow.seconds + now - since)
        return said + self._apply(bundle, seen, now)

    def _answer(self, request: DeviceRequest, now: float) -> list[Said]:
        replies = answer_request(
            request,
            records=self.records,
            log=[
                " ".join(
                    [f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M:%S}", *filter(None, x)]
                )
                for when, *x in self._log
            ],
            behaviour=self._behaviour,
            chance=self._random,
            now=now,
        )
        topic = self._topics.replies(self.name)
        said: list[Said] = [Outgoing(topic, reply.to_json()) for reply in replies]
        if request.kind is RequestKind.RESTART and request.arguments.get("what") == "agent":
            for bundle in list(self.records):
                said += self._apply(bundle, Restarted(), now)
            said.append(self.state(now))
        return said

    def _judge(self, bundle: str, now: float) -> Event | None:
        record = self.records[bundle]
        candidate = record.candidate
        if record.phase is not Phase.TRYING or candidate is None:
            return None
        seconds = now - self._since[bundle]
        # What befalls it later does not show yet.
        stats = count_traffic(
            seconds, lot=Lot.WORKS, behaviour=self._behaviour, chance=self._random
        )
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
            lot = self._lots.get(serving.version, Lot.WORKS)
            stats = count_traffic(
                now - since, lot=lot, behaviour=self._behaviour, chance=self._random
            )
            window = Window(
                start=round(since, 3),
                end=round(now, 3),
                bundle=bundle,
                version=serving.version,
                model=counts_of(stats, lot=lot, chance=self._random),
            )
            yield self._batch(window)

    def _batch(self, window: Window) -> Outgoing:
        self.telemetry_sequence += 1
        row = json.dumps(window.to_json(), separators=(",", ":")).encode()
        message = pack_batch(self.name, self._stream, 0, [(self.telemetry_sequence, row)])
        return Outgoing(self._topics.telemetry(self.name), message)

    def _announce(self, bundle: str, action: Announce, now: float) -> Outgoing:
        return self._tell(
            action.kind, now, bundle=bundle, version=action.version, detail=action.detail
        )

    def _tell(
        self, kind: str, now: float, *, bundle: str = "", version: str = "", detail: str = ""
    ) -> Outgoing:
        self.sequence += 1
        self._log.append((now, kind, bundle, version, detail))
        del self._log[:-_LOG_LINES]
        event = DeviceEvent(
            device=self.name,
            sequence=self.sequence,
            time=round(now, 3),
            kind=kind,
            bundle=bundle,
            version=version,
            detail=detail,
        )
        return Outgoing(self._topics.events(self.name), event.to_json())

    def _lasts(self, seconds: float) -> float:
        return seconds * (0.5 + self._random.random())
