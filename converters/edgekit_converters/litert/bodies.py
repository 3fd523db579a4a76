"""Bodies of IF and WHILE: give every output a tensor of its own.

LiteRT copies a body's outputs to where they belong one after the other. A WHILE whose body gives
one of its inputs back in another place, and an IF that gives one tensor twice, are silently wrong
without this (measured with ai-edge-litert 2.3.0).
"""

from __future__ import annotations

import numpy as np

from edgekit_converters.litert.program import Operator, Program, Tensor


def separate_outputs(program: Program) -> Program:
    """Copy, in place, what bodies give back twice or in another place, and return the program."""
    for operator in program.operators:
        for body in operator.bodies.values():
            separate_outputs(body)
            _separate(body)
    return program


def _separate(body: Program) -> None:
    given = {id(tensor): position for position, tensor in enumerate(body.inputs)}
    seen: set[int] = set()
    for position, tensor in enumerate(body.outputs):
        moved = given.get(id(tensor), position) != position
        if moved or id(tensor) in seen:
            body.outputs[position] = _copy(body, tensor, position)
        seen.add(id(tensor))


def _copy(body: Program, tensor: Tensor, position: int) -> Tensor:
    """Another tensor of the same values; a RESHAPE where the shape is known, else a join of one."""
    copy = Tensor(name=f"{tensor.name}/output_{position}", dtype=tensor.dtype, shape=tensor.shape)
    if tensor.shape.count(None) <= 1:
        sizes = np.array([-1 if s is None else s for s in tensor.shape], dtype=np.int32)
        shape = Tensor(name=f"{copy.name}/shape", dtype="int32", shape=sizes.shape, data=sizes)
        operator = Operator(
            code="RESHAPE",
            inputs=[tensor, shape],
            outputs=[copy],
            options={"newShape": sizes.tolist()},
        )
    else:
        operator = Operator(
            code="CONCATENATION",
            inputs=[tensor],
            outputs=[copy],
            options={"axis": 0, "fusedActivationFunction": "NONE"},
        )
    body.operators.append(operator)
    return copy
