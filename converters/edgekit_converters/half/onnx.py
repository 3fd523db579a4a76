"""ONNX models in float16, through onnxconverter-common with a frame around its known failings."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit_converters.half.bodies import store_halves_in_bodies
from edgekit_converters.half.casts import cast_captured, tidy_casts
from edgekit_converters.half.element_types import captured, element_types, infer_values
from edgekit_converters.half.kept import nodes_to_keep
from edgekit_converters.half.limits import LARGEST, SMALLEST
from edgekit_converters.onnx_graphs import bodies_of
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.load_check import check_loads

_STANDARD: Final = frozenset({"", "ai.onnx"})
_QUANTIZED: Final = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "MatMulNBits",
    "QuantizeLinear",
})  # fmt: skip
# Before it, every initializer had to be an input as well.
_FIRST_IR_WITH_FREE_CONSTANTS: Final = 4
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfModel:
    """A model in float16.

    Attributes:
        model: An `onnx.ModelProto`; its inputs and outputs have the types that they had.
        warnings: Sentences on what stayed in float32 and why.
        kept: The names of the nodes that compute in float32.
    """

    model: Any
    warnings: tuple[str, ...]
    kept: tuple[str, ...]


def to_float16(model: Any, *, where: str, keep: Collection[str] = ()) -> HalfModel:
    """Make the float16 form of a float32 model.

    Weights and arithmetic become float16; inputs and outputs stay as they are. Some nodes stay
    in float32: those whose operator has no float16, those with bodies or of other domains, those
    that compute sizes, and those that read a constant which float16 cannot hold. The weights inside
    of bodies are stored in float16 all the same.

    Args:
        model: A checked `onnx.ModelProto` with its weights loaded; it is left as it is.
        where: The path that the user gave, for errors.
        keep: More nodes that stay in float32; those without a name by that of their output.

    Raises:
        UnsupportedModelError: If the model is float16 or quantized already, the type of a value
            cannot be known, nothing would change, or the result is not valid or refused by
            onnxruntime.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    onnx = require("onnx", extra="convert")
    float16: Any = require("onnxconverter_common.float16", extra="convert")
    half = onnx.ModelProto()
    half.CopyFrom(model)
    _refuse(half, where)
    _plain(half)
    try:
        half.graph.value_info.extend(infer_values(half))
    except Exception as error:
        raise _failed(f"its types contradict each other: {_words(error)}", where) from error
    types = element_types(half)
    _refuse_unknown(half, types, where)
    kept = nodes_to_keep(half, types, known_failing=float16.DEFAULT_OP_BLOCK_LIST, wanted=keep)
    _unshare(half.graph, kept.names)
    stand_ins = _shield_outputs(half.graph, kept.names)
    try:
        with warnings.catch_warnings():
            # It warns of each number that it rounds up from zero, without saying where.
            warnings.simplefilter("ignore")
            half = float16.convert_float_to_float16(
                half,
                min_positive_val=SMALLEST,
                max_finite_val=LARGEST,
                keep_io_types=True,
                disable_shape_infer=True,
                op_block_list=[],
                node_block_list=sorted(kept.names),
                check_fp16_ready=False,
            )
    except Exception as error:
        raise _failed(_words(error), where) from error
    halves = {name for name, kind in element_types(half).items() if _is_half(kind)}
    cast_captured(half, halves)
    tidy_casts(half.graph, stand_ins=stand_ins)
    stored = store_halves_in_bodies(half.graph)
    _check(onnx, half, halves | stored, where)
    inside = [
        f"{node.op_type} {node.name!r} computes in float32"
        + (", from weights in float16" if node.name in stored else "")
        for node in half.graph.node
        if bodies_of(node)
    ]
    return HalfModel(model=half, warnings=(*inside, *kept.warnings), kept=kept.computing)


def _refuse(model: Any, where: str) -> None:
    """Refuse what is no float32 model, or not all here."""
    from onnx import TensorProto

    graph = model.graph
    half = [t.name for t in graph.initializer if _is_half(t.data_type)]
    half += [
        v.name for v in (*graph.input, *graph.output) if _is_half(v.type.tensor_type.elem_type)
    ]
    if half:
        raise UnsupportedModelError(
            f"the model is float16 already: {_list(half)}",
            where=where,
            fix="give the float32 model that it was made from",
        )
    integers = [
        node.name or node.output[0]
        for node in graph.node
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")
    ]
    if integers:
        raise UnsupportedModelError(
            f"the model is quantized already: {_list(integers)}",
            where=where,
            fix="give the float32 model that it was made from",
        )
    outside = [
        t.name for t in graph.initializer if t.data_location == TensorProto.DataLocation.EXTERNAL
    ]
    if outside:
        raise UnsupportedModelError(
            f"weights lie in another file: {_list(outside)}",
            where=where,
            fix="load them with the model",
        )


