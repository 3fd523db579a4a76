"""Rows of RESHAPE and TRANSPOSE as the fewest, and transposes that a product can do itself.

Where the stored order of an image meets an ONNX Reshape, a program moves the image into ONNX's
order, reshapes it, and moves it on; often one of these steps does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.program import Operator, Tensor
from edgekit_converters.sizes.movement import Movement, MovementPlan
from edgekit_converters.sizes.size import Size, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.graph import Shape
    from edgekit_converters.litert.program import Program

_MOVERS: Final = frozenset({"RESHAPE", "TRANSPOSE"})
_MAX_ROW: Final = 8
_ADJOINTS: Final = ("adjX", "adjY")


def merge_movements(program: Program) -> None:
    """Write every row of movements anew where fewer steps do the same, in place."""
    producers, readers = program.producers(), program.readers()
    borders = {id(tensor) for tensor in (*program.inputs, *program.outputs)}
    for last in list(program.operators):
        if last.code not in _MOVERS:
            continue
        row = [last]
        while len(row) < _MAX_ROW:
            source = row[0].inputs[0]
            before = producers.get(id(source))
            if before is None or before.code not in _MOVERS or id(source) in borders:
                break
            if len(readers.get(id(source), [])) != 1:
                break
            row.insert(0, before)
        plan = _plan(row) if len(row) > 1 else None
        result, first = last.outputs[0], row[0].inputs[0]
        if plan is None or first is None or plan.cost >= _cost(row):
            continue
        steps = _written(plan, first, result)
        if not steps and id(result) in borders:
            continue
        for reader in [] if steps else readers.get(id(result), []):
            reader.inputs = [first if tensor is result else tensor for tensor in reader.inputs]
            readers.setdefault(id(first), []).append(reader)
        at = program.operators.index(last)
        program.operators[at : at + 1] = steps
        for operator in row[:-1]:
            program.operators.remove(operator)
        producers.update((id(step.outputs[0]), step) for step in steps)
        readers.update((id(step.inputs[0]), [step]) for step in steps[1:])


def absorb_transposes(program: Program) -> None:
    """Let products read a factor whose last two axes were exchanged as it was before, in place."""
    producers = program.producers()
    for operator in program.operators:
        if operator.code != "BATCH_MATMUL":
            continue
        for position, option in enumerate(_ADJOINTS):
            factor = operator.inputs[position]
            before = producers.get(id(factor))
            if factor is None or before is None or before.code != "TRANSPOSE":
                continue
            rank = len(factor.shape)
            order = _order(before)
            if order == (*range(rank - 2), rank - 1, rank - 2):
                operator.inputs[position] = before.inputs[0]
                operator.options[option] = not operator.options.get(option)


def _order(operator: Operator) -> tuple[int, ...] | None:
    """The permutation of a TRANSPOSE, None where it is computed."""
    axes = operator.inputs[1]
    if axes is None or axes.data is None:
        return None
    return tuple(int(axis) for axis in axes.data)


def _cost(row: Sequence[Operator]) -> tuple[int, int]:
    return sum(operator.code == "TRANSPOSE" for operator in row), len(row)


def _plan(row: Sequence[Operator]) -> MovementPlan | None:
    """What a row does, None where that cannot be said or told to a RESHAPE."""
    source = row[0].inputs[0]
    sizes = None if source is None else _sizes(source.shape)
    if sizes is None:
        return None
    movement = Movement(sizes)
    for operator in row:
        if operator.code == "TRANSPOSE":
            order = _order(operator)
            if order is None:
                return None
            movement.transpose(order)
            continue
        target = _sizes(operator.outputs[0].shape)
        if target is None or not movement.reshape(target):
            return None
    plan = movement.plan()
    for shape in (plan.before, plan.after):
        if shape is not None and sum(not size.known for size in shape) > 1:
            return None
    return plan


def _sizes(shape: Shape) -> tuple[Size, ...] | None:
    """A shape with its free size by name; two free sizes cannot be told apart."""
    if shape.count(None) > 1:
        return None
    return tuple(Size(1, ("free",)) if size is None else number(size) for size in shape)


def _written(plan: MovementPlan, source: Tensor, result: Tensor) -> list[Operator]:
    steps: list[Operator] = []
    shape = source.shape
    for target, order in ((plan.before, None), (None, plan.order), (plan.after, None)):
        if target is None and order is None:
            continue
        if order is not None:
            shape = tuple(shape[axis] for axis in order)
            steps.append(_step("TRANSPOSE", order, shape, source, result))
        elif target is not None:
            shape = tuple(size.factor if size.known else None for size in target)
            written = [-1 if size is None else size for size in shape]
            steps.append(_step("RESHAPE", written, shape, source, result))
    for before, after in pairwise(steps):
        after.inputs[0] = before.outputs[0]
    if steps:
        steps[-1].outputs = [result]
    return steps


def _step(
    code: str, values: Sequence[int], shape: Shape, source: Tensor, result: Tensor
) -> Operator:
    role = "axes" if code == "TRANSPOSE" else "shape"
    data = np.array(values, dtype=np.int32)
    told = Tensor(name=f"{result.name}/{role}", dtype="int32", shape=data.shape, data=data)
    made = Tensor(name=f"{result.name}/moved", dtype=source.dtype, shape=shape)
    options: dict[str, object] = (
        {} if code == "TRANSPOSE" else {"newShape": [int(v) for v in values]}
    )
    return Operator(code=code, inputs=[source, told], outputs=[made], options=options)
