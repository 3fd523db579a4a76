"""Clip: one kernel where LiteRT has the bounds in its name, else the larger and the smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_KERNELS: Final = {
    (0.0, 6.0): "RELU6",
    (0.0, np.inf): "RELU",
    (-1.0, 1.0): "RELU_N1_TO_1",
    (0.0, 1.0): "RELU_0_TO_1",
}
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_WIDE: Final = frozenset({"float64", "uint64"})
_NARROW: Final = frozenset({"int8", "int16", "uint8"})


@lowers("Clip", layout=follow, dtypes=NUMBERS | _NARROW | _WIDE)
def lower_clip(build: Builder, node: Node) -> None:
    """Both bounds, one, or none; constant or computed. Where they cross, the upper one counts."""
    steps = Steps(build, node)
    source = steps.input()
    low, high = (_bound(steps, position, source.dtype) for position in (1, 2))
    code = _kernel(source, low, high)
    if code is not None:
        build.emit(code, [source], node)
        return
    result = source
    for bound, kernel in ((low, "MAXIMUM"), (high, "MINIMUM")):
        if bound is not None:
            result = steps.extreme(kernel, bound, result)
    if result is source:
        build.alias(node, source)
    else:
        steps.finish(result)


def _bound(steps: Steps, position: int, dtype: str) -> Tensor | None:
    node = steps.node
    attribute = node.attributes.get("min" if position == 1 else "max")
    if attribute is not None:
        bound = steps.number(float(attribute), dtype)
    elif node.input(position):
        # Raised from an older opset, the bounds of doubles are floats.
        bound = steps.cast(steps.reshape(steps.in_onnx_order(position), ()), dtype)
    else:
        return None
    # Exporters write the limits of float32 where they mean no bound.
    if bound.data is not None and dtype == "float32":
        outward = -bound.data.item() if position == 1 else bound.data.item()
        return None if outward >= _FLOAT32_MAX else bound
    return bound


def _kernel(source: Tensor, low: Tensor | None, high: Tensor | None) -> str | None:
    if source.dtype != "float32":
        return None
    bounds = []
    for bound, absent in ((low, -np.inf), (high, np.inf)):
        if bound is not None and bound.data is None:
            return None
        bounds.append(absent if bound is None or bound.data is None else float(bound.data.item()))
    return _KERNELS.get((bounds[0], bounds[1]))
