"""LiteRT's WHILE and IF as steps of a formula, their bodies written as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.builder import Made, RefusedNodeError
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
    outer = _captured([test, round_])
    for program in (test, round_):
        _pass_in(program, outer)
    round_.outputs += round_.inputs[len(given) :]
    outputs = [
        Made(f"{steps.prefix}/repeated", _merged(before, after), before.dtype)
        for before, after in zip([*carried, *outer], round_.outputs, strict=True)
    ]
    bodies = {"condSubgraphIndex": test, "bodySubgraphIndex": round_}
    made = steps.build.run("WHILE", [*carried, *outer], outputs, options={}, bodies=bodies)
    return made[: len(given)]


def choose(
    steps: Steps,
    condition: Tensor,
    then: Callable[[], list[Tensor]],
    otherwise: Callable[[], list[Tensor]],
) -> list[Tensor]:
    """Run one of two bodies.

    Args:
        steps: The formula that the choice is a part of.
        condition: A bool of one element.
        then: What is made where it holds.
        otherwise: What is made elsewhere, of the same types and ranks.

    Returns:
        What the body made that was run.
    """
    taken = steps.build.record(f"{steps.prefix}/then", [], lambda _: then())
    other = steps.build.record(f"{steps.prefix}/else", [], lambda _: otherwise())
    outer = _captured([taken, other])
    for program in (taken, other):
        _pass_in(program, outer)
    outputs = [
        Made(f"{steps.prefix}/chosen", _merged(first, second), first.dtype)
        for first, second in zip(taken.outputs, other.outputs, strict=True)
    ]
    bodies = {"thenSubgraphIndex": taken, "elseSubgraphIndex": other}
    return steps.build.run("IF", [condition, *outer], outputs, options={}, bodies=bodies)


def _merged(before: Tensor, after: Tensor) -> tuple[int | None, ...]:
    """The sizes that are the same in both."""
    if len(before.shape) != len(after.shape) or before.dtype != after.dtype:
        raise RefusedNodeError(
            f"its bodies make {before.dtype} {before.shape} and {after.dtype} {after.shape}"
        )
    return tuple(
        one if one == other else None for one, other in zip(before.shape, after.shape, strict=True)
    )


def _captured(programs: Sequence[Program]) -> list[Tensor]:
    """What bodies read and nobody in them makes; constants stand in every subgraph anew."""
    found: dict[int, Tensor] = {}
    for program in programs:
        made = {id(tensor) for tensor in program.inputs}
        made.update(id(tensor) for operator in program.operators for tensor in operator.outputs)
        read = [tensor for operator in program.operators for tensor in operator.inputs]
        for tensor in (*read, *program.outputs):
            if tensor is not None and tensor.data is None and id(tensor) not in made:
                found[id(tensor)] = tensor
    return list(found.values())


def _pass_in(program: Program, outer: list[Tensor]) -> None:
    """Make outer tensors inputs of a body."""
    inner = {
        id(tensor): Tensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape)
        for tensor in outer
    }
    program.inputs += [inner[id(tensor)] for tensor in outer]
    for operator in program.operators:
        operator.inputs = [
            None if tensor is None else inner.get(id(tensor), tensor) for tensor in operator.inputs
        ]
    program.outputs = [inner.get(id(tensor), tensor) for tensor in program.outputs]
