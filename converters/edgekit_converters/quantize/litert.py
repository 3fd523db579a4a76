"""Quantize a `.tflite` file as it is, whatever wrote it: tensors and operators by its own names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.emit import signature_def
from edgekit_converters.litert.model_file import read_model, text_of
from edgekit_converters.quantize.outcome import refuse_quantized
from edgekit_converters.quantize.to_litert.flat import FlatGraph, FlatModel
from edgekit_converters.quantize.write_litert import quantize_flat
from edgekit_converters.ranges.observer import DRAWN_PER_SAMPLE, Observer
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.graph.tflite_bounds import check_tflite_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.plan import QuantizationPlan
    from edgekit_converters.ranges import RangeStatistics

_INTEGERS: Final = frozenset({"INT8", "UINT8", "INT16", "INT4"})
_THREADS: Final = 2
_SEED: Final = 20240229


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


def file_statistics(
    source: Path, batches: Iterable[Mapping[str, NDArray[np.generic]]], *, where: str
) -> dict[str, RangeStatistics]:
    """Watch every float tensor that a model computes, and its inputs, while it runs over data.

    Args:
        source: A `.tflite` file.
        batches: An array for each input, by the name that a session of the file has for it; read
            once, and one at a time.
        where: The path that the user gave, for errors.

    Returns:
        Statistics by the tensor's name.

    Raises:
        UnsupportedModelError: If the engine refuses the model or a batch.
        EnvironmentLackError: If LiteRT is not installed.
    """
    litert: Any = require("ai_edge_litert.interpreter", extra="tflite")
    found: dict[str, Observer] = {}
    random = np.random.default_rng(_SEED)
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
            samples = min((len(array) for array in batch.values() if array.ndim), default=1)
            for detail in interpreter.get_tensor_details():
                content = _content(interpreter, detail)
                if content is not None and content.size:
                    step = -(-content.size // (DRAWN_PER_SAMPLE * max(samples, 1)))
                    part = content[random.integers(step) :: step]
                    observer = found.setdefault(detail["name"], Observer())
                    observer.see(content.min(), content.max(), content.mean(dtype=float), part)
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"LiteRT failed while the model was calibrated: {' '.join(str(error).split())[:300]}",
            where=where,
        ) from error
    return {name: observer.statistics() for name, observer in found.items()}


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
    # LiteRT's own recurrent layers would go on from the last batch's state.
    interpreter.reset_all_variables()
    for detail, array in zip(details, given, strict=True):
        interpreter.set_tensor(detail["index"], array)


def _content(interpreter: Any, detail: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """The values of a float tensor, flat."""
    if detail["dtype"] is not np.float32:
        return None
    try:
        return np.asarray(interpreter.get_tensor(detail["index"]), np.float32).reshape(-1)
    except ValueError:
        # Scratch space of a kernel has no data to show.
        return None


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
