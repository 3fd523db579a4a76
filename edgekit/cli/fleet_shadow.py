"""`edgekit fleet shadow`: a version beside the one that serves, compared and never served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.amounts import NUMBER, SHARE, SOME_HOURS, SOME_SHARE
from edgekit.cli.fleet_options import (
    broker_if_known,
    broker_option,
    database_option,
    fleet_option,
    json_option,
    opened_database,
    what_begins,
)
from edgekit.cli.render import emit_json, table
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.store.shadow_sums import ShadowDevice
    from edgekit.fleet.store.shadows import ShadowRun


@click.group()
def shadow() -> None:
    """Run a version beside the one that serves: its answers are compared, and never served.

    A sample of live requests goes to both. The version beside takes only what others leave, and
    what it says is reported with the measurements. `edgekit fleet serve` tells the devices.
    """


@shadow.command()
@click.argument("name")
@click.argument("bundle")
@click.argument("version")
@click.option(
    "--devices", "query", default="", metavar="QUERY", help="Which take part.  [default: all]"
)
@click.option(
    "--rate", type=SOME_SHARE, default=0.1, show_default=True, help="The share of requests."
)
@click.option(
    "--max-per-second",
    type=NUMBER,
    default=5.0,
    show_default=True,
    help="No more requests than that.",
)
@click.option(
    "--hours", type=SOME_HOURS, default=24.0, show_default=True, help="How long, on each device."
)
@click.option(
    "--memory-mb", type=click.IntRange(1), default=512, show_default=True, help="What it may take."
)
@click.option(
    "--free-mb",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="It ends where less is left.",
)
@click.option(
    "--tolerance",
    type=NUMBER,
    default=0.05,
    show_default=True,
    help="How far answers that name no class may differ, as a share of the largest value.",
)
@click.option(
    "--min-agreement",
    type=SHARE,
    default=0.95,
    show_default=True,
    help="The share of inputs on which both must say the same.",
)
@click.option(
    "--alpha", type=SHARE, default=0.05, show_default=True, help="Probability of a false answer."
)
@fleet_option
@database_option
@broker_option
@json_option
def start(
    name: str,
    bundle: str,
    version: str,
    query: str,
    hours: float,
    memory_mb: int,
    free_mb: int,
    folder: Path,
    database: str | None,
    broker: str | None,
    as_json: bool,
    **asked: float,
) -> None:
    """Begin the run NAME: VERSION of BUNDLE beside whatever version of it serves."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.experiments.shadow import settings_from_json
    from edgekit.fleet.installable import require_installable
    from edgekit.fleet.store.shadows import ShadowTable

    settings = settings_from_json(
        asked
        | {
            "seconds": hours * 3_600,
            "memory_bytes": memory_mb << 20,
            "free_bytes": free_mb << 20,
        },
        where=name,
    )
    with opened_database(folder, database) as (fleet, opened):
        require_installable(fleet, bundle, [version], broker=broker_if_known(fleet, broker))
        made = ShadowTable(opened).create(
            name,
            bundle=bundle,
            version=version,
            query=query,
            settings=settings,
            who=local_actor(),
        )
        after = what_begins(opened, query)
    if as_json:
        emit_json(made.to_json())
        return
    click.echo(f"{made.id}: {bundle} {version} beside what serves. {after}")


@shadow.command("list")
@fleet_option
@database_option
@json_option
def list_(folder: Path, database: str | None, as_json: bool) -> None:
    """List runs and what they said when the service last looked."""
    from edgekit.fleet.store.shadows import ShadowTable

    with opened_database(folder, database) as (_, opened):
        found = ShadowTable(opened).all()
    if as_json:
        emit_json([run.to_json() for run in found])
        return
    rows = [
        [run.id, run.bundle, run.version, run.state, str(run.result["sentence"])] for run in found
    ]
    click.echo(
        table(
            rows,
            head=["run", "bundle", "version", "state", "answer"],
            none="No shadow run yet. Begin one: edgekit fleet shadow start",
        )
    )


@shadow.command()
@click.argument("name")
@fleet_option
@database_option
@json_option
def show(name: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Show what the run NAME says, and how it goes on each device."""
    from edgekit.fleet.store.shadows import ShadowTable

    with opened_database(folder, database) as (_, opened):
        run, devices = ShadowTable(opened).show(name)
    if as_json:
        each = {item.device: item.to_json() for item in devices}
        emit_json(run.to_json() | {"devices": each})
        return
    click.echo(f"{run.id}: {run.bundle} {run.version}, {run.state}. {run.result['sentence']}.")
    if run.result["compared"]:
        click.echo(_figures(run.result))
    rows = [_row(run, item) for item in devices]
    click.echo(
        table(
            rows,
            head=["device", "is", "compared", "agreed", "because"],
            none="No device takes part yet.",
        )
    )


@shadow.command()
@click.argument("name")
@fleet_option
@database_option
@json_option
def stop(name: str, folder: Path, database: str | None, as_json: bool) -> None:
    """End the run NAME: `edgekit fleet serve` tells its devices, what was reported stays."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.service.single import who_works
    from edgekit.fleet.store.shadows import ShadowTable

    with opened_database(folder, database) as (_, opened):
        run = ShadowTable(opened).stop(name, who=local_actor())
        working = who_works(opened)
    if as_json:
        emit_json(run.to_json())
        return
    next_step = f"{working} tells its devices" if working else "Next: edgekit fleet serve"
    click.echo(f"{run.id}: {run.state}. {next_step}")


def _row(run: ShadowRun, item: ShadowDevice) -> list[str]:
    if item.phase:
        phase = item.phase
    elif item.told is not None:
        phase = "told"
    else:
        phase = "not told yet" if run.stopped is None else "told no more"
    return [item.device, phase, str(item.compared), str(item.agreed), item.reason or "-"]


def _figures(said: Mapping[str, Any]) -> str:
    ours, active = said["latency_ms"], said["active_latency_ms"]
    lines = [
        f"{plural(said['compared'], 'input')} compared on {plural(said['devices'], 'device')}: "
        f"{said['agreed']} "
        f"agreed, {said['failed']} not answered, {said['insane']} answered with NaN or infinity; "
        f"{said['dropped']} more were chosen and not given",
        f"median latency {ours['p50']:.3g} ms on an idle processor, of what serves "
        f"{active['p50']:.3g} ms (both measured on the devices)",
    ]
    lines += [
        f"{name}: median difference {output['median_difference']:.3g}, largest "
        f"{output['largest_difference']:.3g}, at most "
        f"{output['largest_relative_difference']:.1%} of the largest value served"
        for name, output in said["outputs"].items()
    ]
    return "\n".join(lines)
