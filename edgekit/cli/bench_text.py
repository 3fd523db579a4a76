"""What `edgekit bench` prints: measured, predicted, what they rest on, and what was judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.render import milliseconds as short_milliseconds
from edgekit.cli.render import size, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgekit_benchmarks.bench import BenchReport, ModelBench
    from edgekit_benchmarks.footprint import Footprint
    from edgekit_benchmarks.measure import Measurement
    from edgekit_benchmarks.operators import OperatorTime

_MOST_OPERATORS = 12
_SECOND_MS = 1000
_MANY = 100
_BARS = "▁▂▃▄▅▆▇█"


def milliseconds(value: float) -> str:
    """A latency for people: seconds where there are many milliseconds, never an exponent."""
    return f"{value / 1000:.3g} s" if value >= _SECOND_MS else short_milliseconds(value)


def show(report: BenchReport) -> None:
    """Print a report for people."""
    _show_measured(report.models)
    _show_scenarios(report.models)
    _show_operators(report.models)
    _show_predicted(report.models)
    _show_verdicts(report)


def _show_measured(models: Iterable[ModelBench]) -> None:
    measured = [found for entry in models for found in entry.measurements]
    if not measured:
        return
    head = [
        "measured here", "engine", "threads", "load", "first", "median", "mean", "deviation", "p90",
        "p99", "a second",
    ]  # fmt: skip
    rows = [
        [
            entry.model,
            entry.engine,
            str(entry.threads),
            milliseconds(entry.load_ms),
            milliseconds(entry.first_ms),
            milliseconds(entry.latency.median_ms),
            milliseconds(entry.latency.mean_ms),
            milliseconds(entry.latency.deviation_ms),
            milliseconds(entry.latency.p90_ms),
            milliseconds(entry.latency.p99_ms),
            f"{entry.latency.throughput_per_s:.0f}"
            if entry.latency.throughput_per_s >= _MANY
            else f"{entry.latency.throughput_per_s:.3g}",
        ]
        for entry in measured
    ]
    click.echo(table(rows, head=head))
    for entry in measured:
        low, high = entry.latency.median_low_ms, entry.latency.median_high_ms
        click.echo(
            f"  {entry.model}, {entry.threads} thread{'s' * (entry.threads > 1)}: the median of "
            f"{entry.latency.runs} runs lies between {low:.4g} and {high:.4g} ms (95 %)"
        )
    head = ["memory", "file", "runtime", "engine", "weights", "of it mapped", "activations", "peak"]
    rows = [
        [
            entry.model,
            size(entry.file_bytes),
            *(
                "-" if count is None else size(count)
                for count in (
                    entry.memory.baseline_bytes,
                    entry.memory.engine_bytes,
                    entry.memory.model_bytes,
                    entry.memory.mapped_bytes,
                    entry.memory.activations_bytes,
                    entry.memory.peak_bytes,
                )
            ),
        ]
        for entry in {found.model: found for found in reversed(measured)}.values()
    ]
    click.echo("\n" + table(list(reversed(rows)), head=head))
    click.echo(f"Peak: {measured[0].memory.includes}. Runtime: Python, numpy and the engine.")
    click.echo(f"Machine: {measured[0].machine.describe()}.")
    for entry in measured:
        _show_course(entry)
        if entry.limit:
            click.echo(
                f"{entry.model} survived a limit of {size(entry.limit.limit_bytes)} for the whole "
                f"process ({entry.limit.how})."
            )
    click.echo()
    for text in dict.fromkeys(text for entry in measured for text in entry.warnings):
        click.echo(click.style("Warning: ", fg="yellow", bold=True) + text, err=True)


def _show_course(entry: Measurement) -> None:
    if not entry.curve:
        return
    values = [value for _, value in entry.curve]
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    line = "".join(_BARS[round((value - low) * scale)] for value in values[::2])
    start, end = sorted(values[:10])[5], sorted(values[-10:])[5]
    click.echo(
        f"\n{entry.model}, {entry.threads} thread{'s' * (entry.threads > 1)}, for "
        f"{entry.curve[-1][0]:.0f} s: {line}\n"
        f"  median {milliseconds(start)} in the first tenth, {milliseconds(end)} in the last "
        f"({end / start - 1:+.1%}); from {milliseconds(low)} to {milliseconds(high)}"
    )


def _show_scenarios(models: Iterable[ModelBench]) -> None:
    models = list(models)
    rows = [
        [
            Path(entry.model).name,
            found.scenario.value,
            str(found.threads),
            found.figure,
            milliseconds(found.median_ms),
            milliseconds(found.p99_ms),
            str(found.queries * found.samples_per_query),
            "valid" if found.valid else "not valid",
        ]
        for entry in models
        for found in entry.scenarios
    ]
    if not rows:
        return
    head = ["MLPerf", "scenario", "threads", "figure", "median", "p99", "samples", "by LoadGen"]
    click.echo(table(rows, head=head))
    for entry in models:
        for found in entry.scenarios:
            if not found.valid:
                click.echo(
                    f"  {Path(entry.model).name}, {found.scenario.value}, {found.threads} "
                    f"thread{'s' * (found.threads > 1)}: {found.why}"
                )
    click.echo("MLPerf itself asks for ten minutes each: --min-seconds 600.\n")


def _show_operators(models: Iterable[ModelBench]) -> None:
    for entry in models:
        if not entry.operators:
            continue
        total = sum(found.milliseconds for found in entry.operators)
        ranked = sorted(entry.operators, key=lambda found: -found.milliseconds)
        rows = [_operator_row(found, total) for found in ranked[:_MOST_OPERATORS]]
        rest = sum(found.milliseconds for found in ranked[_MOST_OPERATORS:])
        if rest:
            rows.append([f"{len(ranked) - _MOST_OPERATORS} others", "", milliseconds(rest),
                         f"{rest / total:.0%}"])  # fmt: skip
        head = [f"operators of {Path(entry.model).name}", "type", "time", "share"]
        click.echo(table(rows, head=head) + "\n")


def _operator_row(found: OperatorTime, total: float) -> list[str]:
    share = found.milliseconds / total if total else 0.0
    return [found.name[-48:], found.type, milliseconds(found.milliseconds), f"{share:.0%}"]


def _show_predicted(models: Iterable[ModelBench]) -> None:
    models = list(models)
    rows = [
        [
            Path(entry.model).name,
            prediction.board,
            str(prediction.threads),
            milliseconds(prediction.latency_ms),
            f"{_short(prediction.low_ms)} to {_short(prediction.high_ms)}",
            f"{size(memory.needed_bytes)} of {memory.ram}" if memory else "-",
            prediction.kind,
        ]
        for entry in models
        for prediction in entry.predictions
        for memory in (entry.memory_on(prediction),)
    ]
    if rows:
        head = ["not measured", "board", "threads", "latency", "90 % band", "memory", "kind"]
        click.echo(table(rows, head=head))
        _show_doubts(models)
    for entry in models:
        if entry.footprint:
            _show_footprint(entry, entry.footprint)
        for note in entry.notes:
            click.echo(f"  {Path(entry.model).name}: {note}")
    if rows:
        click.echo(
            "\nMemory: the whole process, planned, of what the board is sold with; on a "
            "microcontroller\nactivations alone. What each prediction rests on: --json."
        )


def _show_footprint(entry: ModelBench, found: Footprint) -> None:
    memories = {p.board: entry.memory_on(p) for p in entry.predictions}
    micro = [memory.micro for memory in memories.values() if memory]
    flash = []
    if entry.measurements or not micro or not all(micro):
        flash.append(f"{size(found.flash_bytes)} with the engine, without Python and numpy")
    if any(micro):
        flash.append(f"{size(found.weights_bytes)} and the engine's code on a microcontroller")
    name = Path(entry.model).name
    click.echo(
        f"  {name}: planned {size(found.weights_bytes)} of weights and "
        f"{size(found.activations_bytes)} of activations (most at {found.busiest[-48:]}); "
        f"on flash {', '.join(flash)}"
    )
    for board, memory in memories.items():
        if memory and not memory.fits:
            click.echo(
                click.style(f"  {name} does not fit a {board}: ", fg="red")
                + f"it needs {size(memory.needed_bytes)} of memory, and there are {memory.ram}"
            )


def _short(value: float) -> str:
    """Two significant digits, and never an exponent."""
    if value >= _SECOND_MS:
        return f"{value / 1000:.2g} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2g} ms"  # noqa: PLR2004 - one decimal


def _show_doubts(models: Iterable[ModelBench]) -> None:
    doubts: dict[str, list[str]] = {}
    for entry in models:
        for prediction in entry.predictions:
            for reason in prediction.reasons:
                boards = doubts.setdefault(f"{Path(entry.model).name}: {reason}", [])
                if prediction.board not in boards:
                    boards.append(prediction.board)
    if doubts:
        click.echo("\nEstimates only, or weak, because:")
    for reason, boards in doubts.items():
        click.echo(f"  {reason} ({', '.join(boards)})")


def _show_verdicts(report: BenchReport) -> None:
    if not report.verdicts:
        return
    click.echo()
    for verdict in report.verdicts:
        word = click.style("pass", fg="green") if verdict.passed else click.style("FAIL", fg="red")
        click.echo(
            f"{word}  {Path(verdict.model).name}, {verdict.what}, {verdict.on}: {verdict.reason}"
        )
