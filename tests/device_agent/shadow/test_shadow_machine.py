from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgekit_agent.machine import (
    MAX_BOOTS,
    Announce,
    Collect,
    Crashed,
    Event,
    Fetch,
    GatesFailed,
    GatesPassed,
    Installed,
    Ordered,
    ProofBegun,
    Prove,
    Proven,
    Restarted,
    ShadowEnded,
    ShadowSeen,
    SlotLost,
    Unusable,
    VariantFailed,
    Withdrawn,
    transition,
)
from edgekit_agent.state import UNDER_WAY, BundleRecord, Target, read_record
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import BundleOrder, ShadowOrder
from edgekit_runtime.reports import Phase, ShadowPhase

DIGESTS = [letter * 64 for letter in "abc"]
PIECES = (("f" * 64, 10),)


def target(
    number: int, *, shadow: int | None = None, run: str = "r1", order_version: int = 1
) -> Target:
    asked = None
    if shadow is not None:
        asked = ShadowOrder(
            run=run, version=f"{shadow}.0.0", digest=DIGESTS[shadow], length=10, seconds=100.0
        )
    return Target(
        order=BundleOrder(bundle="m", version=f"{number}.0.0", shadow=asked),
        digest=DIGESTS[number],
        length=10,
        pieces=PIECES,
        order_version=order_version,
        shadow_pieces=PIECES if asked else (),
    )


def drive(record: BundleRecord, *events: Event) -> BundleRecord:
    for event in events:
        record, _ = transition(record, event, 0.0)
    return record


def install(record: BundleRecord, wanted: Target) -> BundleRecord:
    return drive(
        record,
        Ordered(target=wanted),
        Installed(digest=wanted.digest, variant="v"),
        Proven(digest=wanted.digest, variant="v"),
        GatesPassed(digest=wanted.digest),
    )


ZERO = install(BundleRecord(bundle="m"), target(0))
ORDERED = Ordered(target=target(0, shadow=1, order_version=2))
FETCHING = drive(ZERO, ORDERED)
STAGED = drive(FETCHING, Installed(digest=DIGESTS[1], variant="v"))
WATCHING = drive(
    STAGED,
    ProofBegun(digest=DIGESTS[1], variant="v"),
    Proven(digest=DIGESTS[1], variant="v"),
)


def phase(record: BundleRecord) -> ShadowPhase:
    assert record.shadow is not None
    return record.shadow.phase


def reason(record: BundleRecord) -> str:
    assert record.shadow is not None
    return record.shadow.reason


def test_it_is_fetched_proven_and_run_and_what_serves_stays() -> None:
    record, actions = transition(ZERO, ORDERED, 0.0)
    assert Fetch() in actions
    assert record.fetching == (ORDERED.target.shadow, ())
    record, actions = transition(record, Installed(digest=DIGESTS[1], variant="v"), 0.0)
    assert actions == (Prove(),)
    assert record.staged is not None
    assert record.staged.digest == DIGESTS[1]
    record, actions = transition(record, Proven(digest=DIGESTS[1], variant="v"), 0.0)
    assert [action.kind for action in actions if isinstance(action, Announce)] == [
        "shadow.watching"
    ]
    assert phase(record) is ShadowPhase.WATCHING
    assert record.phase is Phase.ACTIVE
    assert record.serving == ZERO.serving
    assert record.digests == {DIGESTS[0], DIGESTS[1]}


@pytest.mark.parametrize(
    ("before", "event", "text"),
    [
        (FETCHING, Unusable(digest=DIGESTS[1], reason="no engine"), "no engine"),
        (WATCHING, ShadowEnded(digest=DIGESTS[1], reason="it crashed"), "it crashed"),
        (WATCHING, ShadowSeen(digest=DIGESTS[1], seconds=100.0), "its time is over"),
        (
            WATCHING,
            Ordered(target=target(1, order_version=3)),
            "",
        ),
    ],
)
def test_it_ends_and_its_files_may_go(before: BundleRecord, event: Event, text: str) -> None:
    record, actions = transition(before, event, 0.0)
    if text:
        assert phase(record) is ShadowPhase.ENDED
        assert reason(record) == text
        assert Collect() in actions
        assert DIGESTS[1] not in record.digests
    else:
        # An order that does not name it any more: it is the candidate now.
        assert record.shadow is None
        assert record.phase is Phase.FETCHING
    assert record.active == ZERO.active


