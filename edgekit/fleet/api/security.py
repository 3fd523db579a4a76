"""Who makes a request, and what they may: a token as bearer, or as the page's cookie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from edgekit.fleet.access import Access, ForbiddenError, Role, UnknownTokenError, check_token
from edgekit.fleet.api.control_plane import ControlPlane

COOKIE: Final = "edgekit_token"
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_bearer: Final = HTTPBearer(auto_error=False, description="A token of `edgekit fleet token create`")


def control_plane(request: Request) -> ControlPlane:
    """What the application works on."""
    plane = request.app.state.control_plane
    if not isinstance(plane, ControlPlane):
        raise TypeError("the application has no control plane")
    return plane


Plane = Annotated[ControlPlane, Depends(control_plane)]


def who_asks(
    request: Request,
    plane: Plane,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Access:
    """Who makes the request.

    Raises:
        UnknownTokenError: If no valid token was shown.
        ForbiddenError: If a page of somebody else would change something with a person's cookie.
    """
    if bearer is not None:
        return check_token(plane.database, bearer.credentials, clock=plane.clock)
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        raise UnknownTokenError("this needs a token", fix="send it as: Authorization: Bearer TOKEN")
    if request.method not in _SAFE:
        require_same_origin(request)
    return check_token(plane.database, cookie, clock=plane.clock)


def require_same_origin(request: Request) -> None:
    """Go on only if the request comes from our own page.

    Raises:
        ForbiddenError: If it does not say so.
    """
    origin = request.headers.get("origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
        raise ForbiddenError("this request comes from another site's page")


def at_least(role: Role) -> Callable[..., Access]:
    """A dependency that lets in who is of this role, or of one that includes it."""

    def check(access: Annotated[Access, Depends(who_asks)]) -> Access:
        access.require(role)
        return access

    return check


Viewer = Annotated[Access, Depends(at_least(Role.VIEWER))]
Operator = Annotated[Access, Depends(at_least(Role.OPERATOR))]
ReleaseManager = Annotated[Access, Depends(at_least(Role.RELEASE_MANAGER))]
Admin = Annotated[Access, Depends(at_least(Role.ADMIN))]
