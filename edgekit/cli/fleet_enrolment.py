"""`edgekit fleet enrolment`: tokens that let devices in, each once."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.amounts import SOME_HOURS
from edgekit.cli.fleet_options import (
    database_option,
    fleet_option,
    json_option,
    opened_database,
    parse_labels,
)
from edgekit.cli.render import emit_json, moment, table


@click.group()
def enrolment() -> None:
    """Let devices in: make, list and revoke the tokens that work once.

    A device comes in with `edgekit-agent enrol`, over HTTPS, to `edgekit fleet serve`.
    """


@enrolment.command()
@click.argument("labels", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--device", metavar="ID", help="Only for this device.  [default: for any new one]")
@click.option("--hours", type=SOME_HOURS, default=24.0, show_default=True, help="Then it expires.")
@fleet_option
@database_option
@json_option
def create(
    labels: tuple[str, ...],
    device: str | None,
    hours: float,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Make a token that takes one device in, and gives it labels; it is shown once.

    A token for any device takes in only one whose id has no certificate. To give a device that is
    in the fleet a new key, make a token with its id: its former certificates end then.
    """
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.enrolment import create_enrolment_token

    with opened_database(folder, database) as (fleet, opened):
        made, text = create_enrolment_token(
            opened, device=device, labels=parse_labels(labels), hours=hours, actor=local_actor()
        )
    if as_json:
        emit_json({"id": made.id, "token": text, "fleet": fleet.id, "device": device})
        return
    click.echo(text)
    click.echo(
        f"On the device: EDGEKIT_TOKEN=… edgekit-agent enrol --url https://… --fleet {fleet.id} "
        f"--device {device or 'ITS-ID'}",
        err=True,
    )


@enrolment.command("list")
@fleet_option
@database_option
@json_option
def list_(folder: Path, database: str | None, as_json: bool) -> None:
    """List tokens, and whom they let in; their secrets are kept nowhere."""
    import time
    from dataclasses import asdict

    from edgekit.fleet.devices.enrolment import list_enrolment_tokens

    with opened_database(folder, database) as (_, opened):
        found = list_enrolment_tokens(opened)
    now = time.time()
    if as_json:
        emit_json([asdict(item) | {"standing": item.standing(now)} for item in found])
        return
    rows = [
        [
            item.id,
            item.standing(now),
            item.device or "any new one",
            " ".join(f"{name}={value}" for name, value in item.labels.items()) or "-",
            item.created_by,
            moment(item.expires),
            moment(item.used),
        ]
        for item in found
    ]
    head = ["id", "is", "device", "labels", "made by", "expires", "used"]
    none = "No token yet. Make one: edgekit fleet enrolment create"
    click.echo(table(rows, head=head, none=none))


@enrolment.command()
@click.argument("identifier", metavar="ID")
@fleet_option
@database_option
@json_option
def revoke(identifier: str, folder: Path, database: str | None, as_json: bool) -> None:
    """End the token of that id at once; a device that it let in stays.

    A device is shut out with: edgekit fleet devices revoke ID.
    """
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.enrolment import revoke_enrolment_token

    with opened_database(folder, database) as (_, opened):
        revoke_enrolment_token(opened, identifier, actor=local_actor())
    if as_json:
        emit_json({"id": identifier, "revoked": True})
        return
    click.echo(f"{identifier}: revoked")
