"""`edgekit-agent batch`: a model over files and folders."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from edgekit_runtime.console import EXIT_INTERRUPTED
from edgekit_runtime.durable import unwritable
from edgekit_runtime.errors import GateFailedError


@click.command()
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("agent.toml"),
    show_default=True,
    help="The agent that serves the model; not needed for an .ekb file.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the answers go, one JSON object a line; by default to standard output.",
)
@click.option("--threads", type=click.IntRange(1, 64), help="Threads that one inference may use.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def batch(
    *,
    model: str,
    paths: tuple[Path, ...],
    config_path: Path,
    output: Path | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Run MODEL over files and folders: pictures, sounds, .npy and .npz.

    MODEL is the name of a bundle that the agent serves, or the path of an .ekb file. Pre- and
    postprocessing are those of its bundle. Exit code 1 if any request was not answered.
    """
    from edgekit_agent.batch import find_files, run_batch
    from edgekit_agent.local import load_model

    files = find_files(paths)
    with contextlib.ExitStack() as stack:
        loaded = stack.enter_context(load_model(model, config=config_path, threads=threads))
        stream: IO[str] = sys.stdout
        if output:
            stream = stack.enter_context(_written(output))
        bar = stack.enter_context(
            click.progressbar(length=len(files), label=Path(model).name, file=sys.stderr)
        )
        summary = run_batch(loaded, files, stream, progress=lambda _: bar.update(1))
    if as_json:
        click.echo(json.dumps(summary.to_json(), indent=1), err=output is None)
    else:
        click.echo(
            f"{summary.answers} answers from {summary.files} of {len(files)} files in "
            f"{summary.seconds:.1f} s, median {summary.median_ms:.3g} ms (measured here); "
            f"{summary.failed} failed",
            err=True,
        )
        for fault in summary.faults:
            click.echo(f"  {fault}", err=True)
    if summary.interrupted:
        click.echo(f"interrupted: {output or 'what was printed'} ends with a whole line", err=True)
        return EXIT_INTERRUPTED
    return GateFailedError.exit_code if summary.failed else 0


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """A file to write answers to.

    Raises:
        EnvironmentLackError: If it cannot be written, or the disk is full.
    """
    try:
        with path.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise unwritable(path, error) from error
