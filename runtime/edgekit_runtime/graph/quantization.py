"""Tell how far a model is quantized, from what its products compute with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.graph.kinds import Kind, kind_of
from edgekit_runtime.graph.model import Graph, Operator, Tensor, element_bits

_PRODUCTS: Final = frozenset({Kind.CONVOLUTION, Kind.TRANSPOSED, Kind.DENSE, Kind.RECURRENT})
_FLOATS: Final = frozenset({"float32", "float64", "float16", "bfloat16"})
_SMALL: Final = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2"})
_WIDE: Final = frozenset({"int16", "uint16"})
_DEQUANTIZE: Final = frozenset({"DequantizeLinear", "DEQUANTIZE"})
_AT_RUN_TIME: Final = "DynamicQuantizeLinear"
_PACKED_BLOCKS: Final = "MatMulNBits"
_FULLY: Final = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSummary:
    """How far a model is quantized.

    Attributes:
        kind: A type of floats, where nothing is quantized; "int8" or "int16", after the
            activations, where both they and the weights are integers; "dynamic", where float
            activations are rounded to meet integer weights as the model runs; "weight-only",
            where integer weights are made floats first; else "mixed".
        weight_share: The share of weights that are stored as integers of 8 bits or fewer.
        weight_bits: The stored bits of most weights.
        weight_type: How most weights are stored.
        activation_type: What most products read, as the file stores it.
        per_channel: Whether any weight has a scale for each channel.
    """

    kind: str
    weight_share: float
    weight_bits: int
    weight_type: str
    activation_type: str
    per_channel: bool


def describe_quantization(graph: Graph) -> QuantizationSummary:
    """Look at the operands of every product; see `QuantizationSummary`."""
    tally = _Tally(graph)
    for operator in graph.operators:
        if kind_of(operator) in _PRODUCTS:
            tally.add(operator)
    return tally.summary()


class _Tally:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._makers = {name: o for o in graph.operators for name in o.outputs}
        # Elements, by how they are stored.
        self._weights: Counter[tuple[str, int]] = Counter()
        self._activations: Counter[str] = Counter()
        self._rounded = self._restored = 0
        self._per_channel = False

    def add(self, operator: Operator) -> None:
        """Count the operands of a product."""
        for position, name in enumerate(operator.inputs):
            source, through = self._stored(name)
            tensor = self._graph.tensors.get(source)
            if tensor is None or tensor.dtype not in _FLOATS | _SMALL | _WIDE:
                continue
            if tensor.constant_bytes is not None:
                # Biases and scales have one axis or none.
                if tensor.shape is not None and len(tensor.shape) > 1:
                    self._add_weight(operator, tensor, through)
            elif position == 0 or kind_of(operator) is not Kind.RECURRENT:
                maker = self._makers.get(source)
                rounded = maker is not None and maker.type == _AT_RUN_TIME
                self._rounded += rounded
                self._activations["float32" if rounded else tensor.dtype] += 1

    def summary(self) -> QuantizationSummary:
        """What the counts amount to."""
        total = sum(self._weights.values())
        small = sum(n for (kind, _), n in self._weights.items() if kind in _SMALL)
        share = small / total if total else 0.0
        (weight_type, bits), _ = (self._weights.most_common(1) or [(("float32", 32), 0)])[0]
        activation = (self._activations.most_common(1) or [("float32", 0)])[0][0]
        return QuantizationSummary(
            kind=self._kind(share, weight_type),
            weight_share=share,
            weight_bits=bits,
            weight_type=weight_type,
            activation_type=activation,
            per_channel=self._per_channel,
        )

    def _stored(self, name: str) -> tuple[str, Operator | None]:
        """The tensor that an operand is stored as, and what makes floats of it."""
        maker = self._makers.get(name)
        if maker is None:
            return name, None
        if maker.type in _DEQUANTIZE:
            return maker.inputs[0], maker
        # Weights stored in half precision and computed with in single.
        source = self._graph.tensors.get(maker.inputs[0]) if maker.type == "Cast" else None
        stored = source is not None and source.constant_bytes is not None
        return (maker.inputs[0], None) if stored else (name, None)

    def _add_weight(self, operator: Operator, tensor: Tensor, through: Operator | None) -> None:
        bits, elements = element_bits(tensor.dtype), tensor.elements or 0
        if operator.type == _PACKED_BLOCKS:
            given = operator.attributes.get("bits", 4)
            bits = int(given) if isinstance(given, int) else 4
            elements = elements * 8 // bits if tensor.dtype in _SMALL else 0
        if tensor.dtype in _SMALL:
            self._restored += through is not None or operator.type == _PACKED_BLOCKS
        self._weights[tensor.dtype, bits] += elements
        self._per_channel |= tensor.scales > 1
        if through is not None and through.inputs[1:]:
            scale = self._graph.tensors.get(through.inputs[1])
            self._per_channel |= bool(scale and (scale.elements or 0) > 1)

    def _kind(self, share: float, weight_type: str) -> str:
        integers = {k: n for k, n in self._activations.items() if k in _SMALL | _WIDE}
        floats = self._activations.total() - sum(integers.values())
        if share == 0 and not integers:
            return weight_type
        if share >= _FULLY and integers and not floats:
            return "int16" if set(integers) <= _WIDE else "int8"
        if integers:
            return "mixed"
        return "weight-only" if self._restored and not self._rounded else "dynamic"
