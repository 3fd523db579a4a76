"""`edgekit bench`: measured here or on a device, predicted there."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.amounts import (
    GROWTH,
    MEGABYTES,
    MILLISECONDS,
    NUMBER,
    SECONDS,
    SHARE,
    SOME_SECONDS,
)
from edgekit.cli.fleet_options import broker_option, database_option, fleet_option
from edgekit.cli.render import emit_json, say


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
@click.option(
    "--threads",
    default="1",
    show_default=True,
    metavar="COUNTS",
    help="For one inference; several with commas between, each in turn.",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="The fewest timed inferences.",
)
@click.option(
    "--min-seconds",
    type=SECONDS,
    default=1.0,
    show_default=True,
    help="The shortest time to spend.",
)
@click.option(
    "--sustained",
    type=SOME_SECONDS,
    metavar="TIME",
    help="Afterwards go on at full load for so long (90s, 10m), and show the course.",
)
@click.option(
    "--runtime",
    type=click.Choice(["litert", "tflite-runtime"]),
    help="The engine for .tflite models.  [default: the first that is installed]",
)
@click.option(
    "--reference-kernels",
    is_flag=True,
    help="Run the engine's plain kernels, without graph optimisation or XNNPACK.",
)
@click.option(
    "--provider",
    metavar="NAME",
    help="The execution provider for .onnx models (xnnpack, cuda); the processor takes the rest.",
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    type=click.Choice(["single-stream", "multi-stream", "offline", "server"]),
    help="Run MLPerf's scenario as well, with its LoadGen, for --min-seconds; repeat it.",
)
@click.option(
    "--server-qps",
    type=NUMBER,
    metavar="RATE",
    help="Queries a second of the server scenario.  [default: the highest that holds the limit]",
)
@click.option(
    "--server-p99-ms",
    type=MILLISECONDS,
    help="Its limit for the 99th percentile.  [default: 4 medians, at least 1]",
)
@click.option("--operators", is_flag=True, help="Show where the time goes, operator by operator.")
@click.option(
    "--explain-memory",
    is_flag=True,
    help="Find out why an engine takes other memory than was planned.",
)
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Run under this limit (64MB), Python and engine included, and say whether it survives.",
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
@click.option("--max-latency-ms", type=MILLISECONDS, help="Fail if the median is above.")
@click.option("--max-p99-ms", type=MILLISECONDS, help="Fail if the 99th percentile is above.")
@click.option("--max-memory-mb", type=MEGABYTES, help="Fail if the whole process needs more.")
@click.option("--max-size-mb", type=MEGABYTES, help="Fail if the file is larger.")
@click.option(
    "--confidence",
    type=SHARE,
    default=0.9,
    show_default=True,
    help="How sure a prediction must be to keep a limit.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare with earlier results of --json.",
)
@click.option(
    "--max-regression",
    type=GROWTH,
    default="10%",
    show_default=True,
    help="With --baseline: fail if a median surely grew by more.",
)
@click.option(
    "--accuracy",
    "accuracies",
    multiple=True,
    metavar="MODEL=SHARE",
    help="What a model gets right (0.98), for the report's picture; repeat it.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write an HTML page with pictures.",
)
@click.option(
    "--device",
    metavar="ID",
    help="Have this device of the fleet measure MODELS, instead of this machine.",
)
@click.option(
    "--wait",
    type=SECONDS,
    default=180.0,
    show_default=True,
    help="With --device: for its answer.",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    help="With --device: whether to make a private profile of it.  [default: calibrate]",
)
@fleet_option
@database_option
@broker_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.pass_context
def bench(
    context: click.Context,
    models: tuple[Path, ...],
    profiles: tuple[str, ...],
    predict_only: bool,
    threads: str,
    runs: int,
    min_seconds: float,
    sustained: float | None,
    runtime: str | None,
    reference_kernels: bool,
    provider: str | None,
    scenarios: tuple[str, ...],
    server_qps: float | None,
    server_p99_ms: float | None,
    operators: bool,
    explain_memory: bool,
    memory_limit: str | None,
    inputs: Path | None,
    input_shapes: tuple[str, ...],
    max_latency_ms: float | None,
    max_p99_ms: float | None,
    max_memory_mb: float | None,
    max_size_mb: float | None,
    confidence: float,
    baseline: Path | None,
    max_regression: float,
    accuracies: tuple[str, ...],
    page: Path | None,
    device: str | None,
    wait: float,
    calibrate: bool,
    folder: Path,
    database: str | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """Measure MODELS on this machine, and predict their latency on boards.

    Every figure says what it is: measured here (each model in a fresh process), anchored on your
    device, predicted (from published measurements of that board, with a 90 % band), weakly
    predicted, or estimate only, with the reason. With a limit or a baseline it is a gate: exit
    code 1, with the reason, if one does not hold.

    \b
    edgekit bench model-int8.tflite --profile raspberrypi
    edgekit bench model.onnx model-int8.onnx --threads 1,4 --report page.html
    edgekit bench model.onnx --profile raspberrypi4 --predict-only --max-latency-ms 50
    edgekit bench model.onnx --baseline before.json --max-regression 10%
    edgekit bench model.onnx --memory-limit 128MB
    edgekit bench model.onnx --device oven-001 --fleet fleet

    With --device a device of a fleet measures what it serves, or what runs beside that: MODELS
    are bundles (NAME or NAME@VERSION) or files that they are made of. What is measured there
    stands beside the prediction, and makes a private profile of that device.
    """
    if device is not None:
        from edgekit.cli.bench_device import bench_device, require_meant

        require_meant(context)
        bench_device(
            [str(model) for model in models],
            device,
            profiles=profiles,
            wait=wait,
            calibrate=calibrate,
            max_latency_ms=max_latency_ms,
            max_memory_mb=max_memory_mb,
            folder=folder,
            database=database,
            broker=broker,
            as_json=as_json,
        )
        return
    from edgekit.cli.bench_progress import Progress
    from edgekit.cli.bench_text import show
    from edgekit_benchmarks.bench import run_bench
    from edgekit_benchmarks.gates import Limits
    from edgekit_benchmarks.memory_limit import parse_bytes
    from edgekit_benchmarks.page import check_accuracies, write_page
    from edgekit_benchmarks.plan import Plan, count_steps
    from edgekit_benchmarks.scenarios import Scenario, ServerLoad
    from edgekit_runtime.errors import GateFailedError

    accuracy = check_accuracies(_pairs(accuracies), models)
    plan = Plan(
        profiles=profiles,
        measure_here=not predict_only,
        threads=_counts(threads),
        runs=runs,
        min_seconds=min_seconds,
        sustained_seconds=sustained or 0.0,
        memory_limit_bytes=parse_bytes(memory_limit) if memory_limit else None,
        runtime=runtime,
        reference_kernels=reference_kernels,
        provider=provider,
        scenarios=tuple(dict.fromkeys(Scenario(name) for name in scenarios)),
        server_load=ServerLoad(queries_per_s=server_qps, p99_ms=server_p99_ms),
        operators=operators,
        explain_memory=explain_memory,
        inputs=inputs,
        input_shapes=_shapes(input_shapes),
        limits=Limits(
            latency_ms=max_latency_ms,
            p99_ms=max_p99_ms,
            memory_mb=max_memory_mb,
            size_mb=max_size_mb,
            confidence=confidence,
        ),
        baseline=baseline,
        most_regression=max_regression,
    )
    with Progress(count_steps(len(models), plan)) as progress:
        report = run_bench(models, plan, progress=progress.say, advance=progress.advance)
    if page:
        write_page(report, page, accuracies=accuracy)
        say(f"wrote {page}")
    if as_json:
        emit_json(report.to_json())
    else:
        show(report)
    if not report.passed:
        failed = [verdict for verdict in report.verdicts if not verdict.passed]
        reasons = [f"{Path(v.model).name}, {v.what}, {v.on}: {v.reason}" for v in failed]
        raise GateFailedError(
            f"{len(failed)} of {len(report.verdicts)} limits do not hold, the first: {reasons[0]}"
        )


def _shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    from edgekit_runtime.errors import UsageError

    shapes = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        if not colon or not all(size.strip().isdigit() for size in sizes.split(",")):
            raise UsageError(f"{text!r} is no shape", fix="write it as NAME:1,3,224,224")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes


def _counts(text: str) -> tuple[int, ...]:
    from edgekit_runtime.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise UsageError(
            f"{text!r} are no thread counts", where="--threads", fix="write them as 1 or 1,2,4"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _pairs(texts: tuple[str, ...]) -> dict[str, float]:
    from edgekit_runtime.errors import UsageError

    pairs = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            pairs[name] = SHARE(value)
        except click.BadParameter:
            equals = ""
        if not equals:
            raise UsageError(
                f"{text!r} is no accuracy", where="--accuracy", fix="write it as model.onnx=0.98"
            )
    return pairs
