"""A model's summary, and two side by side, for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.cli.render import size, table
from edgekit_runtime.engines.checks import describe
from edgekit_runtime.graph.compare import Unit, weight_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgekit_runtime.graph.compare import Fact, ModelComparison
    from edgekit_runtime.graph.quantization import QuantizationSummary
    from edgekit_runtime.graph.summary import ModelSummary
    from edgekit_runtime.tensors import TensorSpec

_STATES: Final = {True: "yes", False: "no", None: "not known"}
_LONGEST: Final = 100
_LONGEST_CELL: Final = 44


def render_summary(summary: ModelSummary) -> str:
    """What `edgekit inspect MODEL` prints."""
    graph = summary.graph
    opsets = ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items())
    version = f"IR {graph.version}, opset {opsets}" if opsets else f"schema {graph.version}"
    loads = summary.loads
    unknown = summary.memory.unknown
    lines = [
        ("file", f"{summary.path}, {size(summary.file_bytes)}"),
        (
            "format",
            f"{graph.format.value}, {version}" + (f", by {graph.producer}" * bool(graph.producer)),
        ),
        *(("input", text) for text in _specs(graph.inputs)),
        *(("output", text) for text in _specs(graph.outputs)),
        ("parameters", f"{summary.workload.parameters:,}"),
        (
            "MACs",
            ("at least " if summary.workload.unknown else "")
            + f"{summary.workload.macs:,} for one inference",
        ),
        (
            "activations",
            f"{size(summary.memory.peak_bytes)} at the peak, planned from the graph"
            + (f" (at {shortened(summary.memory.busiest)})" if summary.memory.busiest else "")
            + (f"; without {unknown} tensor(s) of unknown size" if unknown else ""),
        ),
        ("quantization", _quantization(summary.quantization)),
        ("operators", ", ".join(f"{n} {name}" for name, n in summary.operators.items()) or "none"),
        (
            "runs here",
            f"{_STATES[loads.loads]}"
            + (f", in {loads.runtime}" if loads.runtime else "")
            + (f": {loads.reason}" if loads.reason else ""),
        ),
        *(("runs on", f"{f.runtime}: {_STATES[f.runs]}, {f.reason}") for f in summary.runtimes),
    ]
    if summary.custom_operators:
        lines.append(("custom", ", ".join(summary.custom_operators)))
    if graph.description:
        lines.append(("description", shortened(graph.description)))
    lines += [("metadata", f"{key}: {shortened(text)}") for key, text in graph.metadata.items()]
    lines += [("assumed", text) for text in graph.assumptions]
    lines += [("not counted", text) for text in summary.workload.unknown]
    return "\n".join(f"{name:13} {text}" for name, text in lines)


def render_comparison(comparison: ModelComparison) -> str:
    """What `edgekit inspect MODEL OTHER` prints."""
    names = [Path(summary.path).name for summary in (comparison.first, comparison.second)]
    if names[0] == names[1]:
        names = [summary.path for summary in (comparison.first, comparison.second)]
    facts, different = comparison.facts, len(comparison.differences)
    rows = [[shortened(fact.name, _LONGEST_CELL), *_values(fact), _change(fact)] for fact in facts]
    notes = [f"{fact.name.strip()}: {fact.note}" for fact in facts if fact.note]
    last = f"{different} of {len(rows)} rows differ" if different else "no differences"
    return "\n".join([table(rows, head=["", *names, "change"]), "", *notes, last])


def shortened(text: str, longest: int = _LONGEST) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split()) if "\n" in text else text
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _quantization(found: QuantizationSummary) -> str:
    operands = f"weights {weight_text(found)}; activations {found.activation_type}"
    plain = found.kind == found.weight_type == found.activation_type
    if plain and not found.weight_share:
        return f"none, {found.kind}"
    return operands if found.kind == found.weight_type else f"{found.kind}: {operands}"


def _values(fact: Fact) -> list[str]:
    return [shortened(_value(fact, value), _LONGEST_CELL) for value in (fact.first, fact.second)]


def _value(fact: Fact, value: str | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return size(value) if fact.unit is Unit.BYTES else f"{value:,}"
    return value


def _change(fact: Fact) -> str:
    if fact.same:
        return ""
    if fact.first is None or fact.second is None:
        return "only in the second" if fact.first is None else "only in the first"
    if isinstance(fact.first, int) and isinstance(fact.second, int):
        if fact.unit is Unit.PIECES:
            return f"{fact.second - fact.first:+,}" if fact.second != fact.first else "differs"
        return f"{(fact.ratio - 1) * 100:+.1f} %" if fact.ratio is not None else "differs"
    return "differs"


def _specs(specs: Iterable[TensorSpec]) -> list[str]:
    return [f"{spec.name}: {spec.dtype}{describe(spec.shape)}" for spec in specs]
