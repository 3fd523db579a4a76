"""What an agent knows of each bundle: the data that the state machine works on."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.limits import MAX_INDEX_BYTES
from edgekit_runtime.orders import (
    BundleOrder,
    ShadowOrder,
    index_pieces_custom,
    parse_index_pieces,
    parse_order,
    read_shadow_order,
)
from edgekit_runtime.reports import BundleState, Phase, ShadowPhase, ShadowState

_SHA256 = r"[0-9a-f]{64}"
UNDER_WAY = (Phase.FETCHING, Phase.STAGED, Phase.TRYING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One bundle version that a verified order names.

    Attributes:
        order: Bundle, version, and the conditions under which it goes live.
        digest: SHA-256 of the bundle index; what tells two targets apart.
        length: Of the bundle index, in bytes.
        pieces: SHA-256 and length of each piece of the index.
        order_version: Of the director's metadata that named it.
        shadow_pieces: Of the index of the version that is to run beside it; none for none.
    """

    order: BundleOrder
    digest: str
    length: int
    pieces: tuple[tuple[str, int], ...]
    order_version: int
    shadow_pieces: tuple[tuple[str, int], ...] = ()

    @property
    def bundle(self) -> str:
        """The bundle's name."""
        return self.order.bundle

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.order.version

    @property
    def shadow(self) -> Target | None:
        """What is to run beside it, as a target of its own."""
        asked = self.order.shadow
        if asked is None or not self.shadow_pieces:
            return None
        return Target(
            order=BundleOrder(bundle=self.bundle, version=asked.version, budget=asked.budget),
            digest=asked.digest,
            length=asked.length,
            pieces=self.shadow_pieces,
            order_version=self.order_version,
        )

    def to_json(self) -> dict[str, object]:
        """The target as the journal holds it."""
        shadow = index_pieces_custom(list(self.shadow_pieces)) if self.shadow_pieces else None
        return {
            "path": self.order.target_path,
            "custom": self.order.to_custom(),
            "digest": self.digest,
            "length": self.length,
            "pieces": index_pieces_custom(list(self.pieces)),
            "order_version": self.order_version,
            "shadow_pieces": shadow,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """An installed bundle version: which one, and which of its variants."""

    target: Target
    variant: str

    @property
    def digest(self) -> str:
        """SHA-256 of the bundle index."""
        return self.target.digest

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.target.version

    def to_json(self) -> dict[str, object]:
        """The slot as the journal holds it."""
        return {"target": self.target.to_json(), "variant": self.variant}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A target that did not prove itself: not tried again by the same or an older order."""

    digest: str
    order_version: int

    def to_json(self) -> dict[str, object]:
        """The refusal as the journal holds it."""
        return {"digest": self.digest, "order_version": self.order_version}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRecord:
    """Where the version stands that is to run beside the one that serves.

    Attributes:
        target: Which version.
        order: How it is to run.
        phase: Where it stands; ended, it is kept so that the same run does not begin again.
        variant: Which variant; set from staged on.
        failed: Variants that failed their proof, each with its reason.
        boots: Proofs that were begun; once it runs, starts of the agent since it was last well.
        seconds: How long it has run beside, as far as that was written down.
        reason: Why it has ended.
    """

    target: Target
    order: ShadowOrder
    phase: ShadowPhase = ShadowPhase.WAITING
    variant: str = ""
    failed: tuple[tuple[str, str], ...] = ()
    boots: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def slot(self) -> Slot:
        """What is staged, or runs."""
        return Slot(target=self.target, variant=self.variant)

    def to_json(self) -> dict[str, object]:
        """The record as the journal holds it."""
        return {
            "target": self.target.to_json(),
            "order": self.order.to_custom(),
            "phase": self.phase.value,
            "variant": self.variant,
            "failed": [list(item) for item in self.failed],
            "boots": self.boots,
            "seconds": self.seconds,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRecord:
    """Where one bundle stands.

    Attributes:
        bundle: Its name.
        phase: Of the newest order for it.
        order_version: Of the newest order that named it.
        active: What serves, or served before the candidate on trial; None for nothing.
        previous: What to go back to.
        candidate: What is on its way; set exactly while fetching, staged or trying.
        variant: The candidate's variant; set from staged on.
        failed: Variants of the candidate that failed their proof, each with its reason.
        boots: Trials of the variant that were begun; once it is live, starts of the agent since.
        crashes: Crashes of the server while the candidate was live.
        active_crashes: When the active version crashed, by the machine's clock.
        refused: The last target that did not prove itself.
        reason: Why.
        shadow: What is to run beside what serves; None for nothing.
    """

    bundle: str
    phase: Phase = Phase.IDLE
    order_version: int = 0
    active: Slot | None = None
    previous: Slot | None = None
    candidate: Target | None = None
    variant: str = ""
    failed: tuple[tuple[str, str], ...] = ()
    boots: int = 0
    crashes: int = 0
    active_crashes: tuple[float, ...] = ()
    refused: Refusal | None = None
    reason: str = ""
    shadow: ShadowRecord | None = None

    @property
    def serving(self) -> Slot | None:
        """What the server must hold now."""
        if self.phase is Phase.TRYING and self.candidate is not None:
            return Slot(target=self.candidate, variant=self.variant)
        return self.active

    @property
    def fetching(self) -> tuple[Target, tuple[tuple[str, str], ...]] | None:
        """What is being fetched, and which of its variants have failed; an update goes first."""
        if self.phase is Phase.FETCHING and self.candidate is not None:
            return self.candidate, self.failed
        if self.shadow is not None and self.shadow.phase is ShadowPhase.FETCHING:
            return self.shadow.target, self.shadow.failed
        return None

    @property
    def staged(self) -> Slot | None:
        """What is to be proven; an update goes first."""
        if self.phase is Phase.STAGED and self.candidate is not None:
            return Slot(target=self.candidate, variant=self.variant)
        if self.shadow is not None and self.shadow.phase is ShadowPhase.STAGED:
            return self.shadow.slot
        return None

    @property
    def digests(self) -> frozenset[str]:
        """Every version whose files must stay."""
        held = {slot.digest for slot in (self.active, self.previous) if slot is not None}
        if self.candidate is not None:
            held.add(self.candidate.digest)
        if self.shadow is not None and self.shadow.phase is not ShadowPhase.ENDED:
            held.add(self.shadow.target.digest)
        return frozenset(held)

    def report(self) -> BundleState:
        """What the device says of it to the world."""
        serving = self.serving
        return BundleState(
            phase=self.phase,
            active=serving.version if serving else "",
            variant=serving.variant if serving else "",
            candidate=self.candidate.version if self.candidate else "",
            previous=self.previous.version if self.previous else "",
            reason=self.reason,
            shadow=ShadowState(
                run=self.shadow.order.run,
                version=self.shadow.target.version,
                phase=self.shadow.phase,
                reason=self.shadow.reason,
            )
            if self.shadow
            else None,
        )

    def to_json(self) -> dict[str, object]:
        """The record as the journal holds it; the active version's crashes are of one run only."""
        return {
            "phase": self.phase.value,
            "order_version": self.order_version,
            "active": self.active.to_json() if self.active else None,
            "previous": self.previous.to_json() if self.previous else None,
            "candidate": self.candidate.to_json() if self.candidate else None,
            "variant": self.variant,
            "failed": [list(item) for item in self.failed],
            "boots": self.boots,
            "crashes": self.crashes,
            "refused": self.refused.to_json() if self.refused else None,
            "reason": self.reason,
            "shadow": self.shadow.to_json() if self.shadow else None,
        }


def read_record(bundle: str, reader: FieldReader) -> BundleRecord:
    """Read what `BundleRecord.to_json` made; faults gather in the reader."""
    phase = reader.text("phase", pattern="|".join(Phase))
    record = BundleRecord(
        bundle=bundle,
        phase=Phase(phase) if phase in set(Phase) else Phase.IDLE,
        order_version=reader.integer("order_version"),
        active=_read_slot(reader, "active"),
        previous=_read_slot(reader, "previous"),
        candidate=None if reader.raw("candidate") is None else read_target(reader, "candidate"),
        variant=reader.text("variant"),
        failed=_read_failed(reader),
        boots=reader.integer("boots"),
        crashes=reader.integer("crashes"),
        refused=_read_refusal(reader),
        reason=reader.text("reason", most=65_536),
        shadow=_read_shadow(reader),
    )
    if (record.candidate is not None) != (record.phase in UNDER_WAY):
        reader.fault("phase", f"{phase} does not fit the candidate")
    if record.phase is Phase.ACTIVE and record.active is None:
        reader.fault("phase", "is active without an active version")
    return record


def read_target(reader: FieldReader, field: str) -> Target | None:
    """Read what `Target.to_json` made; faults gather in the reader, and give None."""
    entry = reader.nested(field)
    path = entry.text("path")
    length = entry.integer("length", least=1, most=MAX_INDEX_BYTES)
    digest = entry.text("digest", pattern=_SHA256)
    order_version = entry.integer("order_version")
    shadow_pieces: list[tuple[str, int]] = []
    try:
        order = parse_order(path, entry.raw("custom"))
        pieces = parse_index_pieces(path, entry.raw("pieces"), length=length)
        if order.shadow is not None and entry.raw("shadow_pieces") is not None:
            shadow_pieces = parse_index_pieces(
                path, entry.raw("shadow_pieces"), length=order.shadow.length
            )
    except VerificationError as error:
        entry.fault("", error.what)
        return None
    return Target(
        order=order,
        digest=digest,
        length=length,
        pieces=tuple(pieces),
        order_version=order_version,
        shadow_pieces=tuple(shadow_pieces),
    )


def _read_shadow(reader: FieldReader) -> ShadowRecord | None:
    if reader.raw("shadow") is None:
        return None
    entry = reader.nested("shadow")
    target = read_target(entry, "target")
    phase = entry.text("phase", pattern="|".join(ShadowPhase))
    if target is None:
        return None
    return ShadowRecord(
        target=target,
        order=read_shadow_order(entry.nested("order")),
        phase=ShadowPhase(phase) if phase in set(ShadowPhase) else ShadowPhase.WAITING,
        variant=entry.text("variant"),
        failed=_read_failed(entry),
        boots=entry.integer("boots"),
        seconds=entry.number("seconds", least=0),
        reason=entry.text("reason", most=65_536),
    )


def _read_slot(reader: FieldReader, field: str) -> Slot | None:
    if reader.raw(field) is None:
        return None
    entry = reader.nested(field)
    target = read_target(entry, "target")
    variant = entry.text("variant")
    return Slot(target=target, variant=variant) if target else None


def _read_failed(reader: FieldReader) -> tuple[tuple[str, str], ...]:
    failed = []
    for item in reader.sequence("failed", most=64):
        match item:
            case [str(variant), str(reason)]:
                failed.append((variant, reason))
            case _:
                reader.fault("failed", "must be a list of [variant, reason]")
    return tuple(failed)


def _read_refusal(reader: FieldReader) -> Refusal | None:
    if reader.raw("refused") is None:
        return None
    entry = reader.nested("refused")
    return Refusal(
        digest=entry.text("digest", pattern=_SHA256),
        order_version=entry.integer("order_version"),
    )
