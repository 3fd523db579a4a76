"""A graph under rewriting: who makes a value, who reads it, what is constant, what is safe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.onnx_graphs import bodies_of, replace_nodes
from edgekit_converters.sizes import symbolic_shapes
from edgekit_converters.sizes.size import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.sizes.size import Size, Sizes

# A size that is not a number goes by its name, such as "4*batch", "" where it has none.
NamedShape = tuple["int | str", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """What a pattern proposes.

    Attributes:
        removes: The nodes of the pattern.
        adds: What takes their place, in execution order; it stands where the last of them stood.
        constants: New constants by name.
        same: Values of removed nodes that are equal to another value, by name.
        alike: Values that are new, by name, with one that has their type and shape.
        shapes: The shapes of those that have the type of another alone.
    """

    removes: Sequence[Any]
    adds: Sequence[Any] = ()
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    alike: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Sizes] = field(default_factory=dict)


class PatternGraph:
    """A normalised graph that patterns read and that rewrites change.

    Shapes are those inferred before, with free sizes followed by name; the name of a value keeps
    its meaning and so its shape.
    """

    def __init__(self, model: Any) -> None:
        self._graph = model.graph
        self._slots: list[list[Any]] = [[node] for node in model.graph.node]
        self._slot_of = {id(slot[0]): number for number, slot in enumerate(self._slots)}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._types = {
            value.name: int(value.type.tensor_type.elem_type)
            for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
            if value.type.HasField("tensor_type")
        }
        self._sizes = symbolic_shapes(model)
        # What the body of an If or a Loop reads from outside keeps its name, as outputs do.
        # Names that it makes are taken as well: a body must not make a name that exists outside.
        self._kept = {value.name for value in model.graph.output}
        self._taken: set[str] = set()
        self._inputs = {value.name for value in model.graph.input}
        self._producers: dict[str, Any] = {}
        self._readers: dict[str, dict[int, Any]] = {}
        self._uses: dict[str, int] = {}
        for (node,) in self._slots:
            self._link(node)
            for body in _bodies(node):
                for inner in body.node:
                    self._kept.update(inner.input)
                    self._taken.update(inner.output)
                self._kept.update(value.name for value in body.output)
                self._taken.update(tensor.name for tensor in body.initializer)
                self._taken.update(value.name for value in body.input)
        self.changed = False

    # What patterns read.

    def nodes(self) -> list[Any]:
        """Every node in execution order, as the graph stands now."""
        return [node for slot in self._slots for node in slot]

    def holds(self, node: Any) -> bool:
        """Whether a node is still part of the graph."""
        return id(node) in self._slot_of

    def producer(self, name: str, *operators: str) -> Any:
        """The node that computes a value, None if it is of another operator than those named."""
        node = self._producers.get(name)
        if node is None or (operators and (node.op_type not in operators or node.domain)):
            return None
        return node

    def readers(self, name: str) -> list[Any]:
        """The nodes that read a value."""
        return list(self._readers.get(name, {}).values())

    def sole_reader(self, name: str, *operators: str) -> Any:
        """The only node that reads a value, None if others do or it is of another operator."""
        readers = self._readers.get(name, {})
        if len(readers) != 1 or name in self._kept:
            return None
        (node,) = readers.values()
        return node if not operators or (node.op_type in operators and not node.domain) else None

    def uses(self, name: str) -> int:
        """How often a value is read, as an output of the graph too."""
        return self._uses.get(name, 0) + (name in self._kept)

    def constant(self, name: str) -> NDArray[Any] | None:
        """The values of a constant, None where the name is none."""
        from onnx import numpy_helper

        if name not in self._arrays:
            tensor = self._tensors.get(name)
            if tensor is None:
                return None
            self._arrays[name] = np.asarray(numpy_helper.to_array(tensor))
        return self._arrays[name]

    def is_constant(self, name: str) -> bool:
        """Whether a name is a constant's, without reading its values."""
        return name in self._tensors

    def scalar(self, name: str) -> float | None:
        """The value of a constant number with one element."""
        tensor = self._tensors.get(name)
        if tensor is None or any(size != 1 for size in tensor.dims):
            return None
        array = self.constant(name)
        return (
            float(array.reshape(-1)[0]) if array is not None and array.dtype.kind in "fiu" else None
        )

    def shape(self, name: str) -> NamedShape | None:
        """The shape of a value or constant, None where its rank is unknown."""
        tensor = self._tensors.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        sizes = self._sizes.get(name)
        return None if sizes is None else tuple(_named(size) for size in sizes)

    def sizes(self, name: str) -> Sizes | None:
        """The shape of a value or constant as sizes to calculate with."""
        tensor = self._tensors.get(name)
        if tensor is not None:
            return tuple(number(size) for size in tensor.dims)
        return self._sizes.get(name)

    def rank(self, name: str) -> int | None:
        """How many axes a value has."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def same_rank(self, first: str, second: str) -> bool:
        """Whether two values certainly have as many axes.

        What is computed from a value and numbers alone has its shape if it has its rank.
        """
        rank = self.rank(first)
        return rank is not None and rank == self.rank(second)

    def element_type(self, name: str) -> int:
        """The ONNX element type of a value or constant, 0 where it is unknown."""
        tensor = self._tensors.get(name)
        if tensor is not None:
            return int(tensor.data_type)
        return self._types.get(name, 0)

    def is_float(self, name: str) -> bool:
        """Whether a value or constant certainly holds floating-point numbers."""
        from onnx import TensorProto

        return self.element_type(name) in {
            TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16,
        }  # fmt: skip

    def same_shape(self, first: str, second: str) -> bool:
        """Whether two values certainly have one shape; free sizes count by their names."""
        one, other = self.shape(first), self.shape(second)
        return one is not None and one == other and "" not in one

    # What changes it.

    def allows(self, rewrite: Rewrite) -> bool:
        """Whether nothing outside of a rewrite reads what it takes away."""
        if not all(self.holds(node) for node in rewrite.removes):
            return False
        removed = {id(node) for node in rewrite.removes}
        made = {name for node in rewrite.adds for name in node.output}
        last = max(self._place(node) for node in rewrite.removes)
        for node in rewrite.removes:
            for name in filter(None, node.output):
                needed = name in self._kept or any(
                    key not in removed for key in self._readers.get(name, {})
                )
                if name in made and needed and self._place(node) != last:
                    return False
                if needed and name not in made and name not in rewrite.same:
                    return False
        return all(self._may_replace(name, other) for name, other in rewrite.same.items())

    def apply(self, rewrite: Rewrite) -> None:
        """Carry out a rewrite that the graph allows."""
        slot, _ = last = max(self._place(node) for node in rewrite.removes)
        at = last[1] - sum(last > self._place(node) >= (slot, 0) for node in rewrite.removes)
        for node in rewrite.removes:
            self._unlink(node)
        for name, array in rewrite.constants.items():
            self._add_constant(name, array)
        self._slots[slot][at:at] = rewrite.adds
        for node in rewrite.adds:
            self._slot_of[id(node)] = slot
            self._link(node)
        for name, other in rewrite.same.items():
            self._replace(name, other)
        self._learn(rewrite)
        self.changed = True

    def drop_unread(self) -> None:
        """Remove nodes that compute nothing that anyone reads."""
        for slot in reversed(self._slots):
            for node in reversed(list(slot)):
                if not any(self.uses(name) for name in node.output if name):
                    self._unlink(node)
                    self.changed = True

    def store(self) -> None:
        """Write the nodes and constants back into the model."""
        if not self.changed:
            return
        graph = self._graph
        nodes = self.nodes()
        read = {name for node in nodes for name in node.input} | self._kept
        replace_nodes(graph, nodes)
        # Removed one by one: the large ones that stay are not copied.
        for at in reversed(range(len(graph.initializer))):
            if graph.initializer[at].name not in read:
                del graph.initializer[at]

    def _learn(self, rewrite: Rewrite) -> None:
        """Take note of what is known about new values, and forget what their names once meant."""
        known = {name for node in rewrite.removes for name in node.output}
        for name in (name for node in rewrite.adds for name in node.output if name not in known):
            self._types.pop(name, None)
            self._sizes.pop(name, None)
        for name, like in rewrite.alike.items():
            if like in self._types:
                self._types[name] = self._types[like]
            if like in self._sizes:
                self._sizes[name] = self._sizes[like]
        self._sizes.update(rewrite.shapes)

    def _place(self, node: Any) -> tuple[int, int]:
        """Where a node stands in the order of execution."""
        slot = self._slot_of[id(node)]
        return slot, next(at for at, other in enumerate(self._slots[slot]) if other is node)

    def _may_replace(self, name: str, other: str) -> bool:
        if name not in self._kept:
            return True
        # The other value takes the name that must stay; its own must not be needed.
        return (
            other not in self._kept
            and other not in self._inputs
            and other not in self._tensors
            and other in self._producers
        )

    def _replace(self, name: str, other: str) -> None:
        old, new = (other, name) if name in self._kept else (name, other)
        producer = self._producers.get(old)
        if old == other and producer is not None:
            self._relink(producer, producer.output, old, new)
        for reader in self.readers(old):
            self._relink(reader, reader.input, old, new)

    def _relink(self, node: Any, names: Any, old: str, new: str) -> None:
        self._forget(node)
        for position, name in enumerate(names):
            if name == old:
                names[position] = new
        self._link(node)

    def _add_constant(self, name: str, array: NDArray[Any]) -> None:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        self._tensors[name] = self._graph.initializer[-1]
        self._arrays[name] = array

    def _link(self, node: Any) -> None:
        for name in node.output:
            self._producers[name] = node
        for name in node.input:
            self._readers.setdefault(name, {})[id(node)] = node
            self._uses[name] = self._uses.get(name, 0) + 1

    def _forget(self, node: Any) -> None:
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]
        for name in node.input:
            self._readers.get(name, {}).pop(id(node), None)
            self._uses[name] -= 1

    def _unlink(self, node: Any) -> None:
        self._forget(node)
        slot = self._slots[self._slot_of.pop(id(node))]
        slot[:] = [other for other in slot if other is not node]

    def fresh(self, name: str) -> str:
        """A name that no value has yet, this one where it is free."""
        taken, number = name, 1
        while any(
            taken in names
            for names in (self._tensors, self._producers, self._inputs, self._taken, self._readers)
        ):
            number += 1
            taken = f"{name}_{number}"
        return taken


def _named(size: Size | None) -> int | str:
    if size is None:
        return ""
    return size.factor if size.known else str(size)


def _bodies(node: Any) -> Iterable[Any]:
    """The bodies of a node, and those within them."""
    for body in bodies_of(node):
        yield body
        for inner in body.node:
            yield from _bodies(inner)