def _plain(model: Any) -> None:
    """Bring a model into the form that onnxconverter-common handles.

    Every node has a name of its own, since casts are named and nodes are kept by it; constants
    are initializers, and none of them is an input.
    """
    graph = model.graph
    del graph.value_info[:]
    nodes, taken = [], set()
    for node in graph.node:
        tensor = _constant(node)
        if tensor is not None:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            continue
        name = node.name or f"{node.op_type}/{next(iter(node.output), '')}"
        while name in taken:
            name += "_"
        node.name = name
        taken.add(name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    model.ir_version = max(model.ir_version, _FIRST_IR_WITH_FREE_CONSTANTS)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)


def _constant(node: Any) -> Any:
    """The tensor of a Constant node; None for other nodes, for texts and for sparse tensors."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if node.op_type != "Constant" or node.domain not in _STANDARD:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    plain = {
        "value_float": (attribute.f, np.float32),
        "value_floats": (attribute.floats, np.float32),
        "value_int": (attribute.i, np.int64),
        "value_ints": (attribute.ints, np.int64),
    }
    if attribute.name not in plain:
        return None
    value, kind = plain[attribute.name]
    return numpy_helper.from_array(np.array(value, kind))


def _refuse_unknown(model: Any, types: Any, where: str) -> None:
    """Refuse values whose type nobody knows: casts could not be put where they are needed."""
    unknown = [
        f"{node.op_type} {node.name!r}"
        for node in model.graph.node
        if any(name and name not in types for name in node.output)
    ]
    if unknown:
        raise UnsupportedModelError(
            f"it is not known what {_list(unknown)} compute(s): a custom operator, or a sequence",
            where=where,
            fix="convert in float32",
        )


def _unshare(graph: Any, kept: frozenset[str]) -> None:
    """Give kept nodes constants of their own where others, or bodies, read them as well."""
    from onnx import TensorProto

    others = {n for node in graph.node if node.name not in kept for n in node.input}
    others |= {name for node in graph.node for name in captured(node)}
    others |= {value.name for value in graph.output}
    floats = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    copied: set[str] = set()
    for node in graph.node:
        if node.name not in kept:
            continue
        for place, name in enumerate(node.input):
            if name in floats and name in others:
                node.input[place] = f"{name}/kept"
                copied.add(name)
    for name in sorted(copied):
        tensor = type(floats[name])()
        tensor.CopyFrom(floats[name])
        tensor.name = f"{name}/kept"
        graph.initializer.append(tensor)


def _shield_outputs(graph: Any, kept: frozenset[str]) -> set[str]:
    """Put an Identity between each kept node and a float output of the model; returns their names.

    onnxconverter-common turns an output that a kept node makes into float16, or fails.
    """
    from onnx import TensorProto, helper

    floats = {
        value.name
        for value in graph.output
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    made = []
    infos = []
    for node in graph.node:
        if node.name not in kept:
            continue
        for place, name in enumerate(node.output):
            if name in floats:
                inner = f"{name}/kept"
                made.append(helper.make_node("Identity", [inner], [name], name=inner))
                infos.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, None))
                node.output[place] = inner
                _read_instead(graph, name, inner)
    graph.node.extend(made)
    graph.value_info.extend(infos)
    return {node.name for node in made}


def _read_instead(graph: Any, name: str, inner: str) -> None:
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = inner


def _check(onnx: Any, model: Any, halves: Collection[str], where: str) -> None:
    require("onnxruntime", extra="convert")
    if not halves:
        raise UnsupportedModelError(
            "float16 changes nothing: everything that the model computes must stay in float32",
            where=where,
            fix="convert in float32",
        )
    # What the tool says of the values in between is stale; engines infer it again.
    del model.graph.value_info[:]
    try:
        infer_values(model)
        onnx.checker.check_model(model)
    except Exception as error:
        raise _failed(f"the result is not valid: {_words(error)}", where) from error
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "half.onnx"
        path.write_bytes(model.SerializeToString())
        # In a process of its own: an engine may die in float16 of what it takes in float32.
        loads = check_loads(path, ModelFormat.ONNX)
    if not loads.loads:
        raise _failed(f"onnxruntime refuses the result: {loads.reason}", where)


def _failed(reason: str, where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the model could not be converted to float16: {reason}",
        where=where,
        fix="convert in float32, or report the model",
    )


def _is_half(kind: int) -> bool:
    from onnx import TensorProto

    return kind == TensorProto.FLOAT16


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or repr(error)


def _list(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    )
