"""The state machine of what runs beside: pure, and around that of the bundle itself.

    waiting -> fetching -> staged -> watching -> ended

The rules:
 * An update goes first: while one is under way, or nothing serves, a shadow waits, and goes through
   fetching and staged again afterwards; what is on the disk is not fetched twice.
 * It ends with its reason when it fails in any way, when its time is over, when it has become the
   version that serves. A run that has ended does not begin again.
 * It is gone when an order does not name it any more.
 * Nothing here touches what serves, what goes before, or a candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgekit_agent.machine import (
    MAX_BOOTS,
    Action,
    Announce,
    Collect,
    Event,
    Fetch,
    Installed,
    Ordered,
    ProofBegun,
    Prove,
    Proven,
    Restarted,
    ShadowEnded,
    ShadowSeen,
    SlotLost,
    Step,
    Unusable,
    VariantFailed,
)
from edgekit_agent.state import UNDER_WAY, BundleRecord, ShadowRecord, Target
from edgekit_runtime.reports import ShadowPhase

_OfDigest = Installed | Unusable | ProofBegun | Proven | VariantFailed | ShadowSeen | ShadowEnded


def transition_with_shadow(record: BundleRecord, event: Event, decide: Callable[[], Step]) -> Step:
    """Decide what an event means for a bundle that has a shadow, or is ordered one.

    Args:
        record: Where the bundle stands.
        event: What happened.
        decide: What it means for the bundle itself.
    """
    shadow = record.shadow
    if shadow is not None and isinstance(event, _OfDigest) and _is_about(record, shadow, event):
        after, actions = _of_shadow(record, shadow, event)
    else:
        after, actions = decide()
        after, more = _beside(after, event)
        actions = (*actions, *more)
    after, more = _settle(after)
    return after, (*actions, *more)


def _is_about(record: BundleRecord, shadow: ShadowRecord, event: _OfDigest) -> bool:
    """Whether it is the shadow's version that something happened to, and not the candidate."""
    candidate = record.candidate
    return event.digest == shadow.target.digest and (
        candidate is None or candidate.digest != event.digest
    )


def _beside(record: BundleRecord, event: Event) -> Step:
    """What an event of the bundle itself means for what runs beside."""
    if isinstance(event, Ordered):
        return _ordered(record, event.target)
    shadow = record.shadow
    if shadow is None:
        return record, ()
    if isinstance(event, Restarted):
        return _restarted(record, shadow)
    installed = shadow.phase in (ShadowPhase.STAGED, ShadowPhase.WATCHING)
    if isinstance(event, SlotLost) and installed and event.digest == shadow.target.digest:
        waiting = replace(shadow, phase=ShadowPhase.WAITING, variant="", boots=0)
        return replace(record, shadow=waiting), ()
    return record, ()


def _ordered(record: BundleRecord, target: Target) -> Step:
    shadow, asked, order = record.shadow, target.shadow, target.order.shadow
    if asked is None or order is None:
        if shadow is None:
            return record, ()
        gone = replace(record, shadow=None)
        if shadow.phase is ShadowPhase.ENDED:
            return gone, ()
        told = _told("stopped", shadow, "the order does not name it any more")
        return gone, (told, Collect())
    if shadow is not None and (shadow.order.run, shadow.target.digest) == (order.run, asked.digest):
        # The same run, perhaps in another way: its process is begun anew where that matters.
        return replace(record, shadow=replace(shadow, target=asked, order=order)), ()
    return replace(record, shadow=ShadowRecord(target=asked, order=order)), (Collect(),)


def _of_shadow(  # noqa: PLR0911 - one a pair of phase and event
    record: BundleRecord, shadow: ShadowRecord, event: _OfDigest
) -> Step:
    match shadow.phase, event:
        case ShadowPhase.FETCHING, Installed():
            staged = replace(shadow, phase=ShadowPhase.STAGED, variant=event.variant, boots=0)
            return replace(record, shadow=staged), (Prove(),)
        case ShadowPhase.FETCHING | ShadowPhase.STAGED, Unusable():
            reasons = [f"{variant}: {reason}" for variant, reason in shadow.failed]
            return _end(record, shadow, "; ".join([*reasons, event.reason]))
        case ShadowPhase.STAGED, ProofBegun() if event.variant == shadow.variant:
            return replace(record, shadow=replace(shadow, boots=shadow.boots + 1)), ()
        case ShadowPhase.STAGED, Proven() if event.variant == shadow.variant:
            watching = replace(shadow, phase=ShadowPhase.WATCHING, boots=0)
            told = _told("watching", shadow, f"variant {shadow.variant}: the golden samples match")
            return replace(record, shadow=watching), (told,)
        case ShadowPhase.STAGED, VariantFailed() if event.variant == shadow.variant:
            failed = replace(
                shadow,
                phase=ShadowPhase.FETCHING,
                variant="",
                boots=0,
                failed=(*shadow.failed, (event.variant, event.reason)),
            )
            return replace(record, shadow=failed), (Fetch(),)
        case ShadowPhase.WATCHING, ShadowSeen():
            seen = replace(shadow, seconds=event.seconds, boots=0)
            if event.seconds >= shadow.order.seconds:
                return _end(record, seen, "its time is over")
            return replace(record, shadow=seen), ()
        case ShadowPhase.WATCHING, ShadowEnded():
            return _end(record, shadow, event.reason)
        case _:
            return record, ()


def _restarted(record: BundleRecord, shadow: ShadowRecord) -> Step:
    if shadow.phase is ShadowPhase.FETCHING:
        return record, (Fetch(),)
    if shadow.phase is ShadowPhase.STAGED and shadow.boots < MAX_BOOTS:
        return record, (Prove(),)
    if shadow.phase is ShadowPhase.WATCHING:
        # Counted until it is seen to be well.
        shadow = replace(shadow, boots=shadow.boots + 1)
        record = replace(record, shadow=shadow)
    running = shadow.phase in (ShadowPhase.STAGED, ShadowPhase.WATCHING)
    if not running or shadow.boots < MAX_BOOTS:
        return record, ()
    return _end(record, shadow, f"the agent ended {shadow.boots} times while it was run")


def _settle(record: BundleRecord) -> Step:
    """Let it wait while the bundle is busy, and go on when that is over."""
    shadow = record.shadow
    if shadow is None or shadow.phase is ShadowPhase.ENDED:
        return record, ()
    busy = record.phase in UNDER_WAY or record.active is None
    if not busy and record.active is not None and record.active.digest == shadow.target.digest:
        return _end(record, shadow, "it is the version that serves now")
    if busy and shadow.phase is not ShadowPhase.WAITING:
        waiting = replace(shadow, phase=ShadowPhase.WAITING, variant="", failed=(), boots=0)
        return replace(record, shadow=waiting), ()
    if not busy and shadow.phase is ShadowPhase.WAITING:
        fetching = replace(shadow, phase=ShadowPhase.FETCHING, failed=())
        return replace(record, shadow=fetching), (_told("fetching", shadow, ""), Fetch())
    return record, ()


def _end(record: BundleRecord, shadow: ShadowRecord, reason: str) -> Step:
    ended = replace(shadow, phase=ShadowPhase.ENDED, failed=(), boots=0, reason=reason)
    actions: tuple[Action, ...] = (_told("ended", shadow, reason), Collect())
    return replace(record, shadow=ended), actions


def _told(what: str, shadow: ShadowRecord, detail: str) -> Announce:
    run = f"run {shadow.order.run}"
    return Announce(
        kind=f"shadow.{what}",
        version=shadow.target.version,
        detail=f"{run}: {detail}" if detail else run,
    )
