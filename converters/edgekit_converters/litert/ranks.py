"""Ranks that ONNX's inference leaves open where axes or shapes are computed, but not how many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.onnx_source.skeleton import inferable, skeleton, take_shapes

_REDUCTIONS: Final = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip


def settle_ranks(model: Any) -> Any:
    """Infer the shapes behind nodes whose rank is known although their sizes are not.

    Args:
        model: An `onnx.ModelProto` with inferred shapes; it is told more of them.

    Returns:
        The model.
    """
    while _tell_ranks(model.graph):
        infer_further(model)
    return model


def infer_further(model: Any) -> Any:
    """Infer, in place, what follows from the shapes that are known by now; return the model."""
    from onnx import shape_inference

    bare = inferable(skeleton(model))
    take_shapes(shape_inference.infer_shapes(bare, data_prop=True), model)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A node with the ranks of its inputs, and the lengths of those that are vectors."""

    node: Any
    ranks: list[int | None]
    lengths: list[int | None]

    def rank(self, position: int) -> int | None:
        return self.ranks[position] if position < len(self.ranks) else None

    def length(self, position: int) -> int | None:
        return self.lengths[position] if position < len(self.lengths) else None

    def attribute(self, name: str, default: int) -> int:
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)


def _tell_ranks(graph: Any) -> bool:
    """Write down, in place, which ranks follow from the known ones; whether there are any."""
    shapes: dict[str, list[int | None]] = {
        tensor.name: list(tensor.dims) for tensor in graph.initializer
    }
    told = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    for name, value in told.items():
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            dims = kind.shape.dim
            shapes[name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    changed = False
    for node in graph.node:
        rule = _RULES.get(node.op_type)
        open_values = [told[name] for name in node.output if name in told and name not in shapes]
        if rule is None or node.domain not in STANDARD_DOMAINS or not open_values:
            continue
        known = [shapes.get(source) for source in node.input]
        rank = rule(
            _Call(
                node=node,
                ranks=[None if shape is None else len(shape) for shape in known],
                lengths=[shape[0] if shape and len(shape) == 1 else None for shape in known],
            )
        )
        if rank is None or rank < 0:
            continue
        for value in open_values:
            if value.type.tensor_type.elem_type:
                shape = value.type.tensor_type.shape
                shape.SetInParent()
                for _ in range(rank):
                    shape.dim.add()
                shapes[value.name] = [None] * rank
                changed = True
    return changed


def _same(call: _Call) -> int | None:
    return call.rank(0)


def _of_target(call: _Call) -> int | None:
    return call.length(1)


def _of_sizes(call: _Call) -> int | None:
    return call.length(0)


def _widened(call: _Call) -> int | None:
    rank, length = call.rank(0), call.length(1)
    return None if rank is None or length is None else max(rank, length)


def _squeezed(call: _Call) -> int | None:
    rank, length = call.rank(0), call.length(1)
    return None if rank is None or length is None else rank - length


def _unsqueezed(call: _Call) -> int | None:
    rank, length = call.rank(0), call.length(1)
    return None if rank is None or length is None else rank + length


def _reduced(call: _Call) -> int | None:
    if call.attribute("keepdims", 1):
        return call.rank(0)
    # No axes would mean all of them, or none.
    return _squeezed(call) if call.length(1) else None


_RULES: Final[Mapping[str, Callable[[_Call], int | None]]] = {
    "ConstantOfShape": _of_sizes,
    "Expand": _widened,
    "Reshape": _of_target,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(("Pad", "Slice", "Split", "Tile"), _same),
}
