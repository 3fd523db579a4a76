"""Fourth stage: join neighbours that LiteRT has as one operator, and drop what does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.moving import absorb_transposes, merge_movements

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.litert.program import Operator, Program, Tensor

_FUSED: Final = {"RELU": "RELU", "RELU6": "RELU6", "RELU_N1_TO_1": "RELU_N1_TO_1"}
_WITH_BIAS: Final = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_ACTIVATION: Final = "fusedActivationFunction"
_MOVERS: Final = frozenset({"DEPTH_TO_SPACE", "RESHAPE", "TRANSPOSE"})
# XNNPACK and the microcontroller kernels fuse these; a fused CONCATENATION they refuse.
_MAY_FUSE: Final = _WITH_BIAS | {"ADD", "SUB", "MUL", "DIV", "AVERAGE_POOL_2D", "MAX_POOL_2D"}


def fuse(program: Program) -> Program:
    """Fuse in place, and return the program.

    Rows of RESHAPE and TRANSPOSE become short, a constant that is added behind a layer becomes its
    bias, and a Relu or Relu6 becomes part of the operator before it; operators that nothing reads
    go.
    """
    for operator in program.operators:
        for body in operator.bodies.values():
            fuse(body)
    _merge_reshapes(program)
    _drop_unread(program)
    merge_movements(program)
    absorb_transposes(program)
    _drop_unread(program)
    _fold_bias(program)
    _fuse_activations(program)
    # An activation stood between some of them.
    _merge_reshapes(program)
    _drop_unread(program)
    return program


def _merge_reshapes(program: Program) -> None:
    producers = program.producers()
    for operator in program.operators:
        if operator.code != "RESHAPE":
            continue
        source = operator.inputs[0]
        before = producers.get(id(source))
        while before is not None and before.code == "RESHAPE":
            source = before.inputs[0]
            before = producers.get(id(source))
        operator.inputs[0] = source
    same = {
        id(operator.outputs[0]): operator.inputs[0]
        for operator in program.operators
        if operator.code == "RESHAPE"
        and operator.inputs[0] is not None
        and operator.inputs[0].shape == operator.outputs[0].shape
        # With more free sizes than one, a reshape may exchange them.
        and operator.outputs[0].shape.count(None) <= 1
        and not _is_border(program, operator.outputs[0])
    }
    for operator in program.operators:
        operator.inputs = [
            None if tensor is None else same.get(id(tensor), tensor) for tensor in operator.inputs
        ]


def _fold_bias(program: Program) -> None:
    producers = program.producers()
    readers = program.readers()
    for operator in list(program.operators):
        if operator.code not in {"ADD", "SUB"}:
            continue
        first, second = operator.inputs[0], operator.inputs[1]
        if operator.code == "ADD" and first is not None and first.data is not None:
            first, second = second, first
        if first is None or second is None:
            continue
        layer = producers.get(id(first))
        if layer is None or not _takes_bias(program, layer, readers):
            continue
        addend = _per_channel(second, first)
        bias = layer.inputs[2] if len(layer.inputs) > 2 else None  # noqa: PLR2004
        if addend is None or bias is None or bias.data is None:
            continue
        sign = np.float32(-1 if operator.code == "SUB" else 1)
        name = second.name if not np.any(bias.data) else bias.name
        layer.inputs[2] = type(bias)(
            name=name, dtype="float32", shape=bias.shape, data=bias.data + sign * addend
        )
        layer.outputs = operator.outputs
        producers[id(operator.outputs[0])] = layer
        program.operators.remove(operator)


def _fuse_activations(program: Program) -> None:
    producers = program.producers()
    readers = program.readers()
    for operator in list(program.operators):
        activation = _FUSED.get(operator.code)
        source = operator.inputs[0]
        before = producers.get(id(source))
        layer = _behind_movements(program, before, producers, readers)
        if (
            activation is None
            or layer is None
            or before is None
            or source is None
            or source.dtype != "float32"
            or layer.code not in _MAY_FUSE
            or layer.options.get(_ACTIVATION) != "NONE"
            or len(readers[id(source)]) != 1
            or _is_border(program, source)
        ):
            continue
        layer.options[_ACTIVATION] = activation
        before.outputs = operator.outputs
        producers[id(operator.outputs[0])] = before
        program.operators.remove(operator)


def _behind_movements(
    program: Program,
    operator: Operator | None,
    producers: dict[int, Operator],
    readers: dict[int, list[Operator]],
) -> Operator | None:
    """What computes the elements that an operator only moves; itself where it computes them.

    Nobody else may read them on the way, and none may be known by a name of the source's.
    """
    named = {id(tensor) for tensor, _ in program.located.values()}
    while operator is not None and operator.code in _MOVERS:
        source = operator.inputs[0]
        if (
            source is None
            or id(source) in named
            or len(readers[id(source)]) != 1
            or _is_border(program, source)
        ):
            return None
        operator = producers.get(id(source))
    return operator


def _drop_unread(program: Program) -> None:
    needed = {id(tensor) for tensor in program.outputs}
    kept = []
    for operator in reversed(program.operators):
        if any(id(tensor) in needed for tensor in operator.outputs):
            needed.update(id(tensor) for tensor in operator.inputs if tensor is not None)
            kept.append(operator)
    program.operators = kept[::-1]


def _takes_bias(program: Program, layer: Operator, readers: dict[int, list[Operator]]) -> bool:
    output = layer.outputs[0]
    return (
        layer.code in _WITH_BIAS
        and layer.options.get(_ACTIVATION) == "NONE"
        and len(readers.get(id(output), [])) == 1
        and not _is_border(program, output)
    )


def _per_channel(tensor: Tensor, like: Tensor) -> NDArray[Any] | None:
    """A constant as one value a channel of `like`, None where it is not that."""
    channels = like.shape[-1]
    if tensor.data is None or channels is None or len(tensor.shape) > len(like.shape):
        return None
    if tensor.data.size == 1:
        return np.full(channels, tensor.data.reshape(-1)[0], dtype=np.float32)
    if tensor.data.size != channels or tensor.data.shape[-1] != channels:
        return None
    return tensor.data.reshape(-1)


def _is_border(program: Program, tensor: Tensor) -> bool:
    return any(tensor is border for border in (*program.inputs, *program.outputs))
