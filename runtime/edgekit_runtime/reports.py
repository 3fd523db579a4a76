"""What a device says of itself: its retained state and its events, as JSON on MQTT."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import ID_PATTERN

MAX_REPORT_BYTES = 64 * 1024


class Phase(StrEnum):
    """Where a bundle stands on a device."""

    IDLE = "idle"
    FETCHING = "fetching"
    STAGED = "staged"
    TRYING = "trying"
    ACTIVE = "active"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


class ShadowPhase(StrEnum):
    """Where a version stands that is to run beside the one that serves."""

    WAITING = "waiting"
    FETCHING = "fetching"
    STAGED = "staged"
    WATCHING = "watching"
    ENDED = "ended"


# A fleet's every message is read with these: they are not made for each.
_PHASES: Final = {phase.value: phase for phase in Phase}
_SHADOW_PHASES: Final = {phase.value: phase for phase in ShadowPhase}
_ANY_PHASE: Final = "|".join(_PHASES)
_ANY_SHADOW_PHASE: Final = "|".join(_SHADOW_PHASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowState:
    """A version that runs beside the one that serves, on one device.

    Attributes:
        run: Of which comparison.
        version: Its version.
        phase: Where it stands.
        reason: Why it has ended, or what it waits for.
    """

    run: str
    version: str
    phase: ShadowPhase
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleState:
    """One bundle on one device.

    Attributes:
        phase: Of the newest order for it.
        active: The version that serves; empty for none.
        variant: Which variant of it.
        candidate: The version on its way; empty for none.
        previous: The version to go back to; empty for none.
        reason: Why the last candidate was rejected or rolled back.
        shadow: What is to run beside the version that serves; None for nothing.
    """

    phase: Phase = Phase.IDLE
    active: str = ""
    variant: str = ""
    candidate: str = ""
    previous: str = ""
    reason: str = ""
    shadow: ShadowState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """The retained state message.

    Attributes:
        device: Its id.
        online: False in the last will.
        time: Seconds since 1970 by the device's own clock, which may be wrong.
        agent: The agent's version.
        hardware: Architecture, RAM, runtimes and their versions, Python.
        order_version: Version of the director's targets metadata that it follows.
        bundles: By name.
    """

    device: str
    online: bool
    time: float = 0.0
    agent: str = ""
    hardware: dict[str, object] = field(default_factory=dict)
    order_version: int = 0
    bundles: dict[str, BundleState] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The message."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """Something that happened on a device.

    Attributes:
        device: Its id.
        sequence: Counts up over the device's life; a gap shows a loss.
        time: Seconds since 1970 by the device's own clock.
        kind: "update.fetching", "update.staged", "update.trying", "update.active",
            "update.rejected", "update.rolled_back", "security.refused", "server.crashed", ….
        bundle: The bundle concerned, or empty.
        version: Its version, or empty.
        detail: For people: the reason.
    """

    device: str
    sequence: int
    time: float
    kind: str
    bundle: str = ""
    version: str = ""
    detail: str = ""

    def to_json(self) -> bytes:
        """The message."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


def parse_state(message: bytes, *, where: str) -> DeviceState:
    """Read a device's state message, which may hold anything.

    Raises:
        VerificationError: If it is invalid; every field is named.
    """
    reader = _open(message, where)
    bundles = reader.nested("bundles", optional=True)
    hardware = reader.raw("hardware")
    state = DeviceState(
        device=reader.text("device", pattern=ID_PATTERN),
        online=reader.boolean("online"),
        time=reader.number("time", default=0.0),
        agent=reader.text("agent", default=""),
        hardware=hardware if isinstance(hardware, dict) else {},
        order_version=reader.integer("order_version", default=0),
        bundles={name: _bundle(bundles.nested(name)) for name in bundles.names()},
    )
    _close(reader, where)
    return state


def parse_event(message: bytes, *, where: str) -> DeviceEvent:
    """Read a device's event message, which may hold anything.

    Raises:
        VerificationError: If it is invalid; every field is named.
    """
    reader = _open(message, where)
    event = DeviceEvent(
        device=reader.text("device", pattern=ID_PATTERN),
        sequence=reader.integer("sequence"),
        time=reader.number("time"),
        kind=reader.text("kind", pattern=r"[a-z_]+(?:\.[a-z_]+)*"),
        bundle=reader.text("bundle", default=""),
        version=reader.text("version", default=""),
        detail=reader.text("detail", default=""),
    )
    _close(reader, where)
    return event


def _bundle(reader: FieldReader) -> BundleState:
    phase = reader.text("phase", pattern=_ANY_PHASE)
    return BundleState(
        phase=_PHASES.get(phase, Phase.IDLE),
        active=reader.text("active", default=""),
        variant=reader.text("variant", default=""),
        candidate=reader.text("candidate", default=""),
        previous=reader.text("previous", default=""),
        reason=reader.text("reason", default=""),
        shadow=None if reader.raw("shadow") is None else _shadow(reader.nested("shadow")),
    )


def _shadow(reader: FieldReader) -> ShadowState:
    phase = reader.text("phase", pattern=_ANY_SHADOW_PHASE)
    return ShadowState(
        run=reader.text("run", pattern=ID_PATTERN),
        version=reader.text("version", default=""),
        phase=_SHADOW_PHASES.get(phase, ShadowPhase.ENDED),
        reason=reader.text("reason", default=""),
    )


def _open(message: bytes, where: str) -> FieldReader:
    if len(message) > MAX_REPORT_BYTES:
        raise VerificationError(f"the report is larger than {MAX_REPORT_BYTES} bytes", where=where)
    try:
        return FieldReader(json.loads(message))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"the report is no JSON: {error}", where=where) from error


def _close(reader: FieldReader, where: str) -> None:
    if reader.faults:
        raise VerificationError("the report is invalid: " + "; ".join(reader.faults), where=where)
