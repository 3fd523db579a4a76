"""Versions that run beside those that serve, for the page."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from edgekit.fleet.access import Access
from edgekit.fleet.api.control_plane import ControlPlane, sees_ids
from edgekit.fleet.experiments.shadow import ShadowResult, ShadowVerdict
from edgekit.fleet.store.shadows import ShadowDevice, ShadowRun
from edgekit.fleet.telemetry.sketches import LatencySketch
from edgekit.pages.fleet_pictures import Band, share_picture

_SHOWN: Final = 20
_SHOWN_DEVICES: Final = 12
_TONES: Final = {
    ShadowVerdict.AGREES: "good",
    ShadowVerdict.DIFFERS: "bad",
    ShadowVerdict.UNDECIDED: "muted",
}


def shadow_views(plane: ControlPlane, access: Access) -> list[dict[str, Any]]:
    """The newest runs, each with its answer, its figures, and devices on which it has ended."""
    table = plane.shadows
    names = {} if sees_ids(access) else {d.id: d.pseudonym for d in plane.inventory(access).all()}
    return [
        _view(run, table.result(run.id), table.devices(run.id), names)
        for run in table.all(newest=_SHOWN)
    ]


def _view(
    run: ShadowRun, result: ShadowResult, devices: tuple[ShadowDevice, ...], names: dict[str, str]
) -> dict[str, Any]:
    total = result.total
    latency, active = LatencySketch(total.latency), LatencySketch(total.active_latency)
    picture = ""
    if total.compared:
        band = Band(
            low=result.agreement.low,
            high=result.agreement.high,
            value=total.agreed / total.compared,
            mark=result.min_agreement,
        )
        picture = share_picture(band, label=result.sentence)
    phases = Counter(item.phase or "not heard of yet" for item in devices)
    return {
        "id": run.id,
        "bundle": run.bundle,
        "version": run.version,
        "query": run.query,
        "state": run.state,
        "created": run.created,
        "created_by": run.created_by,
        "rate": run.settings.rate,
        "verdict": result.verdict.value,
        "tone": _TONES[result.verdict],
        # Without the verdict, which stands before it.
        "because": result.sentence.partition(": ")[2] or result.sentence,
        "picture": picture,
        "total": total,
        "devices": len(devices),
        "reported": result.devices,
        "phases": ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())),
        "latency_ms": [latency.quantile_ms(share) for share in (0.5, 0.9)],
        "active_ms": [active.quantile_ms(share) for share in (0.5, 0.9)],
        "outputs": [
            {
                "name": name,
                "median": LatencySketch(gaps.gaps).quantile_ms(0.5),
                "p90": LatencySketch(gaps.gaps).quantile_ms(0.9),
                "largest": gaps.largest,
                "relative": gaps.relative,
            }
            for name, gaps in sorted(total.outputs.items())
        ],
        "ended": [
            {"device": names.get(item.device, item.device), "reason": item.reason}
            for item in devices
            if item.phase == "ended"
        ][:_SHOWN_DEVICES],
    }
