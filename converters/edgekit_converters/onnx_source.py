"""Read an ONNX file that somebody else made: checked, complete, of a version we understand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.extras import require

OLDEST_OPSET: Final = 7
OLDEST_IR_VERSION: Final = 3
# Protobuf cannot hold more, and a Raspberry-Pi-class device could not either.
_MAX_MODEL_BYTES: Final = 2**31 - 1
_QUANTIZED_OPERATORS: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)


def read_onnx(path: Path) -> Any:
    """Load and check an ONNX model.

    Args:
        path: A file that `detect_format` has called ONNX.

    Returns:
        An `onnx.ModelProto` with its external data loaded.

    Raises:
        UnsupportedModelError: If the file is truncated, damaged, breaks the specification, or is
            older than opset 7 or IR version 3.
        EnvironmentLackError: If the `convert` extra is not installed.
    """
    onnx = require("onnx", extra="convert")
    # Asked for here, so that its absence is said before any work: constants are computed with it.
    require("onnxruntime", extra="convert")
    if path.stat().st_size > _MAX_MODEL_BYTES:
        raise UnsupportedModelError(
            "the model is larger than 2 GiB", where=str(path), fix="export a smaller model"
        )
    try:
        model = onnx.load_model(str(path))
    except Exception as error:
        raise damaged(path, error) from error
    if not model.graph.node:
        raise damaged(path, "it has no operators")
    _check_versions(model, path)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise damaged(path, error) from error
    _check_types(onnx, model, path)
    _check_constants(onnx, model, path)
    return model


def opset_of(model: Any) -> int:
    """The version of ONNX's own operator set that a model uses."""
    return max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0)


def quantized_operators(model: Any) -> tuple[str, ...]:
    """The names of the nodes that show that a model is quantized already."""
    return tuple(
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type in _QUANTIZED_OPERATORS
        or node.op_type.startswith("QLinear")
        or node.op_type == "MatMulNBits"
    )


def damaged(path: Path, reason: object) -> EdgekitError:
    """The error to raise for an ONNX file that cannot be used."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return UnsupportedModelError(
        f"this is no valid ONNX model: {text[:300]}",
        where=str(path),
        fix="it may be truncated or damaged: export or copy it again",
    )


def _check_types(onnx: Any, model: Any, path: Path) -> None:
    """Refuse element types that do not exist; the checker lets them pass."""
    known = set(onnx.TensorProto.DataType.values())
    graph = model.graph
    wrong = [tensor.name for tensor in graph.initializer if tensor.data_type not in known]
    wrong += [
        value.name
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type not in known
    ]
    if wrong:
        raise damaged(path, f"the element type of {', '.join(wrong[:5])} does not exist")


def _check_constants(onnx: Any, model: Any, path: Path) -> None:
    """Refuse constants whose bytes do not fill their shape; the checker lets some pass."""
    tensors = list(model.graph.initializer)
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        try:
            # A view of the bytes, where they are stored raw: nothing large is copied.
            onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            raise damaged(path, f"the constant {tensor.name!r}: {error}") from error


def _check_versions(model: Any, path: Path) -> None:
    opset = opset_of(model)
    if opset < OLDEST_OPSET or model.ir_version < OLDEST_IR_VERSION:
        raise UnsupportedModelError(
            f"the model is too old: opset {opset}, IR version {model.ir_version}",
            where=str(path),
            fix=f"export it with opset {OLDEST_OPSET} or newer",
        )
