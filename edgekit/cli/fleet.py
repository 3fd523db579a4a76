"""`edgekit fleet`: what devices run, and what they say of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.amounts import MILLISECONDS, NUMBER, SECONDS, SHARE, SOME_SECONDS
from edgekit.cli.fleet_authority import authority, broker_plan, broker_setup_options, show_setup
from edgekit.cli.fleet_devices import devices, groups
from edgekit.cli.fleet_enrolment import enrolment
from edgekit.cli.fleet_experiment import experiment
from edgekit.cli.fleet_feedback import feedback
from edgekit.cli.fleet_options import (
    broker_address,
    broker_option,
    database_option,
    fleet_option,
    json_option,
    log_change,
)
from edgekit.cli.fleet_records import audit, retention, token
from edgekit.cli.fleet_request import request
from edgekit.cli.fleet_serve import serve
from edgekit.cli.fleet_shadow import shadow
from edgekit.cli.fleet_storage import storage
from edgekit.cli.render import emit_json, say, size, table, wait_for_interrupt
from edgekit.cli.rollout import rollout
from edgekit.cli.simulate import simulate
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.status import FleetStatus


_MOMENT = click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"])


def _seconds(moment: datetime | None) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp()) if moment else 0


@click.group()
def fleet() -> None:
    """Tell devices what to run over MQTT, and hear what they say.

    A bundle goes from `release` through an order, or a rollout, to devices; what they say and
    what people change is kept in the fleet's database.
    """


_COMMANDS = (
    rollout, experiment, shadow, simulate, devices, groups, request, enrolment, authority, audit,
    token, retention, serve, storage, feedback,
)  # fmt: skip
for _command in _COMMANDS:
    fleet.add_command(_command)


@fleet.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("fleet"))
@click.option("--id", "fleet_id", default="default", show_default=True, help="Its name in topics.")
@broker_setup_options
@json_option
def init(folder: Path, fleet_id: str, as_json: bool, **broker: Any) -> None:
    """Make the folder of a new fleet, and what its broker needs: TLS and an access list.

    An authority signs the broker's certificate, the control plane's, and those of devices. Only
    who has a certificate of it gets into the broker, and a device reaches its own topics alone.
    """
    from edgekit.fleet.broker_setup import new_fleet

    made = new_fleet(folder, fleet_id, broker_plan(**broker))
    if as_json:
        emit_json({"fleet": fleet_id, "folder": str(folder), "broker": made.to_json()})
        return
    click.echo(f"{folder}: fleet {fleet_id!r}. Next: edgekit keys init --fleet {folder}")
    show_setup(made)


@fleet.command()
@click.argument("device")
@click.argument("bundle")
@fleet_option
@click.option(
    "--min-requests",
    type=click.IntRange(0),
    help="Requests to serve before it counts as installed.  [default: 0]",
)
@click.option(
    "--min-seconds",
    type=SECONDS,
    help="Time to serve before it counts as installed.  [default: 10]",
)
@click.option(
    "--deadline-seconds", type=SOME_SECONDS, help="After that it is rolled back.  [default: 86400]"
)
@click.option(
    "--max-error-share", type=SHARE, help="Largest share of failed requests.  [default: 0.01]"
)
@click.option(
    "--max-p90-ms",
    type=MILLISECONDS,
    help="Largest 90th percentile of the latency.  [default: no limit]",
)
@click.option(
    "--max-psi",
    type=NUMBER,
    help="Largest drift of an input or output: population stability index, beyond chance.  "
    "[default: no limit]",
)
@click.option(
    "--max-nonfinite-share",
    type=SHARE,
    help="Largest share of NaN and infinity among an input's or output's values.  "
    "[default: no limit]",
)
@click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="TIMES",
    help="Go live in this window, UTC: 'daily 22:00-04:00', 'sat,sun 00:00-24:00'; repeatable.",
)
@click.option("--not-before", type=_MOMENT, metavar="TIME", help="UTC: 2026-12-24T06:00.")
@click.option(
    "--go-live-by", type=_MOMENT, metavar="TIME", help="Then wait for no window and no load."
)
@click.option("--min-battery", type=click.IntRange(0, 100), help="Percent, unless on mains.")
@click.option("--max-load", type=NUMBER, help="Largest load average for each processor.")
@database_option
@json_option
def order(
    device: str,
    bundle: str,
    folder: Path,
    windows: tuple[str, ...],
    not_before: datetime | None,
    go_live_by: datetime | None,
    min_battery: int | None,
    max_load: float | None,
    database: str | None,
    as_json: bool,
    **gates: float | None,
) -> None:
    """Order DEVICE to run BUNDLE, given as NAME@VERSION; its other bundles stay as they are.

    An older version may be ordered: that is how to go back. `edgekit fleet publish` sends it. It
    is fetched at once, and goes live when what is asked for here holds.
    """
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange
    from edgekit.fleet.ordering import order_bundle
    from edgekit_runtime.errors import UsageError
    from edgekit_runtime.orders import BundleOrder, Conditions, Gates, require_window

    name, at, version = bundle.partition("@")
    if not at:
        raise UsageError(f"{bundle!r} names no version", fix="write it as NAME@VERSION")
    chosen = Gates(**{key: value for key, value in gates.items() if value is not None})  # type: ignore[arg-type]
    conditions = Conditions(
        windows=tuple(map(require_window, windows)),
        not_before=_seconds(not_before),
        deadline=_seconds(go_live_by),
        min_battery_percent=min_battery or 0,
        max_load=max_load or 0.0,
    )
    opened = Fleet.open(folder)
    number = order_bundle(
        opened,
        device,
        BundleOrder(bundle=name, version=version, gates=chosen, conditions=conditions),
    )
    told: dict[str, object] = {"bundle": name, "version": version, "order": number}
    change = FolderChange(action="device.ordered", device=device, detail=told)
    log_change(opened, database, change)
    if as_json:
        emit_json({"device": device, "order": number, "bundle": name, "version": version})
        return
    click.echo(f"order {number} for {device}: {name} {version}. Next: edgekit fleet publish")


@fleet.command()
@fleet_option
@broker_option
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def publish(folder: Path, broker: str | None, database: str | None, as_json: bool) -> None:
    """Put all chunks, metadata and orders on the broker, as retained messages.

    The broker is the store: devices fetch from it while this program is not running.
    """
    from dataclasses import asdict

    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange
    from edgekit.fleet.publisher import publish as publish_all
    from edgekit.fleet.publisher import revisions
    from edgekit_runtime.errors import VerificationError

    opened = Fleet.open(folder)
    done = publish_all(opened, broker_address(opened, broker))
    change = FolderChange(
        action="fleet.published",
        subject=f"broker {done.broker}",
        detail=revisions(opened) | {"chunks": done.chunks, "orders": done.orders},
        once=True,
    )
    log_change(opened, database, change)
    if as_json:
        emit_json(asdict(done))
    else:
        click.echo(
            f"{done.broker}, {done.protocol}: {plural(done.chunks, 'chunk')} "
            f"({size(done.chunk_bytes)}), metadata ({size(done.metadata_bytes)}), "
            f"{plural(done.orders, 'order')}"
        )
    if done.damaged:
        raise VerificationError(
            f"damaged, and not published, are the orders of {', '.join(done.damaged)}",
            where=str(opened.orders),
            fix="take the fleet folder from a backup",
        )


@fleet.command()
@click.argument("target", type=click.Path(path_type=Path))
@fleet_option
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="ID",
    help="Only for this device, with only the bundles that it is told to run; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(target: Path, folder: Path, devices: tuple[str, ...], as_json: bool) -> None:
    """Write chunks, metadata and orders into a folder: a USB stick, a web server's root.

    The names in it are those of the MQTT topics. Devices take it from a stick ([stick] in
    agent.toml) or over HTTP ([mirror]), and verify it as they verify what a broker sends.
    """
    from dataclasses import asdict

    from edgekit.fleet.export import export_fleet
    from edgekit.fleet.folder import Fleet

    done = export_fleet(Fleet.open(folder), target, devices=devices)
    if as_json:
        emit_json(asdict(done) | {"folder": str(done.folder)})
        return
    click.echo(
        f"{done.folder}: {plural(done.chunks, 'chunk')} ({size(done.chunk_bytes)}), "
        f"{done.written} of them written now, metadata, {plural(done.orders, 'order')}"
    )


@fleet.command()
@fleet_option
@database_option
@json_option
def refresh(folder: Path, database: str | None, as_json: bool) -> None:
    """Renew the online signatures, so that devices know they are not kept in the dark."""
    from dataclasses import asdict

    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange
    from edgekit.fleet.ordering import refresh as refresh_all

    opened = Fleet.open(folder)
    done = refresh_all(opened)
    holds: dict[str, object] = {
        "devices": done.devices,
        "image_expires": done.image_expires.isoformat(),
    }
    change = FolderChange(
        action="fleet.refreshed", subject=f"signatures of fleet {opened.id}", detail=holds
    )
    log_change(opened, database, change)
    if as_json:
        emit_json(asdict(done) | {"image_expires": done.image_expires.isoformat()})
    else:
        click.echo(
            f"image metadata holds until {done.image_expires:%Y-%m-%d}; orders of "
            f"{plural(done.devices, 'device')} renewed. Next: edgekit fleet publish"
        )
    if done.damaged:
        click.echo(
            click.style("Warning: ", fg="yellow", bold=True)
            + f"damaged, and not renewed, are the orders of {', '.join(done.damaged)}: "
            "take the fleet folder from a backup",
            err=True,
        )
    for name in done.needs_offline_keys:
        click.echo(
            click.style("Warning: ", fg="yellow", bold=True)
            + f"{name} expires within 30 days and needs its offline key: edgekit keys renew",
            err=True,
        )


@fleet.command()
@fleet_option
@broker_option
@click.option(
    "--wait",
    type=SECONDS,
    default=1.0,
    show_default=True,
    help="How long to listen for the devices' states.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def status(folder: Path, broker: str | None, wait: float, as_json: bool) -> None:
    """Show releases and devices: what was ordered, and what each says it runs."""
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.status import fleet_status
    from edgekit.fleet.watch import FleetWatcher

    opened = Fleet.open(folder)
    with FleetWatcher(opened.id, broker_address(opened, broker)) as watcher:
        time.sleep(wait)
        seen = fleet_status(opened, watcher.states)
    if as_json:
        emit_json(_status_json(seen))
        return
    rows = []
    for device in seen.devices:
        ordered = ", ".join(
            f"{b.bundle} {b.version}" for b in (device.order.bundles if device.order else ())
        )
        says = (
            "; ".join(
                f"{name} {bundle.active or '-'} ({bundle.phase.value})"
                for name, bundle in sorted(device.state.bundles.items())
            )
            if device.state
            else "not heard"
        )
        online = "yes" if device.state and device.state.online else "no"
        rows.append([device.device, online, ordered or "-", says or "-"])
    click.echo(
        table(
            rows,
            head=["device", "online", "ordered", "says it runs"],
            none="No device was told or heard yet.",
        )
    )
    click.echo(
        f"{plural(len(seen.releases), 'release')}; "
        f"metadata holds until {seen.metadata_expires:%Y-%m-%d}"
    )


@fleet.command()
@fleet_option
@broker_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def watch(folder: Path, broker: str | None, as_json: bool) -> None:
    """Print the devices' events as they come, until Ctrl-C."""
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.watch import FleetWatcher

    opened = Fleet.open(folder)
    address = broker_address(opened, broker)
    with FleetWatcher(opened.id, address) as watcher:
        say(f"listening to fleet {opened.id!r} at {address}; Ctrl-C ends it")
        mark = 0

        def show_new() -> bool:
            nonlocal mark
            events = watcher.wait_for_events(since=mark, timeout_s=1)
            mark += len(events)
            for event in events:
                line = f"{event.device}  {event.kind}  {event.bundle} {event.version}  "
                text = event.to_json().decode() if as_json else (line + event.detail).rstrip()
                click.echo(text)
            return True

        wait_for_interrupt(show_new)


@fleet.command("broker")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("broker"), show_default=True
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=1883,
    show_default=True,
    help="0 takes any free one.",
)
@click.option(
    "--prefer",
    type=click.Choice(["auto", "mosquitto", "amqtt"]),
    default="auto",
    show_default=True,
    help="mosquitto where it is installed, else amqtt: slow, MQTT 3.1.1, forgets on restart.",
)
def broker_(folder: Path, port: int, prefer: str) -> None:
    """Run a broker for development on this machine, until Ctrl-C.

    It listens on loopback only and lets everybody in. A broker for devices elsewhere needs TLS
    and an access list.
    """
    from edgekit.fleet.broker import start_broker

    with start_broker(folder, port=port, prefer=prefer) as running:  # type: ignore[arg-type]
        click.echo(f"{running.name} {running.version} at {running.address}; Ctrl-C ends it")
        wait_for_interrupt(lambda: running.running)


def _status_json(seen: FleetStatus) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(seen) | {"metadata_expires": seen.metadata_expires.isoformat()}
