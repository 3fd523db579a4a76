"""One step of LiteRT's LSTM, written out as the body of an ONNX Scan.

After TFLite's kernels (`lstm_eval.cc`): float, and 8-bit with a 16-bit cell, whose gates are
rounded to 16 bits with 3 bits before the point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder
    from edgekit_converters.tflite_source.model import Quantization, Tensor

_WEIGHTS, _RECURRENT, _BIASES, _HIDDEN, _CELL = 1, 5, 12, 18, 19
_FORGET = 1
_GATE_SCALE: Final = 2.0**-12


def emit_scan(build: Builder, *, time_first: bool, coupled: bool, limit: float) -> None:
    """Emit the layer.

    Args:
        build: At a UNIDIRECTIONAL_SEQUENCE_LSTM without peepholes, projection or normalisation.
        time_first: Whether the first axis is time rather than the batch.
        coupled: Whether the input gate is what the forget gate leaves.
        limit: Of the cell's magnitude; 0 for none.
    """
    name = build.operator.name
    gates = [1, 2, 3] if coupled else [0, 1, 2, 3]
    weights = build.stacked([_WEIGHTS + gate for gate in gates], f"{name}/weights")
    recurrent = build.stacked([_RECURRENT + gate for gate in gates], f"{name}/recurrent_weights")
    biases = np.concatenate([build.numbers(_BIASES + gate) for gate in gates])
    source = build.input(0)
    units = build.tensor(_RECURRENT + _FORGET).shape[-1] or 0
    batch = build.node("Shape", [source], start=1, end=2) if time_first else ""
    batch = batch or build.node("Shape", [source], start=0, end=1)
    shape = build.node("Concat", [batch, build.sizes([units], "units")], axis=0)
    zero = build.store(np.zeros((), np.float32), f"{name}/zero")
    start = build.node("Expand", [zero, shape])
    body = _Body(build, limit=limit)
    graph = body.step(
        weights, recurrent, build.store(biases, f"{name}/biases"), len(gates), coupled=coupled
    )
    axis = 0 if time_first else 1
    sequence = build.nodes(
        "Scan", [start, start, source], 3, body=graph, num_scan_inputs=1,
        scan_input_axes=[axis], scan_output_axes=[axis],
    )[2]  # fmt: skip
    build.emit_stored("Identity", [sequence])


class _Body:
    def __init__(self, build: Builder, *, limit: float) -> None:
        self._build = build
        self._limit = limit
        self._nodes: list[Any] = []
        self._output: Tensor = build.operator.outputs[0]

    def step(self, weights: str, recurrent: str, biases: str, count: int, *, coupled: bool) -> Any:
        """The graph of one step: (hidden, cell, input) to (hidden, cell, output)."""
        from onnx import helper

        from edgekit_converters.tflite_source.border import element_type

        hidden, cell, value = (self._fresh(role) for role in ("hidden", "cell", "input"))
        inner = self._node("Gemm", [value, weights, biases], transB=1)
        outer = self._node("Gemm", [hidden, recurrent], transB=1)
        total = self._rounded(self._node("Add", [inner, outer]))
        parts = [self._fresh("gate") for _ in range(count)]
        self._append("Split", [total], parts, axis=1, num_outputs=count)
        forget, fresh, output = parts[-3:]
        kept = self._node("Sigmoid", [forget])
        if coupled:
            one = self._build.store(np.ones((), np.float32), f"{self._build.operator.name}/one")
            taken = self._node("Sub", [one, kept])
        else:
            taken = self._node("Sigmoid", [parts[0]])
        news = self._node("Mul", [taken, self._node("Tanh", [fresh])])
        after = self._node("Add", [self._node("Mul", [kept, cell]), news])
        if self._limit:
            bounds = [
                self._build.store(np.array(bound, np.float32), f"{self._build.operator.name}/limit")
                for bound in (-self._limit, self._limit)
            ]
            after = self._node("Clip", [after, *bounds])
        after = self._stored(after, _CELL)[1]
        shown = self._node("Tanh", [after])
        result, next_hidden = self._stored(
            self._node("Mul", [self._node("Sigmoid", [output]), shown]), _HIDDEN
        )
        if result == next_hidden:
            result = self._node("Identity", [next_hidden])
        kind = element_type(self._output.dtype)
        number = element_type("float32")
        return helper.make_graph(
            self._nodes,
            f"{self._build.operator.name}/step",
            [helper.make_tensor_value_info(name, number, None) for name in (hidden, cell, value)],
            [
                helper.make_tensor_value_info(next_hidden, number, None),
                helper.make_tensor_value_info(after, number, None),
                helper.make_tensor_value_info(result, kind, None),
            ],
        )

    def _stored(self, value: str, position: int) -> tuple[str, str]:
        """A value as its state keeps it, and read again; the same twice for floats."""
        state = self._build.tensor(position)
        if self._output.quantization is None:
            return value, value
        if state.quantization is None or state.dtype not in {"int8", "int16"}:
            raise RefusedOperatorError(f"its state {state.name!r} is not quantized as expected")
        if position == _HIDDEN and not state.quantization.same_as(self._output.quantization):
            raise RefusedOperatorError("its output and its state have different scales")
        return self._round_trip(value, state.quantization, state.dtype)

    def _rounded(self, value: str) -> str:
        if self._output.quantization is None:
            return value
        from edgekit_converters.tflite_source.model import Quantization

        gates = Quantization(
            scales=np.array([_GATE_SCALE], np.float32), zero_points=np.zeros(1, np.int64), axis=0
        )
        return self._round_trip(value, gates, "int16")[1]

    def _round_trip(self, value: str, quantization: Quantization, dtype: str) -> tuple[str, str]:
        name = self._build.operator.name
        scale = self._build.store(quantization.scales.reshape(()), f"{name}/scale")
        points = quantization.zero_points.reshape(()).astype(dtype)
        affine = [scale, self._build.store(points, f"{name}/zero_point")]
        integers = self._node("QuantizeLinear", [value, *affine])
        return integers, self._node("DequantizeLinear", [integers, *affine])

    def _fresh(self, role: str) -> str:
        return self._build.fresh(f"{self._build.operator.name}/step/{role}")

    def _node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        output = self._fresh(op)
        self._append(op, inputs, [output], **attributes)
        return output

    def _append(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
