"""Routes of the audit log, tokens and retention."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from edgekit.fleet.access import Role, create_token, list_tokens, revoke_token
from edgekit.fleet.api.forms import Before, Newest, NewToken, RetentionForm, TokenForm, TokenId
from edgekit.fleet.api.security import Admin, Plane, Viewer
from edgekit.fleet.audit import AuditHead, read_audit, verify_audit
from edgekit.fleet.devices.retention import change_retention, read_retention

router = APIRouter()


@router.get("/audit", tags=["audit"])
def audit_log(
    plane: Plane,
    access: Viewer,
    limit: Newest = 100,
    before: Before = None,
    subject: Annotated[str | None, Query(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")] = None,
) -> list[dict[str, Any]]:
    """Who changed what, the newest first; devices stand here by pseudonym."""
    _ = access
    with plane.database.read() as session:
        entries = read_audit(session, newest=limit, before=before, subject=subject)
    return [asdict(entry) for entry in entries]


@router.get("/audit/verification", tags=["audit"])
def verify(
    plane: Plane,
    access: Viewer,
    sequence: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    digest: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
) -> dict[str, Any]:
    """Check every entry and every link; with a head that was noted earlier, that it is there."""
    _ = access
    noted = None
    if sequence is not None and digest is not None:
        noted = AuditHead(sequence=sequence, digest=digest)
    return asdict(verify_audit(plane.database, expect=noted))


@router.get("/tokens", tags=["tokens"])
def tokens(plane: Plane, access: Admin) -> list[dict[str, Any]]:
    """All tokens; their secrets are kept nowhere."""
    _ = access
    return [asdict(token) for token in list_tokens(plane.database)]


@router.post("/tokens", tags=["tokens"], status_code=201)
def make_token(plane: Plane, access: Admin, form: TokenForm) -> NewToken:
    """Make a token; its text is shown once."""
    token, text = create_token(
        plane.database,
        name=form.name,
        role=Role(form.role),
        days=form.days,
        actor=access.name,
        clock=plane.clock,
    )
    return NewToken(id=token.id, token=text)


@router.delete("/tokens/{identifier}", tags=["tokens"], status_code=204)
def end_token(plane: Plane, access: Admin, identifier: TokenId) -> Response:
    """End a token at once."""
    revoke_token(plane.database, identifier, actor=access.name, clock=plane.clock)
    return Response(status_code=204)


@router.get("/retention", tags=["retention"])
def show_retention(plane: Plane, access: Viewer) -> dict[str, int]:
    """How long what devices say is kept."""
    _ = access
    return asdict(read_retention(plane.database))


@router.patch("/retention", tags=["retention"])
def set_retention(plane: Plane, access: Admin, form: RetentionForm) -> dict[str, int]:
    """Change limits; the others stay."""
    changes = form.model_dump(exclude_none=True)
    done = change_retention(plane.database, changes, actor=access.name, clock=plane.clock)
    return asdict(done)
