"""The page: HTML for people, with the same tokens and roles as the API."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from edgekit.fleet.access import Access, ForbiddenError, UnknownTokenError, check_token
from edgekit.fleet.api import model_views, rollout_routes, views
from edgekit.fleet.api.forms import BundleName, BundleVersionText, DeviceId, RolloutId
from edgekit.fleet.api.security import COOKIE, Operator, Plane, Viewer, require_same_origin
from edgekit.fleet.api.shadow_views import shadow_views
from edgekit.fleet.api.sight import Sight
from edgekit.fleet.audit import read_audit, verify_audit
from edgekit.fleet.devices.activity import alarms_of, count_fleet, events_of
from edgekit.fleet.devices.groups import list_groups
from edgekit.fleet.devices.inventory import Device
from edgekit.fleet.registry.search import search_versions
from edgekit.fleet.rollouts.labels import MAX_QUERY_LENGTH
from edgekit.pages.fleet import STATIC, render_fleet_page
from edgekit_runtime.errors import EdgekitError, GateFailedError, UsageError

router = APIRouter(default_response_class=HTMLResponse)

_DEVICES_A_PAGE: Final = 50
_ENTRIES_A_PAGE: Final = 100
_ENDED: Final = ("completed", "rolled_back", "aborted")
_SESSION_SECONDS: Final = 12 * 3_600
_FILES: Final = {"fleet.css": "text/css", "fleet.js": "text/javascript"}

_Query = Annotated[str, Query(max_length=MAX_QUERY_LENGTH, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Offset = Annotated[int, Query(ge=0, le=1_000_000)]


@router.get("/")
def overview(plane: Plane, access: Viewer) -> HTMLResponse:
    """The whole fleet on one page."""
    counts = count_fleet(plane.database)
    sight = Sight(plane, access)
    with plane.database.read() as session:
        entries = read_audit(session, newest=8)
    return _page(
        "overview",
        plane.fleet.id,
        access,
        "Fleet",
        counts=counts,
        online=views.online_view(counts),
        bundles=views.bundle_views(counts.versions),
        alarms=sum(counts.open_alarms.values()),
        running=sum(n for phase, n in plane.rollouts.phases().items() if phase not in _ENDED),
        rollouts=[
            views.rollout_view(sight.rollout(stored)) for stored in plane.rollouts.all(newest=5)
        ],
        entries=entries,
    )


@router.get("/devices")
def devices(plane: Plane, access: Viewer, query: _Query = "", offset: _Offset = 0) -> HTMLResponse:
    """The devices that a query means, a page at a time."""
    problem: EdgekitError | None = None
    found: tuple[Device, ...] = ()
    total = 0
    sight = Sight(plane, access)
    try:
        if query.strip():
            matching = sight.find(query)
            total, found = len(matching), matching[offset : offset + _DEVICES_A_PAGE]
        else:
            total = count_fleet(plane.database).devices
            found = sight.page(offset=offset, limit=_DEVICES_A_PAGE)
    except (UsageError, ForbiddenError) as error:
        problem = error
    return _page(
        "devices",
        plane.fleet.id,
        access,
        "Devices",
        query=query,
        problem=problem,
        groups=[
            # Who may not ask a query is shown the name alone.
            {"name": group.name, "query": group.query if sight.may_ask(group.query) else None}
            for group in list_groups(plane.database)
        ],
        total=total,
        offset=offset,
        size=_DEVICES_A_PAGE,
        now=plane.now,
        devices=[views.device_view(access, device) for device in found],
    )


@router.get("/devices/{device}")
def device_page(plane: Plane, access: Viewer, device: DeviceId) -> HTMLResponse:
    """One device, and what it said."""
    sight = Sight(plane, access)
    found = sight.get(device)
    return _page(
        "device",
        plane.fleet.id,
        access,
        "Devices",
        device=views.device_view(access, found),
        pseudonym=found.pseudonym,
        agent=found.agent,
        order_version=found.order_version,
        now=plane.now,
        **views.holdings_view(plane, access, found),
        events=[
            replace(event, detail=sight.said(found.id, event.detail))
            for event in events_of(plane.database, found.id, newest=50)
        ],
    )


@router.get("/rollouts")
def rollouts(plane: Plane, access: Viewer) -> HTMLResponse:
    """All rollouts, the newest first."""
    sight = Sight(plane, access)
    shown = [views.rollout_view(sight.rollout(stored)) for stored in plane.rollouts.all()]
    return _page("rollouts", plane.fleet.id, access, "Rollouts", rollouts=shown)


@router.get("/rollouts/{rollout}")
def rollout_page(plane: Plane, access: Viewer, rollout: RolloutId) -> HTMLResponse:
    """One rollout: stages, devices in trouble, decisions and their reasons."""
    stored = Sight(plane, access).rollout(plane.rollouts.load(rollout))
    return _page(
        "rollout",
        plane.fleet.id,
        access,
        "Rollouts",
        item=views.rollout_view(stored),
        query=stored.plan.query,
        created_by=stored.plan.created_by,
        created=stored.plan.created,
        buttons=views.buttons_for(access, stored),
        stages=views.stage_views(stored),
        troubles=views.trouble_views(stored),
        decisions=stored.state.decisions[::-1],
    )


@router.post("/rollouts/{rollout}/actions")
def rollout_action(
    plane: Plane,
    access: Operator,
    rollout: RolloutId,
    action: Annotated[str, Form(pattern="^(pause|stop)$")],
) -> Response:
    """What the buttons do."""
    rollout_routes.act(plane, access, rollout, action)
    return RedirectResponse(f"/rollouts/{quote(rollout)}", status_code=303)


@router.get("/health-of-models")
def health_page(plane: Plane, access: Viewer) -> HTMLResponse:
    """Errors, latency, drift and alarms of what serves."""
    names = Sight(plane, access).names
    alarms = [
        {
            "began": alarm.began,
            "ended": alarm.ended,
            "kind": alarm.kind,
            "bundle": alarm.bundle,
            "version": alarm.version,
            "device": names.get(alarm.device or "", alarm.device),
            "detail": alarm.detail,
        }
        for alarm in alarms_of(plane.database, newest=50)
    ]
    return _page(
        "health",
        plane.fleet.id,
        access,
        "Models",
        alarms=alarms,
        models=model_views.model_views(plane),
        charts=model_views.traffic_charts(plane),
    )


@router.get("/experiments")
def experiments(plane: Plane, access: Viewer) -> HTMLResponse:
    """A/B experiments and versions that run beside, and what they say."""
    sight = Sight(plane, access)
    shown = [
        view | {"query": sight.text(view["query"])} for view in model_views.experiment_views(plane)
    ]
    beside = [
        view | {"run": replace(view["run"], query=sight.text(view["run"].query))}
        for view in shadow_views(plane)
    ]
    return _page("experiments", plane.fleet.id, access, "A/B", experiments=shown, shadows=beside)


@router.get("/versions")
def versions(plane: Plane, access: Viewer, query: _Query = "") -> HTMLResponse:
    """The registry."""
    problem: EdgekitError | None = None
    entries = plane.registry(access).all()
    try:
        entries = search_versions(entries, query=query)
    except UsageError as error:
        problem, entries = error, ()
    return _page(
        "versions",
        plane.fleet.id,
        access,
        "Registry",
        query=query,
        problem=problem,
        versions=entries,
    )


@router.get("/versions/{bundle}/{version}")
def version_page(
    plane: Plane, access: Viewer, bundle: BundleName, version: BundleVersionText
) -> HTMLResponse:
    """One version: figures, where it ran, lineage."""
    registry = plane.registry(access)
    sight = Sight(plane, access)
    deployments = [
        {
            "at": item.at,
            "device": sight.name(item.device),
            "outcome": item.outcome,
            "reason": sight.said(item.device, item.reason),
        }
        for item in registry.deployments(bundle, version, newest=50)
    ]
    return _page(
        "version",
        plane.fleet.id,
        access,
        "Registry",
        entry=registry.get(bundle, version),
        deployments=deployments,
    )


@router.get("/audit")
def audit_page(
    plane: Plane, access: Viewer, before: Annotated[int | None, Query(ge=1, le=2**53)] = None
) -> HTMLResponse:
    """Who changed what, and whether the log is whole."""
    head, broken = None, None
    try:
        head = verify_audit(plane.database)
    except GateFailedError as error:
        broken = error
    with plane.database.read() as session:
        entries = read_audit(session, newest=_ENTRIES_A_PAGE, before=before)
    last = entries[-1].sequence if entries else 0
    return _page(
        "audit",
        plane.fleet.id,
        access,
        "Audit log",
        head=head,
        broken=broken,
        entries=entries,
        more=last if last > 1 else 0,
    )


@router.get("/login")
def login_page(plane: Plane) -> HTMLResponse:
    """Where a token is asked for."""
    return _login(plane.fleet.id, "")


@router.post("/login")
def login(request: Request, plane: Plane, token: Annotated[str, Form(max_length=200)]) -> Response:
    """Keep a valid token as this browser's cookie."""
    require_same_origin(request)
    try:
        check_token(plane.database, token, clock=plane.clock)
    except UnknownTokenError as error:
        return _login(plane.fleet.id, error.what, status=401)
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE,
        token.strip(),
        max_age=_SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def logout(request: Request) -> Response:
    """Forget the cookie."""
    require_same_origin(request)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Style and script, which hold nothing secret."""
    if name not in _FILES:
        return Response(status_code=404)
    return FileResponse(
        STATIC / name, media_type=_FILES[name], headers={"Cache-Control": "max-age=300"}
    )


def error_page(error: EdgekitError, status: int) -> Response:
    """An error for people; without a token, the way to the login."""
    if isinstance(error, UnknownTokenError):
        return RedirectResponse("/login", status_code=303)
    text = render_fleet_page(
        "error",
        fleet="edgekit",
        access=None,
        page="",
        live=False,
        what=error.what,
        where=error.where,
        fix=error.fix,
    )
    return HTMLResponse(text, status_code=status)


def _login(fleet: str, problem: str, *, status: int = 200) -> HTMLResponse:
    text = render_fleet_page(
        "login", fleet=fleet, access=None, page="", live=False, problem=problem
    )
    return HTMLResponse(text, status_code=status)


def _page(template: str, fleet: str, access: Access, page: str, **context: Any) -> HTMLResponse:
    text = render_fleet_page(template, fleet=fleet, access=access, page=page, live=True, **context)
    return HTMLResponse(text)
