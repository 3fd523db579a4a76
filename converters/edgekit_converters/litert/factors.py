"""Products of a transposed tensor with itself, which XNNPACK computes wrong.

A BATCH_MATMUL whose two factors are one tensor, computed by a TRANSPOSE that moves more than the
last two axes, gives other numbers than its definition (measured with ai-edge-litert 2.3.0; the
plain kernels are right).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit_converters.litert.program import Operator, Program


def separate_factors(program: Program) -> Program:
    """Give, in place, the second factor of such products a TRANSPOSE of its own."""
    for operator in program.operators:
        for body in operator.bodies.values():
            separate_factors(body)
    producers = program.producers()
    operators: list[Operator] = []
    for operator in program.operators:
        if operator.code == "BATCH_MATMUL" and operator.inputs[0] is operator.inputs[1]:
            made = producers.get(id(operator.inputs[1]))
            if made is not None and made.code == "TRANSPOSE":
                name = f"{operator.outputs[0].name}/factor"
                copy = replace(made, outputs=[replace(made.outputs[0], name=name)])
                operators.append(copy)
                operator.inputs[1] = copy.outputs[0]
        operators.append(operator)
    program.operators = operators
    return program
