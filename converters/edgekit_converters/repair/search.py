"""Look for the cheapest repair until an accuracy budget holds.

What costs nothing on the device comes first: scaled channels, other ranges, corrected biases. Then,
for as few of the worst layers as possible, activations of 16 bits, or float.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.plan import QuantizationPlan, Range
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import RangeMethod, RangeStatistics, collect_ranges
from edgekit_converters.repair.attempts import (
    Attempt,
    Candidate,
    Ending,
    SearchResult,
    choose,
    is_fast,
)
from edgekit_converters.repair.bias_correction import correct_biases
from edgekit_converters.repair.equalize import equalize
from edgekit_converters.repair.sensitivity import sensitivities
from edgekit_converters.repair.simulation import Batch, simulate
from edgekit_converters.repair.units import unit_of
from edgekit_runtime.errors import UnsupportedModelError

_ROUNDING: Final = 1e-9
_MOVES: Final = frozenset({"DequantizeLinear", "QuantizeLinear"})
# Of the calibration data, for the sensitivity of each layer.
_PROBING_SAMPLES: Final = 16
# Min-max comes last: where it is not what was asked for, it is what was not.
_METHODS: Final = (
    RangeMethod.MSE,
    RangeMethod.PERCENTILE,
    RangeMethod.MOVING_AVERAGE,
    RangeMethod.ENTROPY,
    RangeMethod.MIN_MAX,
)


def _ignore(_: str) -> None:
    """The default for `progress`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchLimits:
    """Where a search ends.

    Attributes:
        drop: The largest that is allowed, as `AccuracyBudget` counts it.
        seconds: For everything; what would take longer, judged by what was tried before, is not
            begun. Plain int8 is tried in any case. None: without end.
        max_latency_ms: Predicted on the device; needs `latency_of`.
    """

    drop: float
    seconds: float | None = None
    max_latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """How candidates are judged.

    Attributes:
        drop_of: What a simulated quantized `onnx.ModelProto` loses against the float model.
        confirm: What the files of a candidate lose, where they are to be tried too; asked about
            those alone that hold the budget in simulation. The larger drop counts; files that an
            engine refuses lose everything.
        clock: Seconds, from anywhere.
        latency_of: Predicts a candidate's latency on the device in ms.
        progress: Told one plain sentence an attempt.
    """

    drop_of: Callable[[Any], float]
    clock: Callable[[], float]
    confirm: Callable[[Candidate], float] | None = None
    latency_of: Callable[[Candidate], float] | None = None
    progress: Callable[[str], None] = field(default=_ignore)


_Units = tuple[tuple[str, ...], ...]
_Make = Callable[[Candidate, _Units], Candidate]


class _TimeOver(Exception):  # noqa: N818 - an ending, no error
    """The search may begin nothing more."""


def search(
    model: Any,
    batches: Collection[Batch],
    judges: Judges,
    limits: SearchLimits,
    *,
    template: QuantizationPlan | None = None,
    method: RangeMethod = RangeMethod.MIN_MAX,
    statistics: Mapping[str, RangeStatistics] | None = None,
) -> SearchResult:
    """Try repairs until the budget holds, the time is over, or nothing is left.

    Ctrl-C ends it too, with the best so far; before there is any, it goes on to the caller.

    Args:
        model: A normalised `onnx.ModelProto`, its shapes inferred; it is not changed.
        batches: Calibration data; read several times.
        judges: How candidates are judged.
        limits: Where to end.
        template: What the user fixed: the border, nodes that stay float; its ranges are not read.
        method: How the ranges of the first candidate are chosen.
        statistics: Of the model's values, where they are known already.

    Raises:
        UnsupportedModelError: If the engine refuses the model, or nothing of it can be quantized.
    """
    template = template or QuantizationPlan(scheme=Scheme.INT8)
    work = _Search(model, batches, judges, limits, template, method)
    ending: Ending = "exhausted"
    try:
        work.go(statistics)
    except _TimeOver:
        ending = "time"
    except KeyboardInterrupt:
        if not work.attempts:
            raise
        ending = "interrupted"
    best = choose(work.attempts, limits.drop + _ROUNDING, limits.max_latency_ms)
    if work.holds(best):
        ending = "met"
    return SearchResult(
        best=best, attempts=tuple(work.attempts), ending=ending, sensitive=work.sensitive
    )


