"""Loops of a small, known number of rounds, written out one round after the other.

What is written out is fused and runs fast; LiteRT's WHILE copies what it carries in every round.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from edgekit_converters.branches import inline_body
from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, replace_nodes

_MAX_ROUNDS: Final = 16
_MAX_NODES: Final = 256
# Lists cannot be carried by LiteRT's loops: there is no other way for them.
_MAX_NODES_OF_LISTS: Final = 4096


def unroll_loops(model: Any) -> bool:
    """Write out every Loop and Scan that is small enough, in place.

    Args:
        model: An `onnx.ModelProto` with inferred shapes. Those of the new values are not there.

    Returns:
        Whether there was one.
    """
    unrolling = _Unrolling(model.graph)
    nodes: list[Any] = []
    changed = False
    for node in model.graph.node:
        written = None
        if node.domain in STANDARD_DOMAINS and node.op_type == "Loop":
            written = unrolling.loop(node)
        elif node.domain in STANDARD_DOMAINS and node.op_type == "Scan":
            written = unrolling.scan(node)
        changed |= written is not None
        nodes += [node] if written is None else written
    if changed:
        replace_nodes(model.graph, nodes)
    return changed


class _Unrolling:
    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._values = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._taken = {name for node in graph.node for name in node.output}
        self._taken |= self._constants.keys() | self._values.keys()

    def loop(self, node: Any) -> list[Any] | None:
        body = _attribute(node, "body")
        rounds = self._number(node.input[0])
        condition = node.input[1] if len(node.input) > 1 else ""
        if rounds is None or (condition and not self._number(condition)):
            return None
        if not _goes_on(body) or not self._small(node, body, rounds):
            return None
        states = list(node.input[2:])
        going = self._constant("going", np.ones((), dtype=bool))
        nodes: list[Any] = []
        collected: list[list[str]] = []
        for count in range(rounds):
            counter = self._constant("round", np.array(count, dtype=np.int64))
            names = [value.name for value in body.input]
            given = dict(zip(names, (counter, going, *states), strict=True))
            inlined, made = inline_body(body, self._graph, self._taken, given)
            nodes += inlined
            states = made[1 : 1 + len(states)]
            collected.append(made[1 + len(states) :])
        return self._finish(node, nodes, states, collected, [0] * len(node.output))

    def scan(self, node: Any) -> list[Any] | None:
        body = _attribute(node, "body")
        count = int(_attribute(node, "num_scan_inputs"))
        states, sources = list(node.input[:-count]), list(node.input[-count:])
        axes = _integers(node, "scan_input_axes", count)
        backwards = _integers(node, "scan_input_directions", count)
        ranks = [self._rank(source) for source in sources]
        sizes = [self._size(source, axis) for source, axis in zip(sources, axes, strict=True)]
        rounds = next((size for size in sizes if size is not None), None)
        if rounds is None or None in ranks or not self._small(node, body, rounds):
            return None
        nodes: list[Any] = []
        collected: list[list[str]] = []
        for turn in range(rounds):
            slices = []
            for source, axis, back in zip(sources, axes, backwards, strict=True):
                place = rounds - 1 - turn if back else turn
                slices.append(self._name(f"{source}/{place}"))
                index = self._constant("index", np.array(place, dtype=np.int64))
                nodes.append(_node("Gather", [source, index], slices[-1], axis=axis))
            names = [value.name for value in body.input]
            given = dict(zip(names, (*states, *slices), strict=True))
            inlined, made = inline_body(body, self._graph, self._taken, given)
            nodes += inlined
            states = made[: len(states)]
            collected.append(made[len(states) :])
        outputs = len(node.output) - len(states)
        for position, back in enumerate(_integers(node, "scan_output_directions", outputs)):
            if back:
                column = [row[position] for row in collected][::-1]
                for row, name in zip(collected, column, strict=True):
                    row[position] = name
        places = [0] * len(states) + _integers(node, "scan_output_axes", outputs)
        return self._finish(node, nodes, states, collected, places)

    def _finish(
        self, node: Any, nodes: list[Any], states: list[str], collected: list[list[str]],
        axes: list[int],
    ) -> list[Any]:  # fmt: skip
        """The last states and the stacked results, under the names that the node gives them."""
        for position, output in enumerate(node.output):
            if not output:
                continue
            if position < len(states):
                nodes.append(_node("Identity", [states[position]], output))
                continue
            axis = axes[position]
            where = self._constant("axis", np.array([axis], dtype=np.int64))
            rows = []
            for row in collected:
                rows.append(self._name(f"{output}/row"))
                nodes.append(_node("Unsqueeze", [row[position - len(states)], where], rows[-1]))
            nodes.append(_node("Concat", rows, output, axis=axis))
        return nodes

    def _small(self, node: Any, body: Any, rounds: int) -> bool:
        lists = any(
            name in self._values and not self._values[name].type.HasField("tensor_type")
            for name in (*node.input, *node.output)
        )
        if rounds < 1:
            # Nothing is left but the states, which need no loop; results would be empty.
            return len(node.output) == len(node.input) - 2 and node.op_type == "Loop"
        if lists:
            return rounds * len(body.node) <= _MAX_NODES_OF_LISTS
        return rounds <= _MAX_ROUNDS and rounds * len(body.node) <= _MAX_NODES

    def _number(self, name: str) -> int | None:
        from onnx import numpy_helper

        tensor = self._constants.get(name)
        return None if tensor is None else int(numpy_helper.to_array(tensor).reshape(-1)[0])

    def _rank(self, name: str) -> int | None:
        value = self._values.get(name)
        if name in self._constants:
            return len(self._constants[name].dims)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return len(value.type.tensor_type.shape.dim)

    def _size(self, name: str, axis: int) -> int | None:
        if name in self._constants:
            return int(self._constants[name].dims[axis])
        if self._rank(name) is None:
            return None
        size = self._values[name].type.tensor_type.shape.dim[axis]
        return int(size.dim_value) if size.HasField("dim_value") else None

    def _constant(self, role: str, array: Any) -> str:
        from onnx import numpy_helper

        name = self._name(f"{self._graph.name}/{role}")
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _name(self, wanted: str) -> str:
        candidate, number = wanted, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{wanted}_{number}"
        self._taken.add(candidate)
        return candidate


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def _attribute(node: Any, name: str) -> Any:
    from onnx import helper

    return next(helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name)


def _integers(node: Any, name: str, count: int) -> list[int]:
    found = [list(entry.ints) for entry in node.attribute if entry.name == name]
    return found[0] if found and found[0] else [0] * count


def _goes_on(body: Any) -> bool:
    """Whether the condition of a Loop's body is always that which it is given, or true."""
    from onnx import numpy_helper

    makers = {name: node for node in body.node for name in node.output}
    name = body.output[0].name
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    if name == body.input[1].name:
        return True
    tensors = [tensor for tensor in body.initializer if tensor.name == name]
    maker = makers.get(name)
    if maker is not None and maker.op_type == "Constant":
        tensors += [entry.t for entry in maker.attribute if entry.name == "value"]
    return any(bool(numpy_helper.to_array(tensor).reshape(-1)[0]) for tensor in tensors)
