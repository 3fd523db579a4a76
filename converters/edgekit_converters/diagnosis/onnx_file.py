"""Read a quantized ONNX file, whatever wrote it, as a subject: ranges, weights, what is integer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.diagnosis.recovered import Recovered, weight_inputs
from edgekit_converters.graph import read_graph
from edgekit_converters.onnx_trace import OnnxTrace
from edgekit_converters.quantize.plan import Range, node_name
from edgekit_converters.repair.simulation import Batch, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.diagnosis.subject import Subject
    from edgekit_converters.graph import Graph, Node

_JUDGED: Final = (
    "computed by onnxruntime without its integer kernels, rounded where integers are: this "
    "predicts ARM, also from x86 hosts whose kernels saturate"
)
_ZERO_POINT: Final = 2


def onnx_subject(model: Any, quantized: Any, *, scheme: str) -> Subject:
    """Find in a quantized model what is known of its float form.

    Nodes and values are told by their names, which quantizers keep. Only pairs of QuantizeLinear
    and DequantizeLinear tell ranges; of other forms the outputs are compared, and no more.

    Args:
        model: The float `onnx.ModelProto` in its plain form.
        quantized: The quantized `onnx.ModelProto`; it is not changed.
        scheme: What it is called.
    """
    graph = read_graph(model)
    reader = _Reader(quantized)
    found = Recovered(graph)
    for name, (span, wide) in reader.ranges().items():
        found.add_range(name, span, wide=wide)
    for node in graph.nodes:
        twin = reader.twin(node)
        inputs = list(twin.input) if twin is not None else []
        for position in weight_inputs(node, graph):
            if position < len(inputs):
                stored, array = reader.weight(inputs[position])
                found.add_constant(node, position, array, integer=stored)
    return found.subject(
        model,
        run=_Values(quantized, reader, graph),
        judged=_JUDGED,
        scheme=scheme,
    )


class _Reader:
    """Looks things up in the quantized graph."""

    def __init__(self, model: Any) -> None:
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self._model = model
        self._initial = {tensor.name: tensor for tensor in model.graph.initializer}
        self._by_name = {node_name(node): node for node in model.graph.node}
        self._inputs = {value.name for value in model.graph.input} - self._initial.keys()
        self._trace = OnnxTrace(model)

    def twin(self, node: Node) -> Any | None:
        """The node that does the same."""
        found = self._by_name.get(node.name) or self.makers.get(node.outputs[0])
        return found if found is not None and found.op_type == node.op else None

    def weight(self, name: str) -> tuple[bool, NDArray[Any] | None]:
        """Whether a weight is stored as integers, and its values; None where it is computed."""
        if not self._is_constant(name):
            return False, None
        maker = self.makers.get(name)
        stored = maker is not None and maker.op_type == "DequantizeLinear"
        return stored, self._constant(name)

    def ranges(self) -> dict[str, tuple[Range, bool]]:
        """The ranges of float values that become integers, and whether these have 16 bits."""
        found = {}
        for node in self._model.graph.node:
            ends = self._is_end(node)
            if ends is None:
                continue
            scale, zero, dtype = ends
            # At the border the integers come from outside, and have the float value's name.
            name = node.input[0]
            low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max)
            span = Range(low=(low - zero) * scale, high=(high - zero) * scale)
            found[name] = (span, dtype.itemsize > 1)
        return found

    def shown_as(self, name: str, op: str) -> str:
        """The value that stands for one of the float model.

        A quantizer may leave a Relu to the range: then its name goes to what is in front of it,
        and its values are there when they were rounded.
        """
        if self.makers[name].op_type == op:
            return name
        for node in self._model.graph.node:
            if node.op_type == "QuantizeLinear" and node.input[0] == name:
                for back in self._model.graph.node:
                    if back.op_type == "DequantizeLinear" and back.input[0] == node.output[0]:
                        return str(back.output[0])
        return name

    def border(self) -> dict[str, tuple[float, float, np.dtype[Any]]]:
        """How integers are to be read that go in and come out, by name."""
        found = {}
        for node in self._model.graph.node:
            inside = node.op_type == "DequantizeLinear" and node.input[0] in self._inputs
            if inside or node.op_type == "QuantizeLinear":
                scale, zero, dtype = self._affine(node)
                if scale is not None:
                    found[node.input[0] if inside else node.output[0]] = (scale, zero, dtype)
        return found

    def _is_end(self, node: Any) -> tuple[float, float, np.dtype[Any]] | None:
        rounding = node.op_type == "QuantizeLinear" and not self._is_constant(node.input[0])
        entering = node.op_type == "DequantizeLinear" and node.input[0] in self._inputs
        if not rounding and not entering:
            return None
        scale, zero, dtype = self._affine(node)
        return None if scale is None else (scale, zero, dtype)

    def _affine(self, node: Any) -> tuple[float | None, float, np.dtype[Any]]:
        """The scale (None where there are several), the zero point and the integers' type."""
        scale = self._constant(node.input[1]) if self._is_constant(node.input[1]) else None
        zero = np.zeros((), np.uint8)
        if len(node.input) > _ZERO_POINT and self._is_constant(node.input[_ZERO_POINT]):
            zero = self._constant(node.input[_ZERO_POINT])
        if scale is None or scale.size != 1 or zero.size != 1 or zero.dtype.kind not in "iu":
            return None, 0.0, zero.dtype
        return float(scale.item()), float(zero.item()), zero.dtype

    def _is_constant(self, name: str) -> bool:
        if name in self._initial:
            return True
        maker = self.makers.get(name)
        if maker is None:
            return False
        reads = [read for read in maker.input if read]
        return maker.op_type == "Constant" or (
            bool(reads) and all(self._is_constant(read) for read in reads)
        )

    def _constant(self, name: str) -> NDArray[Any]:
        from onnx import numpy_helper

        if name in self._initial:
            return np.asarray(numpy_helper.to_array(self._initial[name]))
        return np.asarray(self._trace.values({}, [name])[name])


class _Values:
    """Runs the quantized model, and gives floats whatever it computes in."""

    def __init__(self, model: Any, reader: _Reader, graph: Graph) -> None:
        self._shown = {
            name: reader.shown_as(name, node.op)
            for node in graph.nodes
            for name in node.outputs
            if name in reader.makers
        }
        self._run = Run(model, list(self._shown.values()))
        self._border = reader.border()
        self._integers = {
            value.name
            for value in model.graph.input
            if value.type.tensor_type.elem_type not in _float_types()
        }

    def __call__(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        given = {name: self._entering(name, array) for name, array in batch.items()}
        found = self._run(given)
        return {name: self._left(shown, found[shown]) for name, shown in self._shown.items()}

    def _entering(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype.kind != "f" or name not in self._integers or name not in self._border:
            return array
        scale, zero, dtype = self._border[name]
        ends = np.iinfo(dtype)
        return np.clip(np.rint(array / scale) + zero, ends.min, ends.max).astype(dtype)

    def _left(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype.kind not in "iu" or name not in self._border:
            return array
        scale, zero, _ = self._border[name]
        return (array.astype(np.float32) - np.float32(zero)) * np.float32(scale)


def _float_types() -> frozenset[int]:
    from onnx import TensorProto

    return frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