class _Search:
    def __init__(
        self,
        model: Any,
        batches: Collection[Batch],
        judges: Judges,
        limits: SearchLimits,
        template: QuantizationPlan,
        method: RangeMethod,
    ) -> None:
        self._model = model
        self._batches = batches
        self._judges = judges
        self._limits = limits
        self._template = template
        self._method = method
        self._begin = judges.clock()
        self._end = self._begin + (math.inf if limits.seconds is None else limits.seconds)
        self._longest = 0.0
        self.attempts: list[Attempt] = []
        self.sensitive: tuple[str, ...] = ()
        self._units: tuple[tuple[str, ...], ...] = ()

    def holds(self, attempt: Attempt) -> bool:
        """Whether an attempt is all that was asked for."""
        fast = is_fast(attempt, self._limits.max_latency_ms)
        return fast and attempt.drop <= self._limits.drop + _ROUNDING

    def go(self, statistics: Mapping[str, RangeStatistics] | None) -> None:
        """Try one candidate after the other."""
        if statistics is None:
            self._judges.progress("watching the ranges of the model's values")
            statistics = collect_ranges(self._model, self._batches)
        for candidate in self._free(statistics):
            if self.holds(self._try(candidate)):
                return
        self._pay(self._best())

    def _best(self) -> Attempt:
        return min(self.attempts, key=lambda attempt: attempt.drop)

    def _free(self, statistics: Mapping[str, RangeStatistics]) -> Iterator[Candidate]:
        """Candidates that cost nothing on the device, each one a change to the best so far."""
        first = self._method
        named = () if first is RangeMethod.MIN_MAX else (f"{first.value} ranges",)
        plain = Candidate(model=self._model, plan=self._plan(statistics, first), repairs=named)
        yield plain
        self._check_time()
        equalized = equalize(self._model, statistics)
        scaled: Mapping[str, RangeStatistics] = {}
        if equalized.layers:
            scaled = collect_ranges(equalized.model, self._batches)
            yield Candidate(
                model=equalized.model,
                plan=self._plan(scaled, first),
                repairs=("equalized channels", *named),
            )
        for method in _METHODS:
            if method is first:
                continue
            base = self._best().candidate
            seen = scaled if base.model is equalized.model and equalized.layers else statistics
            repairs = tuple(repair for repair in base.repairs if not repair.endswith(" ranges"))
            yield Candidate(
                model=base.model,
                plan=self._plan(seen, method),
                repairs=(*repairs, f"{method.value} ranges"),
            )
        self._check_time()
        base = self._best().candidate
        yield dataclasses.replace(
            base,
            model=correct_biases(base.model, base.plan, self._batches),
            repairs=(*base.repairs, "corrected biases"),
        )

    def _pay(self, start: Attempt) -> None:
        """Give the worst layers 16 bits, or float: as few as do."""
        base = start.candidate
        self._judges.progress("looking for the layers that int8 hurts the most")
        self._check_time()
        probing = _first(self._batches, _PROBING_SAMPLES)
        found = sensitivities(base.model, base.plan, probing, go_on=self._has_time)
        self.sensitive = tuple(one.node for one in found)
        if not self.sensitive:
            return
        graph = read_graph(base.model)
        nodes = {node.name: node for node in graph.nodes}
        self._units = tuple(unit_of(nodes[name], graph) for name in self.sensitive)
        for make in (_widened, _in_float):
            self._fewest(start, make)

    def _fewest(self, start: Attempt, make: _Make) -> None:
        """Twice as many until the budget holds, then back by halves."""
        base = start.candidate
        failed, count, total = 0, 1, len(self.sensitive)
        while not self._holds_with(base, make, count):
            if self._too_slow(start) or count == total:
                break
            failed, count = count, min(2 * count, total)
        else:
            while count - failed > 1:
                middle = (count + failed) // 2
                if self._holds_with(base, make, middle):
                    count = middle
                else:
                    failed = middle
            return
        # As many as the latency allows: that is the best trade where there is no other.
        while self._limits.max_latency_ms is not None and count - failed > 1:
            middle = (count + failed) // 2
            self._holds_with(base, make, middle)
            count, failed = (middle, failed) if self._too_slow(start) else (count, middle)

    def _too_slow(self, start: Attempt) -> bool:
        """Whether the last attempt is, because of what was changed since the start.

        On some boards a model in 8 bits is slower than in float; then more of it is no loss.
        """
        last = self.attempts[-1]
        slower = (last.latency_ms or 0.0) > (start.latency_ms or 0.0)
        return slower and not is_fast(last, self._limits.max_latency_ms)

    def _holds_with(
        self,
        base: Candidate,
        make: _Make,
        count: int,
    ) -> bool:
        try:
            return self.holds(self._try(make(base, self._units[:count])))
        except UnsupportedModelError as error:
            # Sixteen bits need an opset that not every model can be raised to; and a model of
            # which all layers are in float is not quantized.
            self._judges.progress(error.what)
            return False

    def _plan(
        self, statistics: Mapping[str, RangeStatistics], method: RangeMethod
    ) -> QuantizationPlan:
        ranges: dict[str, Range] = {
            name: seen.range(method) for name, seen in statistics.items() if seen.finite
        }
        return dataclasses.replace(self._template, ranges=ranges)

    def _try(self, candidate: Candidate) -> Attempt:
        if self.attempts:
            self._check_time()
        started = self._judges.clock()
        attempt = self._judged(candidate)
        self.attempts.append(attempt)
        now = self._judges.clock()
        self._longest = max(self._longest, now - started)
        self._judges.progress(self._line(attempt, now - self._begin))
        return attempt

    def _judged(self, candidate: Candidate) -> Attempt:
        # The device does not saturate; the writer widens weights where an engine might.
        quantized = simulate(candidate.model, dataclasses.replace(candidate.plan, io="float"))
        if not any(node.op_type in _MOVES for node in quantized.graph.node):
            raise UnsupportedModelError(
                f"{candidate.label}: nothing would be left in integers", fix="convert in float32"
            )
        latency_of, confirm = self._judges.latency_of, self._judges.confirm
        attempt = Attempt(
            candidate=candidate,
            drop=self._judges.drop_of(quantized),
            size_bytes=quantized.ByteSize(),
            latency_ms=latency_of(candidate) if latency_of else None,
        )
        if confirm is None or not self.holds(attempt):
            return attempt
        try:
            confirmed = confirm(candidate)
        except UnsupportedModelError as error:
            # An engine may refuse what another one runs; the next candidate is another model.
            self._judges.progress(f"{candidate.label}: {error.what}")
            confirmed = math.inf
        return dataclasses.replace(attempt, drop=max(attempt.drop, confirmed))

    def _line(self, attempt: Attempt, seconds: float) -> str:
        latency = f", {attempt.latency_ms:.3g} ms" if attempt.latency_ms is not None else ""
        limit = f" of {self._limits.seconds:.0f}" if self._limits.seconds is not None else ""
        return (
            f"{len(self.attempts)}: {attempt.candidate.label}: drop {100 * attempt.drop:.2f} %, "
            f"{attempt.size_bytes / 1000:.1f} kB{latency} ({seconds:.0f}{limit} s)"
        )

    def _has_time(self) -> bool:
        return self._judges.clock() + self._longest < self._end

    def _check_time(self) -> None:
        if not self._has_time():
            raise _TimeOver


def _first(batches: Iterable[Batch], samples: int) -> list[Batch]:
    """As many batches as it takes to have so many samples."""
    found: list[Batch] = []
    count = 0
    for batch in batches:
        found.append(batch)
        count += min((len(array) for array in batch.values() if array.ndim), default=1)
        if count >= samples:
            break
    return found


def _widened(base: Candidate, units: _Units) -> Candidate:
    plan = dataclasses.replace(base.plan, scheme=Scheme.MIXED, wide=base.plan.wide.union(*units))
    repairs = (*base.repairs, f"16 bits for what {_layers(units)}")
    return dataclasses.replace(base, plan=plan, repairs=repairs)


def _in_float(base: Candidate, units: _Units) -> Candidate:
    plan = dataclasses.replace(
        base.plan, scheme=Scheme.MIXED, keep_float=base.plan.keep_float.union(*units)
    )
    repairs = (*base.repairs, f"float for what {_layers(units)}")
    return dataclasses.replace(base, plan=plan, repairs=repairs)


def _layers(units: _Units) -> str:
    return "1 layer reads" if len(units) == 1 else f"{len(units)} layers read"
