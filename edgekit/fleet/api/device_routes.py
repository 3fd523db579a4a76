"""Routes of devices and groups."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from edgekit.fleet.access import Access
from edgekit.fleet.api.control_plane import shown_id
from edgekit.fleet.api.forms import (
    DeviceId,
    DeviceList,
    DeviceQuery,
    GroupForm,
    GroupName,
    LabelChanges,
    Newest,
    Offset,
)
from edgekit.fleet.api.security import Admin, Operator, Plane, Viewer
from edgekit.fleet.api.sight import Sight
from edgekit.fleet.devices.activity import alarms_of, events_of
from edgekit.fleet.devices.certificates import certificates_of, revoke_device
from edgekit.fleet.devices.groups import delete_group, list_groups, save_group
from edgekit.fleet.devices.inventory import Device
from edgekit.fleet.devices.privacy import erase_device, export_device

router = APIRouter(tags=["devices"])


@router.get("/devices")
def list_devices(
    plane: Plane, access: Viewer, query: DeviceQuery = "", offset: Offset = 0, limit: Newest = 100
) -> DeviceList:
    """List devices, or those that a label query means; a viewer sees and asks for no id."""
    found = Sight(plane, access).find(query)
    shown = found[offset : offset + limit]
    return DeviceList(total=len(found), devices=[_json(access, device) for device in shown])


@router.get("/devices/{device}")
def show_device(plane: Plane, access: Viewer, device: DeviceId) -> dict[str, Any]:
    """A device by id or pseudonym; a viewer names it by its pseudonym."""
    return _json(access, Sight(plane, access).get(device))


@router.put("/devices/{device}")
def add_device(
    plane: Plane, access: Operator, device: DeviceId, form: LabelChanges
) -> dict[str, Any]:
    """Make a device known before it speaks; labels that it has stay."""
    labels = {name: value for name, value in form.labels.items() if value is not None}
    return _json(access, plane.inventory(access).add(device, labels))


@router.patch("/devices/{device}/labels")
def label_device(
    plane: Plane, access: Operator, device: DeviceId, form: LabelChanges
) -> dict[str, Any]:
    """Set labels; null takes one away."""
    return _json(access, plane.inventory(access).label(device, form.labels))


@router.get("/devices/{device}/events")
def device_events(
    plane: Plane, access: Viewer, device: DeviceId, limit: Newest = 100
) -> list[dict[str, Any]]:
    """What a device said had happened, the newest first."""
    sight = Sight(plane, access)
    found = sight.get(device)
    return [
        asdict(event) | {"detail": sight.said(found.id, event.detail)}
        for event in events_of(plane.database, found.id, newest=limit)
    ]


@router.get("/alarms")
def list_alarms(plane: Plane, access: Viewer, limit: Newest = 100) -> list[dict[str, Any]]:
    """Alarms that last, and then those that are over, the newest first."""
    names = Sight(plane, access).names
    return [
        asdict(alarm) | {"device": names.get(alarm.device or "", alarm.device)}
        for alarm in alarms_of(plane.database, newest=limit)
    ]


@router.get("/devices/{device}/export")
def export(plane: Plane, access: Admin, device: DeviceId) -> dict[str, Any]:
    """Everything that is held on a device."""
    _ = access
    return export_device(plane.database, plane.fleet, device)


@router.delete("/devices/{device}", status_code=204)
def delete(plane: Plane, access: Admin, device: DeviceId) -> Response:
    """Delete everything that is held on a device: broker, folder, database."""
    erase_device(
        plane.database,
        plane.fleet,
        device,
        broker=plane.fleet.broker,
        actor=access.name,
        clock=plane.clock,
    )
    return Response(status_code=204)


@router.get("/devices/{device}/certificates")
def certificates(plane: Plane, access: Operator, device: DeviceId) -> list[dict[str, Any]]:
    """The certificates that a device got from this fleet, the newest first."""
    _ = access
    return [asdict(item) for item in certificates_of(plane.database, device)]


@router.post("/devices/{device}/revocation")
def revoke(plane: Plane, access: Operator, device: DeviceId) -> dict[str, int]:
    """Shut a device out: its certificates end; all that is held on it stays."""
    count = revoke_device(plane.database, plane.fleet, device, actor=access.name, clock=plane.clock)
    return {"revoked": count}


@router.get("/groups")
def show_groups(plane: Plane, access: Viewer) -> list[dict[str, Any]]:
    """Groups, and how many devices each has now."""
    sight = Sight(plane, access)
    groups = list_groups(plane.database)
    counts = plane.inventory(access).count(group.query for group in groups)
    return [
        {"name": group.name, "query": sight.text(group.query), "devices": count}
        for group, count in zip(groups, counts, strict=True)
    ]


@router.put("/groups/{name}")
def put_group(plane: Plane, access: Operator, name: GroupName, form: GroupForm) -> dict[str, Any]:
    """Make a group, or give one another query."""
    group = save_group(plane.database, name, form.query, actor=access.name, clock=plane.clock)
    return asdict(group)


@router.delete("/groups/{name}", status_code=204)
def forget_group(plane: Plane, access: Operator, name: GroupName) -> Response:
    """Forget a group; its devices stay as they are."""
    delete_group(plane.database, name, actor=access.name, clock=plane.clock)
    return Response(status_code=204)


def _json(access: Access, device: Device) -> dict[str, Any]:
    document = device.to_json()
    document["id"] = shown_id(access, device)
    return document
