"""Find the first node at which a converted model parts from its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.litert.layout import inverse
from edgekit_converters.parity import relative_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from edgekit_converters.graph import Graph
    from edgekit_converters.litert.compile import CompiledModel
    from edgekit_converters.parity import Arrays


def first_divergence(
    graph: Graph,
    expected: Mapping[str, NDArray[np.generic]],
    computed: Mapping[str, NDArray[np.generic]],
    tolerance: float,
) -> str | None:
    """The first node, in execution order, whose output is further off than `tolerance`.

    Args:
        graph: The source's graph.
        expected: Values by name, as the source computes them.
        computed: The same as far as the converted model still has them.
        tolerance: Largest difference over largest magnitude, for each value.

    Returns:
        Name and operator of the node; None if no value that both have differs.
    """
    for node in graph.nodes:
        for name in node.outputs:
            if name in expected and name in computed:
                error = relative_error(expected[name], computed[name])
                if error > tolerance:
                    return f"{node.name} ({node.op}), relative error {error:.3g}"
    return None


def onnx_values(model: Any, inputs: Arrays, names: Iterable[str]) -> Arrays:
    """The values that flow through an ONNX model, those of `names` that exist in it."""
    import onnxruntime
    from onnx import ModelProto, ValueInfoProto

    probe = ModelProto()
    probe.CopyFrom(model)
    present = {name for node in probe.graph.node for name in node.output if name}
    outputs = {value.name for value in probe.graph.output}
    wanted = [name for name in dict.fromkeys(names) if name in present]
    probe.graph.output.extend(ValueInfoProto(name=name) for name in wanted if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip(wanted, session.run(wanted, dict(inputs)), strict=True))


def litert_values(path: Path, compiled: CompiledModel, inputs: Arrays) -> Arrays:
    """The values that flow through a converted model, in ONNX's names and orders of axes."""
    from ai_edge_litert import interpreter as litert

    # The optimised kernels keep no intermediate tensors.
    interpreter = litert.Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    for detail in interpreter.get_input_details():
        interpreter.resize_tensor_input(detail["index"], inputs[detail["name"]].shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    # The whole list costs a lookup; a dictionary of it costs one.
    indices = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    computed = {id(out) for operator in compiled.program.operators for out in operator.outputs}
    values: Arrays = {}
    for name, (tensor, order) in compiled.program.located.items():
        if id(tensor) in computed and tensor.name in indices:
            stored = np.asarray(interpreter.get_tensor(indices[tensor.name]))
            values[name] = stored.transpose(inverse(order)) if stored.ndim == len(order) else stored
    return values
