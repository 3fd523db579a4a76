"""What a quantized model will cost on a device, by which of its nodes compute in integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.quantize.plan import node_name
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.repair.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgekit_converters.goal import Device
    from edgekit_converters.quantize.plan import QuantizationPlan
    from edgekit_runtime.formats import ModelFormat

_MOVES: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_NARROW: Final = frozenset({"int8", "uint8"})


class PredictedLatency:
    """Asks a device for the latency of every form of one float model."""

    def __init__(self, device: Device, model: Any, folder: Path) -> None:
        """Write the float model where the device can read it.

        Args:
            device: Predicts.
            model: A normalised `onnx.ModelProto`.
            folder: For the file.
        """
        self.device = device
        self._path = folder / "predicted.onnx"
        self._path.write_bytes(model.SerializeToString())

    def of_float(self, target: ModelFormat) -> float:
        """In milliseconds, nothing computed in integers."""
        return self.device.latency_ms(self._path, target, integers=())

    def kind(self, target: ModelFormat) -> str:
        """What the figures for a format are: "predicted", "estimate only" and so on."""
        return self.device.kind(self._path, target)

    def of_plan(self, model: Any, plan: QuantizationPlan, target: ModelFormat) -> float:
        """In milliseconds, of a model quantized as a plan says.

        What is stored in fewer bits and computed in float takes as long as float.
        """
        if not plan.scheme.needs_ranges or plan.scheme is Scheme.INT16X8:
            return self.of_float(target)
        integers = integer_nodes(simulate(model, plan))
        return self.device.latency_ms(self._path, target, integers=integers)


def integer_nodes(simulated: Any) -> Collection[str]:
    """The names of the nodes that an engine computes in 8-bit integers.

    Args:
        simulated: An `onnx.ModelProto` as `simulate` makes it: around what computes in integers,
            values are quantized and taken back.
    """
    from onnx import helper

    makers = {name: node for node in simulated.graph.node for name in node.output if name}
    types = {tensor.name: tensor.data_type for tensor in simulated.graph.initializer}

    def is_narrow(name: str) -> bool:
        back = makers.get(name)
        if back is None or back.op_type != "DequantizeLinear" or back.input[0] not in makers:
            return False
        kind = types.get(back.input[2]) if len(back.input) > 2 else None  # noqa: PLR2004
        return kind is not None and helper.tensor_dtype_to_np_dtype(kind).name in _NARROW

    return frozenset(
        node_name(node)
        for node in simulated.graph.node
        if node.op_type not in _MOVES and node.input and is_narrow(node.input[0])
    )