def test_a_variant_that_fails_gives_way_to_another_and_the_last_ends_it() -> None:
    record, actions = transition(
        STAGED, VariantFailed(digest=DIGESTS[1], variant="v", reason="wrong"), 0.0
    )
    assert actions == (Fetch(),)
    assert record.fetching == (ORDERED.target.shadow, (("v", "wrong"),))
    record = drive(record, Unusable(digest=DIGESTS[1], reason="no other variant fits"))
    assert reason(record) == "v: wrong; no other variant fits"


def test_a_run_that_has_ended_does_not_begin_again_and_another_does() -> None:
    ended = drive(WATCHING, ShadowEnded(digest=DIGESTS[1], reason="it crashed"))
    later = Ordered(target=target(0, shadow=1, order_version=9))
    assert phase(drive(ended, later)) is ShadowPhase.ENDED
    assert phase(drive(ended, Restarted(), later)) is ShadowPhase.ENDED
    other = Ordered(target=target(0, shadow=1, run="r2", order_version=10))
    assert phase(drive(ended, other)) is ShadowPhase.FETCHING


def test_an_order_that_does_not_name_it_stops_it() -> None:
    record, actions = transition(WATCHING, Ordered(target=target(0, order_version=3)), 0.0)
    assert record.shadow is None
    assert Collect() in actions
    told = [action.kind for action in actions if isinstance(action, Announce)]
    assert told == ["shadow.stopped"]
    gone = drive(WATCHING, Withdrawn(order_version=4))
    assert gone.shadow is None


def test_an_update_goes_first_and_it_goes_on_afterwards() -> None:
    update = target(2, shadow=1, order_version=3)
    record = drive(WATCHING, Ordered(target=update))
    assert phase(record) is ShadowPhase.WAITING
    assert record.fetching is not None
    assert record.fetching[0].digest == DIGESTS[2]
    record = drive(
        record,
        Installed(digest=DIGESTS[2], variant="v"),
        Proven(digest=DIGESTS[2], variant="v"),
    )
    assert (record.phase, phase(record)) == (Phase.TRYING, ShadowPhase.WAITING)
    record, actions = transition(record, GatesFailed(digest=DIGESTS[2], reason="slow"), 0.0)
    assert (record.phase, phase(record)) == (Phase.ROLLED_BACK, ShadowPhase.FETCHING)
    assert Fetch() in actions
    assert record.active == ZERO.active


def test_it_ends_when_it_has_become_what_serves() -> None:
    record = install(WATCHING, target(1, shadow=None, order_version=3))
    assert record.active is not None
    assert record.active.digest == DIGESTS[1]
    assert record.shadow is None
    # Ordered beside itself, by an order made before the update went through.
    odd = replace(target(1, order_version=4), shadow_pieces=PIECES)
    odd = replace(odd, order=replace(odd.order, shadow=ORDERED.target.order.shadow))
    assert reason(drive(record, Ordered(target=odd))) == "it is the version that serves now"


def test_files_that_are_lost_are_fetched_again() -> None:
    record, actions = transition(WATCHING, SlotLost(digest=DIGESTS[1], reason="damaged"), 0.0)
    assert phase(record) is ShadowPhase.FETCHING
    assert Fetch() in actions


def test_it_may_be_the_previous_version() -> None:
    two = install(ZERO, target(1, order_version=2))
    record = drive(two, Ordered(target=target(1, shadow=0, order_version=3)))
    record = drive(
        record,
        Installed(digest=DIGESTS[0], variant="v"),
        Proven(digest=DIGESTS[0], variant="v"),
    )
    assert phase(record) is ShadowPhase.WATCHING
    assert record.previous == two.previous
    lost = drive(record, SlotLost(digest=DIGESTS[0], reason="damaged"))
    assert lost.previous is None
    assert phase(lost) is ShadowPhase.FETCHING


