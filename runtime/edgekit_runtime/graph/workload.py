"""Count what a model computes: multiply-accumulates by kind, weights, activations.

The columns are those of the published measurements that latency profiles are calibrated on.
Two programs were used to make those measurements and they count non-convolution layers in two
ways; both are here: `elementwise_elements` and `op_count` (outputs of elementwise operators and
inputs of pools, activation functions fused away), `traffic_elements` and `layer_count` (inputs
and outputs of every such layer, activation functions after a sum counted on their own).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Final

from edgekit_runtime.graph.kinds import Kind, kind_of
from edgekit_runtime.graph.model import Graph, Operator
from edgekit_runtime.graph.operands import convolution_window, operand_names
from edgekit_runtime.graph.structure import Structure

_SPATIAL_KERNEL: Final = (3, 3)
# Gates computed per recurrent cell: input, forget, cell, output for LSTM; three for GRU.
_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One inference in numbers; counts are of elements or of multiply-accumulates (MACs).

    Attributes:
        conv3x3_stride1_macs: 3x3 convolutions of stride 1 over all channels.
        conv_other_macs: Other spatial convolutions, grouped and transposed ones included.
        pointwise_macs: Convolutions with a 1x1 kernel.
        depthwise_macs: One filter a channel.
        fc_macs: Products with a constant matrix.
        matmul_macs: Products of two computed tensors.
        recurrent_macs: LSTM, GRU and RNN cells over the whole sequence.
        weight_elements: Weights of all those, without biases.
        fc_weight_elements: Weights of the dense and recurrent ones.
        conv_activation_elements: Inputs and outputs of all convolutions.
        elementwise_elements: Outputs of elementwise operators, inputs of pools.
        traffic_elements: Inputs and outputs of everything that is not a product.
        op_count: Operators that remain when activation functions are fused away.
        layer_count: As `op_count`, with activation functions after a sum.
        parameters: Every stored number that is a weight or a bias.
        unknown: Operators that could not be counted, each with the reason.
    """

    conv3x3_stride1_macs: int = 0
    conv_other_macs: int = 0
    pointwise_macs: int = 0
    depthwise_macs: int = 0
    fc_macs: int = 0
    matmul_macs: int = 0
    recurrent_macs: int = 0
    weight_elements: int = 0
    fc_weight_elements: int = 0
    conv_activation_elements: int = 0
    elementwise_elements: int = 0
    traffic_elements: int = 0
    op_count: int = 0
    layer_count: int = 0
    parameters: int = 0
    unknown: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """All multiply-accumulates of one inference."""
        return (
            self.conv3x3_stride1_macs
            + self.conv_other_macs
            + self.pointwise_macs
            + self.depthwise_macs
            + self.fc_macs
            + self.matmul_macs
            + self.recurrent_macs
        )

    def to_json(self) -> dict[str, object]:
        """All counts, and their sum under `macs`."""
        return asdict(self) | {"macs": self.macs, "unknown": list(self.unknown)}


def count_workload(graph: Graph) -> Workload:
    """Count one inference of a model.

    Bodies of loops and conditions are not counted, since nobody knows how often they run; they
    and operators with unknown shapes are named in `Workload.unknown`.
    """
    count = _Count(graph, Structure(graph))
    for operator in graph.operators:
        count.add(operator)
    if graph.inner_operators:
        count.unknown.append(
            f"{len(graph.inner_operators)} operators inside conditions, loops or calls"
        )
    return Workload(**count.sums, parameters=count.parameters(), unknown=tuple(count.unknown))


