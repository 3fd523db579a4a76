"""The stages in a row: a normalised ONNX model in, a LiteRT program and its bytes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgekit_converters.graph import Graph, read_graph
from edgekit_converters.litert.bodies import separate_outputs
from edgekit_converters.litert.emit import emit
from edgekit_converters.litert.factors import separate_factors
from edgekit_converters.litert.fuse import fuse
from edgekit_converters.litert.layout import BorderLayout, Permutation, border_orders
from edgekit_converters.litert.lower import lower_graph, registered
from edgekit_converters.litert.prepare import prepare
from edgekit_converters.litert.program import Program
from edgekit_converters.litert.views import separate_views
from edgekit_converters.normalise import settle_constants
from edgekit_converters.patterns import simplify_for

AXES_METADATA: Final = "edgekit.axes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModel:
    """A LiteRT model with what is needed to explain it.

    Attributes:
        content: The bytes of the `.tflite` file.
        program: Its operators.
        graph: The ONNX graph that was lowered.
        prepared: The same as an `onnx.ModelProto`, which computes what the source does.
        borders: The inputs and outputs whose axes are in another order than the source's: axis i
            is the source's axis `borders[name][i]`.
    """

    content: bytes
    program: Program
    graph: Graph
    prepared: Any
    borders: Mapping[str, Permutation]


def compile_to_litert(
    model: Any,
    *,
    where: str,
    description: str = "",
    layout: BorderLayout = BorderLayout.KEEP,
) -> CompiledModel:
    """Convert a normalised ONNX model.

    Args:
        model: An `onnx.ModelProto` as `normalise` returns it.
        where: The source's path, for errors.
        description: What the file says about its origin.
        layout: What inputs and outputs with four axes look like; where it is not the source's
            order, the file's metadata `edgekit.axes` tells it as JSON.

    Raises:
        UnsupportedModelError: Naming every node that LiteRT cannot express, and why.
    """
    model = simplify_for("litert", model, settle=lambda changed: settle_constants(changed, where))
    prepared = prepare(model, registered(), where=where)
    graph = read_graph(prepared)
    borders = border_orders(graph, layout)
    program = fuse(lower_graph(graph, where=where, borders=borders))
    program = separate_views(separate_factors(separate_outputs(program)))
    metadata = {AXES_METADATA: json.dumps(borders).encode()} if borders else {}
    content = emit(program, description=description, where=where, metadata=metadata)
    return CompiledModel(
        content=content, program=program, graph=graph, prepared=prepared, borders=borders
    )
