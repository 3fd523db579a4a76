"""A simulated device runs a version beside the one that serves, and answers requests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from edgekit.fleet.devices.requests import samples_in
from edgekit.fleet.simulation.behaviour import Behaviour
from edgekit.fleet.simulation.device import Outgoing, Said, SimulatedDevice
from edgekit_agent.state import Target
from edgekit_runtime.orders import BundleOrder, Gates, ShadowOrder
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import ShadowPhase, parse_event, parse_state
from edgekit_runtime.requests import DeviceReply, DeviceRequest, RequestKind, parse_reply
from edgekit_runtime.shadow import ShadowCounts
from edgekit_runtime.telemetry import Window, parse_batch

TOPICS = Topics("plant-7")
NAME = "sim-00001"
PIECES = (("a" * 64, 10),)
FAST = Behaviour(telemetry_seconds=5.0, requests_per_second=20.0)


def digest(version: str) -> str:
    return version.encode().hex().ljust(64, "0")


def target(version: str, order_version: int, *, beside: str = "", **how: Any) -> Target:
    settings: dict[str, Any] = {"rate": 1.0, "max_per_second": 1_000.0, "seconds": 60.0} | how
    shadow = (
        ShadowOrder(run="s1", version=beside, digest=digest(beside), length=10, **settings)
        if beside
        else None
    )
    return Target(
        order=BundleOrder(
            bundle="double", version=version, gates=Gates(min_seconds=1.0), shadow=shadow
        ),
        digest=digest(version),
        length=10,
        pieces=PIECES,
        order_version=order_version,
        shadow_pieces=PIECES if beside else (),
    )


class Life:
    """A device that serves 1.0.0, and everything that it has said since."""

    def __init__(self, behaviour: Behaviour = FAST) -> None:
        self.device = SimulatedDevice(NAME, topics=TOPICS, behaviour=behaviour)
        self.said: list[Said] = []
        self.now = 1_000.0
        self.version = 0
        self.number = 0
        self.order("1.0.0")
        self.live(20)
        self.said.clear()

    def order(self, version: str, **how: Any) -> None:
        self.version += 1
        self.said += self.device.follow(
            self.version, (target(version, self.version, **how),), self.now
        )

    def live(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.now += 0.1
            due = self.device.due
            if due is not None and due <= self.now:
                self.said += self.device.tick(self.now)

    def ask(self, kind: RequestKind, **arguments: Any) -> list[DeviceReply]:
        self.number += 1
        request = DeviceRequest(
            device=NAME, number=self.number, expires=1e12, kind=kind, arguments=arguments
        )
        before = len(self.messages(TOPICS.replies(NAME)))
        self.said += self.device.ask(request, self.now)
        self.live(10)
        return [
            parse_reply(data, where="test") for data in self.messages(TOPICS.replies(NAME))[before:]
        ]

    def messages(self, topic: str) -> list[bytes]:
        return [x.payload for x in self.said if isinstance(x, Outgoing) and x.topic == topic]

    def kinds(self) -> list[str]:
        return [parse_event(x, where="test").kind for x in self.messages(TOPICS.events(NAME))]

    def windows(self) -> list[Window]:
        batches = [parse_batch(x, where="test") for x in self.messages(TOPICS.telemetry(NAME))]
        return [window for batch in batches for _, window in batch.records]

    def compared(self) -> ShadowCounts:
        total = ShadowCounts(run="s1", active="1.0.0")
        for window in self.windows():
            for counts in window.shadows:
                assert (counts.run, window.model) == ("s1", None)
                total = total.merge(counts)
        return total

    def shadow(self) -> tuple[ShadowPhase, str]:
        state = parse_state(self.messages(TOPICS.state(NAME))[-1], where="test")
        shadow = state.bundles["double"].shadow
        assert shadow is not None
        assert state.bundles["double"].active == "1.0.0"
        return shadow.phase, shadow.reason


def test_a_version_beside_is_compared_until_its_time_is_over() -> None:
    life = Life()
    life.order("1.0.0", beside="2.0.0")
    life.live(30)
    assert life.shadow() == (ShadowPhase.WATCHING, "")
    life.live(60)
    assert life.shadow() == (ShadowPhase.ENDED, "its time is over")
    assert life.kinds() == ["shadow.fetching", "shadow.watching", "shadow.ended"]
    counts = life.compared()
    # 20 requests a second for a minute; about 2 % of them are answered otherwise.
    assert 1_100 < counts.compared < 1_300
    assert 0.9 < counts.agreed / counts.compared < 1.0
    assert sum(counts.latency.values()) == counts.compared
    gaps = counts.outputs["y"]
    assert sum(gaps.gaps.values()) == counts.compared
    assert 0.01 < gaps.largest < 2.0
    served = [w for w in life.windows() if w.model is not None]
    assert {w.version for w in served} == {"1.0.0"}
    said = len(life.said)
    life.order("1.0.0", beside="2.0.0")
    life.live(30)
    assert life.kinds()[-1] == "shadow.ended"
    assert [w for w in life.windows() if w.shadows][-1].end < life.now - 30
    assert len(life.said) > said


def test_no_more_is_compared_than_may_be() -> None:
    life = Life()
    life.order("1.0.0", beside="2.0.0", rate=0.5, max_per_second=2.0)
    life.live(90)
    counts = life.compared()
    assert 100 < counts.compared < 140
    # Ten of twenty requests a second are chosen.
    assert 540 < counts.compared + counts.dropped < 660


@pytest.mark.parametrize(
    ("behaviour", "phase", "reason"),
    [
        (Behaviour(reject=1.0), ShadowPhase.ENDED, "golden samples do not match"),
        (Behaviour(degrade=1.0), ShadowPhase.WATCHING, ""),
        (Behaviour(roll_back=1.0), ShadowPhase.WATCHING, ""),
    ],
)
def test_what_befalls_a_version_shows_beside_and_harms_nothing(
    behaviour: Behaviour, phase: ShadowPhase, reason: str
) -> None:
    life = Life(behaviour)
    life.order("1.0.0", beside="2.0.0", seconds=10_000.0)
    life.live(400)
    found, why = life.shadow()
    assert found is phase
    assert reason in why
    counts = life.compared()
    if phase is ShadowPhase.WATCHING:
        assert 0.7 < counts.agreed / counts.compared < 0.9
        assert bool(counts.insane) is bool(behaviour.roll_back)
    else:
        assert counts.compared == 0


def test_it_waits_for_an_update_and_goes_when_nothing_orders_it() -> None:
    life = Life()
    life.order("1.0.0", beside="3.0.0", seconds=10_000.0)
    life.live(20)
    life.order("2.0.0", beside="3.0.0", seconds=10_000.0)
    life.live(30)
    actives = [counts.active for w in life.windows() for counts in w.shadows]
    assert actives == sorted(actives)
    assert set(actives) == {"1.0.0", "2.0.0"}
    life.order("2.0.0")
    life.live(5)
    life.said.clear()
    life.live(30)
    assert life.compared().compared == 0
    assert life.windows()


def test_a_device_that_measures_nothing_ends_a_run_all_the_same() -> None:
    life = Life(Behaviour(telemetry_seconds=0.0))
    life.order("1.0.0", beside="2.0.0")
    life.live(90)
    assert life.shadow() == (ShadowPhase.ENDED, "its time is over")
    assert life.windows() == []


def test_what_serves_or_runs_beside_can_be_measured() -> None:
    life = Life()
    (reply,) = life.ask(RequestKind.BENCH, bundle="double")
    assert (reply.ok, reply.number, reply.result["version"]) == (True, 1, "1.0.0")
    assert reply.result["board"] == "simulated"
    assert 5 < reply.result["median_ms"] < 30
    (reply,) = life.ask(RequestKind.BENCH, bundle="double", version="2.0.0")
    assert (reply.ok, reply.result) == (False, {"error": "no such version is served here"})
    (reply,) = life.ask(RequestKind.BENCH, bundle="other")
    assert reply.result == {"error": "no such bundle is served here"}
    life.order("1.0.0", beside="2.0.0")
    life.live(20)
    (reply,) = life.ask(RequestKind.BENCH, bundle="double", version="2.0.0")
    assert (reply.ok, reply.result["version"]) == (True, "2.0.0")
    assert life.kinds().count("request.followed") == 4


def test_samples_leave_a_device_only_where_its_owner_allows_it() -> None:
    (refused,) = Life(Behaviour(samples=0.0)).ask(RequestKind.SAMPLES, most=3)
    assert not refused.ok
    assert "does not allow samples" in refused.result["error"]
    replies = Life(Behaviour(samples=1.0)).ask(RequestKind.SAMPLES, most=3)
    assert all(reply.ok for reply in replies)
    files = samples_in([reply.result for reply in replies])
    assert len(files) == 3
    for name, data in files.items():
        assert "-double-1.0.0-" in name
        assert np.load(io.BytesIO(data))["input:x"].shape == (1, 4)


def test_it_shows_its_log_and_begins_anew_when_it_is_told_to() -> None:
    life = Life()
    (log,) = life.ask(RequestKind.LOGS, lines=2)
    assert len(log.result["lines"]) == 2
    assert log.result["lines"][-1].endswith("request.followed logs (number 1)")
    assert "update.active double 1.0.0" in log.result["lines"][0]
    (restarted,) = life.ask(RequestKind.RESTART, what="agent")
    assert (restarted.ok, restarted.result) == (True, {"restarting": "agent"})
    (renewed,) = life.ask(RequestKind.RENEW)
    assert not renewed.ok
    assert "no certificate of its own" in renewed.result["error"]


def test_each_request_is_followed_once_and_a_refusal_told_once() -> None:
    life = Life()
    request = DeviceRequest(device=NAME, number=7, expires=1e12, kind=RequestKind.LOGS)
    life.said += life.device.ask(request, life.now)
    life.said += life.device.ask(request, life.now)
    for reason in ("a replay", "a replay", "not signed"):
        life.said += life.device.refuse(reason, life.now)
    life.live(10)
    assert len(life.messages(TOPICS.replies(NAME))) == 1
    assert life.kinds() == ["request.followed", "security.refused", "security.refused"]
