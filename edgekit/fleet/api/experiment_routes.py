"""Routes of A/B experiments."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from edgekit.fleet.access import Access
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.forms import ExperimentForm, Newest, RolloutId
from edgekit.fleet.api.security import Operator, Plane, ReleaseManager, Viewer
from edgekit.fleet.api.sight import Sight
from edgekit.fleet.experiments.ab import question_from_json
from edgekit.fleet.store.experiments import Experiment

router = APIRouter(prefix="/experiments", tags=["experiments"])


@router.get("")
def list_experiments(plane: Plane, access: Viewer, limit: Newest = 50) -> list[dict[str, Any]]:
    """The newest experiments first, each with its answer so far."""
    sight = Sight(plane, access)
    return [_json(sight, item) for item in plane.experiments.all(newest=limit)]


@router.post("", status_code=201)
def create(plane: Plane, access: ReleaseManager, form: ExperimentForm) -> dict[str, Any]:
    """Begin an experiment: half of the devices that are meant run a, half b."""
    asked = {
        "metric": form.metric,
        "margin": form.margin,
        "alpha": form.alpha,
        "most_seconds": form.most_seconds,
    }
    plane.require_installable(form.bundle, form.version_a, form.version_b)
    made = plane.experiments.create(
        form.id,
        bundle=form.bundle,
        version_a=form.version_a,
        version_b=form.version_b,
        query=form.query,
        comparable_by=form.comparable_by,
        question=question_from_json(asked, where="the request"),
        who=access.name,
    )
    return made.to_json()


@router.get("/{experiment}")
def show(plane: Plane, access: Viewer, experiment: RolloutId) -> dict[str, Any]:
    """An experiment, its answer so far, and who is in which group; a viewer sees pseudonyms."""
    return _shown(plane, access, plane.experiments.get(experiment))


@router.post("/{experiment}/stop")
def stop(plane: Plane, access: Operator, experiment: RolloutId) -> dict[str, Any]:
    """End an experiment that has no answer yet: its devices keep what they were told."""
    return _shown(plane, access, plane.experiments.stop(experiment, who=access.name))


def _shown(plane: ControlPlane, access: Access, found: Experiment) -> dict[str, Any]:
    sight = Sight(plane, access)
    arms = {sight.name(device): arm.value for device, arm in found.arms.items()}
    return _json(sight, found) | {"devices": dict(sorted(arms.items()))}


def _json(sight: Sight, item: Experiment) -> dict[str, Any]:
    return item.to_json() | {"query": sight.text(item.query)}
