"""`edgekit fleet devices` and `edgekit fleet groups`: which devices there are, and their data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.fleet_options import (
    broker_if_known,
    broker_option,
    database_option,
    fleet_option,
    how_the_broker_hears,
    json_option,
    opened_database,
    parse_labels,
)
from edgekit.cli.render import emit_json, moment, size, table
from edgekit.wording import plural

_SHOWN_REQUESTS = 10

if TYPE_CHECKING:
    from edgekit.fleet.devices.inventory import Inventory


@click.group()
def devices() -> None:
    """Show, label, shut out, export and delete devices; one that speaks is known by itself."""


@devices.command("list")
@click.argument("query", default="")
@fleet_option
@database_option
@json_option
def list_(query: str, folder: Path, database: str | None, as_json: bool) -> None:
    """List devices, or those that a QUERY means: "site=berlin and ram>=1GB", or one by its id.

    A query asks for labels, and for what devices report: id, online, silent (seconds), agent,
    order, arch, ram, python, litert, onnxruntime, tflite-runtime.
    """
    with _inventory(folder, database) as inventory:
        found = inventory.meant(query)
    if as_json:
        emit_json([device.to_json() for device in found])
        return
    rows = [
        [
            device.id,
            "yes" if device.online else "no",
            moment(device.last_seen, none="never"),
            str(device.hardware.get("architecture", "-")),
            size(ram) if isinstance(ram := device.hardware.get("ram_bytes"), int) else "-",
            ", ".join(
                f"{name} {bundle.get('active') or '-'}"
                for name, bundle in sorted(device.bundles.items())
            )
            or "-",
            " ".join(f"{name}={value}" for name, value in device.labels.items()) or "-",
        ]
        for device in found
    ]
    head = ["device", "online", "last seen", "arch", "ram", "runs", "labels"]
    none = f"No device matches {query!r}." if query else "No device has spoken yet."
    click.echo(table(rows, head=head, none=none))
    online = sum(device.online for device in found)
    click.echo(f"{plural(len(found), 'device')}, {online} online")


@devices.command()
@click.argument("device")
@click.argument("labels", nargs=-1, metavar="[NAME=VALUE]...")
@fleet_option
@database_option
@json_option
def add(
    device: str, labels: tuple[str, ...], folder: Path, database: str | None, as_json: bool
) -> None:
    """Make DEVICE known before it speaks, with labels."""
    with _inventory(folder, database) as inventory:
        made = inventory.add(device, parse_labels(labels))
    if as_json:
        emit_json(made.to_json())
        return
    click.echo(f"{made.id}: known, pseudonym {made.pseudonym}")


@devices.command()
@click.argument("query")
@click.argument("labels", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--remove", is_flag=True, help="Take the labels of these names away.")
@fleet_option
@database_option
@json_option
def label(
    query: str,
    labels: tuple[str, ...],
    remove: bool,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Label the devices that QUERY means: a label query, or the id of one device."""
    from edgekit_runtime.errors import UsageError

    changes: dict[str, str | None]
    changes = dict.fromkeys(labels) if remove else dict(parse_labels(labels))
    with _inventory(folder, database) as inventory:
        meant = inventory.meant(query)
        if not meant:
            raise UsageError(f"no device matches {query!r}", fix="see: edgekit fleet devices list")
        changed = [inventory.label(device.id, changes) for device in meant]
    if as_json:
        emit_json([device.to_json() for device in changed])
        return
    click.echo(f"{plural(len(changed), 'device')} labelled")


