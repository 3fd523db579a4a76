"""The stages in a row: a normalised ONNX model in, a LiteRT program and its bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit_converters.graph import Graph, read_graph
from edgekit_converters.litert.emit import emit
from edgekit_converters.litert.fuse import fuse
from edgekit_converters.litert.lower import lower_graph, registered
from edgekit_converters.litert.prepare import prepare
from edgekit_converters.litert.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModel:
    """A LiteRT model with what is needed to explain it.

    Attributes:
        content: The bytes of the `.tflite` file.
        program: Its operators.
        graph: The ONNX graph that was lowered.
        prepared: The same as an `onnx.ModelProto`, which computes what the source does.
    """

    content: bytes
    program: Program
    graph: Graph
    prepared: Any


def compile_to_litert(model: Any, *, where: str, description: str = "") -> CompiledModel:
    """Convert a normalised ONNX model.

    Args:
        model: An `onnx.ModelProto` as `normalise` returns it.
        where: The source's path, for errors.
        description: What the file says about its origin.

    Raises:
        UnsupportedModelError: Naming every node that LiteRT cannot express, and why.
    """
    prepared = prepare(model, registered(), where=where)
    graph = read_graph(prepared)
    program = fuse(lower_graph(graph, where=where))
    content = emit(program, description=description, where=where)
    return CompiledModel(content=content, program=program, graph=graph, prepared=prepared)
