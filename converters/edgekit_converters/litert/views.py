"""Reshapes in a row, kept apart where the runtime would lose what stands between them.

RESHAPE, EXPAND_DIMS, SQUEEZE and BITCAST give the elements of their input as they are, and LiteRT
lets both lie in one place. An operator that works in place on a view of a view then overwrites the
first view as well, whoever reads it: only the readers of the view itself and of the origin are
counted (measured with ai-edge-litert 2.3.0, plain kernels; XNNPACK has memory of its own).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgekit_converters.litert.program import Operator, Program, Tensor

_VIEWS: Final = frozenset({"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "BITCAST"})


def separate_views(program: Program) -> Program:
    """Give, in place, every view of a view that others read too a row of views of its own.

    The origin of both rows then has two readers, and is left alone.
    """
    for operator in program.operators:
        for body in operator.bodies.values():
            separate_views(body)
    producers = program.producers()
    readers = program.readers()
    given = {id(tensor) for tensor in program.inputs}
    borders = {id(tensor) for tensor in program.outputs}
    operators: list[Operator] = []

    def again(tensor: Tensor, name: str) -> Tensor:
        """A view like another, down to what is none."""
        view = producers.get(id(tensor))
        if view is None or view.code not in _VIEWS or view.inputs[0] is None:
            return tensor
        if id(view.inputs[0]) in given:
            # Of an input it is a copy.
            return tensor
        copy = replace(tensor, name=f"{name}/view")
        source = again(view.inputs[0], copy.name)
        operators.append(replace(view, inputs=[source, *view.inputs[1:]], outputs=[copy]))
        return copy

    for operator in program.operators:
        source = operator.inputs[0] if operator.code in _VIEWS else None
        if source is not None and (len(readers[id(source)]) > 1 or id(source) in borders):
            operator.inputs[0] = again(source, operator.outputs[0].name)
        operators.append(operator)
    program.operators = operators
    return program
