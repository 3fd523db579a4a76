"""Run a model over calibration data once, and keep what its values were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.plan import Range
from edgekit_converters.ranges.histogram import Histogram
from edgekit_converters.ranges.importance import channel_importances
from edgekit_converters.ranges.probe import (
    PARTS,
    ProbeNames,
    WatchedValue,
    watchable,
    with_probes,
)
from edgekit_converters.ranges.statistics import RangeStatistics
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph

Batch = Mapping[str, "NDArray[np.generic]"]

_FATAL_ONLY: Final = 4
_DRAWN_PER_SAMPLE: Final = 4096
_SEED: Final = 20240229
_LAST_DRAW: Final = 1 << 40
# Until there are ten batches they weigh the same; then the latest has a tenth.
_LATEST_SHARE: Final = 0.1


def collect_ranges(
    model: Any,
    batches: Iterable[Batch],
    *,
    names: Collection[str] | None = None,
    threads: int = 0,
) -> Mapping[str, RangeStatistics]:
    """Watch the float32 values of a model while it runs over data, in one pass.

    Extremes and means take every element into account, histograms a part of them. The memory that
    it takes grows neither with the number of batches nor, beyond a run of the model itself, with
    the size of the values.

    Args:
        model: A normalised `onnx.ModelProto`, its shapes inferred; it is not changed.
        batches: An array for each input of the model; read once, and one at a time.
        names: Of the values to watch; None: all of them, the model's inputs too. Values inside
            the bodies of If, Loop and Scan cannot be watched.
        threads: For the engine; 0: as many as there are cores.

    Returns:
        Statistics by name. A value that never held an element is not among them.

    Raises:
        UsageError: If there are no batches, or no float32 value has one of the names.
        UnsupportedModelError: If the engine refuses the model or a batch.
        EnvironmentLackError: If onnxruntime is not installed.
    """
    graph = read_graph(model)
    values = _chosen(graph, names)
    importances = channel_importances(graph, watchable(graph))
    observers = {value.name: _Observer(value, importances.get(value.name)) for value in values}
    run = _ProbedModel(model, values, threads)
    count = 0
    for count, batch in enumerate(batches, start=1):  # noqa: B007 - counted for the check below
        for value, parts in zip(values, run(batch), strict=True):
            observers[value.name].see(*parts)
    if not count:
        raise UsageError(
            "there is no calibration data", fix="give some hundred typical inputs of the model"
        )
    return {name: observer.statistics() for name, observer in observers.items() if observer.batches}


def _chosen(graph: Graph, names: Collection[str] | None) -> tuple[WatchedValue, ...]:
    values = watchable(graph)
    if names is None:
        return values
    unknown = set(names) - {value.name for value in values}
    if unknown:
        raise UsageError(
            f"the model has no float32 value {', '.join(sorted(map(repr, unknown)))}",
            where="names",
            fix="name values of the normalised model that are not inside a body",
        )
    return tuple(value for value in values if value.name in names)


class _ProbedModel:
    """A model loaded with its probes."""

    def __init__(self, model: Any, values: tuple[WatchedValue, ...], threads: int) -> None:
        ort: Any = require("onnxruntime", extra="convert")
        graph = model.graph
        taken = [value.name for value in (*graph.input, *graph.initializer)]
        names = ProbeNames([*taken, *(name for node in graph.node for name in node.output)])
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = threads
        # In the order of the nodes: a value's probes run right behind it, and its memory is free
        # again. In the default order they run last, and all values are held until then.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        self._names = names
        self._count = len(values)
        self._random = np.random.default_rng(_SEED)
        try:
            self._session = ort.InferenceSession(
                with_probes(model, values, names).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:
            raise _refused(error) from error
        self._taken = {value.name for value in self._session.get_inputs()}

    def __call__(self, batch: Batch) -> list[list[Any]]:
        """The parts of each value."""
        samples = min((len(array) for array in batch.values() if array.ndim), default=1)
        given = {
            **batch,
            self._names.limit: np.array([_DRAWN_PER_SAMPLE * max(samples, 1)]),
            self._names.draw: self._random.integers(0, _LAST_DRAW, 1),
        }
        try:
            found = self._session.run(
                None, {name: array for name, array in given.items() if name in self._taken}
            )
        except Exception as error:
            raise _refused(error) from error
        return [found[at : at + len(PARTS)] for at in range(0, len(found), len(PARTS))]


def _refused(error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"onnxruntime failed while the ranges were collected: {' '.join(str(error).split())[:300]}",
        fix="check that the model runs on the calibration data, or report the model",
    )


class _Observer:
    """What has been seen of one value so far."""

    def __init__(self, value: WatchedValue, importance: NDArray[np.float64] | None) -> None:
        self._axis = value.channel_axis
        self._importance = importance
        self._low: NDArray[np.float32] = np.array([], np.float32)
        self._high: NDArray[np.float32] = np.array([], np.float32)
        self._mean: NDArray[np.float64] = np.array([], np.float64)
        self._average = np.zeros(2)
        self._histogram = Histogram.of(np.array([], np.float32))
        self._finite = True
        self.batches = 0

    def see(self, low: Any, high: Any, mean: Any, part: NDArray[np.float32]) -> None:
        """Take in the parts of one batch."""
        if not part.size:
            return
        seen = Histogram.of(part)
        self._histogram = self._histogram.merged(seen)
        low, high = np.atleast_1d(low), np.atleast_1d(high)
        mean = np.atleast_1d(mean).astype(np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(low).all() and np.isfinite(high).all()):
            # The engine's extremes skip NaN, or are NaN where it comes first; its means do not.
            self._finite = False
            low, high = (np.where(np.isfinite(ends), ends, np.nan) for ends in (low, high))
        extremes = np.array(_extremes(low, high, seen))
        self.batches += 1
        if self.batches == 1:
            self._low, self._high, self._mean, self._average = low, high, mean, extremes
            return
        self._low, self._high = np.fmin(low, self._low), np.fmax(high, self._high)
        self._mean = self._mean + (mean - self._mean) / self.batches
        share = max(1 / self.batches, _LATEST_SHARE)
        self._average = self._average + share * (extremes - self._average)

    def statistics(self) -> RangeStatistics:
        """What was seen; at least one batch was."""
        low, high = _extremes(self._low, self._high, self._histogram)
        average_low, average_high = np.clip(self._average, low, high).tolist()
        return RangeStatistics(
            low=low,
            high=high,
            average=Range(low=average_low, high=average_high),
            channel_axis=self._axis,
            channel_low=np.where(np.isnan(self._low), np.float32(low), self._low),
            channel_high=np.where(np.isnan(self._high), np.float32(high), self._high),
            channel_mean=self._mean,
            histogram=self._histogram,
            finite=self._finite,
            batches=self.batches,
            importance=self._importance,
        )


def _extremes(
    low: NDArray[np.float32], high: NDArray[np.float32], drawn: Histogram
) -> tuple[float, float]:
    """The least and the largest finite value; from those drawn where a channel's are not known."""
    lows, highs = low[~np.isnan(low)].tolist(), high[~np.isnan(high)].tolist()
    if len(lows) < len(low) or len(highs) < len(high):
        bins = drawn.bins()
        lows, highs = [*lows, *bins.low[:1].tolist()], [*highs, *bins.high[-1:].tolist()]
    least, largest = min(lows, default=0.0), max(highs, default=0.0)
    return min(least, largest), max(least, largest)