@dataclass(slots=True)
class _Count:
    graph: Graph
    structure: Structure
    sums: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def add(self, operator: Operator) -> None:
        if not operator.outputs or all(o in self.structure.constants for o in operator.outputs):
            return
        try:
            self._add(operator, kind_of(operator))
        except (_UnknownShapeError, IndexError, ValueError, ZeroDivisionError):
            self.unknown.append(f"{operator.type} {operator.name!r}: shapes not known")

    def parameters(self) -> int:
        """Numbers that products, normalisations and elementwise operators read: not indices."""
        total, counted = 0, set[str]()
        for operator in self.graph.operators:
            kind = kind_of(operator)
            if kind in {Kind.SHAPE_ONLY, Kind.CAST}:
                continue
            exact = kind in {Kind.CONVOLUTION, Kind.TRANSPOSED, Kind.DENSE, Kind.RECURRENT}
            for name in operator.inputs:
                tensor = self.graph.tensors.get(name)
                if tensor is None or name not in self.structure.constants or name in counted:
                    continue
                counted.add(name)
                # Scalars are scales; whole numbers outside products are axes, sizes, orders.
                index = tensor.dtype in {"int64", "bool"} or (tensor.dtype == "int32" and not exact)
                total += 0 if index or not tensor.shape else tensor.elements or 0
        return total

    def _add(self, operator: Operator, kind: Kind) -> None:
        match kind:
            case Kind.CONVOLUTION | Kind.TRANSPOSED:
                self._add_convolution(operator, transposed=kind is Kind.TRANSPOSED)
            case Kind.DENSE:
                self._add_dense(operator)
            case Kind.RECURRENT:
                self._add_recurrent(operator)
            case Kind.SHAPE_ONLY | Kind.CAST:
                pass
            case _:
                self._add_elementwise(operator, kind)

    def _add_convolution(self, operator: Operator, *, transposed: bool) -> None:
        window = convolution_window(self.graph, operator)
        source = self._size(window.source)
        result = self._size(operator.outputs[0])
        weights = self._size(window.weights)
        # Each output (for a transposed one, each input) meets each filter tap once.
        places = (source if transposed else result) // window.channels
        macs = places * weights
        if window.depthwise:
            column = "depthwise_macs"
        elif math.prod(window.kernel) == 1:
            column = "pointwise_macs"
        elif (
            window.kernel == _SPATIAL_KERNEL
            and set(window.strides) == {1}
            and window.groups == 1
            and not transposed
        ):
            column = "conv3x3_stride1_macs"
        else:
            column = "conv_other_macs"
        self._plus(column, macs)
        self._plus("weight_elements", weights)
        self._plus("conv_activation_elements", source + result)
        self._plus_operator()

    def _add_dense(self, operator: Operator) -> None:
        left, right = operand_names(operator)
        rows = self._size(left)
        result = self._size(operator.outputs[0])
        weight = next((n for n in (right, left) if n in self.structure.constants), None)
        if weight is not None:
            weights = self._size(weight)
            shape = self._shape(weight)
            self._plus("weight_elements", weights)
            self._plus("fc_weight_elements", weights)
            # The product's depth is the weight axis that the result does not have.
            depth = self._depth(operator, left if weight == right else right, shape)
            self._plus("fc_macs", result * depth)
        else:
            depth = self._depth(operator, left, self._shape(right))
            self._plus("matmul_macs", result * depth)
            self._plus("conv_activation_elements", rows + self._size(right) + result)
        self._plus_operator()

    def _depth(self, operator: Operator, name: str, other: tuple[int, ...]) -> int:
        if operator.type == "FULLY_CONNECTED":
            return other[-1]
        shape = self._shape(name)
        first = name == operand_names(operator)[0]
        flags = ("transA", "adjX", "transB", "adjY")
        flipped = any(operator.attributes.get(f) for f in (flags[:2] if first else flags[2:]))
        if len(shape) == 1:
            return shape[0]
        # Columns of the left matrix, rows of the right one.
        return shape[-2] if flipped == first else shape[-1]

    def _add_recurrent(self, operator: Operator) -> None:
        weights = sum(
            self._size(name)
            for name in operator.inputs
            if name in self.structure.constants and len(self._shape(name)) > 1
        )
        shape = self._shape(operator.inputs[0])
        steps = 1
        if operator.type != "SVDF" and len(shape) > 2:  # noqa: PLR2004 - time, batch, features
            batch_first = operator.type not in _GATES and not operator.attributes.get("timeMajor")
            steps = shape[1] if batch_first else shape[0]
        self._plus("recurrent_macs", weights * steps)
        self._plus("weight_elements", weights)
        self._plus("fc_weight_elements", weights)
        self._plus_operator()

    def _add_elementwise(self, operator: Operator, kind: Kind) -> None:
        if self.structure.is_fused(operator):
            return
        inputs = sum(self._size(n) for n in operator.inputs if self._computed(n))
        outputs = sum(self._size(name) for name in operator.outputs if name)
        self._plus("traffic_elements", inputs + outputs)
        self._plus("layer_count", 1)
        if kind is Kind.ACTIVATION and self.structure.follows_sum(operator):
            return
        self._plus("elementwise_elements", inputs if kind is Kind.POOL else outputs)
        self._plus("op_count", 1)

    def _computed(self, name: str) -> bool:
        return bool(name) and name not in self.structure.constants

    def _plus_operator(self) -> None:
        self._plus("op_count", 1)
        self._plus("layer_count", 1)

    def _plus(self, column: str, amount: int) -> None:
        self.sums[column] = self.sums.get(column, 0) + amount

    def _size(self, name: str) -> int:
        return math.prod(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.graph.shape(name)
        if shape is None or None in shape:
            raise _UnknownShapeError
        return tuple(size for size in shape if size is not None)


class _UnknownShapeError(Exception):
    """An operator cannot be counted because a shape is not known; never leaves this module."""
