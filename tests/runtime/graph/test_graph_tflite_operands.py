"""An operator with too few or too many tensors is refused: kernels index them without looking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import pytest

from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.graph.tflite_bounds import check_tflite_bytes
from edgekit_runtime.graph.tflite_operands import operand_counts
from runtime.graph.tflite_files import conv_model, operator, pack, quantized

CODES = schema.BuiltinOperator


def _set_code(model: Any, position: int, code: int) -> None:
    entry = model.operatorCodes[position]
    entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)


def _too_few(model: Any) -> None:
    model.subgraphs[0].operators[2].inputs = [4]


def _too_many(model: Any) -> None:
    model.subgraphs[0].operators[1].inputs = [3, 5]


def _left_out(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = [0, -1, 2]


def _other_operator(model: Any) -> None:
    _set_code(model, 1, CODES.TOPK_V2)


def _parts(model: Any) -> None:
    _set_code(model, 1, CODES.UNPACK)
    options = schema.UnpackOptionsT()
    options.num = 2
    unpack = operator(1, [3], [4], schema.BuiltinOptions.UnpackOptions, options)
    model.subgraphs[0].operators[1] = unpack


def _parts_unsaid(model: Any) -> None:
    _set_code(model, 1, CODES.UNPACK)


def _no_bias(model: Any) -> None:
    graph = model.subgraphs[0]
    _set_code(model, 0, CODES.DEPTHWISE_CONV_2D)
    options = schema.DepthwiseConv2DOptionsT()
    options.strideH = options.strideW = options.depthMultiplier = 1
    kind = schema.BuiltinOptions.DepthwiseConv2DOptions
    graph.operators[0] = operator(0, [0, 1], [3], kind, options)
    graph.tensors[0].type = schema.TensorType.INT8
    quantized(graph.tensors[0], [0.1], [0])


def _text(model: Any) -> None:
    model.subgraphs[0].tensors[6].type = schema.TensorType.STRING


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_too_few, "has 1 inputs, MEAN takes 2"),
        (_too_many, "has 2 inputs, RELU6 takes 1"),
        (_left_out, "leaves out an input that CONV_2D needs"),
        (_other_operator, "has 1 inputs, TOPK_V2 takes 2"),
        (_parts, "says 2 parts and has 1 outputs"),
        (_parts_unsaid, "says 0 parts and has 1 outputs"),
        (_text, "writes texts, which it cannot"),
        (_no_bias, "8-bit DEPTHWISE_CONV_2D without a bias"),
    ],
)
def test_operands_that_do_not_fit(damage: Callable[[Any], None], reason: str) -> None:
    model = conv_model()
    damage(model)
    with pytest.raises(UnsupportedModelError, match=reason):
        check_tflite_bytes(pack(model), where="model.tflite")


def test_optional_inputs_may_be_left_out_or_absent() -> None:
    for inputs in ([0, 1, -1], [0, 1]):
        model = conv_model()
        model.subgraphs[0].operators[0].inputs = inputs
        check_tflite_bytes(pack(model), where="model.tflite")


def test_recurrent_layers_have_gaps() -> None:
    counts = operand_counts()[CODES.UNIDIRECTIONAL_SEQUENCE_LSTM]
    assert not counts.fault([0, -1, *range(2, 24)], [1])
    assert "needs" in counts.fault([-1, *range(1, 24)], [1])


def test_the_table_names_operators_of_the_schema() -> None:
    for code, counts in operand_counts().items():
        assert getattr(CODES, counts.name) == code
        for least, most in (counts.inputs, counts.outputs):
            assert least >= 0
            assert most is None or most >= least
