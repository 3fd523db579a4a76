"""Where devices come in, and routes of the tokens that let them."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from edgekit.fleet.api.attempts import Attempts, TooManyAttemptsError
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.forms import EnrolForm, Enrolment, EnrolmentTokenForm, NewToken, TokenId
from edgekit.fleet.api.security import Admin, Operator, Plane
from edgekit.fleet.devices.certificates import spread_revocations
from edgekit.fleet.devices.enrolment import (
    Application,
    RefusedTokenError,
    create_enrolment_token,
    enrol_answer,
    list_enrolment_tokens,
    note_refusal,
    require_ready,
    revoke_enrolment_token,
    take_in,
)
from edgekit_runtime.errors import EdgekitError, UsageError

ENROL_PATH: Final = "/v1/enrol"
# A person mistypes a token twice or thrice; who guesses has 256 bits before them.
_REFUSED_A_PLACE: Final = 10
_PLACE_SECONDS: Final = 600.0
# What strangers may write into the audit log.
_NOTED_AN_HOUR: Final = 200
_ALL: Final = "all"

router = APIRouter(tags=["enrolment"])
public = APIRouter(tags=["enrolment"])


class Doorkeeper:
    """How often addresses were refused, and how much of that goes into the audit log."""

    def __init__(self) -> None:
        self.places = Attempts(most=_REFUSED_A_PLACE, seconds=_PLACE_SECONDS)
        self.noted = Attempts(most=_NOTED_AN_HOUR, seconds=3_600.0)


@public.post(ENROL_PATH)
def enrol(request: Request, plane: Plane, form: EnrolForm) -> Enrolment:
    """Take a device in: a token that works once, and a signing request, for a certificate."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    place = request.client.host if request.client else "unknown"
    application = Application(
        device=form.device, fleet=form.fleet, token=form.token, request=form.request
    )
    # What we lack ourselves is found out before a token is used up.
    broker = require_ready(plane.fleet)
    try:
        certificate = take_in(plane.database, plane.fleet, application, clock=plane.clock)
    except (RefusedTokenError, UsageError) as error:
        # Whoever has a valid token comes in, whatever others try from behind the same proxy.
        doorkeeper.places.count(place)
        _note(plane, doorkeeper, application, error)
        raise
    # With a new key the former certificates have ended: the broker has to know.
    spread_revocations(plane.database, plane.fleet, clock=plane.clock)
    return Enrolment(**enrol_answer(plane.fleet, certificate, broker=broker))


@router.get("/enrolment-tokens")
def tokens(plane: Plane, access: Operator) -> list[dict[str, Any]]:
    """All enrolment tokens; their secrets are kept nowhere."""
    _ = access
    return [
        asdict(token) | {"standing": token.standing(plane.now)}
        for token in list_enrolment_tokens(plane.database)
    ]


@router.post("/enrolment-tokens", status_code=201)
def make_token(plane: Plane, access: Admin, form: EnrolmentTokenForm) -> NewToken:
    """Make a token that takes one device in; its text is shown once."""
    token, text = create_enrolment_token(
        plane.database,
        device=form.device,
        labels=form.labels,
        hours=form.hours,
        actor=access.name,
        clock=plane.clock,
    )
    return NewToken(id=token.id, token=text)


@router.delete("/enrolment-tokens/{identifier}", status_code=204)
def end_token(plane: Plane, access: Operator, identifier: TokenId) -> Response:
    """End an enrolment token at once; a device that it took in stays."""
    revoke_enrolment_token(plane.database, identifier, actor=access.name, clock=plane.clock)
    return Response(status_code=204)


def _note(
    plane: ControlPlane, doorkeeper: Doorkeeper, application: Application, error: EdgekitError
) -> None:
    reason = "its signing request is none, or is for somebody else"
    if isinstance(error, RefusedTokenError):
        reason = error.reason
    with contextlib.suppress(TooManyAttemptsError):
        doorkeeper.noted.count(_ALL)
        note_refusal(plane.database, application, reason, clock=plane.clock)
