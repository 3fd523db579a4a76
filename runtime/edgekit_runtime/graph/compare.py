"""Set two model files side by side: what is the same in both, and what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Final

from edgekit_runtime.engines.checks import describe
from edgekit_runtime.graph.constants import digest_constants
from edgekit_runtime.graph.kinds import kind_of
from edgekit_runtime.graph.quantization import QuantizationSummary
from edgekit_runtime.graph.summary import ModelSummary, summarise
from edgekit_runtime.tensors import TensorSpec

_NAMED: Final = 5
_ANSWERS: Final = {True: "yes", False: "no", None: "not known"}


class Unit(StrEnum):
    """What the numbers of a fact are; texts have none."""

    BYTES = "bytes"
    AMOUNT = "amount"
    PIECES = "pieces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that can be said of both models.

    Attributes:
        name: What it is.
        first: Of the first model; None where it has no such thing.
        second: Of the second model.
        same: Whether the two agree.
        unit: Set where both are numbers.
        note: What more there is to say of the difference.
    """

    name: str
    first: str | int | None
    second: str | int | None
    same: bool
    unit: Unit | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The second number over the first, where both are numbers and the first is not zero."""
        if self.unit is None or not isinstance(self.first, int) or not isinstance(self.second, int):
            return None
        return self.second / self.first if self.first else None

    def to_json(self) -> dict[str, object]:
        """The fact as a JSON object."""
        return {
            "name": self.name.strip(),
            "first": self.first,
            "second": self.second,
            "same": self.same,
            "unit": self.unit.value if self.unit else None,
            "ratio": self.ratio,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """Two models.

    Attributes:
        first: The one that the other is compared with.
        second: The other.
        facts: In the order in which people read them.
    """

    first: ModelSummary
    second: ModelSummary
    facts: tuple[Fact, ...]

    @property
    def differences(self) -> tuple[Fact, ...]:
        """The facts that differ."""
        return tuple(fact for fact in self.facts if not fact.same)

    def to_json(self) -> dict[str, object]:
        """Both summaries, and every fact with whether it is the same."""
        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "same": not self.differences,
            "facts": [fact.to_json() for fact in self.facts],
        }


def compare_models(first: Path, second: Path) -> ModelComparison:
    """Describe two model files of any format, and say where they differ.

    Operators are counted by type where both files are of one format, else by class. The weights
    themselves are compared, by name, within one format.

    Raises:
        UsageError: If a file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If one is no model, or damaged.
        EnvironmentLackError: If the package that reads a format is not installed.
    """
    summaries = summarise(first), summarise(second)
    facts = [*_general(*summaries), *_borders(*summaries), *_operators(*summaries)]
    if summaries[0].graph.format is summaries[1].graph.format:
        facts.append(
            weight_fact(
                digest_constants(first, summaries[0].graph),
                digest_constants(second, summaries[1].graph),
            )
        )
    facts += _metadata(*summaries)
    return ModelComparison(first=summaries[0], second=summaries[1], facts=tuple(facts))


def weight_fact(first: Mapping[str, str], second: Mapping[str, str]) -> Fact:
    """Compare stored values by name and digest."""
    common = first.keys() & second.keys()
    changed = sorted(name for name in common if first[name] != second[name])
    parts = [f"{len(changed)} of {len(common)} differ: {_names(changed)}"] if changed else []
    for names, which in (
        (sorted(first.keys() - common), "first"),
        (sorted(second.keys() - common), "second"),
    ):
        if names:
            parts.append(f"only in the {which}: {_names(names)}")
    return Fact(
        name="stored values",
        first=len(first),
        second=len(second),
        same=not parts,
        unit=Unit.PIECES,
        note="; ".join(parts),
    )


def _general(a: ModelSummary, b: ModelSummary) -> Iterator[Fact]:
    yield _fact("format", _format(a), _format(b))
    yield _fact("producer", a.graph.producer or None, b.graph.producer or None)
    yield _fact("size", a.file_bytes, b.file_bytes, unit=Unit.BYTES)
    work = a.workload, b.workload
    yield _fact("parameters", work[0].parameters, work[1].parameters, unit=Unit.AMOUNT)
    yield _fact("MACs", work[0].macs, work[1].macs, unit=Unit.AMOUNT)
    peaks = a.memory.peak_bytes, b.memory.peak_bytes
    yield _fact("peak activations", *peaks, unit=Unit.BYTES)
    found = a.quantization, b.quantization
    yield _fact("quantization", found[0].kind, found[1].kind)
    yield _fact("weights", weight_text(found[0]), weight_text(found[1]))
    yield _fact("activations", found[0].activation_type, found[1].activation_type)
    yield _fact("runs here", _ANSWERS[a.loads.loads], _ANSWERS[b.loads.loads])
    yield _fact("runs on", _runtimes(a), _runtimes(b))


def _borders(a: ModelSummary, b: ModelSummary) -> Iterator[Fact]:
    yield from _border("input", a.graph.inputs, b.graph.inputs)
    yield from _border("output", a.graph.outputs, b.graph.outputs)


def _border(side: str, first: Sequence[TensorSpec], second: Sequence[TensorSpec]) -> Iterator[Fact]:
    """By name where names agree, else by place."""
    by_name = {spec.name: spec for spec in first}, {spec.name: spec for spec in second}
    if not by_name[0].keys() & by_name[1].keys():
        for place, (one, other) in enumerate(zip_longest(first, second), start=1):
            texts = [f"{spec.name}: {_spec(spec)}" if spec else None for spec in (one, other)]
            yield _fact(f"{side} {place}", *texts, note=_axes_note(one, other))
        return
    for name in dict.fromkeys([*by_name[0], *by_name[1]]):
        one, other = by_name[0].get(name), by_name[1].get(name)
        texts = [_spec(spec) if spec else None for spec in (one, other)]
        yield _fact(f"{side} {name}", *texts, note=_axes_note(one, other))


def _operators(a: ModelSummary, b: ModelSummary) -> Iterator[Fact]:
    totals = [sum(summary.operators.values()) for summary in (a, b)]
    yield _fact("operators", *totals, unit=Unit.PIECES)
    by_type = a.graph.format is b.graph.format
    counts = [_counts(summary, by_type=by_type) for summary in (a, b)]
    for name, _ in (counts[0] + counts[1]).most_common():
        yield _fact(f"  {name}", counts[0][name], counts[1][name], unit=Unit.PIECES)
    customs = [", ".join(summary.custom_operators) or None for summary in (a, b)]
    if any(customs):
        yield _fact("custom operators", *customs)


def _counts(summary: ModelSummary, *, by_type: bool) -> Counter[str]:
    graph = summary.graph
    if by_type:
        return Counter(summary.operators)
    return Counter(kind_of(o).value for o in (*graph.operators, *graph.inner_operators))


def _metadata(a: ModelSummary, b: ModelSummary) -> Iterator[Fact]:
    first, second = a.graph.metadata, b.graph.metadata
    for key in dict.fromkeys([*first, *second]):
        yield _fact(f"metadata {key}", first.get(key), second.get(key))


def _fact(
    name: str,
    first: str | int | None,
    second: str | int | None,
    *,
    unit: Unit | None = None,
    note: str = "",
) -> Fact:
    return Fact(name=name, first=first, second=second, same=first == second, unit=unit, note=note)


def _format(summary: ModelSummary) -> str:
    graph = summary.graph
    if not graph.opsets:
        return f"{graph.format.value}, schema {graph.version}"
    opsets = ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items())
    return f"{graph.format.value}, IR {graph.version}, opset {opsets}"


def weight_text(found: QuantizationSummary) -> str:
    """How weights are stored, in words."""
    share = f" ({found.weight_share:.0%})" if 0 < found.weight_share < 1 else ""
    return f"{found.weight_type}{share}" + (", a scale for each channel" * found.per_channel)


def _runtimes(summary: ModelSummary) -> str:
    return "; ".join(
        fit.runtime if fit.runs else f"{fit.runtime}: {_ANSWERS[fit.runs]}"
        for fit in summary.runtimes
    )


def _spec(spec: TensorSpec) -> str:
    scale = spec.quantization
    affine = f", {scale.scale:.4g} x (q - {scale.zero_point})" if scale else ""
    return f"{spec.dtype}{describe(spec.shape)}{affine}"


def _axes_note(one: TensorSpec | None, other: TensorSpec | None) -> str:
    if one is None or other is None or one.shape == other.shape:
        return ""
    sizes = [sorted(-1 if n is None else n for n in spec.shape) for spec in (one, other)]
    return "the same sizes in another order" if sizes[0] == sizes[1] else ""


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
