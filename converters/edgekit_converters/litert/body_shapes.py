"""The bodies of If, Loop and Scan: prepared as models of their own, with every shape inferred.

ONNX's inference gives up on what a loop carries, because a round may change its shape. Here the
shapes are followed round by round until they stay the same; a size that changes is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgekit_converters.litert.ranks import infer_further, settle_ranks
from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, bodies_of

# Each round can set another axis free, and then nothing changes any more.
_MAX_ROUNDS: Final = 10

Prepare = Callable[[Any], Any]
# A number, the name of a free size, or None.
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """The type of a tensor, and its shape where that is known."""

    element_type: int
    dims: Dims | None


def settle_bodies(model: Any, prepare: Prepare | None) -> Any:
    """Prepare the bodies of all nodes, and tell the shapes of what these nodes give.

    Args:
        model: An `onnx.ModelProto` with inferred shapes.
        prepare: Prepares a body, which it gets as a model whose inputs are all that it reads;
            None leaves the bodies as they are.

    Returns:
        A model with inferred shapes, those of values inside of bodies too.
    """
    model = settle_ranks(model)
    while True:
        scope = _Scope(model)
        told = False
        for node in model.graph.node:
            settle = _SETTLED.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
            kinds = settle(scope, node, prepare) if settle else None
            for name, kind in zip(node.output, kinds or (), strict=False):
                told |= scope.tell(name, kind)
        if not told:
            return model
        model = settle_ranks(infer_further(model))


class _Scope:
    """What is known about the values around a body."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kinds: dict[str, _Kind | None] = {
            tensor.name: _Kind(tensor.data_type, tuple(tensor.dims))
            for tensor in model.graph.initializer
        }
        graph = model.graph
        self._values = {value.name: value for value in (*graph.value_info, *graph.output)}
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = _kind_of(value)
            if kind is not None:
                self._kinds.setdefault(value.name, kind)

    def kind(self, name: str) -> _Kind | None:
        """Of a tensor whose rank is known."""
        kind = self._kinds.get(name)
        return None if kind is None or kind.dims is None else kind

    def tell(self, name: str, kind: _Kind | None) -> bool:
        """Write down what a value is, if that was open."""
        if not name or kind is None or kind.dims is None or self.kind(name) is not None:
            return False
        value = self._values.get(name)
        if value is None:
            value = self.model.graph.value_info.add()
            value.name = name
        elif not value.type.HasField("tensor_type") and value.type.WhichOneof("value"):
            return False
        _write_kind(value, kind)
        self._kinds[name] = kind
        return True


def _if(scope: _Scope, node: Any, prepare: Prepare | None) -> list[_Kind | None] | None:
    branches = [_settle(scope, body, [], prepare) for body in bodies_of(node)]
    if any(branch is None for branch in branches):
        return None
    first, second = branches
    return [_merge(one, other) for one, other in zip(first or (), second or (), strict=True)]


def _loop(scope: _Scope, node: Any, prepare: Prepare | None) -> list[_Kind | None] | None:
    from onnx import TensorProto

    (body,) = bodies_of(node)
    head = [_Kind(TensorProto.INT64, ()), _Kind(TensorProto.BOOL, ())]
    states = [scope.kind(name) for name in node.input[2:]]
    settled = _carried(scope, body, head, states, [], 1, prepare)
    if settled is None:
        return None
    carried, results = settled
    return [*carried, *(_stacked(result, None, 0) for result in results)]


def _scan(scope: _Scope, node: Any, prepare: Prepare | None) -> list[_Kind | None] | None:
    (body,) = bodies_of(node)
    attributes = {entry.name: entry for entry in node.attribute}
    count = int(attributes["num_scan_inputs"].i)
    names = list(node.input)
    axes = _axes(attributes, "scan_input_axes", count)
    sources = [scope.kind(name) for name in names[-count:]]
    slices: list[_Kind | None] = []
    rounds: int | str | None = None
    for source, axis in zip(sources, axes, strict=True):
        if source is None or source.dims is None:
            return None
        at = axis % len(source.dims)
        rounds = source.dims[at] if rounds is None else rounds
        slices.append(_Kind(source.element_type, (*source.dims[:at], *source.dims[at + 1 :])))
    states = [scope.kind(name) for name in names[:-count]]
    settled = _carried(scope, body, [], states, slices, 0, prepare)
    if settled is None:
        return None
    carried, results = settled
    places = _axes(attributes, "scan_output_axes", len(results))
    stacked = [
        _stacked(result, rounds, place) for result, place in zip(results, places, strict=True)
    ]
    return [*carried, *stacked]


_SETTLED: Final[dict[str, Callable[[_Scope, Any, Prepare | None], list[_Kind | None] | None]]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
}


