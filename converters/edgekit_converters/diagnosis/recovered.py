"""What a quantized file says about its float form, put together as a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.diagnosis.subject import Subject, ValuesOf
from edgekit_converters.quantize.plan import QuantizationPlan, Range
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_onnx.roles import weights_of
from edgekit_converters.repair.scaling import with_constants

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node

_LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Recovered:
    """Collects what is found in a quantized file, in the names of the float model."""

    def __init__(self, graph: Graph) -> None:
        """Begin with nothing.

        Args:
            graph: The float model's.
        """
        self._graph = graph
        self._ranges: dict[str, Range] = {}
        self._wide: set[str] = set()
        self._constants: dict[str, NDArray[Any]] = {}
        self._integer: set[str] = set()

    def add_range(self, name: str, span: Range, *, wide: bool) -> None:
        """A value becomes integers; `wide`: of 16 bits."""
        if name in self._graph.values:
            self._ranges[name] = span
            if wide:
                self._wide.add(name)

    def add_constant(
        self, node: Node, position: int, array: NDArray[Any] | None, *, integer: bool
    ) -> None:
        """What an input of a layer holds in the file; `integer`: it is stored so."""
        name = node.inputs[position]
        if array is None or array.shape != self._graph.constants[name].shape:
            return
        if integer and any(weight.position == position for weight in weights_of(node, self._graph)):
            self._integer.add(node.name)
        self._constants[name] = array.astype(np.float32)

    def subject(self, model: Any, *, run: ValuesOf, judged: str, scheme: str) -> Subject:
        """All of it, for the float `onnx.ModelProto` that the graph is of."""
        layers = [node for node in self._graph.nodes if weights_of(node, self._graph)]
        return Subject(
            model=with_constants(model, self._constants),
            plan=QuantizationPlan(
                scheme=Scheme.MIXED,
                ranges=self._ranges,
                keep_float=frozenset(n.name for n in layers if n.name not in self._integer),
                wide=frozenset(n.name for n in layers if not self._wide.isdisjoint(n.inputs)),
            ),
            run=run,
            judged=judged,
            scheme=scheme,
        )


def weight_inputs(node: Node, graph: Graph) -> tuple[int, ...]:
    """The positions of a layer's weights and bias among its inputs."""
    if node.op not in _LAYERS:
        return ()
    return tuple(
        position
        for position, name in enumerate(node.inputs)
        if name in graph.constants and graph.constants[name].dtype == np.float32
    )
