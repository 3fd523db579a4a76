"""`edgekit fleet audit`, `token` and `retention`: who did what, who may, and what is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from edgekit.cli.fleet_options import database_option, fleet_option, json_option, opened_database
from edgekit.cli.render import emit_json, table
from edgekit.wording import plural


@click.group()
def audit() -> None:
    """Look at the log of every change, and prove that nobody has changed the log."""


@audit.command()
@click.option("--expect", metavar="NUMBER:DIGEST", help="A head that was noted earlier.")
@fleet_option
@database_option
@json_option
def verify(expect: str | None, folder: Path, database: str | None, as_json: bool) -> None:
    """Check every entry and every link; exit code 1 at the first that is not as it was written.

    The head that it prints stands for the whole log. Keep it where those who can write the
    database cannot: given with --expect, it shows a log that was cut off or made anew.
    """
    from dataclasses import asdict

    from edgekit.fleet.audit import parse_head, verify_audit

    with opened_database(folder, database) as (_, opened):
        head = verify_audit(opened, expect=parse_head(expect) if expect else None)
    if as_json:
        emit_json(asdict(head))
        return
    click.echo(f"{plural(head.sequence, 'entry', 'entries')}, unbroken. Head: {head}")


@audit.command("list")
@click.option(
    "--newest", type=click.IntRange(1), default=50, show_default=True, help="How many at most."
)
@click.option("--subject", help='Only of this subject: "digits@1.2.0".')
@fleet_option
@database_option
@json_option
def list_(
    newest: int, subject: str | None, folder: Path, database: str | None, as_json: bool
) -> None:
    """List the newest entries first; devices stand there by pseudonym."""
    import json
    from dataclasses import asdict

    from edgekit.fleet.audit import read_audit

    with opened_database(folder, database) as (_, opened), opened.read() as session:
        entries = read_audit(session, newest=newest, subject=subject)
    if as_json:
        emit_json([asdict(entry) for entry in entries])
        return
    rows = [
        [
            str(entry.sequence),
            entry.at,
            entry.actor,
            entry.action,
            entry.subject,
            json.dumps(entry.detail, ensure_ascii=False) if entry.detail else "-",
        ]
        for entry in entries
    ]
    head = ["number", "at", "who", "what", "to what", "detail"]
    click.echo(table(rows, head=head, none="No such entry." if subject else "No entry yet."))


@click.group()
def token() -> None:
    """Make, list and revoke tokens for the page and the API."""


@token.command()
@click.argument("name")
@click.argument("role", type=click.Choice(["viewer", "operator", "release-manager", "admin"]))
@click.option("--days", type=click.IntRange(0), default=90, show_default=True, help="0 for never.")
@fleet_option
@database_option
@json_option
def create(
    name: str, role: str, days: int, folder: Path, database: str | None, as_json: bool
) -> None:
    """Make a token for the person or program NAME; it is shown once.

    A viewer looks on and sees devices by pseudonym; an operator labels devices, pauses and stops
    rollouts; a release manager registers, promotes, retires and rolls out; an admin makes tokens,
    and exports and deletes devices.
    """
    from edgekit.fleet.access import Role, create_token, local_actor

    with opened_database(folder, database) as (_, opened):
        made, text = create_token(
            opened, name=name, role=Role(role), days=days or None, actor=local_actor()
        )
    if as_json:
        emit_json({"id": made.id, "token": text})
        return
    click.echo(text)


@token.command("list")
@fleet_option
@database_option
@json_option
def list_tokens_(folder: Path, database: str | None, as_json: bool) -> None:
    """List tokens; their secrets are kept nowhere."""
    from dataclasses import asdict

    from edgekit.fleet.access import list_tokens

    with opened_database(folder, database) as (_, opened):
        found = list_tokens(opened)
    if as_json:
        emit_json([asdict(item) for item in found])
        return
    rows = [
        [
            item.id,
            item.name,
            item.role.value,
            *(_day(moment) for moment in (item.created, item.expires, item.last_used)),
            "yes" if item.revoked is not None else "no",
        ]
        for item in found
    ]
    head = ["id", "name", "role", "created", "expires", "last used", "revoked"]
    none = "No token yet. Make one: edgekit fleet token create NAME ROLE"
    click.echo(table(rows, head=head, none=none))


@token.command()
@click.argument("identifier", metavar="ID")
@fleet_option
@database_option
@json_option
def revoke(identifier: str, folder: Path, database: str | None, as_json: bool) -> None:
    """End the token of that id at once."""
    from edgekit.fleet.access import local_actor, revoke_token

    with opened_database(folder, database) as (_, opened):
        revoke_token(opened, identifier, actor=local_actor())
    if as_json:
        emit_json({"id": identifier, "revoked": True})
        return
    click.echo(f"{identifier}: revoked")


@click.command()
@click.argument("changes", nargs=-1, metavar="[NAME=NUMBER]...")
@click.option("--apply", "at_once", is_flag=True, help="Delete what is too old now.")
@fleet_option
@database_option
@json_option
def retention(
    changes: tuple[str, ...], at_once: bool, folder: Path, database: str | None, as_json: bool
) -> None:
    """Show how long what devices say is kept, or change it: telemetry_days=14.

    `edgekit fleet serve` deletes what is too old every hour.
    """
    from dataclasses import asdict

    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.retention import apply_retention, change_retention, read_retention
    from edgekit_runtime.errors import UsageError

    wanted = {}
    for change in changes:
        name, _, value = change.partition("=")
        if not value.isdecimal():
            raise UsageError(f"{change!r} is no change", fix="write it as NAME=NUMBER")
        wanted[name] = int(value)
    with opened_database(folder, database) as (_, opened):
        if wanted:
            change_retention(opened, wanted, actor=local_actor())
        limits = asdict(read_retention(opened))
        deleted = asdict(apply_retention(opened)) if at_once else None
    if as_json:
        emit_json({"limits": limits, "deleted": deleted})
        return
    click.echo(
        table([[name, str(value)] for name, value in limits.items()], head=["what", "at most"])
    )
    for name, count in (deleted or {}).items():
        click.echo(f"{name}: {count} deleted")


def _day(seconds: float | None) -> str:
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
