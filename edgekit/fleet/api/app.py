"""The application: routes, errors as JSON, and the headers that keep a browser safe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import select
from starlette.exceptions import HTTPException

from edgekit.fleet.access import Access, ForbiddenError, UnknownTokenError
from edgekit.fleet.api import (
    device_routes,
    enrolment_routes,
    experiment_routes,
    feedback_routes,
    page_routes,
    record_routes,
    request_routes,
    rollout_routes,
    shadow_routes,
    version_routes,
)
from edgekit.fleet.api.attempts import TooManyAttemptsError
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.figures import CONTENT_TYPE, prometheus_text
from edgekit.fleet.api.forms import Problem
from edgekit.fleet.api.limits import BodyLimit
from edgekit.fleet.api.security import Plane, Viewer, who_asks
from edgekit.fleet.devices.activity import count_fleet
from edgekit.fleet.store.errors import NotFoundError
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError, GateFailedError

PREFIX: Final = "/api/v1"
_ROUTES: Final = (
    device_routes,
    enrolment_routes,
    request_routes,
    version_routes,
    rollout_routes,
    experiment_routes,
    feedback_routes,
    shadow_routes,
    record_routes,
)
_STATUSES: Final[tuple[tuple[type[EdgekitError], int], ...]] = (
    (UnknownTokenError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (TooManyAttemptsError, 429),
    (GateFailedError, 409),
    (EnvironmentLackError, 503),
)
_MEANINGS: Final = {
    400: "The request makes no sense",
    401: "No valid token",
    403: "The token's role may not do this",
    404: "There is nothing of that name",
    409: "A check that protects the fleet did not hold",
    422: "The request is not of the form that is wanted",
    429: "Too much was refused from this address lately",
    503: "The database, the broker or the folder cannot be used now",
}
# Answered in JSON, though not under the prefix: programs ask there, not browsers.
_PLAIN_PATHS: Final = ("/metrics", "/health", enrolment_routes.ENROL_PATH)
_HEADERS: Final = {
    # Nothing is fetched from elsewhere, and no other site may show our page in its own.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_app(control_plane: ControlPlane) -> FastAPI:
    """The application for a fleet; any ASGI server runs it."""
    app = FastAPI(
        title="edgekit control plane",
        version="1",
        description="Devices, bundle versions, rollouts, and the log of every change. "
        "Moments are seconds since 1970, UTC.",
        openapi_url=f"{PREFIX}/openapi.json",
        # Their pages fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            EdgekitError: _answer_error,
            RequestValidationError: _answer_invalid,
            HTTPException: _answer_http,
        },
    )
    app.state.control_plane = control_plane
    app.state.doorkeeper = enrolment_routes.Doorkeeper()
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text} for status, text in _MEANINGS.items()
    }
    for routes in _ROUTES:
        app.include_router(routes.router, prefix=PREFIX, responses=problems)
    # Devices know this path: it stays where it is whatever becomes of the rest.
    app.include_router(enrolment_routes.public, responses=problems)
    app.include_router(page_routes.router, include_in_schema=False)
    app.add_middleware(BodyLimit)
    app.middleware("http")(_add_headers)
    _add_own_routes(app, problems)
    return app


def _add_own_routes(app: FastAPI, problems: dict[int | str, dict[str, Any]]) -> None:
    @app.get(f"{PREFIX}/status", tags=["fleet"], responses=problems)
    def status(plane: Plane, access: Viewer) -> dict[str, Any]:
        """The fleet in figures."""
        counts = count_fleet(plane.database)
        return {
            "fleet": plane.fleet.id,
            "devices": counts.devices,
            "online": counts.online,
            "versions": [
                {
                    "bundle": item.bundle,
                    "version": item.version,
                    "phase": item.phase,
                    "devices": item.devices,
                }
                for item in counts.versions
            ],
            "open_alarms": dict(counts.open_alarms),
            "rollouts": dict(plane.rollouts.phases()),
            "you": {"name": access.name, "role": access.role.value},
        }

    @app.get("/metrics", tags=["fleet"], responses=problems, response_class=Response)
    def metrics(plane: Plane, access: Annotated[Access, Depends(who_asks)]) -> Response:
        """The fleet in figures, for Prometheus."""
        _ = access
        return Response(prometheus_text(plane), media_type=CONTENT_TYPE)

    @app.get("/health", tags=["fleet"], responses={503: problems[503]})
    def health(plane: Plane) -> dict[str, bool]:
        """Whether this replica and its database work; needs no token."""
        with plane.database.read() as session:
            session.execute(select(1))
        return {"healthy": True}


async def _add_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def _answer_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, EdgekitError):
        raise error
    status = next((code for kind, code in _STATUSES if isinstance(error, kind)), 400)
    path = request.url.path
    if not path.startswith(f"{PREFIX}/") and path not in _PLAIN_PATHS:
        return page_routes.error_page(error, status)
    answer = _problem(status, type(error).__name__, error.what, where=error.where, fix=error.fix)
    if isinstance(error, TooManyAttemptsError):
        answer.headers["Retry-After"] = f"{error.seconds:.0f}"
    return answer


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    faults = [
        ".".join(str(part) for part in item["loc"]) + ": " + str(item["msg"])
        for item in error.errors()
    ]
    return _problem(422, "InvalidRequest", "; ".join(faults))


async def _answer_http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    answer = _problem(error.status_code, "InvalidRequest", str(error.detail))
    # Which methods there are, where the one that was used is none.
    answer.headers.update(error.headers or {})
    return answer


def _problem(
    status: int, kind: str, what: str, *, where: str | None = None, fix: str | None = None
) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None  # noqa: PLR2004
    body = {"error": kind, "what": what, "where": where, "fix": fix}
    return JSONResponse(body, status_code=status, headers=headers)
