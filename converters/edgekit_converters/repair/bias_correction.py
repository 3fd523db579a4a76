"""Take out of each bias what quantization adds to its channel on average.

As in M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction"
(2019), section 4.2, with the mean error measured on data. Each layer's own error is taken, from
inputs in float, so that the layers can be corrected all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.plan import node_name
from edgekit_converters.repair.pieces import Pieces
from edgekit_converters.repair.simulation import Batch, simulate
from edgekit_converters.repair.twins import own_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.plan import QuantizationPlan

_ENOUGH_SAMPLES: Final = 128


def correct_biases(model: Any, plan: QuantizationPlan, batches: Iterable[Batch]) -> Any:
    """A model whose quantized form has the float model's means.

    In float the result computes something slightly else: it is to be quantized with this plan.

    Args:
        model: A normalised `onnx.ModelProto`; it is not changed.
        plan: Of a static scheme.
        batches: Calibration data; as much of it is read, once, as means need.

    Returns:
        A new `onnx.ModelProto`. Convolutions without a bias get one where they need it.
    """
    graph = read_graph(model)
    pieces = _some(Pieces(batches, graph))
    shifts = {found.node: found.shift for found in own_noise(model, simulate(model, plan), pieces)}
    corrected = type(model)()
    corrected.CopyFrom(model)
    constants = graph.constants
    taken = {tensor.name for tensor in corrected.graph.initializer}
    taken |= {name for node in corrected.graph.node for name in (*node.input, *node.output)}
    for node in corrected.graph.node:
        shift = shifts.get(node_name(node))
        if shift is None or node.op_type not in {"Conv", "Gemm"} or not np.isfinite(shift).all():
            continue
        _correct(corrected.graph, node, shift, constants, taken)
    return corrected


def _some(pieces: Iterable[Batch]) -> Iterator[Batch]:
    """The first samples."""
    count = 0
    for piece in pieces:
        yield piece
        count += min((len(array) for array in piece.values() if array.ndim), default=1)
        if count >= _ENOUGH_SAMPLES:
            return


def _correct(
    graph: Any,
    node: Any,
    shift: NDArray[np.float64],
    constants: Any,
    taken: set[str],
) -> None:
    from onnx import numpy_helper

    bias = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - the third is optional
    if any(a.name == "beta" and a.f != 1.0 for a in node.attribute):
        return
    old = constants.get(bias, np.zeros(1, np.float32)) if bias else np.zeros(1, np.float32)
    if (bias and bias not in constants) or old.size not in {1, shift.size}:
        return
    name = f"{node.output[0]}_bias"
    while name in taken:
        name += "_"
    taken.add(name)
    corrected = (old.reshape(-1) - shift).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(corrected, name))
    if bias:
        node.input[2] = name
    else:
        del node.input[2:]
        node.input.append(name)
