"""Routes of what devices are asked for, and what they answered."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query

from edgekit.fleet.access import Access, Role
from edgekit.fleet.api.forms import AskForm, AskManyForm, DeviceId, Newest
from edgekit.fleet.api.security import Operator, Plane
from edgekit.fleet.devices.requests import Asked
from edgekit.fleet.store.errors import NotFoundError
from edgekit_runtime.requests import RequestKind

router = APIRouter(tags=["requests"])

Number = Annotated[int, Path(ge=1, le=2**53)]
# What people asked a model is more than how a device does.
_ROLES: Final = {RequestKind.SAMPLES: Role.RELEASE_MANAGER}


@router.get("/requests")
def list_requests(
    plane: Plane,
    access: Operator,
    *,
    limit: Newest = 100,
    over: Annotated[bool, Query(description="Those that are over, too")] = False,
) -> list[dict[str, Any]]:
    """What waits for a device or its answer, of all devices."""
    book = plane.requests(access)
    found = book.newest(most=limit) if over else book.open(most=limit)
    return [item.to_json(plane.now) for item in found]


@router.post("/requests", status_code=201)
def ask_many(plane: Plane, access: Operator, form: AskManyForm) -> list[dict[str, Any]]:
    """Ask every device that a label query means; the service sends it when each is there."""
    kind = _kind(access, form.kind)
    found = plane.inventory(access).find(form.query)
    if not found:
        raise NotFoundError("no device matches", where=form.query)
    names = [device.id for device in found]
    asked = plane.requests(access).ask_all(names, kind, form.arguments, hours=form.hours)
    return [item.to_json(plane.now) for item in asked]


@router.get("/devices/{device}/requests")
def requests_of(
    plane: Plane, access: Operator, device: DeviceId, limit: Newest = 50
) -> list[dict[str, Any]]:
    """What a device was asked for, the newest first."""
    found: tuple[Asked, ...] = plane.requests(access).of(device, newest=limit)
    return [item.to_json(plane.now) for item in found]


@router.post("/devices/{device}/requests", status_code=201)
def ask(plane: Plane, access: Operator, device: DeviceId, form: AskForm) -> dict[str, Any]:
    """Ask a device for something: bench, logs, samples, restart, renew."""
    kind = _kind(access, form.kind)
    book = plane.requests(access)
    return book.ask(device, kind, form.arguments, hours=form.hours).to_json(plane.now)


@router.get("/devices/{device}/requests/{number}")
def answer(plane: Plane, access: Operator, device: DeviceId, number: Number) -> dict[str, Any]:
    """A request, and the parts of its answer that are there."""
    book = plane.requests(access)
    item = book.get(device, number)
    _kind(access, item.kind.value)
    return item.to_json(plane.now) | {"answer": list(book.answer(device, number))}


@router.delete("/devices/{device}/requests/{number}")
def withdraw(plane: Plane, access: Operator, device: DeviceId, number: Number) -> dict[str, Any]:
    """Take a request back; what the device has already, it does, and its answer is dropped."""
    return plane.requests(access).withdraw(device, number).to_json(plane.now)


def _kind(access: Access, text: str) -> RequestKind:
    kind = RequestKind(text)
    access.require(_ROLES.get(kind, Role.OPERATOR))
    return kind
