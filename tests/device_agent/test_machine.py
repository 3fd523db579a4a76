from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgekit_agent.machine import (
    ACTIVE_CRASH_LIMIT,
    MAX_BOOTS,
    Action,
    Announce,
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
    Serve,
    SlotLost,
    Unusable,
    VariantFailed,
    Withdrawn,
    transition,
)
from edgekit_agent.state import UNDER_WAY, BundleRecord, Slot, Target, read_record
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import BundleOrder, Gates
from edgekit_runtime.reports import Phase

DIGESTS = [letter * 64 for letter in "abc"]
VARIANTS = ["first", "second"]


def target(number: int, order_version: int = 1, max_crashes: int = 2) -> Target:
    order = BundleOrder(bundle="m", version=f"{number}.0.0", gates=Gates(max_crashes=max_crashes))
    return Target(
        order=order,
        digest=DIGESTS[number],
        length=10,
        pieces=(("f" * 64, 10),),
        order_version=order_version,
    )


def drive(record: BundleRecord, *events: Event, now: float = 0.0) -> BundleRecord:
    for event in events:
        record, _ = transition(record, event, now)
    return record


def install(record: BundleRecord, number: int, order_version: int = 1) -> BundleRecord:
    digest = DIGESTS[number]
    return drive(
        record,
        Ordered(target=target(number, order_version)),
        Installed(digest=digest, variant="first"),
        Proven(digest=digest, variant="first"),
        GatesPassed(digest=digest),
    )


NOTHING = BundleRecord(bundle="m")
ONE = install(NOTHING, 0)
TWO = install(ONE, 1, order_version=2)


def to_trying(record: BundleRecord, number: int, max_crashes: int = 2) -> BundleRecord:
    digest = DIGESTS[number]
    return drive(
        record,
        Ordered(target=target(number, 9, max_crashes)),
        Installed(digest=digest, variant="first"),
        Proven(digest=digest, variant="first"),
    )


def test_an_installed_version_is_active_and_the_former_one_previous() -> None:
    assert (TWO.phase, TWO.report().active, TWO.report().previous) == (
        Phase.ACTIVE,
        "1.0.0",
        "0.0.0",
    )


def test_while_trying_the_candidate_serves_and_the_active_stays() -> None:
    trying = to_trying(ONE, 1)
    assert trying.serving == Slot(target=target(1, 9), variant="first")
    assert trying.active == ONE.active


@pytest.mark.parametrize("max_crashes", [0, 1, 2, 3])
def test_crashes_up_to_the_order_limit_roll_back(max_crashes: int) -> None:
    record = to_trying(ONE, 1, max_crashes)
    crashes = 0
    while record.phase is Phase.TRYING:
        record = drive(record, Crashed(digest=DIGESTS[1], reason="SIGSEGV"))
        crashes += 1
    assert crashes == max(1, max_crashes)
    assert record.phase is Phase.ROLLED_BACK
    assert record.serving == ONE.active
    assert "SIGSEGV" in record.reason


def test_what_was_refused_comes_back_only_by_a_newer_order() -> None:
    refused = drive(
        ONE,
        Ordered(target=target(1, 5)),
        Unusable(digest=DIGESTS[1], reason="no variant fits"),
    )
    assert refused.phase is Phase.REJECTED
    assert drive(refused, Ordered(target=target(1, 5))) == refused
    assert drive(refused, Ordered(target=target(1, 6))).phase is Phase.FETCHING
    assert drive(refused, Ordered(target=target(2, 5))).phase is Phase.FETCHING


def test_ordering_what_is_active_again_settles_a_rollback() -> None:
    rolled_back = drive(to_trying(ONE, 1), GatesFailed(digest=DIGESTS[1], reason="slow"))
    settled = drive(rolled_back, Ordered(target=target(0, 10)))
    assert (settled.phase, settled.reason) == (Phase.ACTIVE, "")


def test_a_version_that_restarts_the_device_is_given_up() -> None:
    record, boots = to_trying(ONE, 1), 0
    while record.phase in UNDER_WAY:
        record = drive(record, Restarted())
        boots += 1
    assert (boots, record.phase, record.serving) == (MAX_BOOTS, Phase.ROLLED_BACK, ONE.active)


def test_a_version_whose_trials_end_the_agent_is_given_up() -> None:
    begun = ProofBegun(digest=DIGESTS[1], variant="first")
    record = drive(ONE, Ordered(target=target(1)), Installed(digest=DIGESTS[1], variant="first"))
    trials = 0
    while record.phase in UNDER_WAY:
        record = drive(record, begun, Restarted())
        trials += 1
    assert (trials, record.phase, record.serving) == (MAX_BOOTS, Phase.REJECTED, ONE.active)


def test_waiting_for_conditions_is_no_failure_however_often_the_agent_restarts() -> None:
    staged = drive(ONE, Ordered(target=target(1)), Installed(digest=DIGESTS[1], variant="first"))
    waited = drive(staged, *[Restarted()] * (3 * MAX_BOOTS))
    assert waited == staged
    assert transition(waited, Restarted(), 0.0)[1] == (Serve(), Prove())
    # Another variant's trial, or one that is over, begins nothing.
    late = ProofBegun(digest=DIGESTS[1], variant="second")
    assert drive(waited, late) == waited


def test_every_variant_gets_its_chance_and_its_reason_is_kept() -> None:
    record = drive(
        ONE,
        Ordered(target=target(1)),
        Installed(digest=DIGESTS[1], variant="first"),
        VariantFailed(digest=DIGESTS[1], variant="first", reason="too slow"),
    )
    assert (record.phase, record.failed) == (Phase.FETCHING, (("first", "too slow"),))
    rejected = drive(record, Unusable(digest=DIGESTS[1], reason="none is left"))
    assert rejected.reason == "first: too slow; none is left"


