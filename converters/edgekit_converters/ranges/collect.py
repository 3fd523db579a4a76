"""Run a model over calibration data once, and keep what its values were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph
from edgekit_converters.ranges.importance import channel_importances
from edgekit_converters.ranges.observer import DRAWN_PER_SAMPLE, Observer
from edgekit_converters.ranges.probe import (
    PARTS,
    ProbeNames,
    WatchedValue,
    watchable,
    with_probes,
)
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph
    from edgekit_converters.ranges.statistics import RangeStatistics

Batch = Mapping[str, "NDArray[np.generic]"]

_FATAL_ONLY: Final = 4
_SEED: Final = 20240229
_LAST_DRAW: Final = 1 << 40


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
        Statistics by name, none where the model has no float32 value. A value that never held an
        element is not among them.

    Raises:
        UsageError: If there are no batches, or no float32 value has one of the names.
        UnsupportedModelError: If the engine refuses the model or a batch.
        EnvironmentLackError: If onnxruntime is not installed.
    """
    graph = read_graph(model)
    values = _chosen(graph, names)
    if not values:
        return {}
    importances = channel_importances(graph, watchable(graph))
    observers = {
        value.name: Observer(value.channel_axis, importances.get(value.name)) for value in values
    }
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
            self._names.limit: np.array([DRAWN_PER_SAMPLE * max(samples, 1)]),
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
