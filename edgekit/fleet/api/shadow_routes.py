"""Routes of versions that run beside those that serve."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from edgekit.fleet.access import Access
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.forms import Newest, RolloutId, ShadowForm
from edgekit.fleet.api.security import Operator, Plane, ReleaseManager, Viewer
from edgekit.fleet.api.sight import Sight
from edgekit.fleet.experiments.shadow import settings_from_json

router = APIRouter(prefix="/shadows", tags=["shadows"])


@router.get("")
def list_shadows(plane: Plane, access: Viewer, limit: Newest = 50) -> list[dict[str, Any]]:
    """The newest runs first, each with what it said at the service's last look."""
    sight = Sight(plane, access)
    return [
        run.to_json() | {"query": sight.text(run.query)} for run in plane.shadows.all(newest=limit)
    ]


@router.post("", status_code=201)
def create(plane: Plane, access: ReleaseManager, form: ShadowForm) -> dict[str, Any]:
    """Run a version beside the one that serves, on the devices that are meant."""
    asked = form.model_dump()
    names = {name: asked.pop(name) for name in ("id", "bundle", "version", "query")}
    plane.require_installable(names["bundle"], names["version"])
    made = plane.shadows.create(
        names["id"],
        bundle=names["bundle"],
        version=names["version"],
        query=names["query"],
        settings=settings_from_json(asked, where="the request"),
        who=access.name,
    )
    return _shown(plane, access, made.id)


@router.get("/{shadow}")
def show(plane: Plane, access: Viewer, shadow: RolloutId) -> dict[str, Any]:
    """A run, what it says, and how it goes on each device; a viewer sees pseudonyms."""
    return _shown(plane, access, shadow)


@router.post("/{shadow}/stop")
def stop(plane: Plane, access: Operator, shadow: RolloutId) -> dict[str, Any]:
    """End a run: its devices are told so, and what was reported stays."""
    plane.shadows.stop(shadow, who=access.name)
    return _shown(plane, access, shadow)


def _shown(plane: ControlPlane, access: Access, run: str) -> dict[str, Any]:
    sight = Sight(plane, access)
    # What is known now; the list has what the service found when it last looked.
    found, devices = plane.shadows.show(run)
    shown = {sight.name(item.device): item.to_json() for item in devices}
    return found.to_json() | {
        "query": sight.text(found.query),
        "devices": dict(sorted(shown.items())),
    }