def test_a_version_that_takes_the_device_down_is_not_run_for_ever() -> None:
    record = WATCHING
    for _ in range(MAX_BOOTS - 1):
        record = drive(record, Restarted())
        assert phase(record) is ShadowPhase.WATCHING
    assert phase(drive(record, Restarted())) is ShadowPhase.ENDED
    well = drive(record, ShadowSeen(digest=DIGESTS[1], seconds=50.0), Restarted())
    assert phase(well) is ShadowPhase.WATCHING
    assert well.shadow is not None
    assert well.shadow.seconds == 50.0
    proving = STAGED
    for _ in range(MAX_BOOTS):
        proving = drive(proving, ProofBegun(digest=DIGESTS[1], variant="v"), Restarted())
    assert phase(proving) is ShadowPhase.ENDED


@pytest.mark.parametrize("record", [FETCHING, STAGED, WATCHING])
def test_the_journal_gives_back_what_it_was_given(record: BundleRecord) -> None:
    reader = FieldReader(json.loads(json.dumps(record.to_json())))
    assert read_record("m", reader) == record
    assert not reader.faults


def test_a_journal_from_before_there_were_shadows_is_read() -> None:
    document = ZERO.to_json()
    del document["shadow"]
    reader = FieldReader(json.loads(json.dumps(document)))
    assert read_record("m", reader) == ZERO
    assert not reader.faults


class Life(RuleBasedStateMachine):
    """Anything happens in any order: a bundle with a shadow and one without are served alike."""

    def __init__(self) -> None:
        super().__init__()
        self.record = BundleRecord(bundle="m")
        self.twin = BundleRecord(bundle="m")
        self.version = 0

    def both(self, event: Event, twin: Event | None = None) -> None:
        self.record, _ = transition(self.record, event, 0.0)
        self.twin, _ = transition(self.twin, twin or event, 0.0)

    @rule(number=st.integers(0, 2), beside=st.integers(0, 2), run=st.sampled_from(["r1", "r2"]))
    def ordered(self, number: int, beside: int, run: str) -> None:
        self.version += 1
        shadow = None if beside == number else beside
        mine = target(number, shadow=shadow, run=run, order_version=self.version)
        self.both(Ordered(target=mine), Ordered(target=target(number, order_version=self.version)))

    @rule(
        number=st.integers(0, 2),
        event=st.sampled_from([Installed, ProofBegun, Proven]),
    )
    def came_forward(self, number: int, event: type[Installed | ProofBegun | Proven]) -> None:
        self.both(event(digest=DIGESTS[number], variant="v"))

    @rule(
        number=st.integers(0, 2),
        event=st.sampled_from([Unusable, GatesFailed, Crashed, SlotLost, ShadowEnded]),
    )
    def failed(self, number: int, event: type[Unusable | Crashed | SlotLost | ShadowEnded]) -> None:
        self.both(event(digest=DIGESTS[number], reason="why"))

    @rule(number=st.integers(0, 2))
    def failed_its_proof(self, number: int) -> None:
        self.both(VariantFailed(digest=DIGESTS[number], variant="v", reason="why"))

    @rule(number=st.integers(0, 2))
    def passed(self, number: int) -> None:
        self.both(GatesPassed(digest=DIGESTS[number]))

    @rule(number=st.integers(0, 2), seconds=st.floats(0, 200))
    def seen(self, number: int, seconds: float) -> None:
        self.both(ShadowSeen(digest=DIGESTS[number], seconds=seconds))

    @rule()
    def restarted(self) -> None:
        self.both(Restarted())

    @invariant()
    def what_serves_is_what_would_serve_without_it(self) -> None:
        plain = replace(self.record, shadow=None)
        assert plain.phase == self.twin.phase
        for mine, its in (
            (plain.active, self.twin.active),
            (plain.previous, self.twin.previous),
            (plain.serving, self.twin.serving),
            (plain.candidate, self.twin.candidate),
        ):
            assert (mine and mine.digest) == (its and its.digest)

    @invariant()
    def it_runs_only_beside_something(self) -> None:
        shadow = self.record.shadow
        if shadow is None or shadow.phase in (ShadowPhase.WAITING, ShadowPhase.ENDED):
            return
        assert self.record.phase not in UNDER_WAY
        assert self.record.active is not None
        assert self.record.active.digest != shadow.target.digest

    @invariant()
    def the_journal_holds_it(self) -> None:
        reader = FieldReader(json.loads(json.dumps(self.record.to_json())))
        expected = replace(self.record, active_crashes=())
        assert read_record("m", reader) == expected
        assert not reader.faults


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
