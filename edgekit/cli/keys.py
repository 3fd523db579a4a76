"""`edgekit keys`: the fleet's signing keys."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.fleet_options import fleet_option, passphrase_option
from edgekit.cli.render import emit_json, table


@click.group()
def keys() -> None:
    """Make and show a fleet's signing keys.

    Two repositories must agree before a device installs anything: the image repository says what
    may ever be installed, the director what one device must run now. Rotation, revocation and
    keys in hardware are not supported yet.
    """


@keys.command()
@fleet_option
@passphrase_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def init(folder: Path, passphrase: str | None, as_json: bool) -> None:
    """Make all keys of a fleet; existing keys are never overwritten.

    With a passphrase the offline keys (roots, image targets) are encrypted. Keep copies of them
    where the fleet's server is not.
    """
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.keys import director_root, image_root, init_keys

    fleet = Fleet.open(folder)
    init_keys(fleet, passphrase=passphrase)
    show_keys(folder, as_json=as_json)
    if not as_json:
        click.echo(
            f"\nA new device needs these two files to know whom to trust:\n"
            f"  {image_root(fleet)}\n  {director_root(fleet)}"
        )


@keys.command()
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(folder: Path, as_json: bool) -> None:
    """List the keys: what each signs, and whether it is offline and encrypted."""
    show_keys(folder, as_json=as_json)


def show_keys(folder: Path, *, as_json: bool) -> None:
    """Print a fleet's keys."""
    from dataclasses import asdict

    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.keyring import read_keyring

    ring = read_keyring(Fleet.open(folder))
    if as_json:
        emit_json([asdict(key) for key in ring.keys])
        return
    rows = [
        [
            key.name,
            ", ".join(key.roles),
            "offline" if key.offline else "online",
            "yes" if key.encrypted else "no",
            key.keyid[:16],
        ]
        for key in ring.keys
    ]
    click.echo(table(rows, head=["key", "signs", "kept", "encrypted", "key id"]))
