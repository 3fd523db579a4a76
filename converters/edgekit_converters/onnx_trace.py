"""Look at the values inside an ONNX model, and run parts of it on given values."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_source.structure import reads
from edgekit_converters.onnx_source.tensors import stored_bytes, type_name
from edgekit_converters.onnx_source.walk import label
from edgekit_converters.parked import is_stored, restore, stored_array
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.probes import Arrays

_FATAL_ONLY: Final = 4
_LEAST_IR_VERSION: Final = 8


class OnnxTrace:
    """An ONNX model whose inner values can be asked for by their names."""

    def __init__(self, model: Any) -> None:
        """Wrap an `onnx.ModelProto` whose nodes are in an order of execution.

        Large constants may be left in the file in which `ParkedModel` keeps them: they are read
        for as long as a part runs.
        """
        self._model = model
        # Held once: protobuf makes another object of a node each time that it is asked for.
        self._nodes = list(model.graph.node)
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._known: frozenset[str] = frozenset(self._makers)
        #: The values that it computes, in an order of execution.
        self.names = tuple(self._makers)

    def node(self, name: str) -> str:
        """The node that computes a value, for a person."""
        return label(self._makers[name])

    def restrict(self, names: Collection[str]) -> None:
        """Stop only at these values (and at the inputs) when a part is looked for."""
        self._known = frozenset(names)

    def values(self, given: Arrays, names: Sequence[str]) -> Arrays:
        """What a model computes for some of its values, from others or from its inputs.

        Raises:
            UnsupportedModelError: If the engine fails.
        """
        nodes = self._needed(given, names)
        # Fed, not stored in the part, from which the engine would copy them twice.
        given = {**self._weights(nodes), **given}
        return run_onnx(self._part(given, nodes, names), given, names)

    def weight_bytes(self, name: str) -> int:
        """About how much the constants take of the nodes between a value and those before it."""
        within = self._walk(name)[1]
        constants = {
            read
            for node in self._nodes
            if id(node) in within
            for read in reads(node)
            if read in self._constants
        }
        return sum(
            stored_bytes(math.prod(tensor.dims), type_name(tensor.data_type))
            for tensor in map(self._constants.__getitem__, constants)
        )

    def feeding(self, name: str) -> tuple[str, ...]:
        """The nearest known values, and inputs, that a value is computed from."""
        return tuple(self._walk(name)[0])

    def inside(self, name: str) -> tuple[str, ...]:
        """A value of each node between a value and those that feed it, in execution order."""
        within = self._walk(name)[1]
        return tuple(next(filter(None, node.output)) for node in self._nodes if id(node) in within)

    def known_after(self, name: str, known: Collection[str]) -> str:
        """The first value, from `name` on, that is among some others; "" if there is none."""
        reached = {name}
        if name in known:
            return name
        for node in self._nodes:
            if not reached.isdisjoint(reads(node)):
                outputs: list[str] = [output for output in node.output if output]
                for output in outputs:
                    if output in known:
                        return output
                reached.update(outputs)
        return ""

    def between(self, given: Arrays, name: str) -> NDArray[np.generic]:
        """Compute one value from those that feed it.

        Raises:
            UnsupportedModelError: If the engine fails.
        """
        return self.values(given, [name])[name]

    def cut_node(self, output: str, given: Mapping[str, NDArray[np.generic]]) -> Any:
        """A model of the one node that computes a value, its inputs as they are in `given`."""
        node = self._makers[output]
        return self._part(given, [node], [name for name in node.output if name])

    def inputs_of(self, output: str) -> tuple[str, ...]:
        """What the node that computes a value reads, constants left out."""
        read = dict.fromkeys(reads(self._makers[output]))
        return tuple(name for name in read if name and name not in self._constants)

    def _walk(self, name: str) -> tuple[dict[str, None], set[int]]:
        """The values that feed one, and the nodes between by their `id`."""
        feeding: dict[str, None] = {}
        nodes: set[int] = set()
        waiting = [self._makers[name]]
        while waiting:
            node = waiting.pop()
            if id(node) in nodes:
                continue
            nodes.add(id(node))
            for read in reads(node):
                if not read or read in self._constants:
                    continue
                if read in self._makers and read not in self._known:
                    waiting.append(self._makers[read])
                else:
                    feeding[read] = None
        return feeding, nodes

    def _needed(self, given: Arrays, names: Sequence[str]) -> list[Any]:
        needed, waiting = set(), [name for name in names if name not in given]
        while waiting:
            node = self._makers.get(waiting.pop())
            if node is None or id(node) in needed:
                continue
            needed.add(id(node))
            waiting += [name for name in reads(node) if name and name not in given]
        return [node for node in self._nodes if id(node) in needed]

    def _weights(self, nodes: Sequence[Any]) -> Arrays:
        """The constants in files that nodes read."""
        wanted = {name for node in nodes for name in reads(node)}
        found = {
            name: stored_array(tensor)
            for name, tensor in self._constants.items()
            if name in wanted and is_stored(tensor)
        }
        return {name: array for name, array in found.items() if array is not None}

    def _part(
        self,
        given: Mapping[str, NDArray[np.generic]],
        nodes: Sequence[Any],
        outputs: Sequence[str],
    ) -> Any:
        from onnx import helper

        part = type(self._model)()
        # Before version 4, constants had to be inputs as well.
        part.ir_version = max(self._model.ir_version, _LEAST_IR_VERSION)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        graph = part.graph
        graph.name = self._model.graph.name or "part"
        graph.node.extend(nodes)
        wanted = {name for node in nodes for name in reads(node)} | set(outputs)
        for name, tensor in self._constants.items():
            if name in wanted and name not in given:
                graph.initializer.append(tensor)
                if is_stored(tensor):
                    restore(graph.initializer[-1])
        for name, array in given.items():
            if name in wanted:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        for name in outputs:
            graph.output.add().name = name
        return part


def run_onnx(model: Any, inputs: Arrays, names: Sequence[str]) -> Arrays:
    """Run a model as it is written, without optimisations.

    Raises:
        UnsupportedModelError: If the engine fails.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        taken = {value.name for value in session.get_inputs()}
        found = session.run(
            list(names), {name: array for name, array in inputs.items() if name in taken}
        )
    except Exception as error:
        raise UnsupportedModelError(" ".join(str(error).split())) from error
    return dict(zip(names, found, strict=True))
