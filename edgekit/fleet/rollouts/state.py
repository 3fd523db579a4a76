"""Where a rollout stands: everything that the engine must not forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import BundleOrder, parse_order

FORMAT: Final = "edgekit-rollout-state"
FORMAT_VERSION: Final = 1
MAX_DEVICES: Final = 1_000_000
KEPT_DECISIONS: Final = 500
MAX_REASON: Final = 500


class Phase(StrEnum):
    """Of a whole rollout."""

    NEW = "new"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def words(self) -> str:
        """For people: "rolling back"."""
        return self.value.replace("_", " ")


ENDED: Final = frozenset({Phase.COMPLETED, Phase.ROLLED_BACK, Phase.ABORTED})


class Status(StrEnum):
    """Of one device in a rollout.

    ORDERING is an intent that was written down; ORDERED one that the director has signed. From
    ORDERED a device becomes ACTIVE or FAILED, or VANISHED if it does neither in time (it may
    still do so later). In a rollback, RESTORING and RETURNING are the same two steps back; then
    it is RESTORED, or STRANDED if it does not get there. SKIPPED was never told anything;
    OVERRIDDEN was told something else by somebody else, and is left alone.
    """

    SKIPPED = "skipped"
    ORDERING = "ordering"
    ORDERED = "ordered"
    VANISHED = "vanished"
    ACTIVE = "active"
    FAILED = "failed"
    OVERRIDDEN = "overridden"
    RESTORING = "restoring"
    RETURNING = "returning"
    RESTORED = "restored"
    STRANDED = "stranded"


_STATUSES: Final = {status.value: status for status in Status}
UNSETTLED: Final = frozenset({Status.ORDERING, Status.ORDERED})
# Nothing more is expected of these, unless a rollback begins.
SETTLED: Final = frozenset(
    {Status.SKIPPED, Status.VANISHED, Status.ACTIVE, Status.FAILED, Status.OVERRIDDEN}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProgress:
    """One device whose turn has come.

    Attributes:
        stage: In which stage.
        status: How far it is.
        after: The order version it had when the intent to order was written down: an order is
            made only in place of that one, so it cannot be made twice.
        before: What it was told to run before, as a position in `RolloutState.befores`; -1 for
            nothing.
        told: When that intent was written down; seconds since 1970.
        since: When the present status began.
        reason: Why it failed, was skipped or is stranded.
    """

    stage: int
    status: Status
    after: int = 0
    before: int = -1
    told: float = 0.0
    since: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Something that was decided, by the engine or a person, and why."""

    time: float
    who: str
    what: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """Where a rollout stands.

    Attributes:
        phase: Of the whole.
        reason: Why it is in this phase.
        stage: The present stage's position in the plan.
        stage_since: When the stage began: when its first device could be told; 0 if it waits.
        settled_since: When the last device of the stage settled; 0 if one has not yet.
        members: The group in the order in which its turn comes, fixed when the rollout begins.
        devices: Those whose turn has come.
        befores: What devices were told before; each different order once.
        approvals: Stage position to who approved it.
        accepted: Stages whose criteria a person has overruled by resuming.
        decisions: The last of them.
    """

    phase: Phase = Phase.NEW
    reason: str = ""
    stage: int = 0
    stage_since: float = 0.0
    settled_since: float = 0.0
    members: tuple[str, ...] = ()
    devices: Mapping[str, DeviceProgress] = field(default_factory=dict)
    befores: tuple[BundleOrder, ...] = ()
    approvals: Mapping[int, str] = field(default_factory=dict)
    accepted: frozenset[int] = frozenset()
    decisions: tuple[Decision, ...] = ()

    def count(self, *statuses: Status, stage: int | None = None) -> int:
        """How many devices have one of these statuses, of all stages or one."""
        return sum(
            device.status in statuses and stage in (None, device.stage)
            for device in self.devices.values()
        )

    def before(self, device: str) -> BundleOrder | None:
        """What a device was told of the bundle before the rollout; None for nothing."""
        position = self.devices[device].before
        return self.befores[position] if position >= 0 else None

    def to_json(self) -> dict[str, object]:
        """The state as it is kept; devices are lists, for there may be many."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "phase": self.phase.value,
            "reason": self.reason,
            "stage": self.stage,
            "stage_since": self.stage_since,
            "settled_since": self.settled_since,
            "members": list(self.members),
            "devices": {
                name: [d.stage, d.status.value, d.after, d.before, d.told, d.since, d.reason]
                for name, d in self.devices.items()
            },
            "befores": [order.to_custom() for order in self.befores],
            "approvals": {str(stage): who for stage, who in self.approvals.items()},
            "accepted": sorted(self.accepted),
            "decisions": [[d.time, d.who, d.what, d.reason] for d in self.decisions],
        }


def state_from_json(document: object, *, where: str) -> RolloutState:
    """Read what `RolloutState.to_json` made.

    Raises:
        VerificationError: If it is damaged; every field is named.
    """
    reader = FieldReader(document)
    if (reader.raw("format"), reader.raw("format_version")) != (FORMAT, FORMAT_VERSION):
        reader.fault("format", f"is not {FORMAT} of version {FORMAT_VERSION}")
    phase = reader.text("phase", pattern="|".join(Phase))
    befores = tuple(
        order for item in reader.sequence("befores") if (order := _before(reader, item))
    )
    approvals = reader.nested("approvals")
    accepted = [item for item in reader.sequence("accepted") if isinstance(item, int)]
    state = RolloutState(
        phase=Phase(phase) if phase in set(Phase) else Phase.PAUSED,
        reason=reader.text("reason", most=65_536),
        stage=reader.integer("stage"),
        stage_since=reader.number("stage_since"),
        settled_since=reader.number("settled_since"),
        members=reader.texts("members", most=MAX_DEVICES),
        devices=_devices(reader, len(befores)),
        befores=befores,
        approvals={
            int(name): approvals.text(name) for name in approvals.names() if name.isdecimal()
        },
        accepted=frozenset(accepted),
        decisions=tuple(_decision(reader, item) for item in reader.sequence("decisions")),
    )
    if reader.faults:
        raise VerificationError(
            "the state of the rollout is damaged: " + "; ".join(reader.faults[:20]),
            where=where,
            fix="take it from a backup",
        )
    return state


def decisions_from_json(document: object, *, where: str) -> tuple[Decision, ...]:
    """Read the decisions of `RolloutState.to_json` alone.

    Raises:
        VerificationError: If they are damaged.
    """
    reader = FieldReader({"decisions": document})
    decisions = tuple(_decision(reader, item) for item in reader.sequence("decisions"))
    if reader.faults:
        raise VerificationError(
            "the decisions of the rollout are damaged: " + "; ".join(reader.faults[:20]),
            where=where,
            fix="take it from a backup",
        )
    return decisions


def _devices(reader: FieldReader, befores: int) -> dict[str, DeviceProgress]:
    # By hand and not by field readers: there may be a million.
    devices: dict[str, DeviceProgress] = {}
    raw = reader.raw("devices")
    for name, item in raw.items() if isinstance(raw, dict) else ():
        match item:
            case [
                int(stage),
                str(status),
                int(after),
                int(before),
                int() | float() as told,
                int() | float() as since,
                str(reason),
            ]:
                if status in _STATUSES and -1 <= before < befores:
                    devices[name] = DeviceProgress(
                        stage=stage,
                        status=_STATUSES[status],
                        after=after,
                        before=before,
                        told=float(told),
                        since=float(since),
                        reason=reason,
                    )
                    continue
        reader.fault(f"devices.{str(name)[:80]}", "is no device's progress")
    if not isinstance(raw, dict):
        reader.fault("devices", "must be an object")
    return devices


def _before(reader: FieldReader, item: object) -> BundleOrder | None:
    entry = FieldReader(item, path="befores", faults=reader.faults)
    path = f"{entry.text('bundle')}/{entry.text('version')}/index.json"
    try:
        return parse_order(path, item)
    except VerificationError as error:
        reader.fault("befores", error.what)
        return None


def _decision(reader: FieldReader, item: object) -> Decision:
    match item:
        case [int() | float() as time, str(who), str(what), str(reason)]:
            return Decision(time=float(time), who=who, what=what, reason=reason)
    reader.fault("decisions", "must be lists of time, who, what, reason")
    return Decision(time=0.0, who="", what="")
