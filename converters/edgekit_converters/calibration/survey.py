"""Read all samples once: count them, look for what is wrong, keep some that stand for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.samples import all_finite, misfit
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.calibration.source import Chunk, SampleSource
    from edgekit_converters.input_ranges import InputRange
    from edgekit_runtime.tensors import TensorSpec

_EXCERPT_BYTES: Final = 4 << 20
# Of large samples a few more than that, and of huge ones fewer.
_LARGE_SAMPLES: Final = 64
_LARGE_BYTES: Final = 64 << 20
_MOST_CLASSES: Final = 10_000
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSummary:
    """The values of one input over all samples.

    Attributes:
        low: The least.
        high: The largest.
        whole: Whether all of them are whole numbers.
    """

    low: float
    high: float
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All samples in short.

    Attributes:
        count: How many there are, at least one.
        inputs: By name; inputs that hold no elements are not among them.
        classes: How many different labels there are, up to ten thousand; None without labels.
        runs: How many stretches of the same label follow each other.
        arrays: The excerpt: samples spread evenly over all, or all where they are few.
        labels: Of the excerpt.
        every_label: Of all samples, in order.
        digests: A hash of each sample, in order.
    """

    count: int
    inputs: Mapping[str, InputSummary]
    classes: int | None
    runs: int
    arrays: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None
    every_label: NDArray[Any] | None
    digests: NDArray[np.uint64]

    @property
    def whole(self) -> bool:
        """Whether the excerpt holds all samples."""
        return self.count == len(next(iter(self.arrays.values())))

    def sha256(self) -> str:
        """Of the samples, as lower-case hex."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()


def survey(
    source: SampleSource,
    specs: Sequence[TensorSpec],
    *,
    where: str,
    ranges: Mapping[str, InputRange] | None = None,
    kind: str = "calibration",
) -> Survey:
    """Read a source from end to end.

    Args:
        source: The data.
        specs: The model's inputs.
        where: The data as the user named it, for errors.
        ranges: Of inputs that may hold certain whole numbers only.
        kind: What the data is for, for errors.

    Raises:
        UsageError: Naming every input with values that are not finite or out of range; or if
            there are no samples.
    """
    look = _Look(specs)
    for chunk in source.chunks():
        look.at(chunk)
    if not look.count:
        raise UsageError(
            f"the {kind} data holds no samples",
            where=where,
            fix="give some hundred typical inputs of the model",
        )
    faults = [
        f"{name!r} holds NaN or infinity, first in sample {first}"
        for name, first in look.not_finite.items()
    ]
    found = look.survey()
    for name, allowed in (ranges or {}).items():
        seen = found.inputs.get(name)
        if seen is not None and not allowed.low <= seen.low <= seen.high <= allowed.high:
            faults.append(
                f"{name!r} holds {seen.low:g} to {seen.high:g}, the model takes {allowed.low} to "
                f"{allowed.high}"
            )
    if faults:
        raise misfit(faults, specs, kind=kind, where=where)
    return found


def sample_digests(
    arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]
) -> NDArray[np.uint64]:
    """A hash of each sample, the same wherever it was read from.

    Args:
        arrays: By input name, of the input's dtype.
        specs: The model's inputs.
    """
    rows = [np.ascontiguousarray(arrays[spec.name]) for spec in specs]
    hashes = []
    for index in range(len(rows[0])):
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for row in rows:
            digest.update(row[index].tobytes())
        hashes.append(digest.digest())
    return np.frombuffer(b"".join(hashes), np.uint64)


class _Look:
    """What has been seen so far."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = specs
        self._inputs: dict[str, InputSummary] = {}
        self._excerpt: _Excerpt | None = None
        self._digests: list[NDArray[np.uint64]] = []
        self._labels: list[NDArray[Any]] = []
        self._classes: set[object] | None = None
        self._runs = 0
        self._last: object = None
        self.count = 0
        self.not_finite: dict[str, int] = {}

    def at(self, chunk: Chunk) -> None:
        """Take in some samples."""
        for name, array in chunk.arrays.items():
            self._summarise(name, array)
        if self._excerpt is None:
            self._excerpt = _Excerpt(chunk)
        self._excerpt.take(chunk)
        self._digests.append(sample_digests(chunk.arrays, self._specs))
        if chunk.labels is not None:
            self._labels.append(chunk.labels)
        # Several numbers a sample are no class.
        if chunk.labels is not None and chunk.labels.size == chunk.count:
            self._note_labels(chunk.labels.reshape(-1).tolist())
        self.count += chunk.count

    def survey(self) -> Survey:
        """All of it; there was at least one sample."""
        excerpt = self._excerpt
        assert excerpt is not None  # noqa: S101 - for the type checker
        arrays, labels = excerpt.taken()
        return Survey(
            count=self.count,
            inputs=self._inputs,
            classes=None if self._classes is None else len(self._classes),
            runs=self._runs,
            arrays=arrays,
            labels=labels,
            every_label=np.concatenate(self._labels) if self._labels else None,
            digests=np.concatenate(self._digests),
        )

    def _summarise(self, name: str, array: NDArray[Any]) -> None:
        if not array.size or array.dtype.kind not in "fiub":
            return
        if not all_finite(array):
            rows = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            self.not_finite.setdefault(name, self.count + int(rows.argmax()) + 1)
            return
        low, high = float(array.min()), float(array.max())
        before = self._inputs.get(name)
        whole = before is None or before.whole
        if whole and array.dtype.kind == "f":
            whole = bool((array == np.rint(array)).all())
        if before is not None:
            low, high = min(low, before.low), max(high, before.high)
        self._inputs[name] = InputSummary(low=low, high=high, whole=whole)

    def _note_labels(self, labels: list[object]) -> None:
        if self._classes is None:
            self._classes = set()
        for label in labels:
            if not self._runs or label != self._last:
                self._runs += 1
                self._last = label
                if len(self._classes) < _MOST_CLASSES:
                    self._classes.add(label)


class _Excerpt:
    """Every n-th sample; n doubles each time that there is no more room."""

    def __init__(self, first: Chunk) -> None:
        sample_bytes = max(1, sum(array[0].nbytes for array in first.arrays.values()))
        room = max(_EXCERPT_BYTES, min(_LARGE_SAMPLES * sample_bytes, _LARGE_BYTES))
        self._room = max(2, room // sample_bytes)
        self._arrays: dict[str, NDArray[Any]] = {}
        self._labels: list[object] | None = None if first.labels is None else []
        self._stride, self._seen, self._kept = 1, 0, 0

    def take(self, chunk: Chunk) -> None:
        """Keep those samples whose turn it is."""
        at, end = self._seen, self._seen + chunk.count
        while (due := -(-at // self._stride) * self._stride) < end:
            if self._kept == self._room:
                self._thin()
                continue
            picked = np.arange(due, end, self._stride)[: self._room - self._kept]
            self._keep(chunk, picked - self._seen)
            at = int(picked[-1]) + 1
        self._seen = end

    def taken(self) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
        """The samples that were kept, and their labels."""
        arrays = {name: array[: self._kept] for name, array in self._arrays.items()}
        return arrays, None if self._labels is None else np.array(self._labels)

    def _keep(self, chunk: Chunk, picked: NDArray[np.intp]) -> None:
        end = self._kept + len(picked)
        for name, array in chunk.arrays.items():
            if name not in self._arrays:
                # Takes memory only as it is filled.
                self._arrays[name] = np.empty((self._room, *array.shape[1:]), array.dtype)
            self._arrays[name][self._kept : end] = array[picked]
        if self._labels is not None and chunk.labels is not None:
            self._labels += chunk.labels[picked].tolist()
        self._kept = end

    def _thin(self) -> None:
        kept = (self._kept + 1) // 2
        for array in self._arrays.values():
            for index in range(kept):
                array[index] = array[2 * index]
        if self._labels is not None:
            self._labels = self._labels[::2]
        self._kept = kept
        self._stride *= 2
