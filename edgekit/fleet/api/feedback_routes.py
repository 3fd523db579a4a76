"""Routes of feedback: which answers turned out to be right."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from edgekit.fleet.api.forms import FeedbackForm, Hours
from edgekit.fleet.api.security import Operator, Plane, Viewer
from edgekit.fleet.telemetry.feedback import Feedback, give_feedback, recent_feedback

router = APIRouter(tags=["feedback"])


@router.post("/feedback")
def give(plane: Plane, access: Operator, form: FeedbackForm) -> dict[str, Any]:
    """Count answers as right or wrong; a piece that was sent before changes nothing."""
    items = [
        Feedback(
            device=item.device,
            bundle=item.bundle,
            version=item.version,
            id=item.id,
            right=item.right,
            wrong=item.wrong,
        )
        for item in form.items
    ]
    done = give_feedback(plane.database, items, actor=access.name, clock=plane.clock)
    return asdict(done)


@router.get("/feedback")
def recent(plane: Plane, access: Viewer, hours: Hours = 24) -> list[dict[str, Any]]:
    """How many answers of each version turned out to be right, of all devices together."""
    _ = access
    found = recent_feedback(plane.database, since=plane.now - hours * 3_600)
    return [
        {"bundle": bundle, "version": version, "share": item.share} | asdict(item)
        for (bundle, version), item in sorted(found.items())
    ]
