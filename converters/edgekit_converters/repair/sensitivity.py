"""Which layers hurt the most when they are quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.to_onnx.roles import Role, role_of
from edgekit_converters.repair.simulation import Batch, answers, simulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.plan import QuantizationPlan

_TINY: Final = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one layer costs.

    Attributes:
        node: Its name.
        noise: The mean square that rounding this layer's weights and what it reads adds to the
            model's outputs, by that of the outputs themselves; summed over the outputs.
    """

    node: str
    noise: float


def sensitivities(
    model: Any,
    plan: QuantizationPlan,
    batches: Iterable[Batch],
    *,
    go_on: Callable[[], bool] = lambda: True,
) -> tuple[Sensitivity, ...]:
    """Quantize one layer at a time, and see what becomes of the outputs.

    Args:
        model: A normalised `onnx.ModelProto`; it is not changed.
        plan: Of a static scheme; what it keeps in float is not tried.
        batches: Read once for each layer; some dozen samples do.
        go_on: Asked before each layer; after a no, the rest is left out.

    Returns:
        The worst first.
    """
    given = list(batches)
    graph = read_graph(model)
    layers = [node for node in graph.nodes if role_of(node, graph) is Role.WEIGHTED]
    everything = frozenset(node.name for node in graph.nodes)
    expected = answers(model, given)
    found = []
    for layer in layers:
        if layer.name in plan.keep_float:
            continue
        if not go_on():
            break
        # What it gives is rounded for its readers' sake, and counted with them.
        read = {name: plan.ranges[name] for name in layer.inputs if name in plan.ranges}
        alone = dataclasses.replace(
            plan,
            ranges=read,
            keep_float=everything - {layer.name},
            wide=plan.wide & {layer.name},
            io="float",
        )
        computed = answers(simulate(model, alone), given)
        found.append(Sensitivity(node=layer.name, noise=relative_noise(expected, computed)))
    return tuple(sorted(found, key=lambda one: -one.noise))


def relative_noise(
    expected: Mapping[str, NDArray[Any]], computed: Mapping[str, NDArray[Any]]
) -> float:
    """The mean square of the error by that of the signal, summed over float outputs.

    What is not finite where it should be counts as noise without end.
    """
    total = 0.0
    for name, wanted in expected.items():
        if wanted.dtype.kind != "f" or not wanted.size:
            continue
        finite = np.isfinite(wanted)
        wrong = computed[name].astype(np.float64)[finite] - wanted.astype(np.float64)[finite]
        if not np.isfinite(wrong).all():
            return float(np.inf)
        signal = float(np.square(wanted[finite], dtype=np.float64).mean())
        total += float(np.square(wrong).mean()) / max(signal, _TINY)
    return total
