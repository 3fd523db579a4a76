"""What the tests of the quantizers share: plain min-max ranges, runs, and the noise of a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.plan import Range

Arrays = Mapping[str, NDArray[Any]]


def run_onnx(model: Any, feeds: Arrays, *, optimise: bool = True) -> dict[str, NDArray[Any]]:
    """Run a model, or a model's file, in onnxruntime."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(content, options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def min_max_ranges(model: Any, batches: Iterable[Arrays]) -> dict[str, Range]:
    """The extremes of every float value of a normalised model."""
    graph = read_graph(model)
    values = [name for node in graph.nodes for name in node.outputs]
    floats = [name for name in values if name and graph.dtype(name) == "float32"]
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    outputs = {value.name for value in whole.graph.output}
    whole.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in floats if name not in outputs
    )
    whole = onnx.shape_inference.infer_shapes(whole)
    found: dict[str, Range] = {}
    for batch in batches:
        arrays = {**batch, **run_onnx(whole, batch, optimise=False)}
        for name, array in arrays.items():
            if array.dtype == np.float32 and array.size:
                known = found.get(name, Range(low=float(array.min()), high=float(array.max())))
                found[name] = Range(
                    low=min(known.low, float(array.min())), high=max(known.high, float(array.max()))
                )
    return found


def sqnr_db(expected: NDArray[Any], computed: NDArray[Any]) -> float:
    """The power of the signal over that of the error, in decibels."""
    noise = np.square(expected - computed).mean()
    return float(10 * np.log10(np.square(expected).mean() / max(noise, 1e-30)))


def operators(path: Path) -> list[str]:
    """The operators of an ONNX file, in its order."""
    return [node.op_type for node in onnx.load(str(path)).graph.node]
