"""Put together what is known of a quantized model's layers, and name those that break it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.diagnosis.alignment import aligned
from edgekit_converters.diagnosis.causes import Finding, find_causes
from edgekit_converters.diagnosis.layers import LayerNoise, compare_layers
from edgekit_converters.diagnosis.spread import ValueSpread, spread_of
from edgekit_converters.graph import read_graph
from edgekit_converters.ranges import RangeStatistics, collect_ranges
from edgekit_converters.repair.pieces import Pieces
from edgekit_converters.repair.ratios import MOST_DB

if TYPE_CHECKING:
    from edgekit_converters.diagnosis.subject import Subject
    from edgekit_converters.repair.simulation import Batch

SCHEMA_VERSION: Final = 1
# Below this a value is not what the float model computes: a sixth of its magnitude is noise.
PARTED_DB: Final = 15.0
# A layer's own noise that is worth a word, in front of what 8 bits give at best.
OWN_NOTABLE_DB: Final = 25.0
# What a layer without weights may lose of what it was given, unnoticed.
_LOST_DB: Final = 3.0
_MOST_CULPRITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDiagnosis:
    """What is known of one layer.

    Attributes:
        noise: How well its output is computed.
        findings: Why it is not computed better, the heaviest first; empty where it is good.
        spread: How the values that it reads first lie, and the range that is kept; None where
            they are not quantized.
    """

    noise: LayerNoise
    findings: tuple[Finding, ...]
    spread: ValueSpread | None

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON has it."""
        return {
            "node": self.noise.node,
            "operator": self.noise.op,
            "value": self.noise.value,
            "sqnr_db": _rounded(self.noise.sqnr_db),
            "own_sqnr_db": _rounded(self.noise.own_sqnr_db),
            "findings": [one.to_json() for one in self.findings],
            "input": self.spread.to_json() if self.spread else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationDiagnosis:
    """What quantization does to a model, layer by layer.

    Attributes:
        scheme: What was diagnosed.
        samples: On how many.
        agreement: The share of them for which both name the same class; None without classes.
        layers: In the order of the nodes.
        first_parting: The first layer whose output is not what the float model computes; None
            where all are.
        culprits: The layers that add the most noise of their own, the worst first.
        judged: How it was computed, a sentence.
    """

    scheme: str
    samples: int
    agreement: float | None
    layers: tuple[LayerDiagnosis, ...]
    first_parting: LayerDiagnosis | None
    culprits: tuple[LayerDiagnosis, ...]
    judged: str

    @property
    def fixes(self) -> tuple[str, ...]:
        """The options that mend the culprits, the most urgent first."""
        return tuple(
            dict.fromkeys(fix for layer in self.culprits for fix in layer.findings[0].fixes[:1])
        )

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON has it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "scheme": self.scheme,
            "judged": self.judged,
            "samples": self.samples,
            "agreement": self.agreement,
            "first_parting": self.first_parting.noise.node if self.first_parting else None,
            "culprits": [layer.noise.node for layer in self.culprits],
            "fixes": list(self.fixes),
            "layers": [layer.to_json() for layer in self.layers],
        }


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 2)


def diagnose(
    model: Any,
    subject: Subject,
    batches: Collection[Batch],
    *,
    statistics: Mapping[str, RangeStatistics] | None = None,
) -> QuantizationDiagnosis:
    """Compare a model with its quantized form on the same samples, and find the reasons.

    Args:
        model: The float `onnx.ModelProto` in its plain form, before any repair; not changed.
        subject: Its quantized form.
        batches: Samples; read two or three times, a few samples at a time.
        statistics: Of the values of `model`, where they are known already. They are collected
            where they are not, and where the subject's channels are scaled.

    Raises:
        UsageError: If there are no samples, or the scheme has no fixed ranges.
        UnsupportedModelError: If the engine refuses the model.
    """
    reference = aligned(model, subject.model)
    graph = read_graph(reference)
    pieces = Pieces(batches, graph)
    if statistics is None or reference is not model:
        statistics = collect_ranges(reference, pieces)
    nodes = {node.name: node for node in graph.nodes}
    ranges = subject.plan.ranges
    known: dict[str, float] = {}
    layers = []
    comparison = compare_layers(reference, subject, pieces)
    for noise in comparison.layers:
        before = min((known[name] for name in noise.inputs if name in known), default=MOST_DB)
        known[noise.value] = before if noise.sqnr_db is None else noise.sqnr_db
        weak = _is_weak(noise, before)
        node = nodes[noise.node]
        first = next((name for name in noise.inputs if name in ranges), "")
        layers.append(
            LayerDiagnosis(
                noise=noise,
                findings=find_causes(node, graph, statistics, ranges) if weak else (),
                spread=(
                    spread_of(first, statistics[first], ranges[first])
                    if first in statistics and noise.own_sqnr_db is not None
                    else None
                ),
            )
        )
    return QuantizationDiagnosis(
        scheme=subject.name,
        samples=sum(_count(batch) for batch in batches),
        agreement=comparison.agreement,
        layers=tuple(layers),
        first_parting=_first_parting(layers),
        culprits=_culprits(layers),
        judged=subject.judged,
    )


def _count(batch: Batch) -> int:
    return min((len(array) for array in batch.values() if array.ndim), default=1)


def _is_weak(noise: LayerNoise, before_db: float) -> bool:
    """Whether a layer adds noise that is worth a word, to what it was given."""
    if noise.own_sqnr_db is not None:
        return noise.own_sqnr_db < OWN_NOTABLE_DB
    if noise.sqnr_db is None:
        return False
    return noise.sqnr_db < PARTED_DB and noise.sqnr_db < before_db - _LOST_DB


def _first_parting(layers: Sequence[LayerDiagnosis]) -> LayerDiagnosis | None:
    return next(
        (
            layer
            for layer in layers
            if layer.noise.sqnr_db is not None and layer.noise.sqnr_db < PARTED_DB
        ),
        None,
    )


def _culprits(layers: Sequence[LayerDiagnosis]) -> tuple[LayerDiagnosis, ...]:
    """Those that bring in noise for a reason of their own, not of a layer before them."""
    own = [
        (_severity(layer.noise), number)
        for number, layer in enumerate(layers)
        if layer.findings and not layer.findings[0].inherited
    ]
    return tuple(layers[number] for _, number in sorted(own)[:_MOST_CULPRITS])


def _severity(noise: LayerNoise) -> float:
    if noise.own_sqnr_db is not None:
        return noise.own_sqnr_db
    return MOST_DB if noise.sqnr_db is None else noise.sqnr_db
