"""Each layer beside its quantized twin, both fed with what the float model computes.

What differs between the two is the layer's own noise: nothing of it comes from the layers before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.quantize.plan import node_name
from edgekit_converters.repair.ratios import NoiseRatio
from edgekit_converters.repair.simulation import Batch, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PREFIX: Final = "twin/"
_LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVED: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNoise:
    """What quantization changes in one layer's output by that layer alone.

    Attributes:
        node: The layer's name.
        value: Its output.
        sqnr_db: Signal to quantization noise, in decibels.
        shift: The mean difference of each channel, quantized minus float; channels are the second
            axis of images and sequences, and the last of matrices.
    """

    node: str
    value: str
    sqnr_db: float
    shift: NDArray[np.float64]


def own_noise(model: Any, simulated: Any, batches: Iterable[Batch]) -> tuple[OwnNoise, ...]:
    """Compare every layer with weights with its quantized form, in one pass over data.

    Args:
        model: A normalised `onnx.ModelProto`; it is not changed.
        simulated: The same model, quantized, as `simulate` gives it.
        batches: Read once.

    Returns:
        In the order of the nodes; layers that compute in float are not among them.
    """
    paired, twins = _paired(model, simulated)
    if not twins:
        return ()
    run = Run(paired, [*twins, *(_PREFIX + name for name in twins)])
    sums: dict[str, _Sums] = {name: _Sums() for name in twins}
    for batch in batches:
        values = run(batch)
        for name, found in sums.items():
            found.add(values[name], values[_PREFIX + name])
    return tuple(
        OwnNoise(
            node=twins[name],
            value=name,
            sqnr_db=found.ratio.decibels,
            shift=found.shift / max(found.batches, 1),
        )
        for name, found in sums.items()
    )


class _Sums:
    def __init__(self) -> None:
        self.ratio = NoiseRatio()
        self.shift: NDArray[np.float64] = np.zeros(1)
        self.batches = 0

    def add(self, computed: NDArray[Any], twin: NDArray[Any]) -> None:
        wrong = twin.astype(np.float64) - computed
        self.ratio.add(computed, twin)
        axis = 1 if wrong.ndim > 3 else wrong.ndim - 1  # noqa: PLR2004 - images have four
        others = tuple(at for at in range(wrong.ndim) if at != axis)
        self.shift = self.shift + wrong.mean(axis=others)
        self.batches += 1


def _paired(model: Any, simulated: Any) -> tuple[Any, dict[str, str]]:
    """The float model with twins beside its layers, and their names by those of the outputs."""
    floats = {name for node in model.graph.node for name in node.output if name}
    floats |= {value.name for value in model.graph.input}
    originals = {node_name(node): node for node in model.graph.node if node.op_type in _LAYERS}
    makers = {name: node for node in simulated.graph.node for name in node.output if name}
    paired = type(model)()
    paired.CopyFrom(model)
    if simulated.opset_import[0].version != model.opset_import[0].version:
        # Sixteen bits raised it; what the layers mean did not change with it.
        paired.CopyFrom(_raised(model, simulated))
    twins: dict[str, str] = {}
    copied: set[str] = set()
    for node in simulated.graph.node:
        original = originals.get(node_name(node))
        if original is None or node.op_type != original.op_type:
            continue
        # A node without a name goes by its output's, which is the same where it is not renamed.
        needed, ends = _quantizing(node, makers)
        if not needed or not ends <= floats | {t.name for t in simulated.graph.initializer}:
            continue
        for part in needed:
            if part.output[0] not in copied:
                copied.add(part.output[0])
                paired.graph.node.append(_twin_of(part, floats))
        twin = _twin_of(node, floats)
        twin.output[0] = _PREFIX + original.output[0]
        twin.name = ""
        paired.graph.node.append(twin)
        twins[original.output[0]] = node_name(original)
    for tensor in simulated.graph.initializer:
        added = paired.graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = _PREFIX + tensor.name
    return paired, twins


def _raised(model: Any, simulated: Any) -> Any:
    from edgekit_converters.patterns.opset import raise_opset

    raised = raise_opset(model, simulated.opset_import[0].version)
    if raised is None:  # pragma: no cover - `simulate` did the same
        return model
    raised.ir_version = max(raised.ir_version, simulated.ir_version)
    return raised


def _quantizing(node: Any, makers: dict[str, Any]) -> tuple[list[Any], set[str]]:
    """The nodes that quantize what a layer reads, first ones first, and what they read."""
    found: list[Any] = []
    ends: set[str] = set()

    def walk(name: str) -> None:
        maker = makers.get(name)
        if maker is None or maker.op_type not in _MOVED:
            if name:
                ends.add(name)
            return
        for read in maker.input:
            walk(read)
        if maker not in found:
            found.append(maker)

    for name in node.input:
        walk(name)
    return found, ends


def _twin_of(node: Any, floats: set[str]) -> Any:
    twin = type(node)()
    twin.CopyFrom(node)
    for at, name in enumerate(node.input):
        if name and name not in floats:
            twin.input[at] = _PREFIX + name
    for at, name in enumerate(node.output):
        twin.output[at] = _PREFIX + name
    twin.name = ""
    return twin
