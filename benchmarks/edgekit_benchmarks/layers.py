"""Read a model's graph as the layers that an engine runs, each with what decides its cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from edgekit_runtime.graph.kinds import Kind, kind_of
from edgekit_runtime.graph.operands import convolution_window, operand_names
from edgekit_runtime.graph.structure import Structure

if TYPE_CHECKING:
    from edgekit_runtime.graph.model import Graph, Operator

_MOVE_TYPES: Final = (
    "Concat Split Slice Transpose Pad Gather Resize Upsample DepthToSpace SpaceToDepth Tile Expand "
    "QLinearConcat CONCATENATION SPLIT SPLIT_V STRIDED_SLICE SLICE TRANSPOSE PAD PADV2 MIRROR_PAD "
    "GATHER RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR PACK UNPACK DEPTH_TO_SPACE SPACE_TO_DEPTH TILE "
    "BROADCAST_TO"
)
_EXPONENTIAL_TYPES: Final = (
    "Sigmoid Tanh Exp Erf Gelu Elu Selu Softplus Mish Swish QLinearSigmoid LOGISTIC TANH EXP GELU "
    "ELU"
)
_MOVES: Final = frozenset(_MOVE_TYPES.split())
_EXPONENTIALS: Final = frozenset(_EXPONENTIAL_TYPES.split())
_NORMALIZATIONS: Final = frozenset({"LRN", "LOCAL_RESPONSE_NORMALIZATION"})
_CHANNELS_LAST: Final = frozenset(
    {"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"}
)
_RECURRENT_SEQUENCE_RANK: Final = 3
_PLANE: Final = 2


class LayerKind(StrEnum):
    """What a layer does, as far as its cost goes."""

    CONVOLUTION = "convolution"
    DEPTHWISE = "depthwise convolution"
    DENSE = "dense"
    PRODUCT = "matrix product"
    RECURRENT = "recurrent"
    MOVE = "moves values"
    EXPONENTIAL = "exponential"
    NORMALIZATION = "local response normalization"
    OTHER = "elementwise or pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One step of an engine.

    Attributes:
        kind: What it does.
        name: The operator's name, or its first output's.
        type: The operator's type, in the model format's words.
        macs: Multiply-accumulates, counted as the plain algorithm does them.
        weights: Stored numbers that it reads, without biases.
        inputs: Computed numbers that it reads.
        outputs: Numbers that it writes.
        kernel: A convolution's window; empty for other layers.
        strides: A convolution's steps.
        groups: Into how many a convolution's channels are split.
        in_channels: Of a convolution.
        out_channels: Of a convolution.
        plane: Rows and columns of a convolution's output; empty for other ranks.
        steps: How often a recurrent layer runs.
    """

    kind: LayerKind
    name: str = ""
    type: str = ""
    macs: int = 0
    weights: int = 0
    inputs: int = 0
    outputs: int = 0
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    groups: int = 1
    in_channels: int = 0
    out_channels: int = 0
    plane: tuple[int, ...] = ()
    steps: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLayers:
    """A model as an engine runs it.

    Attributes:
        layers: In order.
        unknown: Operators that could not be read, each with the reason.
    """

    layers: tuple[Layer, ...]
    unknown: tuple[str, ...] = ()


