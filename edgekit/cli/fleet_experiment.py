"""`edgekit fleet experiment`: which of two versions is better, asked of comparable devices."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.amounts import GROWTH, SHARE, SOME_DAYS
from edgekit.cli.fleet_options import (
    broker_if_known,
    broker_option,
    database_option,
    fleet_option,
    json_option,
    opened_database,
)
from edgekit.cli.render import emit_json, table


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
    "--alpha", type=SHARE, default=0.05, show_default=True, help="Probability of a false answer."
)
@click.option(
    "--most-days", type=SOME_DAYS, default=30.0, show_default=True, help="After that it ends."
)
@click.option("--devices", "query", default="", help="Which take part.  [default: all]")
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
    if as_json:
        emit_json({"id": made.id, "question": made.question.to_json()})
        return
    click.echo(f"{made.id}: {bundle} {version_a} against {version_b}. Next: edgekit fleet serve")


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
        emit_json(
            [
                {
                    "id": item.id,
                    "bundle": item.bundle,
                    "a": item.version_a,
                    "b": item.version_b,
                    "question": item.question.to_json(),
                    "looked": item.looked.to_json(),
                    "sentence": item.looked.sentence(item.question),
                }
                for item in found
            ]
        )
        return
    rows = [
        [item.id, item.bundle, item.version_a, item.version_b, item.looked.sentence(item.question)]
        for item in found
    ]
    click.echo(
        table(
            rows,
            head=["experiment", "bundle", "a", "b", "answer"],
            none="No experiment yet. Begin one: edgekit fleet experiment start",
        )
    )
