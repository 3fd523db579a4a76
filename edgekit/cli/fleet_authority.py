"""`edgekit fleet authority`: who may speak to the fleet's broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import (
    database_option,
    fleet_option,
    how_the_broker_hears,
    json_option,
    log_change,
)
from edgekit.cli.render import emit_json, moment
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.broker_setup import BrokerPlan, BrokerSetup

_FILE = click.Path(path_type=Path, dir_okay=False)
_hosts_option = click.option(
    "--broker-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or an address by which devices reach the broker; repeatable.  [default: this "
    "machine's]",
)


def broker_setup_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say what the broker will be; `broker_plan` reads them."""
    for option in (
        click.option(
            "--authority-key", type=_FILE, help="Its key, PEM; EDGEKIT_PASSPHRASE opens it."
        ),
        click.option(
            "--authority", type=_FILE, help="An authority of yours, PEM.  [default: a new one]"
        ),
        click.option(
            "--broker-data",
            "data",
            metavar="FOLDER",
            help="Where the broker will keep what it remembers.  [default: within its folder]",
        ),
        click.option(
            "--broker-place",
            "place",
            metavar="FOLDER",
            help="Where the broker will find its folder, if it is carried elsewhere.",
        ),
        click.option(
            "--broker-port", "port", type=click.IntRange(1, 65_535), default=8883, show_default=True
        ),
        _hosts_option,
    ):
        command = option(command)
    return command


def broker_plan(**options: Any) -> BrokerPlan:
    """What the options ask for."""
    import os

    from edgekit.fleet.broker_setup import BrokerPlan

    return BrokerPlan(authority_passphrase=os.environ.get("EDGEKIT_PASSPHRASE") or None, **options)


@click.group()
def authority() -> None:
    """Sign and revoke the certificates by which broker, control plane and devices know each other.

    `edgekit fleet init` makes the authority. Devices that enrol ask it by themselves.
    """


@authority.command("init")
@fleet_option
@broker_setup_options
@json_option
def init_(folder: Path, as_json: bool, **options: Any) -> None:
    """Make the broker's folder of a fleet that has none, or make it anew with other names.

    An authority that exists stays.
    """
    from edgekit.fleet.broker_setup import add_broker
    from edgekit.fleet.folder import Fleet

    made = add_broker(Fleet.open(folder), broker_plan(**options))
    if as_json:
        emit_json(made.to_json())
        return
    show_setup(made)


@authority.command()
@fleet_option
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show the authority, and what it has taken back."""
    from edgekit.fleet.authority import FleetAuthority
    from edgekit.fleet.folder import Fleet

    found = FleetAuthority.load(Fleet.open(folder))
    revoked = found.revoked()
    name = found.certificate.subject.rfc4514_string()
    ends = found.certificate.not_valid_after_utc
    if as_json:
        emit_json(
            {
                "name": name,
                "ends": ends.isoformat(),
                "revoked": {f"{serial:x}": since.isoformat() for serial, since in revoked.items()},
            }
        )
        return
    click.echo(f"{name}, until {ends:%Y-%m-%d}; {plural(len(revoked), 'certificate')} revoked")
    for serial, since in sorted(revoked.items(), key=lambda item: item[1]):
        click.echo(f"  {serial:x}  {moment(since.timestamp())}")


@authority.command()
@click.argument("device", metavar="NAME")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: NAME]"
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="For a server of this name or address, such as `edgekit fleet serve`; repeatable.",
)
@click.option(
    "--request", type=_FILE, help="The device's own signing request; its key stays there."
)
@click.option("--days", default=90, show_default=True, type=click.IntRange(1))
@fleet_option
@database_option
@json_option
def issue(
    device: str,
    out: Path | None,
    hosts: tuple[str, ...],
    request: Path | None,
    days: int,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Sign a certificate for the device NAME, for one that is not enrolled over HTTPS.

    Without a request a key is made for it: carry it to the device, and delete it here. With hosts
    it is a server's: `edgekit fleet serve --tls-certificate` takes it, and devices that enrol
    trust it with `--ca NAME/ca.pem`.
    """
    from edgekit.fleet.authority import FleetAuthority
    from edgekit.fleet.broker_setup import issue_to_folder
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange

    target = out or Path(device)
    fleet = Fleet.open(folder)
    issued = issue_to_folder(
        FleetAuthority.load(fleet),
        device,
        target,
        request=request,
        days=days,
        hosts=hosts,
    )
    held: dict[str, object] = {
        "serial": f"{issued.serial:x}",
        "expires": issued.expires.isoformat(),
        "hosts": list(hosts),
    }
    change = FolderChange(
        action="certificate.issued",
        subject=f"server {device}" if hosts else "",
        device="" if hosts else device,
        detail=held,
    )
    log_change(fleet, database, change)
    if as_json:
        expires = issued.expires.isoformat()
        serial = f"{issued.serial:x}"
        emit_json({"name": device, "serial": serial, "expires": expires, "folder": str(target)})
        return
    click.echo(
        f"{target}: certificate {issued.serial:x} for {device}, until {issued.expires:%Y-%m-%d}"
    )


