"""Two versions side by side: what an application, a device and an auditor would notice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from edgekit.fleet.registry.entries import BundleVersion
from edgekit_runtime.bundle.manifest import TensorContract

_MAX_DEPTH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that may differ.

    Attributes:
        name: Of the thing: "litert-int8: top1", "source.sha256".
        before: In the first version; None where it has none.
        after: In the second; None where it has none.
    """

    name: str
    before: str | float | None
    after: str | float | None

    @property
    def change(self) -> float | None:
        """By how much a figure changed; None where there are not two figures."""
        if isinstance(self.before, int | float) and isinstance(self.after, int | float):
            return self.after - self.before
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two versions side by side.

    Attributes:
        before: NAME@VERSION of the first.
        after: Of the second.
        contract: Inputs and outputs that differ: what breaks applications.
        processing: Whether pre- or postprocessing differ.
        golden: Whether both are proven on the same golden inputs.
        variants: Size of each variant's model file in bytes.
        metrics: Every figure of either.
        lineage: Only what differs: source, data, revision, tools.
        tags: Only those that differ.
    """

    before: str
    after: str
    contract: tuple[Difference, ...]
    processing: bool
    golden: bool
    variants: tuple[Difference, ...]
    metrics: tuple[Difference, ...]
    lineage: tuple[Difference, ...]
    tags: tuple[Difference, ...]

    def to_json(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


def compare_versions(before: BundleVersion, after: BundleVersion) -> Comparison:
    """Set two versions side by side."""
    old, new = before.manifest, after.manifest
    return Comparison(
        before=before.name,
        after=after.name,
        contract=_differing(
            _contracts("input", old.inputs) | _contracts("output", old.outputs),
            _contracts("input", new.inputs) | _contracts("output", new.outputs),
        ),
        processing=(old.preprocessing, old.postprocessing)
        != (new.preprocessing, new.postprocessing),
        golden=old.files[old.golden_inputs].sha256 == new.files[new.golden_inputs].sha256,
        variants=_pairs(_sizes(before), _sizes(after)),
        metrics=_pairs(_metrics(before), _metrics(after)),
        lineage=_differing(_leaves(old.lineage), _leaves(new.lineage)),
        tags=_differing(before.tags, after.tags),
    )


_Values = Mapping[str, str] | Mapping[str, float] | Mapping[str, str | float]


def _pairs(
    before: _Values, after: _Values, keep: Callable[[Difference], bool] = lambda _: True
) -> tuple[Difference, ...]:
    names = list(dict.fromkeys((*before, *after)))
    rows = (Difference(name=n, before=before.get(n), after=after.get(n)) for n in names)
    return tuple(row for row in rows if keep(row))


def _differing(before: _Values, after: _Values) -> tuple[Difference, ...]:
    return _pairs(before, after, lambda row: row.before != row.after)


def _contracts(kind: str, tensors: Iterable[TensorContract]) -> dict[str, str]:
    found = {}
    for tensor in tensors:
        shape = ", ".join("?" if size is None else str(size) for size in tensor.shape)
        labels = f", labels {' '.join(tensor.labels)}" if tensor.labels else ""
        found[f"{kind} {tensor.name}"] = f"{tensor.dtype} ({shape}){labels}"
    return found


def _sizes(entry: BundleVersion) -> dict[str, float]:
    files = entry.manifest.files
    return {variant.id: files[variant.file].size_bytes for variant in entry.manifest.variants}


def _metrics(entry: BundleVersion) -> dict[str, float]:
    return {
        f"{metric.variant}: {metric.name}" if metric.variant else metric.name: metric.value
        for metric in entry.metrics
    }


def _leaves(value: object, path: str = "", depth: int = 0) -> dict[str, str | float]:
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        items: Iterable[tuple[str, object]] = value.items()
    elif isinstance(value, list) and depth < _MAX_DEPTH:
        items = ((str(position), item) for position, item in enumerate(value))
    else:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return {path: value if plain else str(value)}  # type: ignore[dict-item]
    found: dict[str, str | float] = {}
    for name, item in items:
        found |= _leaves(item, f"{path}.{name}" if path else name, depth + 1)
    return found
