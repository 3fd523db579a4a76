"""Why a layer loses accuracy, and the option of `edgekit convert` that mends it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.quantize.affine import WEIGHTS_INT8, weight_affine, weight_scales
from edgekit_converters.quantize.to_onnx.roles import Role, Weight, role_of, weights_of
from edgekit_converters.repair.units import unit_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.quantize.plan import Range
    from edgekit_converters.ranges import RangeStatistics

# Below, a cause is not worth naming: 8 bits hold 48 dB.
_FAR_APART: Final = 16.0
_OUTLYING: Final = 6.0
_CLIPPED_SHARE: Final = 0.01
_WEIGHTS_DB: Final = 30.0
_USUAL_PERCENT: Final = 99.0
_MATRIX: Final = 2
# The options of `edgekit convert`; the first scales channels so that one range fits them all, and
# finds the layers that need 16 bits or float.
_SEARCH: Final = "--max-accuracy-drop 0.5%"
_OTHER_RANGE: Final = "--range-method percentile"
_WHOLE_RANGE: Final = "--range-method min-max"
_UNSUITED: Final = frozenset({
    "Div", "Erf", "Exp", "InstanceNormalization", "LayerNormalization", "Log", "Pow",
    "ReduceMean", "ReduceSum", "Softmax", "Sqrt", "Tanh",
})  # fmt: skip
_REPEATING: Final = frozenset({"GRU", "LSTM", "Loop", "RNN", "Scan"})
_TOO_COARSE: Final = "needs finer steps than 8 bits have"
_REPEATED: Final = "rounds its state at every step, and the errors add up"


class Cause(StrEnum):
    """Why quantization hurts a layer."""

    CHANNELS = "channels"
    """The channels of what it reads have ranges far apart, and share one scale."""
    OUTLIERS = "outliers"
    """A few values of what it reads are far larger than the rest, and set the scale."""
    SATURATED = "saturated"
    """The range cuts off many values."""
    WEIGHTS = "weights"
    """Its weights do not fit into 8 bits."""
    OPERATOR = "operator"
    """The operator does not quantize well."""
    UNKNOWN = "unknown"
    """Nothing of the above: all of it is a little coarse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One cause, in words.

    Attributes:
        cause: Which.
        text: A sentence with the figures.
        fixes: Options of `edgekit convert` that mend it, the cheapest first.
        weight: How many times worse than harmless, to order findings.
        value: The activation that it is about, "" where it is about the layer itself.
        inherited: Whether what the layer reads is like that because of a layer before it.
    """

    cause: Cause
    text: str
    fixes: tuple[str, ...]
    weight: float
    value: str = ""
    inherited: bool = False

    def to_json(self) -> dict[str, object]:
        """The finding, as JSON has it."""
        return {
            "cause": self.cause.value,
            "text": self.text,
            "fixes": list(self.fixes),
            "inherited": self.inherited,
        }


def find_causes(
    node: Node, graph: Graph, statistics: Mapping[str, RangeStatistics], ranges: Mapping[str, Range]
) -> tuple[Finding, ...]:
    """What speaks against quantizing a layer, the heaviest first; at least one finding.

    Args:
        node: The layer.
        graph: Where it stands.
        statistics: Of the float model's values.
        ranges: What is kept of them.
    """
    found: list[Finding] = []
    # What it gives is rounded for its readers, and theirs to tell; an output has none.
    given = [name for name in node.outputs[:1] if name in graph.outputs]
    for name in dict.fromkeys([*node.inputs, *given]):
        seen, kept = statistics.get(name), ranges.get(name)
        if seen is None or kept is None or name in graph.constants:
            continue
        found += _of_value(name, node, graph, seen, kept)
        if _reach_by_usual(seen, kept) > _OUTLYING:
            found.append(_outliers(name, graph, statistics, ranges))
    if role_of(node, graph) is Role.WEIGHTED:
        found += _of_weights(node, graph, statistics)
    if node.op in _UNSUITED | _REPEATING:
        found.append(
            Finding(
                cause=Cause.OPERATOR,
                text=f"{node.op} {_REPEATED if node.op in _REPEATING else _TOO_COARSE}",
                fixes=(_keep(unit_of(node, graph)),),
                # What it gives is odd because of it.
                weight=math.inf,
            )
        )
    if not found:
        found.append(
            Finding(
                cause=Cause.UNKNOWN,
                text="no single cause: its values fill their range, and are a little coarse",
                fixes=(_SEARCH, _keep(unit_of(node, graph))),
                weight=0.0,
            )
        )
    return tuple(sorted(found, key=lambda one: -one.weight))


def _of_value(
    name: str, node: Node, graph: Graph, seen: RangeStatistics, kept: Range
) -> list[Finding]:
    found = []
    apart = channels_apart(seen)
    if apart > _FAR_APART:
        found.append(
            Finding(
                cause=Cause.CHANNELS,
                text=f"the channels of {name} have ranges {apart:.0f} times apart, and one scale",
                fixes=(_SEARCH, _keep(unit_of(node, graph))),
                weight=apart / _FAR_APART,
                value=name,
            )
        )
    clipped = seen.saturation(kept)
    if clipped > _CLIPPED_SHARE:
        found.append(
            Finding(
                cause=Cause.SATURATED,
                text=f"{100 * clipped:.1f} % of {name} lie outside of the range and are cut",
                fixes=(_WHOLE_RANGE,),
                weight=clipped / _CLIPPED_SHARE,
                value=name,
            )
        )
    return found


def _outliers(
    name: str,
    graph: Graph,
    statistics: Mapping[str, RangeStatistics],
    ranges: Mapping[str, Range],
) -> Finding:
    seen, kept = statistics[name], ranges[name]
    ratio = _reach_by_usual(seen, kept)
    source = _outliers_before(name, graph, statistics, ranges)
    return Finding(
        cause=Cause.OUTLIERS,
        text=f"{_USUAL_PERCENT:.0f} % of {name} lie within {usual_magnitude(seen):.3g}, and the "
        f"range goes to {_reach(kept):.3g}"
        + (f": outliers of {source} come through" * bool(source)),
        fixes=(_OTHER_RANGE,),
        weight=ratio / _OUTLYING,
        value=name,
        inherited=bool(source),
    )


def _outliers_before(
    name: str,
    graph: Graph,
    statistics: Mapping[str, RangeStatistics],
    ranges: Mapping[str, Range],
) -> str:
    """The first value with outliers of those that a value is computed from, "" if there is none."""
    makers = {output: node for node in graph.nodes for output in node.outputs}
    waiting, known, found = [name], {name}, ""
    while waiting:
        maker = makers.get(waiting.pop(0))
        for read in maker.inputs if maker else ():
            if read in known or read in graph.constants:
                continue
            known.add(read)
            seen, kept = statistics.get(read), ranges.get(read)
            if seen is not None and kept is not None and _reach_by_usual(seen, kept) > _OUTLYING:
                found = read
            waiting.append(read)
    return found


def _of_weights(
    node: Node, graph: Graph, statistics: Mapping[str, RangeStatistics]
) -> list[Finding]:
    found = []
    for weight in weights_of(node, graph):
        array = graph.constants[weight.name]
        ratio = _weights_db(array, weight.axis, _read_magnitudes(node, weight, graph, statistics))
        if ratio < _WEIGHTS_DB:
            found.append(
                Finding(
                    cause=Cause.WEIGHTS,
                    text=f"the weights {weight.name} keep {ratio:.0f} dB in 8 bits: few of them "
                    "are far larger than the rest of their channel",
                    fixes=(_keep((node.name,)),),
                    weight=_WEIGHTS_DB / max(ratio, 1.0),
                )
            )
    return found


def _read_magnitudes(
    node: Node, weight: Weight, graph: Graph, statistics: Mapping[str, RangeStatistics]
) -> NDArray[np.float64]:
    """How large what each weight multiplies is, in a shape that goes with the weights'."""
    array = graph.constants[weight.name]
    seen = statistics.get(node.input(1 - weight.position))
    if node.op == "Conv":
        axis = 1
    elif array.ndim == _MATRIX and weight.axis is not None:
        axis = 1 - weight.axis
    else:
        return np.ones(())
    if seen is None or len(seen.channel_low) != array.shape[axis]:
        return np.ones(())
    return magnitudes(seen).reshape([-1 if at == axis else 1 for at in range(array.ndim)])


