"""The one entry point: a `.tflite` file in, a checked ONNX model out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.tflite_source import operators as _operators  # noqa: F401 - registers
from edgekit_converters.tflite_source.read import read_model
from edgekit_converters.tflite_source.registry import import_graph
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.model import Model

# 21 is the first whose QuantizeLinear takes 16 bits; onnxruntime reads it since 1.18.
OPSET: Final = 21
_IR_VERSION: Final = 10
_RECURRENT: Final = frozenset({"LSTM", "RNN"})


def import_tflite(path: Path) -> Any:
    """Convert a `.tflite` file to ONNX.

    Inputs and outputs keep their order, their types, their layout and their tensors' names, as
    everything else here calls them. Quantized tensors stay quantized:
    each operator stands between DequantizeLinear and QuantizeLinear. Weights stored as float16
    stay so, behind a Cast. Recurrent layers start from zero in each inference, as LiteRT's do
    after `reset_all_variables`.

    Args:
        path: The file; its main graph is converted.

    Returns:
        A checked `onnx.ModelProto` of opset 21 with ONNX's own operators only.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If it is damaged, or has operators that ONNX cannot say; they are
            all named, with the reasons.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    onnx = require("onnx", extra="convert")
    source = read_model(path)
    graph = import_graph(source, where=str(path))
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="edgekit",
    )
    if any(node.op_type in _RECURRENT for node in graph.node):
        onnx.helper.set_model_props(
            model, {"edgekit.recurrent_state": "starts at zero in each inference"}
        )
    _check(onnx, model, source, str(path))
    return model


def _check(onnx: Any, model: Any, source: Model, where: str) -> None:
    """Refuse a model that ONNX's own rules, or the shapes that the file states, contradict."""
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:
        raise _contradiction(" ".join(str(error).split())[:300], where) from error
    stated = {
        tensor.name: tensor.shape for operator in source.operators for tensor in operator.outputs
    }
    faults = []
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        shape, kind = stated.get(value.name), value.type.tensor_type
        if shape is None or not kind.HasField("shape"):
            continue
        found = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        # A turned value has its tensor's name and the same sizes in another order.
        wanted, have = sorted(size or 0 for size in shape), sorted(size or 0 for size in found)
        free = None in found or None in shape
        if len(wanted) != len(have) or (not free and wanted != have):
            faults.append(f"{value.name!r} is {list(shape)} in the file and computes as {found}")
    if faults:
        raise _contradiction("; ".join(faults[:5]), where)


def _contradiction(text: str, where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the operators of this TFLite file contradict each other: {text}",
        where=where,
        fix="convert or copy the model again; run `edgekit inspect` on it",
    )
