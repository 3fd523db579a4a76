"""The update state machine of one bundle: (record, event, now) -> (record, actions).

Pure. The supervisor writes the new record to the journal before it carries out an action, and
every action may be carried out twice, so a power cut between the two does no harm.

The rules:
 * A candidate exists exactly while fetching, staged or trying.
 * An event about another candidate than the present one (its digest differs) changes nothing.
 * The active version stays until a candidate has passed its gates; it then becomes the previous.
 * A candidate that fails is refused: the same or an older order does not bring it back.
 * A version that only runs beside the one that serves is the affair of `shadow.machine`: it waits
   while an update is under way, and nothing that befalls it changes what serves.
 * Trials that were begun are counted, and starts of the agent while a candidate is tried: a version
   that takes the whole device down cannot do so for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from edgekit_agent.state import UNDER_WAY, BundleRecord, Refusal, Slot, Target
from edgekit_runtime.reports import Phase

MAX_BOOTS: Final = 3
# The active version, which had passed its gates, is given up for the previous one after this.
ACTIVE_CRASH_LIMIT: Final = 3
ACTIVE_CRASH_WINDOW_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """A verified order names this target."""

    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """A verified order does not name this bundle any more."""

    order_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """All files of a variant stand in the candidate's slot, verified."""

    digest: str
    variant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """The candidate can never be staged here."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofBegun:
    """The conditions of the order hold: the trial of the candidate's variant begins now."""

    digest: str
    variant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """The trial of the candidate's variant succeeded."""

    digest: str
    variant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantFailed:
    """The trial of the candidate's variant failed; another variant may do."""

    digest: str
    variant: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatesPassed:
    """The candidate has shown in live use that it works."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatesFailed:
    """The candidate did not work in live use, or could not be brought up for it."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed:
    """The server died while it held this version, which may be to blame."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLost:
    """The files of an installed version do not match their hashes any more."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSeen:
    """The version beside has run for so long now, and is well."""

    digest: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowEnded:
    """The version beside cannot go on: it crashed, hung, took too much, or there is no room."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """The agent has started, and found this record."""


Event = (
    Ordered
    | Withdrawn
    | Installed
    | Unusable
    | ProofBegun
    | Proven
    | VariantFailed
    | GatesPassed
    | GatesFailed
    | Crashed
    | SlotLost
    | ShadowSeen
    | ShadowEnded
    | Restarted
)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get what `record.fetching` lacks, and install a variant of it that has not failed."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Run the trial of `record.staged`, once the order's conditions hold."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Make the server hold `record.serving`."""


@dataclass(frozen=True, slots=True)
class Collect:
    """Delete what no record needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Tell the world."""

    kind: str
    version: str
    detail: str = ""


Action = Fetch | Prove | Serve | Collect | Announce
Step = tuple[BundleRecord, tuple[Action, ...]]


def transition(record: BundleRecord, event: Event, now: float) -> Step:
    """Decide what an event means.

    Args:
        record: Where the bundle stands.
        event: What happened.
        now: Seconds on a clock that never goes back while the agent runs.

    Returns:
        Where it stands now, and what to do, in order.
    """
    begins = isinstance(event, Ordered) and event.target.shadow is not None
    if record.shadow is None and not begins:
        return _decide(record, event, now)
    # Most devices never have one.
    from edgekit_agent.shadow.machine import transition_with_shadow

    return transition_with_shadow(record, event, lambda: _decide(record, event, now))


def _decide(  # noqa: PLR0911 - one a kind of event
    record: BundleRecord, event: Event, now: float
) -> Step:
    match event:
        case Ordered():
            return _ordered(record, event.target)
        case Withdrawn():
            return _withdrawn(record, event.order_version)
        case Crashed():
            return _crashed(record, event, now)
        case SlotLost():
            return _slot_lost(record, event)
        case Restarted():
            return _restarted(record)
        case Installed() | Unusable() | ProofBegun() | Proven() | VariantFailed():
            return _before_use(record, event)
        case GatesPassed() | GatesFailed():
            return _in_use(record, event)
        case ShadowSeen() | ShadowEnded():
            return record, ()


