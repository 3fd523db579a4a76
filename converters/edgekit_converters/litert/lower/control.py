"""If, Loop and Scan as LiteRT's IF and WHILE, with their bodies as subgraphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.graph import Graph
from edgekit_converters.litert.fuse import fuse
from edgekit_converters.litert.layout import identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.loop import choose, while_loop
from edgekit_converters.litert.lower.registry import lower_graph, lowers
from edgekit_converters.litert.lower.size_steps import Extent
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.program import Tensor
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_converters.graph import Node


@lowers("If", dtypes={})
def lower_if(build: Builder, node: Node) -> None:
    """IF; what the branches read from outside becomes their input."""
    steps = Steps(build, node)
    bodies = [_body(node, name) for name in ("then_branch", "else_branch")]
    then, otherwise = (_Body(build, body) for body in bodies)
    condition = steps.reshape(steps.in_onnx_order(0), ())
    made = choose(steps, condition, lambda: then.write([]), lambda: otherwise.write([]))
    for position, tensor in enumerate(made):
        steps.finish(tensor, position)


@lowers("Loop", dtypes={})
def lower_loop(build: Builder, node: Node) -> None:
    """WHILE; what the rounds give beside the states is collected in a row."""
    steps = Steps(build, node)
    graph = _body(node, "body")
    body = _Body(build, graph)
    count = len(node.inputs) - 2
    rounds = steps.reshape(steps.in_onnx_order(0), ()) if node.input(0) else None
    going = steps.constant(np.ones((), dtype=bool), "going")
    if node.input(1):
        going = steps.reshape(steps.in_onnx_order(1), ())
    states = [steps.in_onnx_order(2 + at) for at in range(count)]
    rows = [_Row(steps=steps, graph=graph, name=name) for name in graph.outputs[1 + count :]]
    start = steps.constant(np.zeros((), dtype=np.int64), "start")
    carried = [start, going, *states, *(cell for row in rows for cell in row.empty())]

    def goes_on(items: list[Tensor]) -> Tensor:
        if rounds is None:
            return items[1]
        return steps.logical_and(steps.less(items[0], rounds), items[1])

    def once(items: list[Tensor]) -> list[Tensor]:
        made = body.write(items[: 2 + count])
        after = [steps.add(items[0], 1), steps.reshape(made[0], ()), *made[1 : 1 + count]]
        return after + _collected(rows, items[2 + count :], made[1 + count :])

    done = while_loop(steps, goes_on, once, carried)
    for position, tensor in enumerate(done[2 : 2 + count]):
        steps.finish(tensor, position)
    for position, tensor in enumerate(_stacks(rows, done[2 + count :], done[0])):
        steps.finish(tensor, count + position)


@lowers("Scan", dtypes={})
def lower_scan(build: Builder, node: Node) -> None:
    """WHILE over the slices of an axis."""
    steps = Steps(build, node)
    graph = _body(node, "body")
    body = _Body(build, graph)
    width = node.integer("num_scan_inputs", 0)
    count = len(node.inputs) - width
    states = [steps.in_onnx_order(at) for at in range(count)]
    sources = [steps.in_onnx_order(count + at) for at in range(width)]
    axes = node.integers("scan_input_axes") or (0,) * width
    backwards = node.integers("scan_input_directions") or (0,) * width
    results = len(node.outputs) - count
    places = node.integers("scan_output_axes") or (0,) * results
    turned = node.integers("scan_output_directions") or (0,) * results
    rounds = _rounds(steps, sources, axes)
    rows = [
        _Row(steps=steps, graph=graph, name=name, backwards=bool(back), axis=axis)
        for name, back, axis in zip(graph.outputs[count:], turned, places, strict=True)
    ]
    start = steps.constant(np.zeros((), dtype=np.int32), "start")
    carried = [start, *states, *(cell for row in rows for cell in row.empty())]

    def once(items: list[Tensor]) -> list[Tensor]:
        slices = []
        for source, axis, back in zip(sources, axes, backwards, strict=True):
            last = steps.scalar(steps.minus(rounds, 1))
            place = steps.sub(last, items[0]) if back else items[0]
            slices.append(steps.gather(source, place, axis))
        made = body.write([*items[1 : 1 + count], *slices])
        return [
            steps.add(items[0], 1),
            *made[:count],
            *_collected(rows, items[1 + count :], made[count:]),
        ]

    def goes_on(items: list[Tensor]) -> Tensor:
        return steps.less(items[0], steps.scalar(rounds))

    done = while_loop(steps, goes_on, once, carried)
    for position, tensor in enumerate(done[1 : 1 + count]):
        steps.finish(tensor, position)
    for position, tensor in enumerate(_stacks(rows, done[1 + count :], done[0])):
        steps.finish(tensor, count + position)


def _rounds(steps: Steps, sources: Sequence[Tensor], axes: Sequence[int]) -> Extent:
    """How many slices there are, known if one of the sources tells."""
    extents = [steps.extent(source, axis) for source, axis in zip(sources, axes, strict=True)]
    return next((extent for extent in extents if isinstance(extent, int)), extents[0])


def _body(node: Node, name: str) -> Graph:
    body = node.attributes.get(name)
    if not isinstance(body, Graph):
        raise RefusedNodeError(f"it has no {name}")
    return body


class _Body:
    """The graph of a body, with what it reads from outside as further inputs."""

    def __init__(self, build: Builder, body: Graph) -> None:
        self._build = build
        captured = sorted(_free_names(body))
        constants = dict(body.constants)
        values = dict(body.values)
        names, self._outer = [], []
        for name in captured:
            constant = build.graph.constants.get(name)
            if constant is not None:
                constants[name] = constant
                continue
            names.append(name)
            values[name] = build.graph.values[name]
            # Arranged here, so that it is not done again in every round.
            self._outer.append(build.value(name, identity(len(build.shape(name)))))
        self._graph = replace(
            body, inputs=(*body.inputs, *names), constants=constants, values=values
        )

    def write(self, given: list[Tensor]) -> list[Tensor]:
        """Make the body's operators, and return its outputs."""
        try:
            program = fuse(lower_graph(self._graph, where=self._graph.name))
        except UnsupportedModelError as error:
            _, _, faults = error.what.partition(": ")
            raise RefusedNodeError(f"its body {self._graph.name!r} has {faults}") from error
        return self._build.include(program, [*given, *self._outer])


