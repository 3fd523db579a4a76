"""Quantize a `.tflite` file as it is, whatever wrote it: tensors and operators by its own names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.emit import signature_def
from edgekit_converters.litert.model_file import read_model, text_of
from edgekit_converters.quantize.outcome import refuse_quantized
from edgekit_converters.quantize.plan import QuantizationPlan, Range
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_litert.flat import FlatGraph, FlatModel
from edgekit_converters.quantize.write_litert import quantize_flat
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.graph.tflite_bounds import check_tflite_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.calibration import CalibrationSet

_INTEGERS: Final = frozenset({"INT8", "UINT8", "INT16", "INT4"})
_THREADS: Final = 2


def quantize_litert(
    source: Path, output: Path, calibration: CalibrationSet, *, where: str
) -> tuple[str, ...]:
    """Write the int8 form of a float model; its inputs and outputs stay float, names and all.

    Args:
        source: A `.tflite` file.
        output: Where to write; its folder exists.
        calibration: Run in its own batches; each tensor's range is the extremes of all of them.
        where: The path that the user gave, for errors.

    Returns:
        Sentences that the user should read.

    Raises:
        UnsupportedModelError: If the file is damaged or quantized already, the engine fails, or
            nothing would change.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    refuse_quantized(quantized_tensors(source), where=where)
    ranges = file_ranges(source, calibration.batches(), where=where)
    plan = QuantizationPlan(scheme=Scheme.INT8, ranges=ranges)
    return write_litert_file(source, plan, output, where=where)


def write_litert_file(
    source: Path, plan: QuantizationPlan, output: Path, *, where: str
) -> tuple[str, ...]:
    """Quantize a float `.tflite` file as a plan says.

    A file from before 2021 names its operators in a way of its own, and may have no signature:
    both are brought up to date. Inputs, outputs and names stay as they are.

    Args:
        source: The file.
        plan: Its values are the file's tensors; its nodes are called as what they make.
        output: Where to write; its folder exists.
        where: The path that the user gave, for errors.

    Returns:
        Sentences that the user should read.

    Raises:
        UnsupportedModelError: If the file is damaged, its weights are integers or float16 already,
            nothing would change, or an input or output that is to be integer has no known range.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
    content = source.read_bytes()
    check_tflite_bytes(content, where=where)
    model = read_model(schema, content)
    refuse_quantized(_quantized_tensors(schema, model), where=where)
    refuse_quantized(_halves(schema, model), where=where, what="float16")
    graph = FlatModel(schema, model).graphs[0]
    if not model.signatureDefs:
        model.signatureDefs = [
            signature_def(
                schema,
                [(text_of(graph.tensors[number].name), number) for number in graph.inputs],
                [(text_of(graph.tensors[number].name), number) for number in graph.outputs],
            )
        ]
    names = {text_of(tensor.name): number for number, tensor in enumerate(graph.tensors)}
    quantized, remarks = quantize_flat(
        schema,
        model,
        plan,
        ranges={names[name]: span for name, span in plan.ranges.items() if name in names},
        keep=_making(graph, plan.keep_float),
        wide=_making(graph, plan.wide),
        where=where,
        bytes_before=len(content),
    )
    output.write_bytes(quantized)
    return remarks


def file_ranges(
    source: Path, batches: Iterable[Mapping[str, NDArray[np.generic]]], *, where: str
) -> dict[str, Range]:
    """The extremes of every float tensor that a model computes, and of its inputs.

    Args:
        source: A `.tflite` file.
        batches: An array for each input, by name; read once, and one at a time.
        where: The path that the user gave, for errors.

    Raises:
        UnsupportedModelError: If the engine refuses the model or a batch.
        EnvironmentLackError: If LiteRT is not installed.
    """
    litert: Any = require("ai_edge_litert.interpreter", extra="tflite")
    found: dict[str, Range] = {}
    try:
        # Delegates keep what is computed inside of them to themselves.
        interpreter = litert.Interpreter(
            model_path=str(source),
            num_threads=_THREADS,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        for batch in batches:
            _feed(interpreter, batch)
            interpreter.invoke()
            for detail in interpreter.get_tensor_details():
                if detail["dtype"] is np.float32:
                    _see(found, detail["name"], interpreter, detail["index"])
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"LiteRT failed while the model was calibrated: {' '.join(str(error).split())[:300]}",
            where=where,
        ) from error
    return found


def quantized_tensors(path: Path) -> tuple[str, ...]:
    """The names of the tensors that show that a `.tflite` file is quantized already.

    Raises:
        UnsupportedModelError: If the file is damaged.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    content = path.read_bytes()
    check_tflite_bytes(content, where=str(path))
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
    return tuple(_quantized_tensors(schema, read_model(schema, content)))


def _feed(interpreter: Any, batch: Mapping[str, NDArray[np.generic]]) -> None:
    details = interpreter.get_input_details()
    given = [batch[detail["name"]] for detail in details]
    for detail, array in zip(details, given, strict=True):
        if tuple(detail["shape"]) != array.shape:
            interpreter.resize_tensor_input(detail["index"], array.shape)
    interpreter.allocate_tensors()
    for detail, array in zip(details, given, strict=True):
        interpreter.set_tensor(detail["index"], array)


def _see(found: dict[str, Range], name: str, interpreter: Any, index: int) -> None:
    try:
        array = interpreter.get_tensor(index)
    except ValueError:
        # Scratch space of a kernel has no data to show.
        return
    finite = array[np.isfinite(array)]
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    known = found.get(name)
    if known is not None:
        low, high = min(low, known.low), max(high, known.high)
    found[name] = Range(low=low, high=high)


def _making(graph: FlatGraph, wanted: frozenset[str]) -> frozenset[int]:
    """The operators that make a tensor with one of these names."""
    return frozenset(
        number
        for number, operator in enumerate(graph.operators)
        if any(text_of(graph.tensors[out].name) in wanted for out in operator.outputs)
    )


def _quantized_tensors(schema: Any, model: Any) -> list[str]:
    integers = {getattr(schema.TensorType, kind) for kind in _INTEGERS}
    return [
        text_of(tensor.name)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type in integers
        and tensor.quantization is not None
        and tensor.quantization.scale is not None
        and len(tensor.quantization.scale)
    ]


def _halves(schema: Any, model: Any) -> list[str]:
    """The names of the constants that are float16."""
    return [
        text_of(tensor.name)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == schema.TensorType.FLOAT16
        and model.buffers[tensor.buffer].data is not None
    ]