def _keep(names: Sequence[str]) -> str:
    return " ".join(f"--keep-float {shlex.quote(name)}" for name in names)


def _reach(kept: Range) -> float:
    return max(abs(kept.low), abs(kept.high))


def _reach_by_usual(seen: RangeStatistics, kept: Range) -> float:
    usual = usual_magnitude(seen)
    return _reach(kept) / usual if usual > 0 else 0.0


def usual_magnitude(seen: RangeStatistics) -> float:
    """The magnitude below which all but a hundredth of the values other than zero lie."""
    bins = seen.bins().without_zero()
    if not bins.counts.size:
        return 0.0
    magnitude = np.abs(bins.centre)
    order = np.argsort(magnitude)
    after = np.cumsum(bins.counts[order])
    at = int(np.searchsorted(after, _USUAL_PERCENT / 100 * after[-1]))
    return float(magnitude[order][min(at, len(order) - 1)])


def magnitudes(seen: RangeStatistics) -> NDArray[np.float64]:
    """The largest magnitude of each channel."""
    return np.maximum(np.abs(seen.channel_low), np.abs(seen.channel_high)).astype(np.float64)


def channels_apart(seen: RangeStatistics) -> float:
    """The largest channel's magnitude by that of the smaller ones: the lowest tenth.

    A single dead channel says nothing.
    """
    found = magnitudes(seen)
    used = found[found > 0]
    if used.size < 2:  # noqa: PLR2004 - one has nothing to be apart from
        return 1.0
    return float(used.max() / np.quantile(used, 0.1))


def _weights_db(array: NDArray[Any], axis: int | None, read: NDArray[np.float64]) -> float:
    """How well weights in 8 bits stand for themselves, each as heavy as what it multiplies."""
    affine = weight_affine(weight_scales(array, axis, WEIGHTS_INT8), WEIGHTS_INT8)
    shape = [-1 if at == axis else 1 for at in range(array.ndim)] if axis is not None else []
    scale = affine.scale.astype(np.float64).reshape(shape)
    wrong = (array - affine.integers(array, axis) * scale) * read
    signal, noise = float(np.square(array * read).sum()), float(np.square(wrong).sum())
    return float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else np.inf
