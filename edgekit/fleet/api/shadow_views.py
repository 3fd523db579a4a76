"""Versions that run beside those that serve, for the page."""

from __future__ import annotations

from typing import Any, Final

from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.experiments.shadow import ShadowVerdict
from edgekit.fleet.store.shadows import ShadowRun
from edgekit.pages.fleet_pictures import Band, share_picture

_SHOWN: Final = 20
_TONES: Final = {
    ShadowVerdict.AGREES.value: "good",
    ShadowVerdict.DIFFERS.value: "bad",
    ShadowVerdict.UNDECIDED.value: "muted",
}


def shadow_views(plane: ControlPlane) -> list[dict[str, Any]]:
    """The newest runs, each with what the service found when it last looked."""
    return [_view(run) for run in plane.shadows.all(newest=_SHOWN)]


def _view(run: ShadowRun) -> dict[str, Any]:
    result: dict[str, Any] = dict(run.result)
    picture = ""
    if result["compared"]:
        low, high = result["agreement"]
        value = result["agreed"] / result["compared"]
        band = Band(low=low, high=high, value=value, mark=run.settings.min_agreement)
        picture = share_picture(band, label=result["sentence"])
    phases = [f"{count} {phase}" for phase, count in sorted(result["phases"].items())]
    return {
        "run": run,
        "result": result,
        "tone": _TONES[result["verdict"]],
        # Without the verdict, which stands before it.
        "because": result["sentence"].partition(": ")[2] or result["sentence"],
        "picture": picture,
        "phases": ", ".join(phases),
        "members": sum(result["phases"].values()),
    }