def _ordered(record: BundleRecord, target: Target) -> Step:
    refused, candidate = record.refused, record.candidate
    newest = max(record.order_version, target.order_version)
    record = replace(record, order_version=newest)
    if candidate is not None and candidate.digest == target.digest:
        # The same version, perhaps under new conditions.
        return replace(record, candidate=target), ()
    was_trying = (Serve(),) if record.phase is Phase.TRYING else ()
    if record.active is not None and record.active.digest == target.digest:
        actions: tuple[Action, ...] = ()
        if candidate is not None:
            detail = f"the order names {target.version} again"
            actions = (
                *was_trying,
                Collect(),
                Announce(kind="update.cancelled", version=candidate.version, detail=detail),
            )
        return replace(_settled(record), phase=Phase.ACTIVE, reason=""), actions
    if (
        refused is not None
        and refused.digest == target.digest
        and target.order_version <= refused.order_version
    ):
        return record, ()
    begun = replace(_settled(record), phase=Phase.FETCHING, candidate=target, reason="")
    return begun, (
        *was_trying,
        Announce(kind="update.fetching", version=target.version),
        Fetch(),
    )


def _withdrawn(record: BundleRecord, order_version: int) -> Step:
    if record.active is None and record.candidate is None and record.previous is None:
        return record, ()
    serving = record.serving
    gone = BundleRecord(bundle=record.bundle, order_version=order_version)
    return gone, (
        Serve(),
        Collect(),
        Announce(
            kind="update.withdrawn",
            version=serving.version if serving else "",
            detail="the order does not name this bundle any more",
        ),
    )


def _before_use(  # noqa: PLR0911 - one a pair of phase and event
    record: BundleRecord, event: Installed | Unusable | ProofBegun | Proven | VariantFailed
) -> Step:
    candidate = record.candidate
    if candidate is None or candidate.digest != event.digest:
        return record, ()
    match record.phase, event:
        case Phase.FETCHING, Installed():
            staged = replace(record, phase=Phase.STAGED, variant=event.variant, boots=0)
            detail = f"variant {event.variant}: all files verified"
            return staged, (
                Announce(kind="update.staged", version=candidate.version, detail=detail),
                Prove(),
            )
        case Phase.FETCHING | Phase.STAGED, Unusable():
            reasons = [f"{variant}: {reason}" for variant, reason in record.failed]
            reason = "; ".join([*reasons, event.reason])
            return _refuse(record, candidate, Phase.REJECTED, reason)
        case Phase.STAGED, ProofBegun() if event.variant == record.variant:
            # Counted before it can take the device down; waiting for conditions counts nothing.
            return replace(record, boots=record.boots + 1), ()
        case Phase.STAGED, Proven() if event.variant == record.variant:
            trying = replace(record, phase=Phase.TRYING, boots=0, crashes=0)
            detail = f"variant {event.variant}: the golden samples match"
            return trying, (
                Announce(kind="update.trying", version=candidate.version, detail=detail),
                Serve(),
            )
        case Phase.STAGED, VariantFailed() if event.variant == record.variant:
            failed = replace(
                record,
                phase=Phase.FETCHING,
                variant="",
                boots=0,
                failed=(*record.failed, (event.variant, event.reason)),
            )
            detail = f"variant {event.variant}: {event.reason}"
            return failed, (
                Announce(kind="update.variant_failed", version=candidate.version, detail=detail),
                Fetch(),
            )
        case _:
            return record, ()


def _in_use(record: BundleRecord, event: GatesPassed | GatesFailed) -> Step:
    candidate = record.candidate
    if record.phase is not Phase.TRYING or candidate is None or candidate.digest != event.digest:
        return record, ()
    if isinstance(event, GatesFailed):
        return _refuse(record, candidate, Phase.ROLLED_BACK, event.reason)
    installed = Slot(target=candidate, variant=record.variant)
    passed = replace(
        _settled(record),
        phase=Phase.ACTIVE,
        active=installed,
        previous=record.active,
        active_crashes=(),
        refused=None,
        reason="",
    )
    return passed, (
        Announce(
            kind="update.active",
            version=candidate.version,
            detail=f"variant {record.variant}: all gates passed",
        ),
        Collect(),
    )


