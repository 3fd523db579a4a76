"""`edgekit release`: what devices may install."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.fleet_options import (
    database_option,
    fleet_option,
    log_change,
    passphrase_option,
)
from edgekit.cli.render import emit_json, size, table
from edgekit.wording import plural


@click.group()
def release() -> None:
    """Sign bundles as versions that devices of a fleet may install.

    A release alone changes no device: `edgekit fleet order` tells a device to run it.
    """


@release.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@fleet_option
@passphrase_option
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def add(
    bundle: Path, folder: Path, passphrase: str | None, database: str | None, as_json: bool
) -> None:
    """Release BUNDLE (.ekb): cut it into chunks and sign its index.

    The same version with other content is refused; the same content again changes nothing.
    """
    from dataclasses import asdict

    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange
    from edgekit.fleet.release import release_bundle

    fleet = Fleet.open(folder)
    made = release_bundle(fleet, bundle, passphrase=passphrase)
    change = FolderChange(
        action="release.added",
        subject=f"{made.bundle}@{made.version}",
        detail={"file_sha256": made.file_sha256, "chunks": made.chunks},
        once=True,
    )
    log_change(fleet, database, change)
    if as_json:
        emit_json(asdict(made))
        return
    click.echo(
        f"{made.bundle} {made.version}: {plural(made.chunks, 'chunk')}, "
        f"{size(made.wire_bytes)} on the wire; "
        f"{size(made.new_wire_bytes)} of them new to this fleet. "
        "Next: edgekit fleet publish"
    )


@release.command("list")
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def list_(folder: Path, as_json: bool) -> None:
    """List what was released, the newest version of each bundle first."""
    from dataclasses import asdict

    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.release import list_releases

    releases = list_releases(Fleet.open(folder))
    if as_json:
        emit_json([asdict(item) for item in releases])
        return
    rows = [
        [item.bundle, item.version, item.released, str(item.chunks), size(item.wire_bytes)]
        for item in releases
    ]
    click.echo(
        table(
            rows,
            head=["bundle", "version", "released", "chunks", "on the wire"],
            none="No release yet. Make one: edgekit release add BUNDLE.ekb",
        )
    )