def _free_names(graph: Graph) -> set[str]:
    """What a graph and the bodies in it read from outside."""
    made = {*graph.inputs, *graph.constants}
    made.update(name for node in graph.nodes for name in node.outputs)
    read = set(graph.outputs)
    for node in graph.nodes:
        read.update(filter(None, node.inputs))
        for attribute in node.attributes.values():
            if isinstance(attribute, Graph):
                read |= _free_names(attribute)
    return read - made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What is collected of one result of all rounds: its elements in a row, and its sizes.

    The row begins (backwards: ends) with one element that belongs to no round, because LiteRT does
    not carry tensors that are empty.
    """

    steps: Steps
    graph: Graph
    name: str
    backwards: bool = False
    axis: int = 0

    @property
    def _free(self) -> bool:
        return None in (self.graph.shape(self.name) or ())

    @property
    def width(self) -> int:
        """How many tensors are carried."""
        return 2 if self._free else 1

    def empty(self) -> list[Tensor]:
        """What is carried into the first round."""
        dtype = self.graph.dtype(self.name)
        cells = [self.steps.constant(np.zeros(1, dtype=dtype), "row")]
        if self._free:
            rank = len(self.graph.shape(self.name) or ())
            cells.append(self.steps.integers([0] * rank, "sizes"))
        return cells

    def grown(self, cells: list[Tensor], result: Tensor) -> list[Tensor]:
        """What is carried into the next round."""
        flat = self.steps.flatten(result)
        parts = [flat, cells[0]] if self.backwards else [cells[0], flat]
        row = self.steps.concat(parts, 0)
        # It is longer in every round.
        row.shape = (None,)
        return [row, self.steps.shape_of(result)] if self._free else [row]

    def stacked(self, cells: list[Tensor], rounds: Tensor) -> Tensor:
        """The results of all rounds along an axis of their own."""
        steps = self.steps
        begin, masks = ([0], {"beginMask": 1}) if self.backwards else ([1], {"endMask": 1})
        row = steps.strided_slice(cells[0], begin, [-1], [1], (None,), **masks)
        shape = self.graph.shape(self.name) or ()
        if self._free:
            sizes = steps.concat([steps.reshape(steps.cast(rounds, "int32"), (1,)), cells[1]], 0)
            made = steps.reshape_to(row, sizes, (None, *shape))
        else:
            made = steps.reshape(row, (None, *shape))
        return steps.move_axis(made, 0, self.axis) if self.axis else made


def _collected(rows: list[_Row], cells: list[Tensor], results: list[Tensor]) -> list[Tensor]:
    made: list[Tensor] = []
    start = 0
    for row, result in zip(rows, results, strict=True):
        count = row.width
        made += row.grown(cells[start : start + count], result)
        start += count
    return made


def _stacks(rows: list[_Row], cells: list[Tensor], rounds: Tensor) -> list[Tensor]:
    made: list[Tensor] = []
    start = 0
    for row in rows:
        count = row.width
        made.append(row.stacked(cells[start : start + count], rounds))
        start += count
    return made
