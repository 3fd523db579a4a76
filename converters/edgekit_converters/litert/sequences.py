"""Lists of tensors, and tensors that may be missing, where the conversion knows what is in them.

LiteRT has tensors only. Most lists in a model are made and taken apart again by the model itself,
element by element: what is left of them are the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgekit_converters.body_constants import reads_of
from edgekit_converters.branches import inline_body
from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, replace_nodes

# No place is named: behind the last element, or the last element.
_LAST: Final = 2**62
# More than one Split can be asked for.
_MAX_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True)
class _Optional:
    """What an optional holds: a tensor's name, a list, or nothing."""

    held: str | list[str] | None


_Known = list[str] | _Optional


def resolve_sequences(model: Any) -> bool:
    """Replace operators on lists and optionals by operators on what is in them, in place.

    Args:
        model: An `onnx.ModelProto` with inferred shapes. Those of the new values are not there.

    Returns:
        Whether there was one. What is not known now is left as it is.
    """
    graph = model.graph
    resolving = _Resolving(graph)
    written: list[tuple[Any, list[Any] | None]] = []
    for node in graph.node:
        rule = _RULES.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
        written.append((node, rule(resolving, node) if rule else None))
    read = {value.name for value in graph.output}
    kept: list[Any] = []
    changed = False
    for node, others in reversed(written):
        # A list that somebody still reads as such keeps its maker.
        if others is None or not resolving.known.keys().isdisjoint(read.intersection(node.output)):
            kept.append(node)
            read.update(reads_of(node))
        else:
            changed = True
        for other in reversed(others or []):
            kept.append(other)
            read.update(reads_of(other))
    if changed:
        replace_nodes(graph, reversed(kept))
    return changed


