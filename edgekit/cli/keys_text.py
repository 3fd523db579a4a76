"""Keys, and changes of them, as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.render import emit_json, table

if TYPE_CHECKING:
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.key_change import KeyChange
    from edgekit.fleet.key_signing import Outcome


def show_keys(fleet: Fleet, *, as_json: bool) -> None:
    """Print a fleet's keys."""
    from dataclasses import asdict

    from edgekit.fleet.key_signing import require_tuf
    from edgekit.fleet.keyring import read_keyring

    ring = read_keyring(fleet)
    require_tuf()
    from edgekit.fleet.key_applying import pending_change
    from edgekit.fleet.key_state import key_places, root_states

    places = key_places(ring)
    states = root_states(fleet)
    pending = pending_change(fleet)
    if as_json:
        emit_json(
            {
                "keys": [asdict(k) | {"place": places[k.keyid]} for k in ring.keys],
                "roots": [asdict(s) | {"expires": s.expires.isoformat()} for s in states],
                "revoked": [asdict(key) for key in ring.revoked],
                "unfinished": pending,
            }
        )
        return
    rows = [
        [
            key.name,
            key.repository.value,
            ", ".join(key.roles),
            "offline" if key.offline else "online",
            places[key.keyid],
            key.keyid[:16],
        ]
        for key in ring.keys
    ]
    click.echo(table(rows, head=["key", "repository", "signs", "kept", "place", "key id"]))
    rows = [
        [
            s.repository.value,
            s.role,
            str(s.version),
            f"{s.threshold} of {s.keys}",
            f"{s.expires:%Y-%m-%d}",
        ]
        for s in states
    ]
    click.echo("")
    click.echo(table(rows, head=["repository", "role", "version", "signatures", "holds until"]))
    for key in ring.revoked:
        click.echo(f"revoked: {key.name} ({key.keyid[:16]}) at {key.revoked}: {key.reason}")
    if pending is not None:
        click.echo(
            click.style("Warning: ", fg="yellow", bold=True)
            + f"a change has begun and is not finished: {pending}. Go on: edgekit keys resume",
            err=True,
        )


def show_change(change: KeyChange, *, as_json: bool) -> None:
    """Print what a change does, and what it waits for."""
    from edgekit.fleet.key_applying import explain
    from edgekit.fleet.key_change import lacking
    from edgekit.fleet.key_records import change_detail

    lacks = explain(change, lacking(change))
    if as_json:
        emit_json({"fleet": change.fleet, **change_detail(change), "lacking": lacks})
        return
    click.echo(f"Fleet {change.fleet!r}: {change.what}")
    for repository, part in change.repositories.items():
        for root in part.roots:
            click.echo(
                f"\n{repository.value} root {root.signed.version}, "
                f"until {root.signed.expires:%Y-%m-%d}, trusts:"
            )
            for role, held in root.signed.roles.items():
                names = ", ".join(_name(change, keyid) for keyid in held.keyids)
                click.echo(f"  {role}: {held.threshold} of {names}")
        if part.targets is not None:
            names = ", ".join(
                sorted(path.rpartition("/")[0] for path in part.targets.signed.targets)
            )
            click.echo(f"\nList {part.targets.signed.version} of releases: {names or 'none yet'}")
    click.echo("")
    for text in lacks:
        click.echo(f"waits: {text}")
    if not lacks:
        click.echo("Enough have signed. Next, where it was made: edgekit keys apply FILE")


def report_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """Print what became of a change."""
    from edgekit.fleet.key_applying import explain
    from edgekit.fleet.key_records import change_detail

    lacks = explain(outcome.change, outcome.lacking)
    if as_json:
        emit_json(
            {
                "in_force": outcome.file is None,
                "file": str(outcome.file) if outcome.file else None,
                "lacking": lacks,
                **change_detail(outcome.change),
            }
        )
    elif outcome.file is None:
        click.echo(f"In force: {outcome.change.what}. Next: edgekit fleet publish")
    elif lacks:
        click.echo(f"{outcome.file}: {outcome.change.what}, not in force yet")
        for text in lacks:
            click.echo(f"  waits: {text}")
        click.echo("Next, by each: edgekit keys sign FILE --key …; then: edgekit keys apply FILE")
    else:
        click.echo(
            f"{outcome.file}: enough have signed. Next, where it was made: edgekit keys apply FILE"
        )


def _name(change: KeyChange, keyid: str) -> str:
    from edgekit.fleet.key_change import owners

    return f"{owners(change).get(keyid, 'a key')} ({keyid[:16]})"
