"""Say what a model file is, for people and for programs, without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edgekit_runtime.graph.kinds import Kind, kind_of
from edgekit_runtime.graph.lifetimes import MemoryPlan, plan_memory
from edgekit_runtime.graph.load_check import LoadCheck, check_loads
from edgekit_runtime.graph.model import Graph, element_bits
from edgekit_runtime.graph.read import read_graph
from edgekit_runtime.graph.workload import Workload, count_workload
from edgekit_runtime.tensors import TensorSpec

_FLOATS: Final = frozenset({"float32", "float64", "float16", "bfloat16"})
_INTEGERS: Final = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2"})
_FULLY: Final = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSummary:
    """How far a model is quantized.

    Attributes:
        kind: "float32", "float16", "int8" (weights and activations), "dynamic" (integer
            weights, float activations), or "mixed".
        weight_share: The share of weights that are stored as integers of 8 bits or fewer.
        weight_bits: The stored bits of most weights.
        per_channel: Whether any weight has a scale for each channel.
    """

    kind: str
    weight_share: float
    weight_bits: int
    per_channel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """What `edgekit inspect` shows.

    Attributes:
        path: The file.
        file_bytes: Its size; ONNX weights in other files are not included.
        graph: Its structure.
        operators: How often each operator type occurs, inner graphs included.
        custom_operators: The types outside the format's own set.
        workload: What one inference computes.
        memory: Planned memory of activations.
        quantization: How far it is quantized.
        loads: Whether the engine installed here takes it.
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
    every = (*graph.operators, *graph.inner_operators)
    return ModelSummary(
        path=str(path),
        file_bytes=path.stat().st_size,
        graph=graph,
        operators=dict(Counter(operator.type for operator in every).most_common()),
        custom_operators=tuple(sorted({o.type for o in every if o.custom})),
        workload=count_workload(graph),
        memory=plan_memory(graph),
        quantization=describe_quantization(graph),
        loads=check_loads(path, graph.format),
    )


def describe_quantization(graph: Graph) -> QuantizationSummary:
    """Tell how far a model is quantized, from what its products compute with."""
    bits: Counter[int] = Counter()
    integer = total = 0
    floating = quantized = 0
    per_channel = False
    casts = {name: operator for operator in graph.operators for name in operator.outputs}
    products = {Kind.CONVOLUTION, Kind.TRANSPOSED, Kind.DENSE, Kind.RECURRENT}
    for operator in graph.operators:
        if kind_of(operator) not in products:
            continue
        for name in operator.inputs:
            source = name
            # QDQ form: a weight reaches its product through DequantizeLinear.
            through = casts.get(name)
            dequantized = through is not None and through.type in {"DequantizeLinear", "DEQUANTIZE"}
            if through is not None and dequantized:
                source = through.inputs[0]
                scale = graph.tensors.get(through.inputs[1]) if through.inputs[1:] else None
                per_channel |= bool(scale and (scale.elements or 0) > 1)
            tensor = graph.tensors.get(source)
            if tensor is None or tensor.dtype not in _FLOATS | _INTEGERS:
                continue
            small = tensor.dtype in _INTEGERS
            if tensor.constant_bytes is None:
                quantized += small or dequantized
                floating += not (small or dequantized)
            elif tensor.shape and len(tensor.shape) > 1:
                elements = tensor.elements or 0
                total += elements
                integer += elements if small else 0
                bits[element_bits(tensor.dtype)] += elements
                per_channel |= tensor.scales > 1
    share = integer / total if total else 0.0
    most = bits.most_common(1)[0][0] if bits else 32
    return QuantizationSummary(
        kind=_kind(share, most, floating=floating, quantized=quantized),
        weight_share=share,
        weight_bits=most,
        per_channel=per_channel,
    )


def _kind(share: float, bits: int, *, floating: int, quantized: int) -> str:
    if share == 0 and not quantized:
        return "float16" if bits == 16 else "float32"  # noqa: PLR2004
    if share >= _FULLY and not floating:
        return "int8"
    return "dynamic" if not quantized else "mixed"


def _spec_json(spec: TensorSpec) -> dict[str, object]:
    quantization = asdict(spec.quantization) if spec.quantization else None
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "quantization": quantization,
    }
