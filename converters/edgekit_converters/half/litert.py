"""LiteRT models with their weights in float16, through ai-edge-quantizer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.half.limits import misfit
from edgekit_converters.litert.emit import pack
from edgekit_converters.litert.model_file import read_model, text_of
from edgekit_converters.quantize.silence import silenced
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.files import require_file
from edgekit_runtime.graph.tflite_bounds import check_tflite_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS: Final = 16
# Fewer elements than that save nothing: names and operators outweigh them.
_WORTH_NAMING: Final = 1024
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    name: str
    kind: int
    shape: tuple[int, ...]


def write_half_litert(source: Path, output: Path, *, where: str) -> tuple[str, ...]:
    """Write a float model with its weights in float16; it computes in float32 as before.

    The weights of convolutions, dense layers and embeddings are stored in half precision, each
    behind a DEQUANTIZE, which LiteRT folds when it loads the file. Inputs, outputs and names
    stay as they are.

    Args:
        source: A float `.tflite` file; one from before 2021 is brought up to date first.
        output: Where to write; its folder exists.
        where: The path that the user gave, for errors.

    Returns:
        Sentences on the weights that stayed in float32 and why.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If the file is damaged, its weights are float16 or integers
            already, the quantizer fails, or it leaves the model as it was.
        EnvironmentLackError: If the extra `quantize` is not installed.
    """
    require_file(source, kind="a .tflite model")
    data = source.read_bytes()
    check_tflite_bytes(data, where=where)
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
    require("ai_edge_quantizer", extra="quantize")
    model = read_model(schema, data)
    before = _weights(schema, model)
    _refuse(schema, before, where)
    for code in model.operatorCodes:
        # Before 2020 the byte was the only field; the quantizer reads the other one alone.
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    misfits = _misfits(schema, model)
    content = pack(model)
    try:
        with silenced():
            halved = _halve(content, [name for _, name, _ in misfits])
    except Exception as error:
        raise UnsupportedModelError(
            f"ai-edge-quantizer failed: {' '.join(str(error).split())[:300] or error!r}",
            where=where,
            fix="convert in float32, or report the model",
        ) from error
    after = _weights(schema, read_model(schema, halved))
    # It says nothing where it does nothing.
    changed = any(weight.kind == schema.TensorType.FLOAT16 for weight in after)
    if not changed or len(halved) >= len(content):
        raise UnsupportedModelError(
            "float16 changes nothing: "
            + ("the file did not shrink" if changed else "no weights that it can be used for"),
            where=where,
            fix="convert in float32",
        )
    output.write_bytes(halved)
    excused = {weight for weight, _, _ in misfits}
    return (
        *(f"{weight!r} stays float32: {reason}" for weight, _, reason in misfits),
        *_left_over(schema, after, excused),
    )


def _halve(content: bytes, left_out: list[str]) -> bytes:
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    names = algorithm_manager.AlgorithmName
    work = quantizer.Quantizer(content)
    # With another algorithm, 16 bits are silently none at all.
    work.add_weight_only_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        num_bits=_BITS,
        algorithm_key=names.FLOAT_CASTING,
    )
    for name in left_out:
        # The last rule that fits an operator's outputs counts.
        work.update_quantization_recipe(
            regex=f"(?:^|;){re.escape(name)}(?:;|$)",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=names.NO_QUANTIZE,
        )
    result = work.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _misfits(schema: Any, model: Any) -> list[tuple[str, str, str]]:
    """Weights that float16 cannot hold: their names, their readers' output, and the reason."""
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            for index in operator.inputs:
                values = _floats(schema, model, graph, index)
                reason = misfit(values) if values is not None else ""
                if reason:
                    output = text_of(graph.tensors[operator.outputs[0]].name)
                    found.append((text_of(graph.tensors[index].name), output, reason))
    return found


def _floats(schema: Any, model: Any, graph: Any, index: int) -> NDArray[np.float32] | None:
    if index < 0 or graph.tensors[index].type != schema.TensorType.FLOAT32:
        return None
    data = model.buffers[graph.tensors[index].buffer].data
    return None if data is None else np.frombuffer(data.tobytes(), np.float32)


def _refuse(schema: Any, weights: list[_Stored], where: str) -> None:
    kinds = schema.TensorType
    integers = {kinds.INT8, kinds.UINT8, kinds.INT16, kinds.INT4}
    for found, what in (
        ([weight.name for weight in weights if weight.kind == kinds.FLOAT16], "float16"),
        ([weight.name for weight in weights if weight.kind in integers], "quantized"),
    ):
        if found:
            raise UnsupportedModelError(
                f"the model is {what} already: {_named(found)}",
                where=where,
                fix="give the float32 model that it was made from",
            )


def _left_over(schema: Any, weights: list[_Stored], excused: set[str]) -> Iterator[str]:
    left = [
        weight.name
        for weight in weights
        if weight.kind == schema.TensorType.FLOAT32
        # Biases stay float32 by design.
        and len(weight.shape) > 1
        and math.prod(weight.shape) >= _WORTH_NAMING
        and weight.name not in excused
    ]
    if left:
        yield (
            f"{_named(left)} stay(s) float32: LiteRT stores in float16 the weights of "
            "convolutions, dense layers and embeddings alone"
        )


def _weights(schema: Any, model: Any) -> list[_Stored]:
    """Every stored tensor of floats or scaled integers."""
    floats = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16}
    found = []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            quantization = tensor.quantization
            scaled = quantization is not None and quantization.scale is not None
            if data is not None and len(data) and (tensor.type in floats or scaled):
                shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
                found.append(_Stored(name=text_of(tensor.name), kind=tensor.type, shape=shape))
    return found


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more
