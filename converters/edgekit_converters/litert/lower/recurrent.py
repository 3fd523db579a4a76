"""LSTM, GRU and RNN over whole sequences: step after step, or as a loop where that is long.

All steps' products with the inputs are one FULLY_CONNECTED. LiteRT's own
UNIDIRECTIONAL_SEQUENCE_LSTM keeps its state from one call to the next and gives no final state,
so it cannot say what ONNX means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.loop import while_loop
from edgekit_converters.litert.lower.recurrent_cells import (
    CELLS,
    Cell,
    Parameters,
    States,
    activations_of,
)
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# A step is about a dozen operators; what is longer is a loop, which is smaller and slower.
_MOST_STEPS_WRITTEN_OUT: Final = 128
_INPUT, _WEIGHTS, _RECURRENCE, _BIAS, _LENGTHS, _HIDDEN, _CELL, _PEEPHOLES = range(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """What came of one direction: outputs (time, batch, hidden), and the last states."""

    outputs: Tensor
    states: tuple[Tensor, ...]


@lowers("LSTM", "GRU", "RNN")
def lower_recurrent(build: Builder, node: Node) -> None:
    """One direction or two, with initial states, and sequences that end early."""
    steps = Steps(build, node)
    direction = node.text("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    batch_first = bool(node.integer("layout", 0))
    inputs = steps.in_onnx_order(_INPUT)
    if batch_first:
        inputs = steps.transpose(inputs, (1, 0, 2))
    lengths = _lengths(steps, node, inputs)
    functions = activations_of(steps, node, directions)
    found = []
    for number in range(directions):
        parameters = _parameters(steps, node, number)
        cell = CELLS[node.op](steps, node, parameters, functions[number])
        run = _Direction(steps, cell, lengths, backwards=direction == "reverse" or number == 1)
        found.append(run.over(inputs, _initial(steps, node, cell, number, batch_first)))
    _finish(steps, found, batch_first)


class _Direction:
    """One cell going over the input."""

    def __init__(
        self, steps: Steps, cell: Cell, lengths: Tensor | None, *, backwards: bool
    ) -> None:
        self._steps = steps
        self._cell = cell
        self._lengths = lengths
        self._backwards = backwards

    def over(self, inputs: Tensor, initial: States) -> _Sequence:
        """Go over inputs of shape (time, batch, features)."""
        projected = self._turned(self._cell.project(inputs))
        count = inputs.shape[0]
        if count is not None and count <= _MOST_STEPS_WRITTEN_OUT:
            sequence = self._written_out(projected, initial, count)
        else:
            sequence = self._repeated(projected, initial)
        return _Sequence(outputs=self._turned(sequence.outputs), states=sequence.states)

    def _turned(self, tensor: Tensor) -> Tensor:
        """Backwards in time, each sequence from its own end."""
        if not self._backwards:
            return tensor
        if self._lengths is None:
            return self._steps.reverse(tensor, 0)
        return self._steps.step(
            "REVERSE_SEQUENCE", [tensor, self._lengths], tensor.shape, tensor.dtype,
            seqDim=0, batchDim=1,
        )  # fmt: skip

    def _written_out(self, projected: Tensor, initial: States, count: int) -> _Sequence:
        steps = self._steps
        shape = projected.shape[1:]
        lines = steps.steps(
            "UNPACK", [projected], [(shape, projected.dtype)] * count, num=count, axis=0
        )
        states, outputs = initial, []
        for number, line in enumerate(lines):
            alive = None
            if self._lengths is not None:
                alive = steps.expand_dims(steps.greater(self._lengths, number), 1)
            states, output = self._step(line, states, alive)
            outputs.append(output)
        return _Sequence(
            outputs=steps.stack(outputs, 0), states=tuple(s for s in states if s is not None)
        )

    def _repeated(self, projected: Tensor, initial: States) -> _Sequence:
        steps, hidden = self._steps, self._cell.hidden
        time, batch = projected.shape[:2]
        sizes = steps.shape_of(projected)
        ends = steps.integers([hidden], "hidden")
        rows = steps.concat([steps.slice_axis(sizes, 0, 1, 1), ends], 0)
        zero = steps.number(0.0)
        first = [
            steps.fill(rows, zero, (batch, hidden)) if state is None else state for state in initial
        ]
        whole = steps.concat([steps.slice_axis(sizes, 0, 0, 2), ends], 0)
        outputs = steps.fill(whole, zero, (time, batch, hidden))
        start = steps.integers(0, "start")
        last = steps.reshape(steps.slice_axis(sizes, 0, 0, 1), ())

        def round_(carried: list[Tensor]) -> list[Tensor]:
            at, written, *before = carried
            line = steps.gather(projected, at, 0)
            alive = None
            if self._lengths is not None:
                alive = steps.expand_dims(steps.greater(self._lengths, at), 1)
            after, output = self._step(line, tuple(before), alive)
            place = steps.concat([steps.reshape(at, (1,)), steps.integers([0, 0], "origin")], 0)
            written = steps.step(
                "DYNAMIC_UPDATE_SLICE",
                [written, steps.expand_dims(output, 0), place],
                written.shape,
                written.dtype,
            )
            return [steps.add(at, 1), written, *(state for state in after if state is not None)]

        _, outputs, *states = while_loop(
            steps, lambda carried: steps.less(carried[0], last), round_, [start, outputs, *first]
        )
        return _Sequence(outputs=outputs, states=tuple(states))

    def _step(self, line: Tensor, states: States, alive: Tensor | None) -> tuple[States, Tensor]:
        """One step: the new states, and the output."""
        after = self._cell.advance(line, states)
        if alive is None:
            return after, after[0]
        kept = tuple(
            self._steps.select(alive, new, 0.0 if old is None else old)
            for new, old in zip(after, states, strict=True)
        )
        return kept, self._steps.select(alive, after[0], 0.0)


def _parameters(steps: Steps, node: Node, number: int) -> Parameters:
    def of(position: int) -> Tensor | None:
        if not node.input(position):
            return None
        whole = steps.in_onnx_order(position)
        if whole.data is not None:
            return steps.constant(np.ascontiguousarray(whole.data[number]), node.input(position))
        return steps.squeeze(steps.slice_axis(whole, 0, number, 1), 0)

    weights, recurrence, bias = of(_WEIGHTS), of(_RECURRENCE), of(_BIAS)
    if weights is None or recurrence is None:
        raise RefusedNodeError("its weights are missing")
    halves: list[Tensor | None] = [None, None]
    if bias is not None and bias.data is not None:
        halves = [steps.constant(half, "bias") for half in np.split(bias.data, 2)]
    elif bias is not None:
        half_size = (bias.shape[0] or 0) // 2
        halves = [*steps.split(bias, [half_size, half_size], 0)]
    return Parameters(
        weights=weights,
        recurrence=recurrence,
        input_bias=halves[0],
        state_bias=halves[1],
        peepholes=of(_PEEPHOLES) if node.op == "LSTM" else None,
    )


def _initial(steps: Steps, node: Node, cell: Cell, number: int, batch_first: bool) -> States:  # noqa: FBT001
    states: list[Tensor | None] = []
    for position in (_HIDDEN, _CELL)[: cell.states]:
        constant = steps.build.known(node, position)
        if not node.input(position) or (constant is not None and not constant.any()):
            states.append(None)
            continue
        whole = steps.in_onnx_order(position)
        axis = 1 if batch_first else 0
        states.append(steps.squeeze(steps.slice_axis(whole, axis, number, 1), axis))
    return tuple(states)


def _lengths(steps: Steps, node: Node, inputs: Tensor) -> Tensor | None:
    """The int32 length of every sequence, None where all are as long as the input."""
    if not node.input(_LENGTHS):
        return None
    constant = steps.build.known(node, _LENGTHS)
    if constant is not None and inputs.shape[0] is not None and (constant == inputs.shape[0]).all():
        return None
    return steps.build.operand(node, _LENGTHS)


def _finish(steps: Steps, found: list[_Sequence], batch_first: bool) -> None:  # noqa: FBT001
    """Outputs (time, directions, batch, hidden) and states (directions, batch, hidden)."""
    outputs = steps.concat([steps.expand_dims(one.outputs, 1) for one in found], 1)
    steps.finish(steps.transpose(outputs, (2, 0, 1, 3)) if batch_first else outputs)
    for position in range(len(found[0].states)):
        axis = 1 if batch_first else 0
        states = [steps.expand_dims(one.states[position], axis) for one in found]
        steps.finish(steps.concat(states, axis), position + 1)