def test_an_active_version_in_a_crash_loop_gives_way_to_the_previous() -> None:
    record = TWO
    for second in range(ACTIVE_CRASH_LIMIT):
        assert record.active == TWO.active
        record = drive(record, Crashed(digest=DIGESTS[1], reason="SIGSEGV"), now=float(second))
    assert record.active == TWO.previous
    assert record.phase is Phase.ROLLED_BACK
    # The order still names it; that alone does not bring it back.
    assert drive(record, Ordered(target=target(1, 2))).phase is Phase.ROLLED_BACK


def test_rare_crashes_of_the_active_version_are_forgiven() -> None:
    record = TWO
    for day in range(10):
        record = drive(record, Crashed(digest=DIGESTS[1], reason="x"), now=day * 86_400.0)
    assert record.active == TWO.active


def test_a_lost_active_slot_is_replaced_and_fetched_again() -> None:
    record, actions = transition(TWO, SlotLost(digest=DIGESTS[1], reason="bit rot"), 0.0)
    assert record.serving == TWO.previous
    assert record.candidate == target(1, 2)
    assert Fetch() in actions


def test_an_order_for_another_version_stops_the_one_under_way() -> None:
    record, actions = transition(to_trying(ONE, 1), Ordered(target=target(2, 10)), 0.0)
    assert (record.phase, record.serving) == (Phase.FETCHING, ONE.active)
    assert Serve() in actions


def test_a_withdrawn_bundle_leaves_nothing() -> None:
    assert drive(TWO, Withdrawn(order_version=7)) == BundleRecord(bundle="m", order_version=7)


def _files(slot: Slot | None) -> tuple[str, str] | None:
    return None if slot is None else (slot.digest, slot.variant)


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order, a version that once worked is kept and served."""

    def __init__(self) -> None:
        super().__init__()
        self.record = NOTHING
        self.now = 0.0
        self.has_worked = False

    def happen(self, event: Event) -> tuple[Action, ...]:
        before = self.record
        self.record, actions = transition(self.record, event, self.now)
        # The same files under another order are nothing new to the server.
        if _files(before.serving) != _files(self.record.serving):
            assert any(isinstance(action, Serve) for action in actions) or isinstance(
                event, GatesPassed
            )
        began = self.record.candidate != before.candidate or self.record.phase != before.phase
        if self.record.phase is Phase.FETCHING and began and before.phase is not Phase.FETCHING:
            assert Fetch() in actions
        if self.record.phase is Phase.STAGED and before.phase is not Phase.STAGED:
            assert Prove() in actions
        if self.record.phase is not before.phase and self.record.phase is Phase.ROLLED_BACK:
            kinds = [action.kind for action in actions if isinstance(action, Announce)]
            assert "update.rolled_back" in kinds
        return actions

    @rule(number=st.integers(0, 2), order_version=st.integers(1, 5), crashes=st.integers(0, 3))
    def ordered(self, number: int, order_version: int, crashes: int) -> None:
        self.happen(Ordered(target=target(number, order_version, crashes)))

    @rule(digest=st.sampled_from(DIGESTS), variant=st.sampled_from(VARIANTS), data=st.data())
    def something_about_a_candidate(self, digest: str, variant: str, data: Any) -> None:
        if data.draw(st.booleans()) and self.record.candidate:
            digest, variant = self.record.candidate.digest, self.record.variant or variant
        event = data.draw(
            st.sampled_from(
                [
                    Installed(digest=digest, variant=variant),
                    ProofBegun(digest=digest, variant=variant),
                    Proven(digest=digest, variant=variant),
                    GatesPassed(digest=digest),
                    Unusable(digest=digest, reason="r"),
                    VariantFailed(digest=digest, variant=variant, reason="r"),
                    GatesFailed(digest=digest, reason="r"),
                ]
            )
        )
        self.happen(event)
        self.has_worked |= self.record.phase is Phase.ACTIVE

    @rule(digest=st.sampled_from(DIGESTS), seconds=st.floats(0, 400))
    def crashed(self, digest: str, seconds: float) -> None:
        self.now += seconds
        self.happen(Crashed(digest=digest, reason="r"))

    @rule(digest=st.sampled_from(DIGESTS))
    def slot_lost(self, digest: str) -> None:
        left = {slot.digest for slot in (self.record.active, self.record.previous) if slot}
        if not left - {digest}:
            self.has_worked = False
        self.happen(SlotLost(digest=digest, reason="r"))

    @rule()
    def restarted(self) -> None:
        # What the journal does not hold is forgotten.
        text = json.dumps(self.record.to_json())
        reader = FieldReader(json.loads(text))
        read = read_record("m", reader)
        assert reader.faults == []
        assert read == replace(self.record, active_crashes=())
        self.record = read
        self.happen(Restarted())

    @rule()
    def withdrawn(self) -> None:
        self.happen(Withdrawn(order_version=5))
        self.has_worked = False

    @invariant()
    def the_record_makes_sense(self) -> None:
        assert (self.record.candidate is not None) == (self.record.phase in UNDER_WAY)
        if self.record.phase is Phase.ACTIVE:
            assert self.record.active is not None
        if self.record.phase in (Phase.STAGED, Phase.TRYING):
            assert self.record.variant
        if self.record.phase is not Phase.STAGED:
            assert self.record.boots < MAX_BOOTS

    @invariant()
    def a_version_that_worked_serves_or_waits_behind_the_candidate(self) -> None:
        if self.has_worked:
            assert self.record.serving is not None
            assert self.record.active is not None

    @invariant()
    def what_serves_keeps_its_files(self) -> None:
        if self.record.serving:
            assert self.record.serving.digest in self.record.digests


AnyHistory.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase
