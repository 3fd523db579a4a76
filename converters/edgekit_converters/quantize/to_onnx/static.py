"""Activations as integers with fixed ranges: pairs of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.graph import read_graph
from edgekit_converters.half.casts import rename_inside
from edgekit_converters.half.element_types import captured
from edgekit_converters.quantize.affine import (
    INT16,
    UINT8,
    WEIGHTS_INT8,
    Affine,
    affine_of,
    weight_affine,
    widen_for_bias,
)
from edgekit_converters.quantize.plan import Range
from edgekit_converters.quantize.to_onnx.border import IntegerBorder
from edgekit_converters.quantize.to_onnx.changes import Changes
from edgekit_converters.quantize.to_onnx.constants import Constants
from edgekit_converters.quantize.to_onnx.placement import Placement, place
from edgekit_converters.quantize.to_onnx.products import fold_factors, product_scales
from edgekit_converters.quantize.to_onnx.roles import Role, role_of, weights_of
from edgekit_converters.quantize.to_onnx.stored import store_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.quantize.plan import QuantizationPlan

_MATRIX: Final = 2


def quantize_static(model: Any, plan: QuantizationPlan) -> Changes:
    """Quantize weights and activations where the plan has ranges, in place.

    Products that compute in float keep their weights as integers all the same, but for those
    that the plan keeps in float.

    Args:
        model: A normalised `onnx.ModelProto`; its opset has the integers that are asked for.
        plan: Of a static scheme.

    Raises:
        UnsupportedModelError: If the border is to be integer and its ranges are not known.
    """
    constants = Constants(model)
    for node in model.graph.node:
        fold_factors(node, constants)
    graph = read_graph(model)
    return _Static(model, graph, plan, constants).write()


class _Static:
    def __init__(
        self, model: Any, graph: Graph, plan: QuantizationPlan, constants: Constants
    ) -> None:
        self._model = model
        self._graph = graph
        self._plan = plan
        self._constants = constants
        self._placement: Placement = place(graph, plan)
        self._border = IntegerBorder(model, plan, self._placement, constants)
        # What readers take for a value that is not quantized for them, and for one that is.
        self._raw: dict[str, str] = {}
        self._dequantized: dict[str, str] = {}
        self._narrow: dict[str, str] = {}
        self._nodes: list[Any] = []
        self._in_float: list[str] = []

    def write(self) -> Changes:
        for name in self._graph.inputs:
            self._raw[name] = self._border.enter(name, self._nodes)
            self._quantize(name)
        for number, (node, proto) in enumerate(
            zip(self._graph.nodes, list(self._model.graph.node), strict=True)
        ):
            self._rename_inputs(number, node, proto)
            if number in self._placement.computing:
                self._quantize_weights(number, node, proto)
                self._nodes.append(proto)
            else:
                keep = self._plan.keep_float
                if weights_of(node, self._graph) and node.name not in keep:
                    self._in_float.append(node.name)
                self._nodes += store_weights(node, proto, self._graph, self._constants, keep=keep)
            self._rename_outputs(node, proto)
            for name in node.outputs:
                self._quantize(name)
        for name in self._graph.outputs:
            self._border.leave(name, self._dequantized.get(name, ""), self._nodes)
        del self._model.graph.node[:]
        self._model.graph.node.extend([*self._constants.nodes, *self._nodes])
        self._constants.drop_unread()
        return Changes(
            computing=len(self._placement.computing),
            stored=self._constants.stored_count,
            in_float=tuple(self._in_float),
        )

    def _rename_inputs(self, number: int, node: Node, proto: Any) -> None:
        reads = self._placement.reads.get(number, ())
        eight = number in self._placement.computing - self._placement.wide
        for at, name in enumerate(node.inputs):
            if at in reads and eight and name in self._narrow:
                proto.input[at] = self._narrow[name]
            elif at in reads or name in self._placement.offered:
                proto.input[at] = self._dequantized[name]
            else:
                proto.input[at] = self._raw.get(name, name)
        # What bodies read from outside are floats, as before.
        integers = [name for name in captured(proto) if self._border.is_integer(name)]
        rename_inside(proto, {name: self._raw[name] for name in integers})

    def _rename_outputs(self, node: Node, proto: Any) -> None:
        for at, name in enumerate(node.outputs):
            taken = name in self._graph.outputs and (
                name in self._placement.offered or self._border.is_integer(name)
            )
            if name and taken:
                proto.output[at] = self._raw[name] = self._constants.name("float")

    def _quantize(self, name: str) -> None:
        affine = self._placement.values.get(name)
        if affine is None:
            return
        raw = self._raw.get(name, name)
        is_output = name in self._graph.outputs and name in self._placement.offered
        # The output keeps its name: it is what the last pair makes.
        wanted = name if is_output and not self._border.is_integer(name) else ""
        self._dequantized[name] = self._pair(raw, affine, wanted)
        if name in self._placement.narrow:
            narrow = self._placement.narrow[name]
            self._narrow[name] = self._pair(self._dequantized[name], narrow, "")

    def _pair(self, source: str, affine: Affine, output: str) -> str:
        from onnx import helper

        operands = self._constants.affine(affine)
        stored = self._constants.name("quantized")
        output = output or self._constants.name("dequantized")
        self._nodes += [
            helper.make_node("QuantizeLinear", [source, *operands], [stored]),
            helper.make_node("DequantizeLinear", [stored, *operands], [output]),
        ]
        return output

    def _quantize_weights(self, number: int, node: Node, proto: Any) -> None:
        wide = number in self._placement.wide
        role = role_of(node, self._graph)
        if role is not Role.WEIGHTED:
            return
        for weight in weights_of(node, self._graph):
            array = self._graph.constants[weight.name]
            if weight.position == 0 or (array.ndim > _MATRIX and node.op == "MatMul"):
                # Engines take one scale alone here.
                self._quantize_factor(proto, weight.position, array, wide=wide)
                continue
            saturates = self._plan.saturates and not wide
            scales = product_scales(node, array, weight.axis, saturates=saturates)
            bias = None if wide else self._bias_of(node, scales)
            if bias is not None:
                step = self._input_scale(node)
                scales = widen_for_bias(scales, bias, step)
                proto.input[2] = self._constants.bias(node.input(2), scales * np.float32(step))
            affine = weight_affine(scales, WEIGHTS_INT8)
            proto.input[1] = self._constants.dequantized(weight.name, affine, weight.axis)

    def _quantize_factor(self, proto: Any, at: int, array: NDArray[Any], *, wide: bool) -> None:
        name = proto.input[at]
        codes = INT16 if wide else UINT8
        affine = affine_of(Range(low=float(array.min()), high=float(array.max())), codes)
        proto.input[at] = self._constants.dequantized(name, affine, None)

    def _bias_of(self, node: Node, scales: NDArray[np.float32]) -> NDArray[Any] | None:
        """The bias, where it is one number a channel."""
        found = self._graph.constants.get(node.input(2)) if node.op in {"Conv", "Gemm"} else None
        fits = found is not None and found.ndim == 1 and found.size == scales.size
        return found if fits else None

    def _input_scale(self, node: Node) -> float:
        name = node.input(0)
        affine = self._placement.narrow.get(name) or self._placement.values[name]
        return float(affine.scale)
