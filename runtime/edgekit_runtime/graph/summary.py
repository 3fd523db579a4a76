"""Say what a model file is, for people and for programs, without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekit_runtime.graph.lifetimes import MemoryPlan, plan_memory
from edgekit_runtime.graph.load_check import LoadCheck, check_loads
from edgekit_runtime.graph.model import Graph
from edgekit_runtime.graph.quantization import QuantizationSummary, describe_quantization
from edgekit_runtime.graph.read import read_graph
from edgekit_runtime.graph.runtimes import RuntimeFit, judge_runtimes
from edgekit_runtime.graph.workload import Workload, count_workload
from edgekit_runtime.tensors import TensorSpec

__all__ = ["ModelSummary", "QuantizationSummary", "describe_quantization", "summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """What `edgekit inspect` shows.

    Attributes:
        path: The file.
        file_bytes: Its size, with the ONNX weights in files beside it.
        graph: Its structure.
        operators: How often each operator type occurs, inner graphs included.
        custom_operators: The types outside the format's own set.
        workload: What one inference computes.
        memory: Planned memory of activations.
        quantization: How far it is quantized.
        loads: Whether the engine installed here takes it.
        runtimes: Which other releases of the runtimes take it, as far as was measured.
    """

    path: str
    file_bytes: int
    graph: Graph
    operators: Mapping[str, int]
    custom_operators: tuple[str, ...]
    workload: Workload
    memory: MemoryPlan
    quantization: QuantizationSummary
    loads: LoadCheck
    runtimes: tuple[RuntimeFit, ...]

    def to_json(self) -> dict[str, object]:
        """The summary as a JSON object; free axes are null."""
        return {
            "path": self.path,
            "file_bytes": self.file_bytes,
            "format": self.graph.format.value,
            "version": self.graph.version,
            "opsets": dict(self.graph.opsets),
            "producer": self.graph.producer,
            "description": self.graph.description,
            "metadata": dict(self.graph.metadata),
            "inputs": [_spec_json(spec) for spec in self.graph.inputs],
            "outputs": [_spec_json(spec) for spec in self.graph.outputs],
            "operators": dict(self.operators),
            "custom_operators": list(self.custom_operators),
            "workload": self.workload.to_json(),
            "activation_memory": {"kind": "planned", **asdict(self.memory)},
            "quantization": asdict(self.quantization),
            "loads": asdict(self.loads),
            "runtimes": [asdict(fit) for fit in self.runtimes],
            "assumptions": list(self.graph.assumptions),
        }


def summarise(path: Path) -> ModelSummary:
    """Describe a model file.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If it is no model, or damaged.
        EnvironmentLackError: If the package that reads the format is not installed.
    """
    graph = read_graph(path)
    loads = check_loads(path, graph.format)
    every = (*graph.operators, *graph.inner_operators)
    return ModelSummary(
        path=str(path),
        file_bytes=path.stat().st_size + graph.external_bytes,
        graph=graph,
        operators=dict(Counter(operator.type for operator in every).most_common()),
        custom_operators=tuple(sorted({o.type for o in every if o.custom})),
        workload=count_workload(graph),
        memory=plan_memory(graph),
        quantization=describe_quantization(graph),
        loads=loads,
        runtimes=judge_runtimes(graph, loads),
    )


def _spec_json(spec: TensorSpec) -> dict[str, object]:
    quantization = asdict(spec.quantization) if spec.quantization else None
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "quantization": quantization,
    }
