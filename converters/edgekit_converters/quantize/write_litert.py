"""Write the quantized form of a LiteRT model: integers inside, floats or integers at the border."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.litert.emit import pack
from edgekit_converters.litert.model_file import read_model, text_of
from edgekit_converters.quantize.outcome import check_outcome
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_litert.flat import FlatGraph, FlatModel
from edgekit_converters.quantize.to_litert.names import names_of
from edgekit_converters.quantize.to_litert.nan_tests import drop_nan_tests
from edgekit_converters.quantize.to_litert.placement import place
from edgekit_converters.quantize.to_litert.static import write_static
from edgekit_converters.quantize.to_litert.stored import Storage, Stored, store_weights
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit_converters.litert.compile import CompiledModel
    from edgekit_converters.quantize.plan import QuantizationPlan, Range

_STORAGE: Final = {
    Scheme.FP16: Storage.HALF,
    Scheme.INT8_DYNAMIC: Storage.DYNAMIC,
    Scheme.INT4_WEIGHTS: Storage.INT4,
}
_WIDE: Final = 16
_NARROW: Final = 8
_SHOWN: Final = 5


def write_litert(
    compiled: CompiledModel,
    plan: QuantizationPlan,
    output: Path,
    *,
    where: str,
    normalised: Any,
) -> tuple[str, ...]:
    """Quantize a compiled model as a plan says, and write it.

    Args:
        compiled: What `compile_to_litert` made; it is not changed.
        plan: Names nodes and values of `normalised`.
        output: Where to write; its folder exists.
        where: The path that the user gave, for errors.
        normalised: The `onnx.ModelProto` that was compiled.

    Returns:
        Sentences that the user should read.

    Raises:
        UnsupportedModelError: If nothing of the model would change, or an input or output that is
            to be integer has no known range.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="convert")
    model = read_model(schema, compiled.content)
    names = names_of(compiled, normalised, model.subgraphs[0])
    ranges = {
        number: plan.ranges[name] for number, name in names.values.items() if name in plan.ranges
    }
    content, remarks = quantize_flat(
        schema,
        model,
        plan,
        ranges=ranges,
        keep=names.of(plan.keep_float),
        wide=names.of(plan.wide),
        where=where,
        bytes_before=len(compiled.content),
    )
    output.write_bytes(content)
    return remarks


def quantize_flat(
    schema: Any,
    model: Any,
    plan: QuantizationPlan,
    *,
    ranges: Mapping[int, Range],
    keep: frozenset[int],
    wide: frozenset[int],
    where: str,
    bytes_before: int,
) -> tuple[bytes, tuple[str, ...]]:
    """Quantize the object tree of a file; tensors and operators of its first graph by number.

    Returns:
        The file's bytes, and sentences that the user should read.
    """
    flat = FlatModel(schema, model)
    graph = flat.graphs[0]
    weight_bytes = _weight_bytes(flat)
    storage = _STORAGE.get(plan.scheme, Storage.INT8)
    kept = {id(graph.operators[number]) for number in keep}
    computing: set[int] = set()
    if plan.scheme.needs_ranges:
        everywhere = plan.scheme is Scheme.INT16X8
        chosen = {
            id(op) for number, op in enumerate(graph.operators) if everywhere or number in wide
        }
        drop_nan_tests(graph, keep=kept)
        placement = place(
            graph,
            ranges,
            keep={number for number, op in enumerate(graph.operators) if id(op) in kept},
            wide={number for number, op in enumerate(graph.operators) if id(op) in chosen},
            border=_border(graph, plan, ranges, where),
            bits=_WIDE if everywhere else _NARROW,
        )
        computing = {id(graph.operators[number]) for number in placement.computing}
        write_static(graph, placement)
    stored = [store_weights(graph, storage, skip=kept | computing)]
    stored += [store_weights(inner, storage) for inner in flat.graphs[1:]]
    dynamic = sum(part.dynamic for part in stored)
    content = pack(flat.close())
    check_outcome(
        where=where,
        changed=len(computing) + dynamic + sum(part.constants for part in stored),
        replaced_bytes=weight_bytes - _weight_bytes(flat),
        bytes_before=bytes_before,
        bytes_after=len(content),
        scheme=plan.scheme,
        left=[sentence for part in stored for sentence in part.left],
    )
    return content, tuple(_remarks(plan, len(computing), stored))


def _border(
    graph: FlatGraph, plan: QuantizationPlan, ranges: Mapping[int, Range], where: str
) -> list[int]:
    """The inputs and outputs that are to be integers."""
    if plan.io == "float":
        return []
    border = [n for n in (*graph.inputs, *graph.outputs) if graph.dtype(n) == "float32"]
    unknown = [text_of(graph.tensors[n].name) for n in border if n not in ranges]
    if unknown:
        raise UnsupportedModelError(
            f"the range of {', '.join(unknown)} is not known, so it cannot be int8",
            where=where,
            fix="leave inputs and outputs float",
        )
    return border


def _remarks(plan: QuantizationPlan, computing: int, stored: list[Stored]) -> Iterator[str]:
    for part in stored:
        yield from part.left
    if plan.scheme.needs_ranges and not computing:
        yield f"{plan.scheme} only stores the weights in 8 bits here: nothing computes in integers"
    in_float = [name for part in stored for name in part.readers]
    if plan.scheme.needs_ranges and in_float:
        yield (
            f"computed in float, from weights in 8 bits: {', '.join(in_float[:_SHOWN])}"
            + (f" and {len(in_float) - _SHOWN} more" if in_float[_SHOWN:] else "")
        )
    if plan.scheme is Scheme.INT4_WEIGHTS and not any(part.short for part in stored):
        yield (
            "int4-weights changes no more than int8-weights here: the model has no matrix product "
            "with enough weights"
        )
    if plan.scheme is Scheme.INT8_DYNAMIC and not any(part.dynamic for part in stored):
        yield "int8-dynamic only stores the weights in 8 bits here: no operator multiplies by them"


def _weight_bytes(flat: FlatModel) -> int:
    held = {
        tensor.buffer: flat.content(tensor)
        for graph in flat.graphs
        for tensor in graph.tensors
        if flat.type_name(tensor) == "float32"
    }
    return sum(data.nbytes for data in held.values() if data is not None)
