"""`edgekit bench`: measured here, predicted there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.render import emit_json, milliseconds, say, size, table

if TYPE_CHECKING:
    from edgekit_benchmarks.bench import BenchReport


@click.command()
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="Predict for a board or a family of boards; repeat it. `edgekit profiles list` has them.",
)
@click.option("--predict-only", is_flag=True, help="Do not run the models here.")
@click.option("--threads", default=1, show_default=True, help="For one inference.")
@click.option("--runs", default=50, show_default=True, help="The fewest timed inferences.")
@click.option("--min-seconds", default=1.0, show_default=True, help="The shortest time to spend.")
@click.option(
    "--runtime",
    type=click.Choice(["litert", "tflite-runtime"]),
    help="The engine for .tflite models.  [default: the first that is installed]",
)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An .npz to feed instead of made-up values.",
)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME:1,3,224,224",
    help="The shape of an input with free axes; repeat it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def bench(
    models: tuple[Path, ...],
    profiles: tuple[str, ...],
    predict_only: bool,
    threads: int,
    runs: int,
    min_seconds: float,
    runtime: str | None,
    inputs: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure MODELS on this machine, and predict their latency on boards.

    Every figure says what it is: measured here (each model in a fresh process), predicted (from
    published measurements of that board, with a 90 % band), or estimate only, with the reason.

    \b
    edgekit bench model-int8.tflite --profile raspberrypi
    edgekit bench model.onnx model-int8.onnx --threads 4
    """
    from edgekit_benchmarks.bench import bench_models

    report = bench_models(
        models,
        profiles=profiles,
        measure_here=not predict_only,
        threads=threads,
        runs=runs,
        min_seconds=min_seconds,
        runtime=runtime,
        inputs=inputs,
        input_shapes=_shapes(input_shapes),
        progress=say,
    )
    if as_json:
        emit_json(report.to_json())
    else:
        _show(report)


def _show(report: BenchReport) -> None:
    measured = [entry.measurement for entry in report.models if entry.measurement]
    if measured:
        rows = [
            [
                entry.model,
                f"{entry.runtime} {entry.runtime_version}",
                milliseconds(entry.latency.median_ms),
                milliseconds(entry.latency.p90_ms),
                milliseconds(entry.latency.p99_ms),
                milliseconds(entry.load_ms),
                size(entry.memory.peak_bytes) if entry.memory.peak_bytes is not None else "-",
                size(entry.file_bytes),
            ]
            for entry in measured
        ]
        head = ["measured here", "engine", "median", "p90", "p99", "load", "peak memory", "file"]
        click.echo(table(rows, head=head))
        click.echo(f"Peak memory: {measured[0].memory.includes}.\n")
        for text in dict.fromkeys(text for entry in measured for text in entry.warnings):
            click.echo(click.style("Warning: ", fg="yellow", bold=True) + text, err=True)
    rows = [
        [
            Path(entry.model).name,
            prediction.board,
            milliseconds(prediction.latency_ms),
            f"{prediction.low_ms:.2g} to {prediction.high_ms:.2g} ms",
            prediction.kind,
        ]
        for entry in report.models
        for prediction in entry.predictions
    ]
    if rows:
        click.echo(table(rows, head=["not measured", "board", "latency", "90 % band", "kind"]))
    doubts: dict[str, list[str]] = {}
    for entry in report.models:
        for prediction in entry.predictions:
            for reason in prediction.reasons:
                boards = doubts.setdefault(f"{Path(entry.model).name}: {reason}", [])
                boards.append(prediction.board)
    if doubts:
        click.echo("\nEstimates only, because:")
    for reason, boards in doubts.items():
        click.echo(f"  {reason} ({', '.join(boards)})")
    for entry in report.models:
        for note in entry.notes:
            click.echo(f"  {Path(entry.model).name}: {note}")
    if rows:
        click.echo("\nWhat each prediction rests on, with sources: --json.")


def _shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    from edgekit_runtime.errors import UsageError

    shapes = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        if not colon or not all(size.strip().isdigit() for size in sizes.split(",")):
            raise UsageError(f"{text!r} is no shape", fix="write it as NAME:1,3,224,224")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes
