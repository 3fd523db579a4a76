"""Compare two versions' answers to the same inputs, and count: in fixed memory, without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_agent.live_stats import LatencyHistogram
from edgekit_runtime.shadow import MAX_OUTPUTS, OutputGaps, ShadowCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSIFICATION: Final = "classification"
# Below it a largest value counts as so much: the ratio of two differences stays finite.
_LEAST_PEAK: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a version's answers mean.

    Attributes:
        task: "classification", "regression", ….
        labels: By output, the names of the classes along its last axis; none for none.
    """

    task: str
    labels: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class _Output:
    gaps: LatencyHistogram = field(default_factory=LatencyHistogram)
    largest: float = 0.0
    relative: float = 0.0


class Comparison:
    """What is known of two versions so far."""

    def __init__(
        self,
        *,
        run: str,
        active: str,
        tolerance: float,
        candidate: Meaning,
    ) -> None:
        """Begin with nothing.

        Args:
            run: Of which comparison.
            active: The version that serves.
            tolerance: See `ShadowOrder`.
            candidate: What the answers of the version beside mean.
        """
        self._run = run
        self._active = active
        self._tolerance = tolerance
        self._candidate = candidate
        self._counted = {"compared": 0, "agreed": 0, "failed": 0, "insane": 0, "dropped": 0}
        self._outputs: dict[str, _Output] = {}
        self._latency = LatencyHistogram()
        self._active_latency = LatencyHistogram()

    @property
    def counts(self) -> ShadowCounts:
        """Everything so far."""
        return ShadowCounts(
            run=self._run,
            active=self._active,
            **self._counted,
            outputs={
                name: OutputGaps(
                    gaps=dict(each.gaps.counts), largest=each.largest, relative=each.relative
                )
                for name, each in self._outputs.items()
            },
            latency=dict(self._latency.counts),
            active_latency=dict(self._active_latency.counts),
        )

    def drop(self, inputs: int) -> None:
        """Note inputs that were chosen and not given."""
        self._counted["dropped"] += inputs

    def fail(self, *, insane: bool) -> None:
        """Note an input that was not answered, or not with numbers."""
        self._counted["compared"] += 1
        self._counted["insane" if insane else "failed"] += 1

    def add(
        self,
        served: Mapping[str, NDArray[np.generic]],
        answer: Mapping[str, NDArray[np.generic]],
        *,
        meaning: Meaning,
        latency_ms: float,
        active_latency_ms: float,
    ) -> None:
        """Compare two answers to one input.

        Args:
            served: What was served.
            answer: What the version beside says.
            meaning: What the answers that were served mean.
            latency_ms: Of the version beside.
            active_latency_ms: Of the version that served.
        """
        self._counted["compared"] += 1
        self._latency.add(latency_ms)
        self._active_latency.add(active_latency_ms)
        agrees = set(served) == set(answer)
        for name in [name for name in served if name in answer][:MAX_OUTPUTS]:
            relative = self._measure(name, served[name], answer[name])
            agrees &= self._same(name, served[name], answer[name], meaning, relative)
        self._counted["agreed"] += agrees

    def _measure(
        self, name: str, served: NDArray[np.generic], answer: NDArray[np.generic]
    ) -> float | None:
        """The difference as a share of the largest value served; None of what has no difference."""
        numbers = served.dtype.kind in "biuf" and answer.dtype.kind in "biuf"
        if not numbers or served.shape != answer.shape:
            return None
        wanted = served.astype(np.float64)
        gap = float(np.abs(answer.astype(np.float64) - wanted).max(initial=0.0))
        relative = gap / max(float(np.abs(wanted).max(initial=0.0)), _LEAST_PEAK)
        output = self._outputs.setdefault(name, _Output())
        # A latency of so many ms: the buckets are the same.
        output.gaps.add(gap)
        output.largest = max(output.largest, gap)
        output.relative = max(output.relative, relative)
        return relative

    def _same(
        self,
        name: str,
        served: NDArray[np.generic],
        answer: NDArray[np.generic],
        meaning: Meaning,
        relative: float | None,
    ) -> bool:
        ours, theirs = meaning.labels.get(name, ()), self._candidate.labels.get(name, ())
        if ours and theirs:
            return _classes(served, ours) == _classes(answer, theirs)
        if relative is None:
            return served.shape == answer.shape and bool(np.array_equal(served, answer))
        if served.dtype.kind != "f":
            return relative == 0.0
        classes = meaning.task == CLASSIFICATION and served.ndim > 1 and served.shape[-1] > 1
        if classes:
            return bool(np.array_equal(served.argmax(axis=-1), answer.argmax(axis=-1)))
        return relative <= self._tolerance


def _classes(array: NDArray[np.generic], labels: Sequence[str]) -> list[str]:
    """The names of the largest entries along the last axis; their places where there are more."""
    if not array.ndim or not array.size:
        return []
    places = np.atleast_1d(array.argmax(axis=-1)).reshape(-1).tolist()
    return [labels[place] if place < len(labels) else str(place) for place in places]
