"""Routes of A/B experiments."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from edgekit.fleet.api.forms import ExperimentForm, Newest
from edgekit.fleet.api.security import Plane, ReleaseManager, Viewer
from edgekit.fleet.experiments.ab import question_from_json
from edgekit.fleet.store.experiments import Experiment

router = APIRouter(prefix="/experiments", tags=["experiments"])


@router.get("")
def list_experiments(plane: Plane, access: Viewer, limit: Newest = 50) -> list[dict[str, Any]]:
    """The newest experiments first, each with its answer so far."""
    _ = access
    return [_json(item) for item in plane.experiments.all(newest=limit)]


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
    return _json(made)


def _json(item: Experiment) -> dict[str, Any]:
    return {
        "id": item.id,
        "bundle": item.bundle,
        "version_a": item.version_a,
        "version_b": item.version_b,
        "query": item.query,
        "created": item.created,
        "created_by": item.created_by,
        "question": item.question.to_json(),
        "looked": item.looked.to_json(),
        "sentence": item.looked.sentence(item.question),
    }