def list_layers(graph: Graph) -> ModelLayers:
    """The layers of a model.

    What engines compute inside the product before it (activation functions, folded
    normalisations, biases), views, casts, and all that depends on constants alone is no layer.
    Bodies of loops and conditions are not read, since nobody knows how often they run.
    """
    reader = _Reader(graph)
    layers: list[Layer] = []
    unknown: list[str] = []
    for operator in graph.operators:
        try:
            layer = reader.read(operator)
        except (_UnknownShapeError, IndexError, ValueError, ZeroDivisionError):
            unknown.append(f"{operator.type} {operator.name!r}: shapes not known")
        else:
            layers += [layer] if layer else []
    if graph.inner_operators:
        unknown.append(f"{len(graph.inner_operators)} operators inside conditions, loops or calls")
    return ModelLayers(layers=tuple(layers), unknown=tuple(unknown))


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._structure = Structure(graph)

    def read(self, operator: Operator) -> Layer | None:
        constants = self._structure.constants
        if not operator.outputs or all(name in constants for name in operator.outputs):
            return None
        kind = kind_of(operator)
        if kind in {Kind.SHAPE_ONLY, Kind.CAST} or self._structure.is_fused(operator):
            return None
        match kind:
            case Kind.CONVOLUTION | Kind.TRANSPOSED:
                return self._convolution(operator, transposed=kind is Kind.TRANSPOSED)
            case Kind.DENSE:
                return self._dense(operator)
            case Kind.RECURRENT:
                return self._recurrent(operator)
            case _:
                return self._other(operator)

    def _convolution(self, operator: Operator, *, transposed: bool) -> Layer:
        window = convolution_window(self._graph, operator)
        source, result = self._shape(window.source), self._shape(operator.outputs[0])
        weights = self._size(window.weights)
        inputs, outputs = math.prod(source), math.prod(result)
        # Each output (for a transposed one, each input) meets each filter tap once.
        places = (inputs if transposed else outputs) // window.channels
        last = operator.type in _CHANNELS_LAST
        plane = result[1:-1] if last else result[2:]
        return Layer(
            kind=LayerKind.DEPTHWISE if window.depthwise else LayerKind.CONVOLUTION,
            name=_name(operator),
            type=operator.type,
            macs=places * weights,
            weights=weights,
            inputs=inputs,
            outputs=outputs,
            kernel=window.kernel,
            # A transposed convolution computes as one of stride 1, whatever it spreads apart.
            strides=window.strides,
            groups=window.groups,
            in_channels=source[-1] if last else source[1],
            out_channels=result[-1] if last else result[1],
            plane=plane if len(plane) == _PLANE and not transposed else (),
        )

    def _dense(self, operator: Operator) -> Layer:
        left, right = operand_names(operator)
        outputs = self._size(operator.outputs[0])
        weight = next((n for n in (right, left) if n in self._structure.constants), None)
        other = left if weight in {right, None} else right
        depth = self._depth(operator, other, self._shape(weight or right))
        computed = [name for name in (left, right) if name != weight]
        return Layer(
            kind=LayerKind.DENSE if weight else LayerKind.PRODUCT,
            name=_name(operator),
            type=operator.type,
            macs=outputs * depth,
            weights=self._size(weight) if weight else 0,
            inputs=sum(self._size(name) for name in computed),
            outputs=outputs,
            in_channels=depth,
            out_channels=self._shape(operator.outputs[0])[-1] if outputs else 0,
        )

    def _depth(self, operator: Operator, name: str, other: tuple[int, ...]) -> int:
        if operator.type == "FULLY_CONNECTED":
            return other[-1]
        shape = self._shape(name)
        first = name == operand_names(operator)[0]
        flags = ("transA", "adjX") if first else ("transB", "adjY")
        flipped = any(operator.attributes.get(flag) for flag in flags)
        if len(shape) == 1:
            return shape[0]
        # Columns of the left matrix, rows of the right one.
        return shape[-2] if flipped == first else shape[-1]

    def _recurrent(self, operator: Operator) -> Layer:
        weights = sum(
            self._size(name)
            for name in operator.inputs
            if name in self._structure.constants and len(self._shape(name)) > 1
        )
        shape = self._shape(operator.inputs[0])
        steps = 1
        if operator.type != "SVDF" and len(shape) >= _RECURRENT_SEQUENCE_RANK:
            # ONNX and TFLite's time-major layout have time first.
            time_first = operator.type in {"LSTM", "GRU", "RNN"} or operator.attributes.get(
                "timeMajor"
            )
            steps = shape[0] if time_first else shape[1]
        return Layer(
            kind=LayerKind.RECURRENT,
            name=_name(operator),
            type=operator.type,
            macs=weights * steps,
            weights=weights,
            inputs=math.prod(shape),
            outputs=sum(self._size(name) for name in operator.outputs if name),
            steps=steps,
        )

    def _other(self, operator: Operator) -> Layer:
        constants = self._structure.constants
        kind = LayerKind.OTHER
        if operator.type in _MOVES:
            kind = LayerKind.MOVE
        elif operator.type in _EXPONENTIALS:
            kind = LayerKind.EXPONENTIAL
        elif operator.type in _NORMALIZATIONS:
            kind = LayerKind.NORMALIZATION
        return Layer(
            kind=kind,
            name=_name(operator),
            type=operator.type,
            inputs=sum(self._size(n) for n in operator.inputs if n and n not in constants),
            outputs=sum(self._size(name) for name in operator.outputs if name),
        )

    def _size(self, name: str) -> int:
        return math.prod(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._graph.shape(name)
        if shape is None or None in shape:
            raise _UnknownShapeError
        return tuple(size for size in shape if size is not None)


def _name(operator: Operator) -> str:
    return operator.name or operator.outputs[0]


class _UnknownShapeError(Exception):
    """An operator cannot be counted because a shape is not known; never leaves this module."""
