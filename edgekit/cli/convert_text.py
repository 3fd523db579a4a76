"""A conversion's report for people: artifacts, what they lose, what was tried, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgekit.cli.render import milliseconds, percent, size, table
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_converters.accuracy import PairedAccuracy
    from edgekit_converters.report import Artifact, ConversionReport, SchemeReport

_SHARES: Final = frozenset({"top1", "top5", "auc", "agreement"})
_CULPRITS: Final = 3
_BAR: Final = 24


def show(report: ConversionReport) -> None:
    """Print the artifacts as a table, then what a user should know of them."""
    rows, head = _artifacts(report)
    click.echo(table(rows, head=head))
    for line in _notes(report):
        click.echo(line)
    for scheme in report.schemes:
        for line in _scheme(scheme, report):
            click.echo(line)
    for warning in report.warnings:
        click.echo(click.style("Warning: ", fg="yellow", bold=True) + warning, err=True)


def write_diagnosis(page: Path, report: ConversionReport) -> None:
    """Write an HTML page on the first scheme whose layers were diagnosed.

    Raises:
        UnsupportedModelError: If none was: a `.tflite` file without an ONNX form has no layers to
            compare.
        EnvironmentLackError: If the page cannot be written.
    """
    from edgekit.pages.quantization import write_page

    for scheme in report.schemes:
        if scheme.diagnosis is not None:
            search = scheme.tuned.search
            write_page(
                page,
                scheme.diagnosis,
                model=Path(report.source).name,
                quantized=f"plain {scheme.tuned.scheme}",
                search=search.to_json() if search else None,
            )
            return
    raise UnsupportedModelError(
        "no layer could be diagnosed, so that there is no page to write",
        where=report.source,
        fix="leave --report out; the warnings say why",
    )


def _artifacts(report: ConversionReport) -> tuple[list[list[str]], list[str]]:
    metric = report.evaluation.metric if report.evaluation else ""
    columns: list[tuple[str, Callable[[Artifact], str]]] = [
        ("artifact", lambda one: one.path),
        ("precision", lambda one: one.precision.value),
        ("size", lambda one: size(one.size_bytes)),
        ("error", _error),
    ]  # fmt: skip
    if metric and metric != "agreement":
        columns += [(metric, _accuracy), ("drop", _drop), ("95 % of drops", _interval)]
    if metric:
        columns.append(("same answer as the source", _agreement))
    if report.device:
        columns.append((f"latency on {report.device}", _latency))
    rows = [[cell(artifact) for _, cell in columns] for artifact in report.artifacts]
    return rows, [head for head, _ in columns]


def _error(artifact: Artifact) -> str:
    # A class number has no size: that another class is named is in the column beside.
    errors = [one.max_relative_error for one in artifact.parity if one.dtype.startswith("float")]
    return f"{max(errors):.2g}" if errors else "-"


def _accuracy(artifact: Artifact) -> str:
    return _figure(artifact.paired, artifact.paired.after) if artifact.paired else "-"


def _drop(artifact: Artifact) -> str:
    return percent(artifact.paired.drop) if artifact.paired else "-"


def _interval(artifact: Artifact) -> str:
    paired = artifact.paired
    if paired is None or paired.low is None or paired.high is None:
        return "-"
    return f"{percent(paired.low)} to {percent(paired.high)}"


def _agreement(artifact: Artifact) -> str:
    return percent(artifact.agreement) if artifact.agreement is not None else "-"


def _latency(artifact: Artifact) -> str:
    if artifact.latency_ms is None:
        return "-"
    return f"{milliseconds(artifact.latency_ms)} ({artifact.latency_kind})"


def _figure(paired: PairedAccuracy, value: float) -> str:
    return percent(value) if paired.metric in _SHARES else f"{value:.4g}"


def _notes(report: ConversionReport) -> Iterator[str]:
    yield ""
    evaluation, first = report.evaluation, report.artifacts[0].paired
    if evaluation is not None and first is not None:
        before = ""
        if first.metric != "agreement":
            before = f", {first.metric} {_figure(first, first.before)}"
        yield (
            f"Source: {size(report.source_size_bytes)}{before}; all on the same "
            f"{evaluation.samples} samples ({evaluation.origin})."
        )
    yield (
        f"Error: the largest difference from {report.reference}, relative to its largest output."
    )
    if evaluation is not None and report.schemes:
        yield f"Accuracy: {evaluation.how}."
    for artifact in report.artifacts:
        for name, order in artifact.axes.items():
            yield f"{artifact.path}: {name!r} has the source's axes in the order {order}."


def _scheme(scheme: SchemeReport, report: ConversionReport) -> Iterator[str]:
    tuned = scheme.tuned
    if tuned.search is not None:
        count = len(tuned.search.attempts)
        yield ""
        yield (
            f"{tuned.scheme}: {count} attempt{'s' * (count > 1)}, "
            + (", ".join(tuned.repairs) or "the plain scheme is the best")
            + (" (interrupted)" if tuned.interrupted else "")
        )
        yield from _curve(scheme, report)
    if scheme.diagnosis is not None and scheme.diagnosis.culprits:
        yield ""
        yield f"Why plain {tuned.scheme} loses what it does:"
        parting = scheme.diagnosis.first_parting
        if parting is not None:
            yield f"  first to part from float: {parting.noise.node} ({parting.noise.op})"
        for layer in scheme.diagnosis.culprits[:_CULPRITS]:
            for finding in layer.findings[:1]:
                mends = " or ".join(finding.fixes)
                yield f"  {layer.noise.node} ({layer.noise.op}): {finding.text}; {mends}"


def _curve(scheme: SchemeReport, report: ConversionReport) -> Iterator[str]:
    """What each size or latency buys, the cheapest first."""
    from edgekit_converters.repair.attempts import trade_off

    search = scheme.tuned.search
    if search is None:
        return
    curve = trade_off(search.attempts)
    if len(curve) == 1:
        return
    most = max(1e-9, *(one.drop for one in curve))
    rows = [
        [
            "  " + one.candidate.label,
            size(one.size_bytes),
            *([milliseconds(one.latency_ms or 0.0)] if report.device else []),
            percent(one.drop),
            "#" * round(_BAR * max(one.drop, 0.0) / most),
        ]
        for one in curve
    ]
    head = ["  best trades", "size", *(["latency"] if report.device else []), "drop", ""]
    yield table(rows, head=head)
