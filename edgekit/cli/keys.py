"""`edgekit keys`: the fleet's signing keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import (
    database_option,
    fleet_option,
    json_option,
    opened_database,
    passphrase_option,
)
from edgekit.cli.keys_text import report_outcome, show_change, show_keys
from edgekit.cli.render import emit_json

if TYPE_CHECKING:
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.key_change import KeyChange
    from edgekit.fleet.key_files import OwnKey
    from edgekit.fleet.key_signing import Signing
    from edgekit.fleet.keyring import Repository

_FILE = click.Path(path_type=Path, dir_okay=False)
_out_option = click.option(
    "--out", type=_FILE, help="Write what others have to sign too to this file."
)
_with_option = click.option(
    "--with",
    "replacement",
    type=_FILE,
    metavar="NAME.pub.json",
    help="The key that takes its place.  [default: one that is made here, if this one was]",
)
# What a person's key may sign, as it is said on the command line.
_ROLES = ("root", "targets", "image-root", "director-root", "image-targets")


def _change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where the fleet is, and how a change of its keys is signed; `_signing` takes them."""
    for option in (json_option, _out_option, database_option, passphrase_option, fleet_option):
        command = option(command)
    return command


@click.group()
def keys() -> None:
    """Make, exchange and revoke a fleet's signing keys; docs/keys.md is the way to go.

    Two repositories must agree before a device installs anything: the image repository says what
    may ever be installed, the director what one device must run now. Their roots say which keys
    are trusted for what, and how many of them must sign together.
    """


