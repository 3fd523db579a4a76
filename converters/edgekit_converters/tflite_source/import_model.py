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
    from edgekit_converters.tflite_source.model import Model, Operator

# 20 has Gelu; 21 is the first whose QuantizeLinear takes 16 bits. Under 21 onnxruntime (1.32)
# trips over int8: it turns it into uint8 and forgets to say so in the `output_dtype` it adds.
OPSET: Final = 20
_OPSET_FOR_16_BITS: Final = 21
_IR_VERSIONS: Final = {OPSET: 9, _OPSET_FOR_16_BITS: 10}
# Operators with kernels that round float activations to 8 bits to meet 8-bit weights, and where
# their weights are.
_HYBRID: Final = {
    "BATCH_MATMUL": 1, "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1, "UNIDIRECTIONAL_SEQUENCE_LSTM": 2, "UNIDIRECTIONAL_SEQUENCE_RNN": 1,
}  # fmt: skip


def import_tflite(path: Path) -> Any:
    """Convert a `.tflite` file to ONNX.

    Inputs and outputs keep their order, their types, their layout and their tensors' names, as
    everything else here calls them. Quantized tensors stay quantized: each operator stands
    between DequantizeLinear and QuantizeLinear. Weights stored as float16 stay so, behind a Cast.
    What edgekit wrote into the file's metadata is kept. What the two runtimes do differently is
    added to it:

    - `edgekit.recurrent_state`: recurrent layers start from zero in each inference, as LiteRT's
      do after `reset_all_variables`.
    - `edgekit.float_activations`: names the operators whose activations LiteRT rounds to 8 bits
      as it runs, since their weights have 8; here they stay floats.

    Args:
        path: The file; its main graph is converted.

    Returns:
        A checked `onnx.ModelProto` of ONNX's own operators only, in opset 20, or 21 where
        something is quantized to 16 bits.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If it is damaged, or has operators that ONNX cannot say; they are
            all named, with the reasons.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    onnx = require("onnx", extra="convert")
    source = read_model(path)
    graph = import_graph(source, where=str(path))
    wide = {onnx.TensorProto.INT16, onnx.TensorProto.UINT16}
    opset = _OPSET_FOR_16_BITS if wide & {t.data_type for t in graph.initializer} else OPSET
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=_IR_VERSIONS[opset],
        producer_name="edgekit",
        doc_string=source.description,
    )
    onnx.helper.set_model_props(model, _notes(source))
    _check(onnx, model, source, str(path))
    return model


def _notes(source: Model) -> dict[str, str]:
    notes = dict(source.notes)
    if any(operator.code.startswith("UNIDIRECTIONAL_SEQUENCE") for operator in source.operators):
        notes["edgekit.recurrent_state"] = "starts at zero in each inference"
    rounded = [o.name for o in source.operators if _rounds_activations(o)]
    if rounded:
        notes["edgekit.float_activations"] = ", ".join(rounded)
    return notes


def _rounds_activations(operator: Operator) -> bool:
    place = _HYBRID.get(operator.code)
    weights = operator.inputs[place] if place and place < len(operator.inputs) else None
    source = operator.inputs[2 if operator.code == "TRANSPOSE_CONV" else 0]
    return (
        weights is not None
        and source is not None
        and weights.quantization is not None
        and source.dtype == "float32"
    )


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
