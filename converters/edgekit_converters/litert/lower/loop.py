"""LiteRT's WHILE as a step of a formula: condition and body are written as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.builder import Made
from edgekit_converters.litert.program import Program, Tensor

if TYPE_CHECKING:
    from edgekit_converters.litert.lower.steps import Steps

Write = Callable[[list[Tensor]], list[Tensor]]


def while_loop(
    steps: Steps,
    condition: Callable[[list[Tensor]], Tensor],
    body: Write,
    carried: Sequence[Tensor],
) -> list[Tensor]:
    """Repeat `body` for as long as `condition` holds.

    Args:
        steps: The formula that the loop is a part of.
        condition: From the carried tensors, a scalar bool.
        body: From the carried tensors, what they are after one round, of the same types and ranks.
        carried: What they are at first.

    Returns:
        What they are at the end. Tensors from outside that the functions read are carried along.
    """
    given = [Made(tensor.name, tensor.shape, tensor.dtype) for tensor in carried]
    test = steps.build.record(f"{steps.prefix}/while", given, lambda items: [condition(items)])
    round_ = steps.build.record(f"{steps.prefix}/repeat", given, body)
    captured = list(
        {id(tensor): tensor for program in (test, round_) for tensor in _captured(program)}.values()
    )
    for program in (test, round_):
        _pass_in(program, captured)
    round_.outputs += round_.inputs[len(given) :]
    outputs = [
        Made(f"{steps.prefix}/repeated", _merged(before, after), before.dtype)
        for before, after in zip([*carried, *captured], round_.outputs, strict=True)
    ]
    bodies = {"condSubgraphIndex": test, "bodySubgraphIndex": round_}
    made = steps.build.run("WHILE", [*carried, *captured], outputs, options={}, bodies=bodies)
    return made[: len(given)]


def _merged(before: Tensor, after: Tensor) -> tuple[int | None, ...]:
    """The sizes that a round leaves as they are."""
    return tuple(
        one if one == other else None for one, other in zip(before.shape, after.shape, strict=True)
    )


def _captured(program: Program) -> list[Tensor]:
    """What a body reads and nobody in it makes; constants stand in every subgraph anew."""
    made = {id(tensor) for tensor in program.inputs}
    made.update(id(tensor) for operator in program.operators for tensor in operator.outputs)
    read = [tensor for operator in program.operators for tensor in operator.inputs]
    return [
        tensor
        for tensor in (*read, *program.outputs)
        if tensor is not None and tensor.data is None and id(tensor) not in made
    ]


def _pass_in(program: Program, captured: list[Tensor]) -> None:
    """Make outer tensors inputs of a body."""
    inner = {
        id(tensor): Tensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape)
        for tensor in captured
    }
    program.inputs += [inner[id(tensor)] for tensor in captured]
    for operator in program.operators:
        operator.inputs = [
            None if tensor is None else inner.get(id(tensor), tensor) for tensor in operator.inputs
        ]
    program.outputs = [inner.get(id(tensor), tensor) for tensor in program.outputs]
