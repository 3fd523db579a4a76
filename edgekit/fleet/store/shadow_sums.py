"""What the devices of a shadow run have reported, added up by the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit_runtime.shadow import OutputGaps, ShadowCounts

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

_COUNTERS: Final = ("compared", "agreed", "failed", "insane", "dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowDevice:
    """How a run goes on one device.

    Attributes:
        device: Its id.
        told: When it was told to take part; None before.
        reported: When it last reported; None for never.
        phase: Where it stands, by its own account; empty for nothing said yet.
        reason: Why it has ended there.
        active: The versions that have served meanwhile.
        compared: As in `ShadowCounts`, whichever of them served; so are the others.
        agreed: See there.
        failed: See there.
        insane: See there.
        dropped: See there.
    """

    device: str
    told: float | None
    reported: float | None
    phase: str
    reason: str
    active: tuple[str, ...]
    compared: int
    agreed: int
    failed: int
    insane: int
    dropped: int

    def to_json(self) -> dict[str, object]:
        """How it goes there, as people and programs are told it; without the device's name."""
        return {
            "told": self.told,
            "reported": self.reported,
            "phase": self.phase,
            "reason": self.reason,
            "active": list(self.active),
            **{name: getattr(self, name) for name in _COUNTERS},
        }


def shadow_devices(session: Session, run: str, bundle: str) -> tuple[ShadowDevice, ...]:
    """Who takes part in a run of a bundle, by id, and how it goes there.

    Args:
        session: Reads.
        run: Its id.
        bundle: Of which it is.
    """
    from sqlalchemy import func, select, true

    from edgekit.fleet.store.json_rows import elements, number
    from edgekit.fleet.store.tables import DeviceRow
    from edgekit.fleet.store.tables import ShadowDeviceRow as Row

    each = elements(session, Row.counts)
    said = [
        DeviceRow.state[bundle, "shadow", name].as_string() for name in ("run", "phase", "reason")
    ]
    active = func.aggregate_strings(each.c.value["active"].as_string(), " ")
    sums = [func.coalesce(func.sum(number(each.c.value, name)), 0) for name in _COUNTERS]
    query = (
        select(Row.device_id, Row.told, Row.reported, active, *said, *sums)
        .join(DeviceRow, DeviceRow.id == Row.device_id)
        .outerjoin(each, true())
        .where(Row.run == run)
        .group_by(Row.run, Row.device_id, DeviceRow.id)
        .order_by(Row.device_id)
    )
    return tuple(
        ShadowDevice(
            device=device,
            told=told,
            reported=reported,
            phase=(phase or "") if said_of == run else "",
            reason=(reason or "") if said_of == run else "",
            active=tuple(sorted((versions or "").split())),
            **dict(zip(_COUNTERS, map(int, counted), strict=True)),
        )
        for device, told, reported, versions, said_of, phase, reason, *counted in session.execute(
            query
        )
    )


def total_of(session: Session, run: str, devices: Sequence[ShadowDevice]) -> ShadowCounts:
    """Everything that was reported of a run, whichever version served.

    Args:
        session: Reads.
        run: Its id.
        devices: Of that run, as `shadow_devices` gave them.
    """
    return ShadowCounts(
        run="",
        active="",
        **{name: sum(getattr(item, name) for item in devices) for name in _COUNTERS},
        outputs=_outputs(session, run),
        latency=_latencies(session, run, "latency"),
        active_latency=_latencies(session, run, "active_latency"),
    )


def _latencies(session: Session, run: str, name: str) -> dict[int, int]:
    from sqlalchemy import func, true

    from edgekit.fleet.store.json_rows import elements, number

    query, counts = _counts(session, run)
    bucket = elements(session, counts[name])
    at, count = number(bucket.c.value, 0), func.sum(number(bucket.c.value, 1))
    query = query.join(bucket, true()).add_columns(at, count).group_by(at)
    return {int(place): int(much) for place, much in session.execute(query)}


def _outputs(session: Session, run: str) -> Mapping[str, OutputGaps]:
    from sqlalchemy import func, true

    from edgekit.fleet.store.json_rows import elements, entries, number

    query, counts = _counts(session, run)
    output = entries(session, counts["outputs"])
    query = query.join(output, true())
    bucket = elements(session, output.c.value["gaps"])
    at, count = number(bucket.c.value, 0), func.sum(number(bucket.c.value, 1))
    each = query.join(bucket, true()).add_columns(output.c.key, at, count)
    gaps: dict[str, dict[int, int]] = defaultdict(dict)
    for name, place, much in session.execute(each.group_by(output.c.key, at)):
        gaps[name][int(place)] = int(much)
    largest = [func.max(number(output.c.value, name)) for name in ("largest", "relative")]
    most = query.add_columns(output.c.key, *largest).group_by(output.c.key)
    return {
        name: OutputGaps(gaps=gaps[name], largest=absolute, relative=relative)
        for name, absolute, relative in session.execute(most)
    }


def _counts(session: Session, run: str) -> tuple[Select[Any], Any]:
    """A query of all counts of a run that selects nothing yet, and what one of them is in it."""
    from sqlalchemy import select, true

    from edgekit.fleet.store.json_rows import elements
    from edgekit.fleet.store.tables import ShadowDeviceRow as Row

    each = elements(session, Row.counts)
    return select().select_from(Row).join(each, true()).where(Row.run == run), each.c.value
