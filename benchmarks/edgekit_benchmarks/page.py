"""A bench report as one HTML page that stands by itself: words, then pictures, then tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks import charts
from edgekit_benchmarks.predict import ANCHORED, ESTIMATE_ONLY, PREDICTED, WEAKLY_PREDICTED
from edgekit_runtime.durable import write_bytes
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit_benchmarks.bench import BenchReport, ModelBench
    from edgekit_benchmarks.footprint import DeviceMemory
    from edgekit_benchmarks.measure import Measurement
    from edgekit_benchmarks.predict import Prediction

_MOST_SENTENCES: Final = 4
_KINDS: Final = {
    ANCHORED: "The board's published prices, corrected by runs on your own device.",
    PREDICTED: "From published measurements of this board with this engine, precision and number "
    "of threads. Nine in ten models of a kind that was left out lay in the band.",
    WEAKLY_PREDICTED: "As predicted, but from few models or from sources that say little.",
    ESTIMATE_ONLY: "Something was not measured on this board and is carried over from elsewhere, "
    "or the model is unlike all that was measured. Take the band, not the figure.",
}
_STYLE: Final = """
:root { --paper: #fff; --ink: #1f2933; --muted: #64707d; --line: #e3e7eb; --band: #b8c4d0;
  --good: #00735c; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ec; --muted: #98a4b0;
  --line: #2b333c; --band: #4a5866; --good: #3fc49f; --bad: #ff8a7a; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0; } .muted { color: var(--muted); } ul { margin: .3rem 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--muted); font-weight: 600; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { overflow-wrap: break-word; } td p { min-width: 11em; } a, summary { color: inherit; }
summary { cursor: pointer; }
.pass { color: var(--good); font-weight: 600; } .fail { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; display: block; } svg text { font: 12px system-ui, sans-serif; }
svg .ink { fill: var(--ink); } svg .muted { fill: var(--muted); }
svg .grid { stroke: var(--line); stroke-width: 1; }
"""


def check_accuracies(accuracies: Mapping[str, float], models: Sequence[Path]) -> dict[str, float]:
    """The accuracy of each model, by the path as it was given.

    Args:
        accuracies: A share of one by a model's path or file name.
        models: The models.

    Raises:
        UsageError: Naming every entry that is no share, or of no model.
    """
    faults: list[str] = []
    found: dict[str, float] = {}
    for name, share in accuracies.items():
        paths = [str(model) for model in models if name in {str(model), model.name}]
        if not paths:
            faults.append(f"there is no model {name!r}")
        if not 0 <= share <= 1:
            faults.append(f"{share:g} of {name!r} is no share of one")
        found |= dict.fromkeys(paths, share)
    if faults:
        raise UsageError("; ".join(faults), where="--accuracy", fix="give it as model.onnx=0.98")
    return found


def write_page(
    report: BenchReport, path: Path, *, accuracies: Mapping[str, float] | None = None
) -> None:
    """Write the page, replacing one that is there.

    Raises:
        EnvironmentLackError: If the file cannot be written.
    """
    write_bytes(path, render_page(report, accuracies=accuracies or {}).encode())


def render_page(report: BenchReport, *, accuracies: Mapping[str, float]) -> str:
    """The page: no script, nothing from elsewhere."""
    names = ", ".join(Path(entry.model).name for entry in report.models)
    sections = [
        *_verdicts(report),
        *_measured(report.models),
        *_course(report.models),
        *_scenarios(report.models),
        *_trade_off(report.models, accuracies),
        *_predicted(report.models),
        *_operators(report.models),
        *_memory(report.models),
        *_machine(report.models),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>Bench: {escape(names)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>How quick, how large?</h1>{_summary(report.models)}{''.join(sections)}"
        "</body></html>\n"
    )


def _summary(models: Sequence[ModelBench]) -> str:
    """What a reader who reads nothing else should know."""
    sentences = []
    for entry in models:
        name = escape(Path(entry.model).name)
        measured = entry.measurement
        if measured:
            sentences.append(
                f"<b>{name}</b> takes {_ms(measured.latency.median_ms)} here "
                f"({escape(measured.engine)}, {_threads(measured.threads)})"
                f"{_needs(measured)}."
            )
        too_large = _too_large(entry)
        fitting = [p for p in entry.predictions if p.board not in too_large]
        sentences += [_prediction_sentence(name, p) for p in _few(fitting)]
        sentences += [
            f"<b>{name}</b> <span class='fail'>does not fit</span> a {escape(board)}: it needs "
            f"{_mb(memory.needed_bytes)} of memory, and there are {memory.ram}."
            for board, memory in too_large.items()
        ]
    return "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in sentences) + "</ul>"


def _too_large(entry: ModelBench) -> dict[str, DeviceMemory]:
    """The boards whose memory has no room for it."""
    found = {p.board: entry.memory_on(p) for p in entry.predictions}
    return {board: memory for board, memory in found.items() if memory and not memory.fits}


def _few(predictions: Sequence[Prediction]) -> list[Prediction]:
    """All predictions if they are few, else the slowest and the quickest."""
    if len(predictions) <= _MOST_SENTENCES:
        return list(predictions)
    ranked = sorted(predictions, key=lambda prediction: -prediction.latency_ms)
    return [ranked[0], ranked[-1]]


def _prediction_sentence(name: str, prediction: Prediction) -> str:
    verb = "would take about" if prediction.kind != ESTIMATE_ONLY else "might take"
    return (
        f"<b>{name}</b> {verb} {_ms(prediction.latency_ms)} on a {escape(prediction.board)} "
        f"({_threads(prediction.threads)}): between {_ms(prediction.low_ms)} and "
        f"{_ms(prediction.high_ms)}, {prediction.kind}."
    )


def _needs(measured: Measurement) -> str:
    memory = measured.memory
    if memory.peak_bytes is None or memory.baseline_bytes is None:
        return ""
    whole = memory.peak_bytes + memory.baseline_bytes
    return f" and needs {_mb(whole)} of memory, {_mb(memory.baseline_bytes)} of it for the runtime"


def _verdicts(report: BenchReport) -> list[str]:
    if not report.verdicts:
        return []
    rows = [
        [
            '<span class="pass">kept</span>'
            if verdict.passed
            else '<span class="fail">broken</span>',
            escape(Path(verdict.model).name),
            escape(verdict.what),
            escape(verdict.on),
            escape(verdict.reason),
        ]
        # What does not hold comes first.
        for verdict in sorted(report.verdicts, key=lambda verdict: verdict.passed)
    ]
    head = ["", "model", "limit of", "where", "why"]
    return [_section("Limits", "What was asked for, and whether it holds."), _table(head, rows)]


def _measured(models: Iterable[ModelBench]) -> list[str]:
    found = _named(models)
    if not found:
        return []
    rows = [
        [
            escape(name),
            escape(entry.engine),
            _ms(entry.load_ms),
            _ms(entry.first_ms),
            _ms(entry.latency.median_ms),
            f"{_ms(entry.latency.median_low_ms)} to {_ms(entry.latency.median_high_ms)}",
            f"{_ms(entry.latency.mean_ms)} ± {_ms(entry.latency.deviation_ms)}",
            _ms(entry.latency.p90_ms),
            _ms(entry.latency.p99_ms),
            f"{entry.latency.throughput_per_s:,.4g}",
            str(entry.latency.runs),
        ]
        for name, entry in found
    ]
    head = [
        "model", "engine", "load", "first", "median", "median lies in (95 %)", "mean ± deviation",
        "p90", "p99", "a second", "runs",
    ]  # fmt: skip
    return [
        _section(
            "Measured here",
            "Each model in a fresh process. A hill is high where many inferences lie; the line is "
            "the median. A second hill means that something else ran now and then.",
        ),
        charts.distributions(found),
        _table(head, rows, numbers=range(2, 11)),
    ]


def _course(models: Iterable[ModelBench]) -> list[str]:
    found = [(name, entry) for name, entry in _named(models) if entry.curve]
    if not found:
        return []
    words = (
        "Does it hold its speed? A line that rises means that the machine grew hot and slowed down."
    )
    return [_section("Under sustained load", words), charts.course(found)]


def _scenarios(models: Iterable[ModelBench]) -> list[str]:
    rows = [
        [
            escape(Path(entry.model).name),
            escape(found.scenario.value),
            str(found.threads),
            escape(found.figure),
            _ms(found.median_ms),
            _ms(found.p99_ms),
            f"{found.queries * found.samples_per_query:,}",
            "yes" if found.valid else f"no: {escape(found.why)}",
        ]
        for entry in models
        for found in entry.scenarios
    ]
    if not rows:
        return []
    words = (
        "How it serves one user, several at once, a heap of work, and users who come at random; by "
        "MLPerf's LoadGen, which asks for ten minutes each in a submission."
    )
    head = ["model", "scenario", "threads", "figure", "median", "p99", "samples", "valid"]
    return [_section("In MLPerf's scenarios", words), _table(head, rows, numbers=(2, 4, 5, 6))]


def _trade_off(models: Sequence[ModelBench], accuracies: Mapping[str, float]) -> list[str]:
    shown = [
        entry
        for entry in models
        if entry.model in accuracies and (entry.measurements or entry.predictions)
    ]
    if not shown:
        return []
    words = (
        "To the left is quicker, up is more accurate. A variant that has another one above and to "
        "the left of it is not worth having."
    )
    return [
        _section("Latency against accuracy", words),
        charts.trade_off(shown, accuracies),
    ]


def _predicted(models: Iterable[ModelBench]) -> list[str]:
    models = list(models)
    found = [(Path(entry.model).name, p) for entry in models for p in entry.predictions]
    if not found:
        return []
    memories = [entry.memory_on(p) for entry in models for p in entry.predictions]
    rows = [
        [
            escape(name),
            escape(p.board),
            str(p.threads),
            _ms(p.latency_ms),
            f"{_ms(p.low_ms)} to {_ms(p.high_ms)}",
            f"{_mb(memory.needed_bytes)} of {memory.ram}" if memory else "-",
            escape(p.kind),
            _because(p),
        ]
        for (name, p), memory in zip(found, memories, strict=True)
    ]
    head = [
        "model", "board", "threads", "latency", "90 % band", "memory", "kind", "what it rests on",
    ]  # fmt: skip
    kinds = dict.fromkeys(prediction.kind for _, prediction in found)
    meanings = "".join(f"<li><b>{escape(kind)}</b>: {escape(_KINDS[kind])}</li>" for kind in kinds)
    return [
        _section(
            "Not measured: on boards",
            "The dot is the most likely latency, filled where the board was measured with such "
            "settings, hollow where it was not; the bar is the band that it lies in.",
        ),
        charts.predictions(found),
        f"<ul>{meanings}</ul>",
        _table(head, rows, numbers=range(2, 6)),
    ]


def _because(prediction: Prediction) -> str:
    reasons = "".join(f"<p>{escape(reason)}.</p>" for reason in prediction.reasons)
    links = ", ".join(_source(source) for source in prediction.sources)
    return (
        f"{reasons}<details><summary>measurements</summary><p>{escape(prediction.provenance)}."
        f"</p><p>{links}</p></details>"
    )


def _source(source: str) -> str:
    if not source.startswith("https://"):
        return escape(source)
    words = "/".join(source.removeprefix("https://").split("/")[:3])
    return f'<a href="{escape(source, quote=True)}">{escape(words)}</a>'


def _operators(models: Iterable[ModelBench]) -> list[str]:
    parts = []
    for entry in models:
        name = Path(entry.model).name
        if entry.operators:
            bars = [
                charts.Cost(name=found.name, milliseconds=found.milliseconds, kind=found.type)
                for found in entry.operators
            ]
            words = "Measured here, with the engine's profiler, scaled to the median above."
            parts += [
                _section(f"Where the time goes: {name}", words),
                charts.costs(bars, title=f"Time of the operators of {name}"),
            ]
        prediction = next((p for p in entry.predictions if p.layers), None)
        if prediction:
            bars = [
                charts.Cost(name=layer.name, milliseconds=layer.milliseconds, kind=layer.kind)
                for layer in prediction.layers
            ]
            words = f"Predicted for a {prediction.board}, {_threads(prediction.threads)}."
            parts += [
                _section(f"Where the time would go: {name}", words),
                charts.costs(bars, title=f"Predicted costs of the operators of {name}"),
            ]
    return parts


def _memory(models: Iterable[ModelBench]) -> list[str]:
    parts = []
    for entry in models:
        found = entry.footprint
        if found is None:
            continue
        name = Path(entry.model).name
        words = (
            f"Weights {_mb(found.weights_bytes)}, activations {_mb(found.activations_bytes)} "
            "planned. "
        )
        memories = [entry.memory_on(p) for p in entry.predictions]
        if any(memory and memory.micro for memory in memories):
            words += (
                "On a microcontroller activations lie in memory, and weights in flash; the "
                "engine's code and stack come on top. "
            )
        if entry.measurements or not all(memory and memory.micro for memory in memories):
            words += (
                f"The whole process would need {_mb(found.peak_bytes)}: {found.note}. On flash, "
                f"with the engine and without Python and numpy, {_mb(found.flash_bytes)}."
            )
        parts.append(_section(f"Memory over the model: {name}", words))
        if entry.steps:
            parts.append(charts.memory_course(entry.steps, planned_bytes=found.activations_bytes))
        if entry.notes:
            parts.append(
                "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in entry.notes) + "</ul>"
            )
    rows = [
        [
            escape(name),
            *(
                "-" if count is None else _mb(count)
                for count in (
                    measured.memory.baseline_bytes,
                    measured.memory.engine_bytes,
                    measured.memory.model_bytes,
                    measured.memory.mapped_bytes,
                    measured.memory.activations_bytes,
                    measured.memory.peak_bytes,
                )
            ),
        ]
        for name, measured in _named(models)
    ]
    if rows:
        head = [
            "measured here", "runtime", "engine's part", "weights", "of it mapped", "activations",
            "peak above runtime",
        ]  # fmt: skip
        parts.append(_table(head, rows, numbers=range(1, 7)))
    return parts


def _machine(models: Iterable[ModelBench]) -> list[str]:
    found = _named(models)
    if not found:
        return []
    machine = found[0][1].machine
    warnings = dict.fromkeys(text for _, entry in found for text in entry.warnings)
    words = f"{machine.describe()}; {found[0][1].measured_at:%Y-%m-%d %H:%M} UTC."
    return [
        _section("The machine that measured", words),
        "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in warnings) + "</ul>"
        if warnings
        else "",
    ]


def _named(models: Iterable[ModelBench]) -> list[tuple[str, Measurement]]:
    """Every measurement with a name that tells it from the others."""
    return [
        (
            found.model + (f", {_threads(found.threads)}" if len(entry.measurements) > 1 else ""),
            found,
        )
        for entry in models
        for found in entry.measurements
    ]


def _section(title: str, words: str) -> str:
    return f'<h2>{escape(title)}</h2><p class="muted">{escape(words)}</p>'


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()
) -> str:
    right = set(numbers)
    cells = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{cell}</td>' if column in right else f"<td>{cell}</td>"
            for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{cells}</tr>{body}</table></div>'


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"  # noqa: PLR2004


def _mb(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"  # noqa: PLR2004


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
