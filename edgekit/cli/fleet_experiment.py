"""`edgekit fleet experiment`: which of two versions is better, asked of comparable devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.amounts import GROWTH, SOME_DAYS, SOME_SHARE
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
    from edgekit.fleet.store.experiments import Experiment


@click.group()
def experiment() -> None:
    """Ask which of two versions is better, on comparable devices, and get a clear answer.

    Half of the devices that are meant run A, half B; the test stays valid however often one
    looks. `edgekit fleet serve` tells the devices and looks.
    """


@experiment.command()
@click.argument("name")
@click.argument("bundle")
@click.argument("version_a")
@click.argument("version_b")
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "errors", "latency"]),
    required=True,
    help="What is compared.",
)
@click.option(
    "--margin",
    type=GROWTH,
    required=True,
    help="The least difference that matters: a share, or of the latency a ratio less one.",
)
@click.option(
    "--alpha",
    type=SOME_SHARE,
    default=0.05,
    show_default=True,
    help="Probability of a false answer.",
)
@click.option(
    "--most-days", type=SOME_DAYS, default=30.0, show_default=True, help="After that it ends."
)
@click.option(
    "--devices", "query", default="", metavar="QUERY", help="Which take part.  [default: all]"
)
@click.option(
    "--comparable-by",
    multiple=True,
    metavar="LABEL",
    help="Both groups have equally many devices of each value: arch; repeatable.",
)
@fleet_option
@database_option
@broker_option
@json_option
def start(
    name: str,
    bundle: str,
    version_a: str,
    version_b: str,
    metric: str,
    margin: float,
    alpha: float,
    most_days: float,
    query: str,
    comparable_by: tuple[str, ...],
    folder: Path,
    database: str | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """Begin the experiment NAME: VERSION_A of BUNDLE, which is known, against VERSION_B."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.experiments.ab import question_from_json
    from edgekit.fleet.installable import require_installable
    from edgekit.fleet.store.experiments import ExperimentTable

    asked = {
        "metric": metric,
        "margin": margin,
        "alpha": alpha,
        "most_seconds": most_days * 86_400,
    }
    with opened_database(folder, database) as (fleet, opened):
        versions = {version_a, version_b}
        require_installable(fleet, bundle, versions, broker=broker_if_known(fleet, broker))
        made = ExperimentTable(opened).create(
            name,
            bundle=bundle,
            version_a=version_a,
            version_b=version_b,
            query=query,
            comparable_by=comparable_by,
            question=question_from_json(asked, where=name),
            who=local_actor(),
        )
        after = what_begins(opened, query)
    if as_json:
        emit_json(made.to_json())
        return
    click.echo(f"{made.id}: {bundle} {version_a} against {version_b}. {after}")


@experiment.command("list")
@fleet_option
@database_option
@json_option
def list_(folder: Path, database: str | None, as_json: bool) -> None:
    """List experiments and what they say."""
    from edgekit.fleet.store.experiments import ExperimentTable

    with opened_database(folder, database) as (_, opened):
        found = ExperimentTable(opened).all()
    if as_json:
        emit_json([item.to_json() for item in found])
        return
    rows = [
        [item.id, item.bundle, item.version_a, item.version_b, item.state, item.sentence]
        for item in found
    ]
    head = ["experiment", "bundle", "a", "b", "state", "answer"]
    none = "No experiment yet. Begin one: edgekit fleet experiment start"
    click.echo(table(rows, head=head, none=none))


@experiment.command()
@click.argument("name")
@fleet_option
@database_option
@json_option
def show(name: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Show what the experiment NAME says, and which devices are in which group."""
    from edgekit.fleet.store.experiments import ExperimentTable

    with opened_database(folder, database) as (_, opened):
        found = ExperimentTable(opened).get(name)
    _show(found, as_json=as_json)


@experiment.command()
@click.argument("name")
@fleet_option
@database_option
@json_option
def stop(name: str, folder: Path, database: str | None, as_json: bool) -> None:
    """End the experiment NAME, which has no answer yet; devices keep what they were told."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.store.experiments import ExperimentTable

    with opened_database(folder, database) as (_, opened):
        found = ExperimentTable(opened).stop(name, who=local_actor())
    if as_json:
        _show(found, as_json=True)
        return
    click.echo(f"{found.id}: {found.sentence}. Its devices run what they were told")


def _show(found: Experiment, *, as_json: bool) -> None:
    arms = {device: arm.value for device, arm in sorted(found.arms.items())}
    if as_json:
        emit_json(found.to_json() | {"devices": arms})
        return
    looked, metric = found.looked, found.question.metric
    click.echo(f"{found.id}: {found.bundle}, {metric.value}, {found.state}. {found.sentence}.")
    for version, mean, count in (
        (found.version_a, looked.a, looked.devices_a),
        (found.version_b, looked.b, looked.devices_b),
    ):
        said = f"{metric.shown(mean)} on {plural(count, 'device')}" if count else "not heard of yet"
        click.echo(f"{version}: {said}")
    versions = {"a": found.version_a, "b": found.version_b}
    rows = [[device, arm, versions[arm]] for device, arm in arms.items()]
    click.echo(table(rows, head=["device", "group", "is to run"], none="No device takes part yet."))
