"""Which nodes of a model must go on computing in float32, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgekit_converters.half.limits import misfit
from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, bodies_of, opset_of

# onnxruntime takes float16 for these and fails as it runs (1.32).
_RUNTIME_LACKS: Final = frozenset({"ScatterElements", "ScatterND"})
# The type of what they compute stands in an attribute, or is float32 where there is none.
_TYPED_BY_ATTRIBUTE: Final = frozenset({
    "Bernoulli", "BitCast", "BlackmanWindow", "Cast", "EyeLike", "HammingWindow", "HannWindow",
    "MelWeightMatrix", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
_SHOWN: Final = 5
_MATRIX: Final = 2
_SIZES: Final = frozenset({"Shape", "Size"})
# Behind a number that float16 cannot hold, its traces must not be rounded away at once: the
# root of a sum with an epsilon, the softmax of masked scores.
_ARITHMETIC: Final = frozenset({
    "Add", "Clip", "Div", "Exp", "Log", "LogSoftmax", "Max", "Min", "Mul", "Neg", "Pow",
    "Reciprocal", "Softmax", "Sqrt", "Sub", "Where",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptNodes:
    """The nodes that stay in float32.

    Attributes:
        names: Of the nodes; each node of the model has a name of its own.
        computing: Those of them that read or make floats, in the model's order.
        warnings: A sentence for each reason that the reader may want to know.
    """

    names: frozenset[str]
    computing: tuple[str, ...]
    warnings: tuple[str, ...]


def nodes_to_keep(
    model: Any,
    types: Mapping[str, int],
    *,
    known_failing: Iterable[str] = (),
    wanted: Collection[str] = (),
) -> KeptNodes:
    """Choose the nodes of the outermost graph that stay in float32.

    Args:
        model: Its nodes have unique names.
        types: The element type of every value.
        known_failing: Operator types that the tool at hand is known to convert wrongly.
        wanted: Nodes that are to stay so in any case, by their names or their outputs'.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    opset = opset_of(model)
    failing = frozenset(known_failing)
    names = {
        node.name
        for node in graph.node
        if node.op_type in failing or _must_stay(node, types, opset)
    }
    names |= {n.name for n in graph.node if n.name in wanted or n.output[0] in wanted}
    names |= {node.name for node in _size_arithmetic(graph)}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in set(node.input):
            readers.setdefault(name, []).append(node)
    names |= {node.name for node in graph.node if _crashes(node, readers)}
    warnings = []
    for tensor, nodes in _float_constants(graph, readers):
        reason = misfit(numpy_helper.to_array(tensor))
        if reason:
            chosen = set(_behind(nodes, readers.get))
            names |= chosen
            label = tensor.name or f"the constant of {nodes[0].name}"
            shown = ", ".join(sorted(chosen)[:_SHOWN]) + (", …" if len(chosen) > _SHOWN else "")
            warnings.append(f"{label!r} stays float32, with {shown}: {reason}")
    return KeptNodes(
        names=frozenset(names),
        computing=tuple(
            node.name
            for node in graph.node
            if node.name in names
            and (
                bodies_of(node)
                or any(types.get(n) == TensorProto.FLOAT for n in (*node.input, *node.output))
            )
        ),
        warnings=tuple(warnings),
    )


def _float_constants(
    graph: Any, readers: Mapping[str, list[Any]]
) -> Iterator[tuple[Any, list[Any]]]:
    """Every float32 constant of the outermost graph, with the nodes that read or hold it."""
    from onnx import TensorProto

    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in readers:
            yield tensor, readers[tensor.name]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                yield attribute.t, [node]


def _must_stay(node: Any, types: Mapping[str, int], opset: int) -> bool:
    from onnx import TensorProto

    # onnxconverter-common cannot convert bodies: it loses what they read from outside.
    if node.domain not in STANDARD_DOMAINS or bodies_of(node):
        return True
    if node.op_type in _TYPED_BY_ATTRIBUTE | _RUNTIME_LACKS:
        values = (*node.input, *node.output)
        return any(types.get(name) == TensorProto.FLOAT for name in values)
    return _lacks_half(node, types, opset)


def _crashes(node: Any, readers: Mapping[str, list[Any]]) -> bool:
    """Whether onnxruntime (1.32) dies of this Transpose: one of the batch, before a MatMul.

    Its fusion of the two overlooks the cast that it puts between them for float16.
    """
    if node.op_type != "Transpose" or node.domain not in STANDARD_DOMAINS:
        return False
    perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    moves_batch = len(perm) > _MATRIX and perm[0] != 0
    return moves_batch and any(n.op_type == "MatMul" for n in readers.get(node.output[0], ()))


def _lacks_half(node: Any, types: Mapping[str, int], opset: int) -> bool:
    """Whether the operator's definition has float32 for one of its operands and no float16."""
    from onnx import TensorProto, defs

    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return True
    for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for position, name in enumerate(names):
            if types.get(name) != TensorProto.FLOAT:
                continue
            # The last one may be variadic.
            allowed = formal[min(position, len(formal) - 1)].types
            if "tensor(float16)" not in allowed:
                return True
    return False


def _size_arithmetic(graph: Any) -> Iterator[Any]:
    """Nodes that compute sizes: float16 counts in ones up to 2048 only."""
    fixed = {tensor.name for tensor in graph.initializer} | {""}
    sizes: set[str] = set()
    for node in graph.node:
        from_sizes = node.op_type in _SIZES or (
            any(name in sizes for name in node.input)
            and all(name in sizes or name in fixed for name in node.input)
        )
        if from_sizes and not bodies_of(node):
            sizes.update(node.output)
            if node.op_type not in _SIZES:
                yield node


def _behind(nodes: list[Any], readers: Callable[[str], list[Any] | None]) -> Iterator[str]:
    """These nodes, and the plain arithmetic that follows them."""
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        yield node.name
        for name in node.output:
            waiting += [n for n in readers(name) or [] if n.op_type in _ARITHMETIC]