@devices.command()
@click.argument("device")
@fleet_option
@database_option
@json_option
def show(device: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Show what is known of DEVICE, by id or pseudonym: its certificates, what it is asked for."""
    from dataclasses import asdict

    from edgekit.fleet.devices.certificates import certificates_of
    from edgekit.fleet.devices.requests import RequestBook

    with _inventory(folder, database) as inventory:
        found = inventory.get(device)
        held = certificates_of(inventory.database, found.id)
        asked = RequestBook(inventory.database, actor="cli").of(found.id)
    now = time.time()
    if as_json:
        document = found.to_json() | {"certificates": [asdict(item) for item in held]}
        emit_json(document | {"requests": [item.to_json(now) for item in asked]})
        return
    click.echo(
        f"{found.id}, pseudonym {found.pseudonym}: {'online' if found.online else 'offline'}, "
        f"heard {moment(found.last_seen, none='never')}, known since {moment(found.first_seen)}"
    )
    labels = " ".join(f"{name}={value}" for name, value in found.labels.items())
    click.echo(f"labels: {labels or 'none'}; agent {found.agent or 'not heard'}")
    for name, bundle in sorted(found.bundles.items()):
        reason = f": {bundle['reason']}" if bundle.get("reason") else ""
        click.echo(f"{name}: serves {bundle.get('active') or '-'}, {bundle.get('phase')}{reason}")
    for item in held:
        standing = "revoked" if item.revoked else "over" if item.ends <= now else "valid"
        click.echo(f"certificate {item.serial}: {standing}, until {moment(item.ends)}")
    for request in asked[:_SHOWN_REQUESTS]:
        click.echo(
            f"request {request.number}: {request.kind.value}, {request.standing(now)}, asked by "
            f"{request.created_by} {moment(request.created)}"
        )


@devices.command()
@click.argument("device")
@fleet_option
@database_option
def export(device: str, folder: Path, database: str | None) -> None:
    """Print everything that is held on DEVICE, as JSON."""
    from edgekit.fleet.devices.privacy import export_device

    with opened_database(folder, database) as (fleet, opened):
        emit_json(export_device(opened, fleet, device))


@devices.command()
@click.argument("device")
@fleet_option
@database_option
@json_option
def revoke(device: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Shut DEVICE out: take its certificates back, and make the broker's list anew.

    It stays known, with all that is held on it. To let it in again, make an enrolment token for it.
    """
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.authority import FleetAuthority
    from edgekit.fleet.devices.certificates import revoke_device

    with opened_database(folder, database) as (fleet, opened):
        count = revoke_device(opened, fleet, device, actor=local_actor())
    revocations = FleetAuthority.load(fleet).revocations
    if as_json:
        emit_json({"device": device, "revoked": count, "revocations": str(revocations)})
        return
    click.echo(
        f"{device}: {plural(count, 'certificate')} revoked. "
        f"{how_the_broker_hears(fleet, revocations)}"
    )


@devices.command()
@click.argument("device")
@click.option("--yes", is_flag=True, help="Do not ask.")
@fleet_option
@database_option
@broker_option
@json_option
def delete(
    device: str, yes: bool, folder: Path, database: str | None, broker: str | None, as_json: bool
) -> None:
    """Delete everything that is held on DEVICE: broker, folder, database.

    Its certificates of this fleet end first. A device that comes to the broker all the same, until
    the broker has the new list of revoked ones, is known again.
    """
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.privacy import erase_device

    if not yes:
        click.confirm(f"Delete all that is held on {device}?", abort=True, err=True)
    with opened_database(folder, database) as (fleet, opened):
        address = broker_if_known(fleet, broker)
        pseudonym = erase_device(opened, fleet, device, broker=address, actor=local_actor())
    if as_json:
        emit_json({"device": device, "pseudonym": pseudonym, "deleted": True})
        return
    click.echo(f"{device}: deleted; the audit log knows it as {pseudonym}")


@click.group()
def groups() -> None:
    """Give queries names, for people and the page."""


@groups.command("list")
@fleet_option
@database_option
@json_option
def list_groups_(folder: Path, database: str | None, as_json: bool) -> None:
    """List groups, and how many devices each has now."""
    from edgekit.fleet.devices.groups import list_groups

    with _inventory(folder, database) as inventory:
        saved = list_groups(inventory.database)
        counts = inventory.count(group.query for group in saved)
    found = [
        {"name": group.name, "query": group.query, "devices": count}
        for group, count in zip(saved, counts, strict=True)
    ]
    if as_json:
        emit_json(found)
        return
    rows = [[str(group[key]) for key in ("name", "query", "devices")] for group in found]
    none = "No group yet. Make one: edgekit fleet groups save NAME QUERY"
    click.echo(table(rows, head=["group", "query", "devices"], none=none))


@groups.command("save")
@click.argument("name")
@click.argument("query")
@fleet_option
@database_option
@json_option
def save_group_(name: str, query: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Make the group NAME of the devices that QUERY means, or give it another query."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.groups import save_group

    with _inventory(folder, database) as inventory:
        group = save_group(inventory.database, name, query, actor=local_actor())
        count = len(inventory.find(group.query))
    if as_json:
        emit_json({"name": group.name, "query": group.query, "devices": count})
        return
    click.echo(f"{group.name}: {plural(count, 'device')} now")


@groups.command("delete")
@click.argument("name")
@fleet_option
@database_option
@json_option
def delete_group_(name: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Forget the group NAME; its devices stay as they are."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.groups import delete_group

    with opened_database(folder, database) as (_, opened):
        delete_group(opened, name, actor=local_actor())
    if as_json:
        emit_json({"name": name, "deleted": True})
        return
    click.echo(f"{name}: forgotten")


@contextlib.contextmanager
def _inventory(folder: Path, address: str | None) -> Iterator[Inventory]:
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.inventory import Inventory

    with opened_database(folder, address) as (_, database):
        yield Inventory(database, actor=local_actor())