class _Resolving:
    """What is known so far, while the nodes are walked in their order."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.known: dict[str, _Known] = {}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self.values = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self.taken = {name for node in graph.node for name in node.output}
        self.taken |= self._constants.keys() | self.values.keys()

    def sequence(self, name: str) -> list[str] | None:
        """The elements of a list."""
        found = self.known.get(name)
        return found if isinstance(found, list) else None

    def learn(self, name: str, content: _Known) -> list[Any]:
        """Remember what a value is; there is nothing to compute for that."""
        self.known[name] = content
        return []

    def array(self, name: str) -> Any:
        """The values of a constant, None if it is computed."""
        from onnx import numpy_helper

        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def shape(self, name: str) -> list[int | None] | None:
        """The sizes of a tensor, None where its rank is unknown."""
        if name in self._constants:
            return list(self._constants[name].dims)
        value = self.values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        dims = value.type.tensor_type.shape.dim
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]

    def constant(self, role: str, array: Any) -> str:
        """The name of a new constant."""
        from onnx import numpy_helper

        name = self.fresh(role)
        tensor = numpy_helper.from_array(array, name)
        self.graph.initializer.append(tensor)
        self._constants[name] = tensor
        return name

    def output(self, name: str, array: Any) -> list[Any]:
        """A node that gives a value its constant content."""
        return [_node("Identity", [self.constant(f"{name}/known", array)], name)]

    def fresh(self, wanted: str) -> str:
        """A name that is not in use."""
        candidate, number = wanted, 1
        while candidate in self.taken:
            number += 1
            candidate = f"{wanted}_{number}"
        self.taken.add(candidate)
        return candidate


def _empty(known: _Resolving, node: Any) -> list[Any] | None:
    return known.learn(node.output[0], [])


def _construct(known: _Resolving, node: Any) -> list[Any] | None:
    return known.learn(node.output[0], list(node.input))


def _insert(known: _Resolving, node: Any) -> list[Any] | None:
    items = known.sequence(node.input[0])
    place = _place(known, node, 2)
    if items is None or place is None:
        return None
    at = len(items) if place == _LAST else place
    at = at + len(items) if at < 0 else at
    return known.learn(node.output[0], [*items[:at], node.input[1], *items[at:]])


def _erase(known: _Resolving, node: Any) -> list[Any] | None:
    items = known.sequence(node.input[0])
    place = _place(known, node, 1)
    if items is None or place is None or not items:
        return None
    at = (-1 if place == _LAST else place) % len(items)
    return known.learn(node.output[0], [*items[:at], *items[at + 1 :]])


def _place(known: _Resolving, node: Any, position: int) -> int | None:
    name = node.input[position] if position < len(node.input) else ""
    if not name:
        return _LAST
    array = known.array(name)
    return None if array is None else int(array.reshape(-1)[0])


def _at(known: _Resolving, node: Any) -> list[Any] | None:
    items = known.sequence(node.input[0])
    if items is None:
        return None
    place = _place(known, node, 1)
    if place is not None:
        if not -len(items) <= place < len(items):
            return None
        return [_node("Identity", [items[place]], node.output[0])]
    shapes = [known.shape(item) for item in items]
    if not items or None in shapes or any(shape != shapes[0] for shape in shapes):
        return None
    # A computed place picks from all of them, side by side.
    stacked = known.fresh(f"{node.output[0]}/all")
    return [
        *_concat(known, items, stacked, 0, new_axis=True),
        _node("Gather", [stacked, node.input[1]], node.output[0], axis=0),
    ]


def _length(known: _Resolving, node: Any) -> list[Any] | None:
    items = known.sequence(node.input[0])
    if items is None:
        return None
    return known.output(node.output[0], np.array(len(items), dtype=np.int64))


def _split(known: _Resolving, node: Any) -> list[Any] | None:
    attributes = _attributes(node)
    shape = known.shape(node.input[0])
    split = node.input[1] if len(node.input) > 1 else ""
    array = known.array(split) if split else np.array(1)
    if shape is None or array is None:
        return None
    axis = int(attributes.get("axis", 0)) % max(len(shape), 1)
    size = shape[axis] if shape else None
    if array.ndim and array.size:
        sizes = [int(part) for part in array]
    elif size is not None:
        part = int(array.reshape(-1)[0])
        sizes = [min(part, size - start) for start in range(0, size, part)]
    else:
        return None
    if not sizes or len(sizes) > _MAX_LENGTH:
        return None
    parts = [known.fresh(f"{node.output[0]}/{at}") for at in range(len(sizes))]
    known.learn(node.output[0], parts)
    from onnx import helper

    lengths = known.constant(f"{node.output[0]}/sizes", np.array(sizes, dtype=np.int64))
    if split or attributes.get("keepdims", 1):
        cut = helper.make_node("Split", [node.input[0], lengths], parts, name=parts[0], axis=axis)
        return [cut]
    wide = [known.fresh(f"{name}/wide") for name in parts]
    where = known.constant(f"{node.output[0]}/axis", np.array([axis], dtype=np.int64))
    squeezed = [
        _node("Squeeze", [source, where], target)
        for source, target in zip(wide, parts, strict=True)
    ]
    cut = helper.make_node("Split", [node.input[0], lengths], wide, name=wide[0], axis=axis)
    return [cut, *squeezed]


def _join(known: _Resolving, node: Any) -> list[Any] | None:
    items = known.sequence(node.input[0])
    if not items:
        return None
    attributes = _attributes(node)
    new_axis = bool(attributes.get("new_axis", 0))
    return _concat(known, items, node.output[0], int(attributes["axis"]), new_axis=new_axis)


def _concat(
    known: _Resolving, items: list[str], output: str, axis: int, *, new_axis: bool
) -> list[Any]:
    nodes: list[Any] = []
    if new_axis:
        where = known.constant(f"{output}/axis", np.array([axis], dtype=np.int64))
        wide = []
        for item in items:
            wide.append(known.fresh(f"{output}/wide"))
            nodes.append(_node("Unsqueeze", [item, where], wide[-1]))
        items = wide
    return [*nodes, _node("Concat", items, output, axis=axis)]


def _map(known: _Resolving, node: Any) -> list[Any] | None:
    body = _attributes(node)["body"]
    given: list[list[str] | str] = []
    for position, name in enumerate(node.input):
        items = known.sequence(name)
        if items is None and (position == 0 or _is_list(known, name)):
            return None
        given.append(name if items is None else items)
    length = len(given[0])
    if any(isinstance(items, list) and len(items) != length for items in given):
        return None
    nodes: list[Any] = []
    columns: list[list[str]] = [[] for _ in node.output]
    for turn in range(length):
        names = [items if isinstance(items, str) else items[turn] for items in given]
        inputs = {value.name: name for value, name in zip(body.input, names, strict=True)}
        inlined, made = inline_body(body, known.graph, known.taken, inputs)
        nodes += inlined
        for column, name in zip(columns, made, strict=True):
            column.append(name)
    for output, column in zip(node.output, columns, strict=True):
        known.learn(output, column)
    return nodes


def _is_list(known: _Resolving, name: str) -> bool:
    value = known.values.get(name)
    return value is not None and value.type.HasField("sequence_type")


def _identity(known: _Resolving, node: Any) -> list[Any] | None:
    content = known.known.get(node.input[0])
    return None if content is None else known.learn(node.output[0], content)


def _optional(known: _Resolving, node: Any) -> list[Any] | None:
    if not node.input or not node.input[0]:
        return known.learn(node.output[0], _Optional(None))
    name = node.input[0]
    content = known.known.get(name, name)
    if isinstance(content, _Optional):
        return known.learn(node.output[0], content)
    if content == name and _is_list(known, name):
        return None
    return known.learn(node.output[0], _Optional(content))


def _has_element(known: _Resolving, node: Any) -> list[Any] | None:
    name = node.input[0] if node.input else ""
    content = known.known.get(name)
    value = known.values.get(name)
    if isinstance(content, _Optional):
        there = content.held is not None
    elif not name:
        there = False
    elif content is not None or name in known.taken:
        if value is not None and value.type.HasField("optional_type"):
            return None
        there = True
    else:
        return None
    return known.output(node.output[0], np.array(there))


def _get_element(known: _Resolving, node: Any) -> list[Any] | None:
    name = node.input[0]
    content = known.known.get(name)
    value = known.values.get(name)
    held = content.held if isinstance(content, _Optional) else content
    if isinstance(content, _Optional) and held is None:
        return None
    if isinstance(held, list):
        return known.learn(node.output[0], held)
    if held is None:
        if value is not None and not value.type.HasField("tensor_type"):
            return None
        held = name
    return [_node("Identity", [held], node.output[0])]


_RULES: Final[Mapping[str, Callable[[_Resolving, Any], list[Any] | None]]] = {
    "ConcatFromSequence": _join,
    "Identity": _identity,
    "Optional": _optional,
    "OptionalGetElement": _get_element,
    "OptionalHasElement": _has_element,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SequenceMap": _map,
    "SplitToSequence": _split,
}


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