def _crashed(record: BundleRecord, event: Crashed, now: float) -> Step:
    candidate, active = record.candidate, record.active
    if record.phase is Phase.TRYING and candidate is not None:
        if candidate.digest != event.digest:
            return record, ()
        crashes = record.crashes + 1
        crashed = replace(record, crashes=crashes)
        told = Announce(kind="server.crashed", version=candidate.version, detail=event.reason)
        if crashes < max(1, candidate.order.gates.max_crashes):
            return crashed, (told, Serve())
        reason = f"it took the server down {crashes} times; the last: {event.reason}"
        rolled_back, actions = _refuse(crashed, candidate, Phase.ROLLED_BACK, reason)
        return rolled_back, (told, *actions)
    if active is None or active.digest != event.digest:
        return record, ()
    told = Announce(kind="server.crashed", version=active.version, detail=event.reason)
    times = (
        *(time for time in record.active_crashes if now - time < ACTIVE_CRASH_WINDOW_SECONDS),
        now,
    )
    previous = record.previous
    if len(times) < ACTIVE_CRASH_LIMIT or previous is None:
        return replace(record, active_crashes=times[-ACTIVE_CRASH_LIMIT:]), (told, Serve())
    reason = f"version {active.version} took the server down {len(times)} times: {event.reason}"
    restored = replace(
        record,
        active=previous,
        previous=None,
        active_crashes=(),
        refused=Refusal(digest=active.digest, order_version=record.order_version),
        reason=reason,
        phase=record.phase if record.phase in UNDER_WAY else Phase.ROLLED_BACK,
    )
    return restored, (
        told,
        Announce(kind="update.rolled_back", version=active.version, detail=reason),
        Serve(),
        Collect(),
    )


def _slot_lost(record: BundleRecord, event: SlotLost) -> Step:
    candidate, active, previous = record.candidate, record.active, record.previous
    if previous is not None and previous.digest == event.digest:
        previous = None
        record = replace(record, previous=None)
    actions: list[Action] = []
    if candidate is not None and candidate.digest == event.digest:
        if record.phase is Phase.FETCHING:
            return record, ()
        actions.append(Announce(kind="slot.lost", version=candidate.version, detail=event.reason))
        if record.phase is Phase.TRYING:
            actions.append(Serve())
        actions.append(Fetch())
        return replace(record, phase=Phase.FETCHING, variant="", boots=0), tuple(actions)
    if active is None or active.digest != event.digest:
        return record, ()
    actions.append(Announce(kind="slot.lost", version=active.version, detail=event.reason))
    restored = replace(record, active=previous, previous=None, active_crashes=())
    actions.append(Serve())
    if candidate is None:
        # Get it again; what is left of it on the disk is not fetched twice.
        restored = replace(
            _settled(restored), phase=Phase.FETCHING, candidate=active.target, reason=event.reason
        )
        actions.append(Fetch())
    return restored, tuple(actions)


def _restarted(record: BundleRecord) -> Step:
    record = replace(record, active_crashes=())
    candidate = record.candidate
    if candidate is None:
        return record, (Serve(), Collect())
    if record.phase is Phase.FETCHING:
        return record, (Serve(), Fetch())
    if record.phase is Phase.STAGED:
        if record.boots < MAX_BOOTS:
            return record, (Serve(), Prove())
        reason = f"the agent ended {record.boots} times while this version was being proven"
        rejected, actions = _refuse(record, candidate, Phase.REJECTED, reason)
        return rejected, (Serve(), *actions)
    boots = record.boots + 1
    record = replace(record, boots=boots)
    if boots < MAX_BOOTS:
        return record, (Serve(),)
    reason = f"the agent was restarted {boots} times while this version was being tried"
    return _refuse(record, candidate, Phase.ROLLED_BACK, reason)


def _refuse(record: BundleRecord, candidate: Target, phase: Phase, reason: str) -> Step:
    refused = replace(
        _settled(record),
        phase=phase,
        refused=Refusal(digest=candidate.digest, order_version=candidate.order_version),
        reason=reason,
    )
    actions: list[Action] = [
        Announce(kind=f"update.{phase.value}", version=candidate.version, detail=reason)
    ]
    if phase is Phase.ROLLED_BACK:
        actions.append(Serve())
    actions.append(Collect())
    return refused, tuple(actions)


def _settled(record: BundleRecord) -> BundleRecord:
    """The record without a candidate; the caller sets the phase."""
    return replace(record, candidate=None, variant="", failed=(), boots=0, crashes=0)
