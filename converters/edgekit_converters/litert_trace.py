"""Look at the values inside a converted model, and run parts of it on given values.

A part is a program of its own: the same operators, with other tensors at its borders. It runs with
the kernels that the whole model runs with, and no more tensors are kept than are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.litert.emit import emit
from edgekit_converters.litert.layout import inverse
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.litert.compile import LoweredModel
    from edgekit_converters.litert.program import Operator, Tensor
    from edgekit_converters.probes import Arrays


class LitertTrace:
    """A converted model whose inner values are asked for by ONNX's names, in its order of axes."""

    def __init__(self, compiled: LoweredModel) -> None:
        """Wrap what `compile_to_litert` made; it is not changed."""
        self._program = compiled.program
        self._producers = compiled.program.producers()
        self._places: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            name: (tensor, order)
            for name, (tensor, order) in compiled.program.located.items()
            if id(tensor) in self._producers and len(tensor.shape) == len(order)
        }
        self._borders: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            name: (tensor, compiled.borders.get(name, tuple(range(len(tensor.shape)))))
            for name, tensor in zip(compiled.graph.inputs, compiled.program.inputs, strict=True)
        }
        self._stops: dict[int, str] = {}
        self.restrict(self._places)

    @property
    def names(self) -> tuple[str, ...]:
        """The ONNX values that it still computes."""
        return tuple(self._places)

    def restrict(self, names: Collection[str]) -> None:
        """Stop only at these values (and at the inputs) when a part is looked for."""
        self._stops = {}
        for name, (tensor, _) in (*self._borders.items(), *self._places.items()):
            if name in names or name in self._borders:
                self._stops.setdefault(id(tensor), name)

    def values(self, given: Arrays, names: Sequence[str]) -> Arrays:
        """What the model computes for some of its values, from others or from its inputs.

        Args:
            given: In ONNX's order of axes.
            names: Some of `names`.

        Raises:
            UnsupportedModelError: If the engine fails.
        """
        return self._run(given, names)

    def feeding(self, name: str) -> tuple[str, ...]:
        """The nearest known values, and inputs, that a value is computed from."""
        found: dict[str, None] = {}
        waiting = [self._producers[id(self._places[name][0])]]
        seen: set[int] = set()
        while waiting:
            operator = waiting.pop()
            if id(operator) in seen:
                continue
            seen.add(id(operator))
            for tensor in operator.inputs:
                if tensor is None or tensor.data is not None:
                    continue
                if id(tensor) in self._stops:
                    found[self._stops[id(tensor)]] = None
                elif id(tensor) in self._producers:
                    waiting.append(self._producers[id(tensor)])
        return tuple(found)

    def between(self, given: Arrays, name: str) -> NDArray[np.generic]:
        """Compute one value from those that feed it.

        Raises:
            UnsupportedModelError: If the engine fails.
        """
        return self._run(given, [name])[name]

    def _run(self, given: Arrays, names: Sequence[str]) -> Arrays:
        places = {**self._borders, **self._places}
        fed = {id(places[name][0]): name for name in given if name in places}
        tensors = list({id(t): t for t in (self._places[name][0] for name in names)}.values())
        operators, inputs = self._needed(tensors, fed)
        program = dataclasses.replace(
            self._program, inputs=inputs, outputs=tensors, operators=operators, located={}
        )
        arrays = []
        for tensor in inputs:
            name = fed[id(tensor)]
            stored = np.asarray(given[name]).transpose(places[name][1])
            # Not ascontiguousarray, which makes a number a list of one.
            arrays.append(np.asarray(stored, dtype=tensor.dtype, order="C"))
        content = emit(program, description="", where=program.name)
        found = dict(zip(map(id, tensors), run_litert(content, arrays), strict=True))
        values: Arrays = {}
        for name in names:
            tensor, order = self._places[name]
            stored = found[id(tensor)]
            if stored.ndim != len(order):
                raise UnsupportedModelError(f"{name!r} has {stored.ndim} axes, not {len(order)}")
            values[name] = stored.transpose(inverse(order))
        return values

    def _needed(
        self, tensors: Sequence[Tensor], fed: Collection[int]
    ) -> tuple[list[Operator], list[Tensor]]:
        """The operators that compute tensors from those that are fed, and which these are."""
        wanted = {id(tensor) for tensor in tensors}
        operators = []
        inputs: dict[int, Tensor] = {}
        for operator in reversed(self._program.operators):
            if not any(id(tensor) in wanted for tensor in operator.outputs):
                continue
            operators.append(operator)
            for tensor in operator.inputs:
                if tensor is None or tensor.data is not None:
                    continue
                if id(tensor) in fed:
                    inputs[id(tensor)] = tensor
                elif id(tensor) in self._producers:
                    wanted.add(id(tensor))
                else:
                    raise UnsupportedModelError(f"{tensor.name!r} is not among what is given")
        return operators[::-1], list(inputs.values())


def run_litert(content: bytes, inputs: Sequence[NDArray[Any]]) -> list[NDArray[np.generic]]:
    """Run a model once, inputs and outputs in the file's order.

    Raises:
        UnsupportedModelError: If the engine fails.
    """
    from ai_edge_litert import interpreter as litert

    try:
        interpreter = litert.Interpreter(model_content=content, num_threads=1)
        for detail, array in zip(interpreter.get_input_details(), inputs, strict=True):
            if list(detail["shape"]) != list(array.shape):
                interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
        for detail, array in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return [
            # An empty tensor has no memory that the engine could hand out.
            np.asarray(interpreter.get_tensor(detail["index"]))
            if np.prod(detail["shape"])
            else np.empty(detail["shape"], detail["dtype"])
            for detail in interpreter.get_output_details()
        ]
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(" ".join(str(error).split())) from error
