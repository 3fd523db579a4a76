"""Static 8-bit quantization of LiteRT models: integers inside, floats at the border."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.litert.emit import SIGNATURE, pack, signature_def
from edgekit_converters.litert.model_file import read_model, text_of
from edgekit_converters.quantize.outcome import check_outcome, refuse_quantized
from edgekit_converters.quantize.silence import silenced
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.graph.tflite_bounds import check_tflite_bounds

if TYPE_CHECKING:
    from edgekit_converters.calibration import CalibrationSet

_THREADS: Final = 2


def quantize_litert(source: Path, output: Path, calibration: CalibrationSet, *, where: str) -> None:
    """Write the int8 form of a float model; its inputs and outputs stay float, names and all.

    Args:
        source: A `.tflite` file; one from before 2021, or without a signature, is brought up to
            date first.
        output: Where to write; its folder exists.
        calibration: Run in its own batches; each tensor's range is the extremes of all of them.
        where: The path that the user gave, for errors.

    Raises:
        UnsupportedModelError: If the file is damaged or quantized already, the quantizer fails,
            or it leaves the model as it was.
        EnvironmentLackError: If the extra `quantize` is not installed.
    """
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
    require("ai_edge_quantizer", extra="quantize")
    refuse_quantized(quantized_tensors(source), where=where)
    model = read_model(schema, source.read_bytes())
    weight_bytes = _weight_bytes(schema, model)
    _bring_up_to_date(schema, model)
    content = pack(model)
    try:
        with silenced():
            quantized = _quantize(content, calibration)
    except EdgekitError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"ai-edge-quantizer failed: {' '.join(str(error).split())[:300] or error!r}",
            where=where,
            fix="convert in float32, or report the model",
        ) from error
    result = read_model(schema, quantized)
    changed = len(_quantized_tensors(schema, result))
    _restore_names(result)
    output.write_bytes(pack(result))
    check_outcome(
        where=where,
        changed=changed,
        weight_bytes=weight_bytes,
        bytes_before=len(content),
        bytes_after=output.stat().st_size,
    )


def quantized_tensors(path: Path) -> tuple[str, ...]:
    """The names of the tensors that show that a `.tflite` file is quantized already.

    Raises:
        UnsupportedModelError: If the file is damaged.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    check_tflite_bounds(path)
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
    return tuple(_quantized_tensors(schema, read_model(schema, path.read_bytes())))


def _quantize(content: bytes, calibration: CalibrationSet) -> bytes:
    from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    rules = [
        *recipe.static_wi8_ai8(),
        # A QUANTIZE behind each input and a DEQUANTIZE before each output: floats at the border.
        *(
            {"regex": ".*", "operation": border, "algorithm_key": "no_quantize"}
            for border in ("INPUT", "OUTPUT")
        ),
    ]
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(rules)
    # The quantizer's default is a moving average, which forgets the first samples' extremes.
    ranges = calibrator.Calibrator(
        content, num_threads=_THREADS, qsv_update_func=qsv_utils.min_max_update
    )
    for batch in calibration.batches():
        # One batch a call: the calibrator makes a list of all that it is given.
        ranges.calibrate({SIGNATURE: [batch]}, manager)
    if not ranges.get_model_qsvs():
        # No operator of the model is one that the recipe quantizes.
        return content
    work = quantizer.Quantizer(content, rules)
    result = work.quantize(
        ranges.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)


def _bring_up_to_date(schema: Any, model: Any) -> None:
    """Give an old model what the quantizer needs: operator codes, and a signature."""
    for code in model.operatorCodes:
        # Before 2020 the byte was the only field; the quantizer reads the other one alone.
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    graph = model.subgraphs[0]
    tensors = graph.tensors
    model.signatureDefs = [
        signature_def(
            schema,
            [(text_of(tensors[index].name), index) for index in graph.inputs],
            [(text_of(tensors[index].name), index) for index in graph.outputs],
        )
    ]


def _restore_names(model: Any) -> None:
    """Let the border tensors have the signature's names again, and nothing else have them."""
    tensors = model.subgraphs[0].tensors
    signature = model.signatureDefs[0]
    border = {entry.tensorIndex: text_of(entry.name) for entry in signature.inputs}
    border.update({entry.tensorIndex: text_of(entry.name) for entry in signature.outputs})
    taken = set(border.values())
    for index, tensor in enumerate(tensors):
        if index in border:
            tensor.name = border[index]
        elif text_of(tensor.name) in taken:
            tensor.name = f"{text_of(tensor.name)}/quantized"


def _quantized_tensors(schema: Any, model: Any) -> list[str]:
    integers = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}
    integers.add(schema.TensorType.INT4)
    return [
        text_of(tensor.name)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type in integers
        and tensor.quantization is not None
        and tensor.quantization.scale is not None
        and len(tensor.quantization.scale)
    ]


def _weight_bytes(schema: Any, model: Any) -> int:
    return sum(
        len(model.buffers[tensor.buffer].data)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == schema.TensorType.FLOAT32
        and model.buffers[tensor.buffer].data is not None
    )
