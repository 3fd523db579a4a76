"""Routes of the registry."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from edgekit.fleet.api.forms import (
    BundleName,
    BundleVersionText,
    DeviceQuery,
    MetricForm,
    Newest,
    Promotion,
    TagChanges,
    Words,
)
from edgekit.fleet.api.security import Plane, ReleaseManager, Viewer
from edgekit.fleet.api.sight import Sight
from edgekit.fleet.registry.comparison import compare_versions
from edgekit.fleet.registry.entries import Stage
from edgekit.fleet.registry.search import search_versions

router = APIRouter(prefix="/versions", tags=["registry"])


@router.get("")
def list_versions(
    plane: Plane, access: Viewer, words: Words = "", query: DeviceQuery = ""
) -> list[dict[str, Any]]:
    """List bundle versions that hold all words and match the query."""
    found = search_versions(plane.registry(access).all(), words=words, query=query)
    return [entry.summary() for entry in found]


@router.get("/{bundle}/{version}")
def show_version(
    plane: Plane, access: Viewer, bundle: BundleName, version: BundleVersionText
) -> dict[str, Any]:
    """A version with its manifest: lineage, golden samples, benchmarks."""
    return plane.registry(access).get(bundle, version).to_json()


@router.get("/{bundle}/{version}/compared")
def compare(
    plane: Plane,
    access: Viewer,
    bundle: BundleName,
    version: BundleVersionText,
    before: Annotated[str, Query(pattern=r"^[0-9A-Za-z.+-]{5,128}$")],
) -> dict[str, Any]:
    """A version beside another one of the same bundle."""
    registry = plane.registry(access)
    done = compare_versions(registry.get(bundle, before), registry.get(bundle, version))
    return done.to_json()


@router.get("/{bundle}/{version}/deployments")
def deployments(
    plane: Plane,
    access: Viewer,
    bundle: BundleName,
    version: BundleVersionText,
    limit: Newest = 100,
) -> list[dict[str, Any]]:
    """On which devices a version went live or failed, the newest first."""
    found = plane.registry(access).deployments(bundle, version, newest=limit)
    sight = Sight(plane, access)
    return [
        asdict(item)
        | {"device": sight.name(item.device), "reason": sight.said(item.device, item.reason)}
        for item in found
    ]


@router.patch("/{bundle}/{version}/tags")
def tag_version(
    plane: Plane,
    access: ReleaseManager,
    bundle: BundleName,
    version: BundleVersionText,
    form: TagChanges,
) -> dict[str, Any]:
    """Set tags; null takes one away."""
    return plane.registry(access).tag(bundle, version, form.tags).summary()


@router.post("/{bundle}/{version}/metrics")
def add_metric(
    plane: Plane,
    access: ReleaseManager,
    bundle: BundleName,
    version: BundleVersionText,
    form: MetricForm,
) -> dict[str, Any]:
    """Add a figure; those that were measured when the bundle was made stay."""
    registry = plane.registry(access)
    entry = registry.add_metric(bundle, version, form.name, form.value, variant=form.variant)
    return entry.summary()


@router.post("/{bundle}/{version}/stage")
def promote(
    plane: Plane,
    access: ReleaseManager,
    bundle: BundleName,
    version: BundleVersionText,
    form: Promotion,
) -> dict[str, Any]:
    """Move a version to a stage; what was in production before is archived."""
    return plane.registry(access).promote(bundle, version, Stage(form.stage)).summary()
