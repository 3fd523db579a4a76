"""Copies of reshaped tensors where the runtime would overwrite what others still read.

LiteRT lets RESHAPE, EXPAND_DIMS, SQUEEZE and BITCAST share the place of their input, and a few
operators write their result over an input that nobody else reads. It then counts the readers of
that input and of the tensor whose place it is, but not of the views and results in between, which
share the place as well: they are overwritten before they are read, without an error (measured with
ai-edge-litert 2.3.0 and read in its planner of memory; what XNNPACK takes has memory of its own).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.program import Operator, Tensor

if TYPE_CHECKING:
    from edgekit_converters.litert.program import Program

_VIEWS: Final = frozenset({"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "BITCAST"})
# How many of their first inputs they may write over.
_IN_PLACE: Final = {
    "ADD": 2, "DIV": 2, "DYNAMIC_UPDATE_SLICE": 1, "MUL": 2, "SOFTMAX": 1, "SUB": 2,
}  # fmt: skip


def separate_views(program: Program) -> Program:
    """Let operators that work in place have copies, in place, where LiteRT miscounts readers."""
    for operator in program.operators:
        for body in operator.bodies.values():
            separate_views(body)
    places = _Places(program)
    operators: list[Operator] = []
    for operator in program.operators:
        for position in range(min(_IN_PLACE.get(operator.code, 0), len(operator.inputs))):
            tensor = operator.inputs[position]
            if tensor is not None and places.are_miscounted(tensor):
                copy = _copy(tensor, f"{operator.outputs[0].name}/input_{position}")
                operators.append(copy)
                operator.inputs[position] = copy.outputs[0]
        operators.append(operator)
    program.operators = operators
    return program


class _Places:
    """Which tensors of a program may share a place, and who reads them."""

    def __init__(self, program: Program) -> None:
        self._producers = program.producers()
        self._readers = program.readers()
        # Outputs count as read once more, and never are in another's place.
        self._outputs = {id(tensor) for tensor in program.outputs}

    def are_miscounted(self, tensor: Tensor) -> bool:
        """Whether what an operator reads as the only one may stand where others read, too."""
        view = self._view(tensor)
        if view is None or self._is_shared(tensor):
            return False
        between = False
        while view is not None and view.inputs[0] is not None:
            tensor = view.inputs[0]
            view = self._view(tensor)
            if view is not None:
                between |= self._is_shared(tensor)
        maker = self._producers.get(id(tensor))
        if maker is not None and maker.code in _IN_PLACE and id(tensor) not in self._outputs:
            # It may stand in the place of one of its maker's inputs.
            return between or self._is_shared(tensor)
        return between and not self._is_shared(tensor)

    def _view(self, tensor: Tensor) -> Operator | None:
        """What makes a tensor in the place of another; inputs and constants share theirs never."""
        maker = self._producers.get(id(tensor))
        if maker is None or maker.code not in _VIEWS or id(maker.inputs[0]) not in self._producers:
            return None
        return maker

    def _is_shared(self, tensor: Tensor) -> bool:
        return len(self._readers.get(id(tensor), ())) > 1 or id(tensor) in self._outputs


def _copy(tensor: Tensor, name: str) -> Operator:
    """The whole of a tensor in another place; SLICE takes every type and rank."""
    rank = len(tensor.shape)
    begin, size = np.zeros(rank, dtype=np.int32), np.full(rank, -1, dtype=np.int32)
    bounds = [
        Tensor(name=f"{name}/{role}", dtype="int32", shape=(rank,), data=data)
        for role, data in (("begin", begin), ("size", size))
    ]
    return Operator(code="SLICE", inputs=[tensor, *bounds], outputs=[replace(tensor, name=name)])
