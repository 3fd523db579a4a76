from __future__ import annotations

import pytest

from edgekit.fleet.simulation.behaviour import Behaviour, Lot, hardware_of
from edgekit.fleet.simulation.device import Gone, Outgoing, Said, SimulatedDevice
from edgekit_agent.state import Target
from edgekit_runtime.errors import UsageError
from edgekit_runtime.orders import BundleOrder, Gates
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import parse_event, parse_state
from edgekit_runtime.telemetry import TelemetryBatch, parse_batch

TOPICS = Topics("plant-7")


def target(version: str, order_version: int) -> Target:
    return Target(
        order=BundleOrder(bundle="double", version=version, gates=Gates(min_seconds=1.0)),
        digest=version.encode().hex().ljust(64, "0"),
        length=10,
        pieces=(("a" * 64, 10),),
        order_version=order_version,
    )


class Life:
    """A device and everything that it said."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.device = SimulatedDevice("sim-00001", topics=TOPICS, behaviour=behaviour)
        self.said: list[Said] = []
        self.now = 1_000.0

    def order(self, version: str, order_version: int) -> None:
        self.said += self.device.follow(order_version, (target(version, order_version),), self.now)

    def live(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.now += 0.1
            due = self.device.due
            if due is not None and due <= self.now:
                self.said += self.device.tick(self.now)

    def kinds(self) -> list[str]:
        topic = TOPICS.events("sim-00001")
        return [
            parse_event(item.payload, where=topic).kind
            for item in self.said
            if isinstance(item, Outgoing) and item.topic == topic
        ]

    def batches(self) -> list[TelemetryBatch]:
        topic = TOPICS.telemetry("sim-00001")
        return [
            parse_batch(item.payload, where=topic)
            for item in self.said
            if isinstance(item, Outgoing) and item.topic == topic
        ]


def test_it_says_what_a_device_says() -> None:
    life = Life(Behaviour())
    life.order("1.0.0", 1)
    life.live(10)
    assert life.kinds() == ["update.fetching", "update.staged", "update.trying", "update.active"]
    state = parse_state(life.device.state(life.now).payload, where="test")
    assert (state.bundles["double"].active, state.bundles["double"].phase) == ("1.0.0", "active")
    assert (state.order_version, state.hardware) == (1, hardware_of("sim-00001"))


@pytest.mark.parametrize(
    ("behaviour", "last"),
    [
        (Behaviour(reject=1.0), "update.rejected"),
        (Behaviour(roll_back=1.0), "update.rolled_back"),
    ],
)
def test_a_lot_befalls_the_second_version(behaviour: Behaviour, last: str) -> None:
    life = Life(behaviour)
    life.order("1.0.0", 1)
    life.live(10)
    life.order("2.0.0", 2)
    life.live(15)
    assert life.kinds()[3] == "update.active"
    assert life.kinds()[-1] == last
    record = life.device.records["double"]
    assert record.active is not None
    assert record.active.version == "1.0.0"


def test_one_that_vanishes_says_no_more() -> None:
    life = Life(Behaviour(vanish=1.0))
    life.order("1.0.0", 1)
    life.live(10)
    life.order("2.0.0", 2)
    assert isinstance(life.said[-1], Gone)
    assert life.device.due is None
    said = len(life.said)
    life.live(10)
    life.order("3.0.0", 3)
    assert len(life.said) == said


def test_a_version_that_degrades_shows_in_the_telemetry_and_not_in_the_gates() -> None:
    life = Life(
        Behaviour(degrade=1.0, telemetry_seconds=5.0, requests_per_second=20.0, error_share=0.0)
    )
    life.order("1.0.0", 1)
    life.live(20)
    life.order("2.0.0", 2)
    life.live(40)
    assert life.kinds()[-1] == "update.active"
    counts = {"1.0.0": [0, 0], "2.0.0": [0, 0]}
    psi = {}
    for batch in life.batches():
        for _, window in batch.records:
            assert window.model is not None
            counts[window.version][0] += window.model.requests
            counts[window.version][1] += window.model.errors
            psi[window.version] = window.model.features["input:x"].psi()
    assert counts["1.0.0"][1] == 0
    assert counts["2.0.0"][1] > 0.1 * counts["2.0.0"][0] > 0
    assert psi["1.0.0"] < 0.25 < psi["2.0.0"]
    sequences = [sequence for batch in life.batches() for sequence, _ in batch.records]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_withdrawn_bundle_is_gone() -> None:
    life = Life(Behaviour())
    life.order("1.0.0", 1)
    life.live(10)
    life.said += life.device.follow(2, (), life.now)
    assert life.kinds()[-1] == "update.withdrawn"
    assert parse_state(life.device.state(life.now).payload, where="test").bundles == {}


def test_lots_are_drawn_in_the_given_shares_and_always_the_same() -> None:
    behaviour = Behaviour(reject=0.1, vanish=0.2, only_version="2.0.0")
    lots = [behaviour.lot_of(f"d{n}", "2.0.0", first=False) for n in range(4_000)]
    assert lots.count(Lot.REJECTED) / 4_000 == pytest.approx(0.1, abs=0.02)
    assert lots.count(Lot.VANISHES) / 4_000 == pytest.approx(0.2, abs=0.02)
    assert lots == [behaviour.lot_of(f"d{n}", "2.0.0", first=False) for n in range(4_000)]
    assert behaviour.lot_of("d1", "1.5.0", first=False) is Lot.WORKS
    with pytest.raises(UsageError, match="from 0 to 1"):
        Behaviour(reject=0.7, vanish=0.7)