@authority.command()
@click.argument("certificates", nargs=-1, required=True, metavar="CERTIFICATE...")
@fleet_option
@database_option
@json_option
def revoke(
    certificates: tuple[str, ...], folder: Path, database: str | None, as_json: bool
) -> None:
    """Take certificates back, given as PEM files or as serial numbers (hexadecimal).

    For devices that have enrolled, `edgekit fleet devices` knows their certificates.
    """
    from edgekit.fleet.authority import FleetAuthority
    from edgekit.fleet.broker_setup import install_revocations
    from edgekit.fleet.certificates import serial_of
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange

    fleet = Fleet.open(folder)
    found = FleetAuthority.load(fleet)
    serials = [serial_of(text) for text in certificates]
    found.revoke(serials)
    change = FolderChange(
        action="certificate.revoked",
        subject=f"authority of fleet {fleet.id}",
        detail={"serials": [f"{serial:x}" for serial in serials]},
    )
    log_change(fleet, database, change)
    path, count = install_revocations(found), len(found.revoked())
    if as_json:
        revoked = [f"{serial:x}" for serial in serials]
        emit_json({"revoked": revoked, "revocations": str(path), "revoked_in_all": count})
        return
    click.echo(
        f"{path}: {plural(count, 'certificate')} revoked. {how_the_broker_hears(fleet, path)}"
    )


@authority.command()
@click.option(
    "--broker-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or an address by which devices reach the broker; repeatable.  [default: those "
    "that it has]",
)
@fleet_option
@database_option
@json_option
def renew(hosts: tuple[str, ...], folder: Path, database: str | None, as_json: bool) -> None:
    """Make the broker's and the control plane's certificates anew, before they end."""
    from edgekit.fleet.authority import FleetAuthority
    from edgekit.fleet.broker_setup import BrokerPlan, broker_folder, renew_certificates
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange

    fleet = Fleet.open(folder)
    named = BrokerPlan(hosts=hosts).all_hosts if hosts else ()
    ends = renew_certificates(FleetAuthority.load(fleet), hosts=named)
    path = broker_folder(fleet) / "broker.pem"
    change = FolderChange(
        action="certificate.renewed",
        subject=f"broker of fleet {fleet.id}",
        detail={"expires": ends.isoformat(), "hosts": list(named)},
    )
    log_change(fleet, database, change)
    if as_json:
        emit_json({"certificate": str(path), "expires": ends.isoformat()})
        return
    click.echo(f"{path}: holds until {ends:%Y-%m-%d}. {how_the_broker_hears(fleet, path)}")


def show_setup(made: BrokerSetup) -> None:
    """Say how the broker is started, and how the control plane reaches it."""
    from edgekit.fleet.broker_changes import RUNNER

    click.echo(
        f"Broker, with TLS and an access list until {made.expires:%Y-%m-%d}: "
        f"sh {made.config.parent / RUNNER}\n"
        f"Commands that speak to it: --broker {made.url}, once; or EDGEKIT_BROKER"
    )
