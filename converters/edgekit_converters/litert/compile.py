"""The stages in a row: a normalised ONNX model in, a LiteRT program and its bytes out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit_converters.graph import Graph, read_graph
from edgekit_converters.litert.bodies import separate_outputs
from edgekit_converters.litert.emit import emit, emit_file
from edgekit_converters.litert.factors import separate_factors
from edgekit_converters.litert.fuse import fuse
from edgekit_converters.litert.layout import BorderLayout, Permutation, border_orders
from edgekit_converters.litert.lower import lower_graph, registered
from edgekit_converters.litert.prepare import prepare
from edgekit_converters.litert.program import Program
from edgekit_converters.litert.views import separate_views
from edgekit_converters.normalise import settle_constants
from edgekit_converters.parked import Parked, ParkedModel
from edgekit_converters.patterns import simplify_for

AXES_METADATA: Final = "edgekit.axes"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredModel:
    """A model in LiteRT's operators, with what is needed to explain it.

    Attributes:
        program: Its operators.
        graph: The ONNX graph that was lowered, without its constants.
        prepared: The same as an `onnx.ModelProto`, which computes what the source does.
        borders: The inputs and outputs whose axes are in another order than the source's: axis i
            is the source's axis `borders[name][i]`.
    """

    program: Program
    graph: Graph
    prepared: Any
    borders: Mapping[str, Permutation]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModel(LoweredModel):
    """The same with the bytes of its `.tflite` file."""

    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledFile:
    """A compiled model of which nothing is in memory.

    Attributes:
        path: The `.tflite` file.
        borders: As those of a `LoweredModel`.
        program: Its operators, and the graph that was lowered.
        prepared: As that of a `LoweredModel`.
    """

    path: Path
    borders: Mapping[str, Permutation]
    program: Parked[tuple[Program, Graph]]
    prepared: ParkedModel

    def load(self) -> LoweredModel:
        """What is needed to explain it."""
        return self._with(self.prepared.load())

    def sketch(self) -> LoweredModel:
        """The same, with the large constants of its plain form left in the file."""
        return self._with(self.prepared.sketch())

    def _with(self, prepared: Any) -> LoweredModel:
        program, graph = self.program.load()
        return LoweredModel(program=program, graph=graph, prepared=prepared, borders=self.borders)


def compile_to_litert(
    model: Any,
    *,
    where: str,
    description: str = "",
    layout: BorderLayout = BorderLayout.KEEP,
) -> CompiledModel:
    """Convert a normalised ONNX model.

    Args:
        model: An `onnx.ModelProto` as `normalise` returns it; it is not changed.
        where: The source's path, for errors.
        description: What the file says about its origin.
        layout: What inputs and outputs with four axes look like; where it is not the source's
            order, the file's metadata `edgekit.axes` tells it as JSON.

    Raises:
        UnsupportedModelError: Naming every node that LiteRT cannot express, and why.
    """
    prepared = _prepare(model, where)
    program, graph, borders = _lower(read_graph(prepared), where, layout)
    content = emit(program, description=description, where=where, metadata=_metadata(borders))
    return CompiledModel(
        content=content, program=program, graph=graph, prepared=prepared, borders=borders
    )


def compile_to_file(
    model: Any,
    path: Path,
    *,
    where: str,
    description: str = "",
    layout: BorderLayout = BorderLayout.KEEP,
) -> CompiledFile:
    """Convert as `compile_to_litert` does, with little more in memory than the weights at a time.

    Args:
        model: It may lose its initialisers: nothing else can be done with it afterwards.
        path: The `.tflite` file to write; what explains it is written beside it.
        where: The source's path, for errors.
        description: What the file says about its origin.
        layout: What inputs and outputs with four axes look like.

    Raises:
        UnsupportedModelError: As `compile_to_litert` does.
    """
    prepared = ParkedModel(_prepare(model, where), path.with_suffix(".prepared"))
    del model
    program, graph, borders = _lower(read_graph(prepared.load()), where, layout)
    emit_file(program, path, description=description, where=where, metadata=_metadata(borders))
    return CompiledFile(
        path=path,
        borders=borders,
        program=Parked((program, graph), path.with_suffix(".program")),
        prepared=prepared,
    )


def _prepare(model: Any, where: str) -> Any:
    model = simplify_for("litert", model, settle=lambda changed: settle_constants(changed, where))
    return prepare(model, registered(), where=where)


def _lower(
    graph: Graph, where: str, layout: BorderLayout
) -> tuple[Program, Graph, Mapping[str, Permutation]]:
    borders = border_orders(graph, layout)
    program = fuse(lower_graph(graph, where=where, borders=borders))
    # The program has its own.
    graph = dataclasses.replace(graph, constants={})
    return separate_views(separate_factors(separate_outputs(program))), graph, borders


def _metadata(borders: Mapping[str, Permutation]) -> Mapping[str, bytes]:
    return {AXES_METADATA: json.dumps(borders).encode()} if borders else {}
