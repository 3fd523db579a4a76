"""Open a model file of either format as a `Graph`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat, detect_format
from edgekit_runtime.graph.model import Graph


def read_graph(path: Path, *, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Read a model's structure without running it.

    Args:
        path: An `.onnx` or `.tflite` file.
        shapes: Sizes for inputs with free axes, by input name. A free first axis that is not
            given is taken as 1 and noted in `Graph.assumptions`.

    Raises:
        UsageError: If the file is missing or empty, or `shapes` does not fit the model.
        UnsupportedModelError: If it is no model, damaged, or its operators run in a circle.
        EnvironmentLackError: If the package that reads the format is not installed.
    """
    if detect_format(path) is ModelFormat.ONNX:
        from edgekit_runtime.graph.read_onnx import read_onnx

        return read_onnx(path, shapes=shapes or {})
    from edgekit_runtime.graph.read_tflite import read_tflite

    graph = read_tflite(path)
    for spec in graph.inputs:
        given = (shapes or {}).get(spec.name)
        if given is not None and given != graph.shape(spec.name):
            raise UsageError(
                f"input {spec.name!r} has shape {graph.shape(spec.name)} in this TFLite file",
                where=str(path),
                fix="convert the model again with the shape that you need",
            )
    return graph
