"""`edgekit fleet feedback`: which answers turned out to be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.fleet_options import database_option, fleet_option, json_option, opened_database
from edgekit.cli.render import emit_json

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

_SHOWN = 20


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--samples",
    type=click.Path(path_type=Path, file_okay=False),
    help="For labels: the folder that `edgekit fleet request samples --output` wrote.",
)
@fleet_option
@database_option
@json_option
def feedback(
    file: Path, samples: Path | None, folder: Path, database: str | None, as_json: bool
) -> None:
    """Count answers of devices as right or wrong, from FILE: CSV with a head, or JSON lines.

    Lines hold device,bundle,version,right,wrong and perhaps an id; or device,sample,label for
    samples that devices have sent. Each piece counts once, however often it is given: without an
    id the same file again changes nothing, but one that has grown counts anew. Rollouts with
    --min-accuracy, A/B experiments and the page see it. Exit code 1 if a piece was refused.
    """
    import functools
    from dataclasses import asdict

    from edgekit.fleet.access import local_actor
    from edgekit.fleet.telemetry.feedback import MAX_ITEMS, Counted, give_feedback
    from edgekit.fleet.telemetry.feedback_files import read_feedback

    counted = known = 0
    refused: list[str] = []
    with opened_database(folder, database) as (_, opened):
        items = read_feedback(
            file,
            samples=samples,
            class_names=functools.cache(functools.partial(_class_names, opened)),
        )
        for start in range(0, len(items), MAX_ITEMS):
            part = items[start : start + MAX_ITEMS]
            done = give_feedback(opened, part, actor=local_actor())
            counted, known = counted + done.counted, known + done.known
            refused += done.refused
    if as_json:
        emit_json(asdict(Counted(counted=counted, known=known, refused=tuple(refused))))
    else:
        click.echo(f"{counted} counted, {known} were known, {len(refused)} refused")
        for text in refused[:_SHOWN]:
            # Without an id of its own, a line is known by its file's hash and its number.
            click.echo("  " + re.sub(r"^[0-9a-f]{16}:(?=\d+: )", "line ", text))
    if refused:
        click.get_current_context().exit(1)


def _class_names(opened: Database, bundle: str, version: str) -> tuple[str, ...]:
    """The labels of a version's first output, where the registry has it."""
    from edgekit.fleet.registry.rows import find_row, read_entries

    with opened.read() as session:
        row = find_row(session, bundle, version)
        if row is None:
            return ()
        (entry,) = read_entries(session, [row])
    return entry.manifest.outputs[0].labels
