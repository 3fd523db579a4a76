"""A model's summary for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.cli.render import size
from edgekit_runtime.engines.checks import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgekit_runtime.graph.summary import ModelSummary
    from edgekit_runtime.tensors import TensorSpec

_STATES = {True: "yes", False: "no", None: "not tried"}


def render_summary(summary: ModelSummary) -> str:
    """What `edgekit inspect` prints."""
    graph = summary.graph
    opsets = ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items())
    version = f"IR {graph.version}, opset {opsets}" if opsets else f"schema {graph.version}"
    quantization = summary.quantization
    weights = (
        f"{quantization.kind}; {quantization.weight_share:.0%} of the weights are integers"
        + (", per channel" if quantization.per_channel else "")
    )
    loads = summary.loads
    lines = [
        ("file", f"{summary.path}, {size(summary.file_bytes)}"),
        (
            "format",
            f"{graph.format.value}, {version}" + (f", by {graph.producer}" * bool(graph.producer)),
        ),
        *(("input", text) for text in _specs(graph.inputs)),
        *(("output", text) for text in _specs(graph.outputs)),
        ("parameters", f"{summary.workload.parameters:,}"),
        ("MACs", f"{summary.workload.macs:,} for one inference"),
        (
            "activations",
            f"{size(summary.memory.peak_bytes)} at the peak, planned from the graph "
            f"(at {summary.memory.busiest})",
        ),
        ("quantization", weights),
        ("operators", ", ".join(f"{count} {name}" for name, count in summary.operators.items())),
        ("loads here", f"{_STATES[loads.loads]}: {loads.reason or loads.runtime}"),
    ]
    if summary.custom_operators:
        lines.append(("custom", ", ".join(summary.custom_operators)))
    lines += [("metadata", f"{key}: {value}") for key, value in graph.metadata.items()]
    lines += [("assumed", text) for text in graph.assumptions]
    lines += [("not counted", text) for text in summary.workload.unknown]
    return "\n".join(f"{name:13} {text}" for name, text in lines)


def _specs(specs: Iterable[TensorSpec]) -> list[str]:
    return [f"{spec.name}: {spec.dtype}{describe(spec.shape)}" for spec in specs]