@keys.command()
@click.option(
    "--root", "roots", multiple=True, type=_FILE, metavar="NAME.pub.json",
    help="A person's key for both roots; repeatable.  [default: two that are made here]",
)  # fmt: skip
@click.option(
    "--targets", "targets", multiple=True, type=_FILE, metavar="NAME.pub.json",
    help="A person's key for releases; repeatable.  [default: one that is made here]",
)  # fmt: skip
@click.option("--root-threshold", type=click.IntRange(1), default=1, show_default=True)
@click.option("--targets-threshold", type=click.IntRange(1), default=1, show_default=True)
@fleet_option
@passphrase_option
@_out_option
@json_option
def init(
    roots: tuple[Path, ...],
    targets: tuple[Path, ...],
    root_threshold: int,
    targets_threshold: int,
    folder: Path,
    passphrase: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make all keys of a fleet; existing keys are never overwritten.

    With a passphrase the offline keys (roots, image targets) are encrypted. Keep copies of them
    where the fleet's server is not. With keys of people it writes the roots to a file that as many
    of them sign as the threshold asks for: see docs/keys.md.
    """
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.key_files import read_own_key
    from edgekit.fleet.key_signing import Signing
    from edgekit.fleet.keys import begin_keys, director_root, image_root

    fleet = Fleet.open(folder)
    outcome = begin_keys(
        fleet,
        Signing(passphrase=passphrase, out=out),
        roots=map(read_own_key, roots),
        targets=map(read_own_key, targets),
        root_threshold=root_threshold,
        targets_threshold=targets_threshold,
    )
    if outcome.file is not None:
        report_outcome(outcome, as_json=as_json)
        return
    show_keys(fleet, as_json=as_json)
    if not as_json:
        click.echo(
            f"\nA new device needs these two files to know whom to trust:\n"
            f"  {image_root(fleet)}\n  {director_root(fleet)}"
        )


@keys.command()
@click.argument("name")
@click.option(
    "--uri", help="Of a key that a token or a cloud holds: hsm:…, gcpkms:…, awskms:…, azurekms:…"
)
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="For it."
)
@passphrase_option
@json_option
def new(name: str, uri: str | None, folder: Path, passphrase: str | None, as_json: bool) -> None:
    """Make a key of one's own: NAME.pem stays with its owner, NAME.pub.json goes to the fleet.

    No fleet is needed for it. A token's PIN is read from EDGEKIT_PIN.
    """
    from edgekit.fleet.key_files import make_own_key

    path = make_own_key(name, folder, passphrase=passphrase, uri=uri)
    private = None if uri else str(folder / f"{name}.pem")
    if as_json:
        emit_json({"name": name, "public": str(path), "private": private})
        return
    click.echo(f"{path}: for the fleet." + (f" {private}: yours alone." if private else ""))


@keys.command()
@fleet_option
@json_option
def show(folder: Path, as_json: bool) -> None:
    """List the keys: what each signs, where it is, and until when its signatures hold."""
    from edgekit.fleet.folder import Fleet

    show_keys(Fleet.open(folder), as_json=as_json)


keys.add_command(show, "list")


@keys.command()
@click.argument("name")
@_with_option
@_change_options
def rotate(
    name: str,
    replacement: Path | None,
    as_json: bool,
    **place: Any,
) -> None:
    """Put a new key in the place of the key NAME, in every role that it has.

    What the old one has signed is signed again. Devices follow by themselves, also those that were
    offline for long. Then: edgekit fleet publish.
    """
    from edgekit.fleet.key_exchange import rotate_key

    with _signing(**place) as (fleet, signing):
        outcome = rotate_key(fleet, name, signing, replacement=_own(replacement))
    report_outcome(outcome, as_json=as_json)


@keys.command()
@click.argument("name")
@click.option("--reason", required=True, help="For the audit log: lost, stolen, Ben has left, …")
@_with_option
@_change_options
def revoke(
    name: str,
    reason: str,
    replacement: Path | None,
    as_json: bool,
    **place: Any,
) -> None:
    """Take back the trust in the key NAME: it was lost, or somebody else has it.

    Nothing that it signed alone is valid any more; what remains valid is signed again by the other
    keys. It can never be added again. Then: edgekit fleet publish.
    """
    from edgekit.fleet.key_exchange import revoke_key

    with _signing(**place) as (fleet, signing):
        outcome = revoke_key(fleet, name, signing, reason=reason, replacement=_own(replacement))
    report_outcome(outcome, as_json=as_json)


@keys.command()
@click.argument("public", type=_FILE, metavar="NAME.pub.json")
@click.argument("roles", nargs=-1, required=True, type=click.Choice(_ROLES))
@click.option("--threshold", type=click.IntRange(1), help="Of these roles, from now on.")
@_change_options
def add(
    public: Path,
    roles: tuple[str, ...],
    threshold: int | None,
    as_json: bool,
    **place: Any,
) -> None:
    """Let one more key sign: root (of both repositories), or targets (releases)."""
    from edgekit.fleet.key_exchange import add_key
    from edgekit.fleet.key_files import read_own_key

    chosen = _roles(roles)
    with _signing(**place) as (fleet, signing):
        outcome = add_key(
            fleet,
            read_own_key(public),
            chosen,
            signing,
            thresholds=dict.fromkeys(chosen, threshold) if threshold else None,
        )
    report_outcome(outcome, as_json=as_json)


@keys.command()
@click.argument("name")
@click.option("--threshold", type=click.IntRange(1), help="Of the roles that it had, from now on.")
@_change_options
def remove(
    name: str,
    threshold: int | None,
    as_json: bool,
    **place: Any,
) -> None:
    """Take the key NAME out, without another in its place."""
    from edgekit.fleet.key_exchange import remove_key
    from edgekit.fleet.key_planning import find_keys
    from edgekit.fleet.keyring import read_keyring

    with _signing(**place) as (fleet, signing):
        had = [(k.repository, r) for k in find_keys(read_keyring(fleet), name) for r in k.roles]
        outcome = remove_key(
            fleet, name, signing, thresholds=dict.fromkeys(had, threshold) if threshold else None
        )
    report_outcome(outcome, as_json=as_json)


@keys.command("threshold")
@click.argument("role", type=click.Choice(_ROLES))
@click.argument("number", type=click.IntRange(1))
@_change_options
def threshold_(
    role: str,
    number: int,
    as_json: bool,
    **place: Any,
) -> None:
    """Have NUMBER keys of a role sign together from now on."""
    from edgekit.fleet.key_exchange import set_thresholds

    with _signing(**place) as (fleet, signing):
        outcome = set_thresholds(fleet, dict.fromkeys(_roles((role,)), number), signing)
    report_outcome(outcome, as_json=as_json)


@keys.command()
@_change_options
def renew(as_json: bool, **place: Any) -> None:
    """Sign the roots and the list of releases anew, before they expire. Then: fleet publish."""
    from edgekit.fleet.key_exchange import renew_roots

    with _signing(**place) as (fleet, signing):
        outcome = renew_roots(fleet, signing)
    report_outcome(outcome, as_json=as_json)


@keys.command()
@click.argument("file", type=_FILE)
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Show what a change of keys does, who has signed it, and who still has to."""
    from edgekit.fleet.key_signing import require_tuf

    require_tuf()
    from edgekit.fleet.key_change import read_change

    show_change(read_change(file), as_json=as_json)


@keys.command()
@click.argument("file", type=_FILE)
@click.option(
    "--key", required=True, metavar="FILE|URI", help="Yours: a PEM file, hsm:…, gcpkms:…, …"
)
@passphrase_option
@click.option("--yes", is_flag=True, help="Do not ask whether this is what you want to sign.")
@json_option
def sign(file: Path, key: str, passphrase: str | None, yes: bool, as_json: bool) -> None:
    """Sign a change of keys with one's own key; look at what it says before.

    No fleet is needed for it. A token's PIN is read from EDGEKIT_PIN.
    """
    from edgekit.fleet.key_signing import require_tuf, sign_file

    require_tuf()
    from edgekit.fleet.key_change import read_change

    if not as_json:
        show_change(read_change(file), as_json=False)
    if not yes:
        click.confirm("Is this what you want to sign?", abort=True, err=True)
    report_outcome(sign_file(file, key, passphrase=passphrase), as_json=as_json)


@keys.command()
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE...")
@fleet_option
@database_option
@json_option
def apply(files: tuple[Path, ...], folder: Path, database: str | None, as_json: bool) -> None:
    """Bring a change of keys into force; several files are copies that different people signed."""
    from edgekit.fleet.key_signing import Outcome, apply_files

    with _signing(folder, None, database, None) as (fleet, signing):
        change = apply_files(fleet, files, signing)
    report_outcome(Outcome(change=change, file=None), as_json=as_json)


@keys.command()
@fleet_option
@database_option
@json_option
def resume(folder: Path, database: str | None, as_json: bool) -> None:
    """Go on with a change of keys that was interrupted."""
    from edgekit.fleet.key_signing import Outcome, require_tuf

    require_tuf()
    from edgekit.fleet.key_applying import resume_change

    with _signing(folder, None, database, None) as (fleet, signing):
        change = resume_change(fleet, record=signing.record)
    if change is not None:
        report_outcome(Outcome(change=change, file=None), as_json=as_json)
    elif as_json:
        emit_json({"in_force": False})
    else:
        click.echo("No change of keys has begun.")


def _own(path: Path | None) -> OwnKey | None:
    from edgekit.fleet.key_files import read_own_key

    return read_own_key(path) if path else None


def _roles(texts: tuple[str, ...]) -> list[tuple[Repository, str]]:
    from edgekit.fleet.keyring import Repository

    found: dict[tuple[Repository, str], None] = {}
    for text in texts:
        role = "targets" if text.endswith("targets") else "root"
        if text != "director-root":
            found[Repository.IMAGE, role] = None
        if text in ("root", "director-root"):
            found[Repository.DIRECTOR, role] = None
    return list(found)


@contextlib.contextmanager
def _signing(
    folder: Path, passphrase: str | None, database: str | None, out: Path | None
) -> Iterator[tuple[Fleet, Signing]]:
    """A fleet, and how to sign for it: what comes into force is written into the audit log."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.key_signing import Signing, require_tuf

    require_tuf()
    from edgekit.fleet.key_records import record_change

    # Opened before anything is signed: what comes into force must be written down.
    with opened_database(folder, database) as (fleet, opened):

        def record(change: KeyChange) -> None:
            record_change(opened, change, actor=local_actor())

        yield fleet, Signing(passphrase=passphrase, out=out, record=record)