def _axes(attributes: dict[str, Any], name: str, count: int) -> list[int]:
    return list(attributes[name].ints) if name in attributes else [0] * count


def _carried(
    scope: _Scope, body: Any, head: Sequence[_Kind | None], states: Sequence[_Kind | None],
    tail: Sequence[_Kind | None], skipped: int, prepare: Prepare | None,
) -> tuple[list[_Kind | None], list[_Kind | None]] | None:  # fmt: skip
    """The shapes that a loop's states have in every round, and those of the results of one.

    Args:
        scope: What is around the body.
        body: Its inputs are `head`, the states and `tail`; its outputs are `skipped` others, the
            states and the results.
        head: See `body`.
        states: As they are at first.
        tail: See `body`.
        skipped: See `body`.
        prepare: What is done to the body in the end.
    """
    if any(state is None for state in states):
        return None
    current = list(states)
    for _ in range(_MAX_ROUNDS):
        made = _settle(scope, body, [*head, *current, *tail], None)
        if made is None:
            return None
        after = made[skipped : skipped + len(current)]
        merged = [_merge(one, other) for one, other in zip(current, after, strict=True)]
        if any(kind is None or kind.dims is None for kind in merged):
            return None
        if merged == current:
            break
        current = merged
    made = _settle(scope, body, [*head, *current, *tail], prepare)
    return None if made is None else (current, made[skipped + len(current) :])


def _settle(
    scope: _Scope, body: Any, given: Sequence[_Kind | None], prepare: Prepare | None
) -> list[_Kind | None] | None:
    """Infer the shapes of a body's outputs; with `prepare`, rewrite the body in place as well."""
    from onnx import ModelProto

    captured = sorted(free_names(body))
    outer = [scope.kind(name) for name in captured]
    if any(kind is None for kind in (*given, *outer)) or len(given) > len(body.input):
        return None
    inner = ModelProto(ir_version=scope.model.ir_version)
    inner.opset_import.extend(scope.model.opset_import)
    graph = inner.graph
    graph.CopyFrom(body)
    graph.ClearField("value_info")
    for value, kind in zip(graph.input, given, strict=False):
        _write_kind(value, kind)
    for name, kind in zip(captured, outer, strict=True):
        value = graph.input.add()
        value.name = name
        _write_kind(value, kind)
    for value in graph.output:
        value.ClearField("type")
    inner = settle_bodies(infer_further(inner), None)
    if prepare is not None:
        inner = prepare(inner)
    # Inference passes over outputs that are inputs or constants.
    there = _Scope(inner)
    kinds = [_kind_of(value) or there.kind(value.name) for value in inner.graph.output]
    for value, kind in zip(inner.graph.output, kinds, strict=True):
        if kind is not None and kind.dims is not None:
            _write_kind(value, kind)
    if prepare is not None:
        own = len(body.input)
        name = body.name
        body.CopyFrom(inner.graph)
        body.name = name
        del body.input[own:]
    return kinds


def free_names(graph: Any) -> set[str]:
    """What a graph and the bodies in it read from outside."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made.update(name for node in graph.node for name in node.output)
    read = {value.name for value in graph.output}
    for node in graph.node:
        read.update(filter(None, node.input))
        for body in bodies_of(node):
            read |= free_names(body)
    return read - made


def _kind_of(value: Any) -> _Kind | None:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.elem_type:
        return None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return _Kind(tensor.elem_type, None)
    return _Kind(
        tensor.elem_type,
        tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in tensor.shape.dim
        ),
    )


def _write_kind(value: Any, kind: _Kind | None) -> None:
    value.ClearField("type")
    if kind is None or kind.dims is None:
        return
    tensor = value.type.tensor_type
    tensor.elem_type = kind.element_type
    tensor.shape.SetInParent()
    for size in kind.dims:
        dim = tensor.shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None:
            dim.dim_value = size


def _merge(first: _Kind | None, second: _Kind | None) -> _Kind | None:
    """The type that holds for both: a size that differs is free."""
    if first is None or second is None or first.element_type != second.element_type:
        return None
    if first.dims is None or second.dims is None or len(first.dims) != len(second.dims):
        return None
    return _Kind(
        first.element_type,
        tuple(
            one if one == other else None
            for one, other in zip(first.dims, second.dims, strict=True)
        ),
    )


def _stacked(kind: _Kind | None, rounds: int | str | None, axis: int) -> _Kind | None:
    """What the results of all rounds are together."""
    if kind is None or kind.dims is None:
        return None
    at = axis % (len(kind.dims) + 1)
    return _Kind(kind.element_type, (*kind.dims[:at], rounds, *kind.dims[at:]))
