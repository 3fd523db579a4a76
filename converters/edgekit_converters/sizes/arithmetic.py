"""Arithmetic on sizes, as exporters write it in nodes: which values a small integer tensor has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.sizes.size import Size, Sizes, number, product

if TYPE_CHECKING:
    from numpy.typing import NDArray

# No list of sizes is longer; constants beyond this are data.
MAX_ITEMS: Final = 64


@dataclass(frozen=True, slots=True)
class Values:
    """The elements of an integer tensor of at most one axis.

    Attributes:
        items: One entry an element, None where it is unknown.
        scalar: Whether the tensor has no axis.
    """

    items: Sizes
    scalar: bool = False


class SizeReader(Mapping[str, Values]):
    """What is known about the small integer tensors of a graph, by name."""

    def __init__(self) -> None:
        self._known: dict[str, Values] = {}

    def __getitem__(self, name: str) -> Values:
        return self._known[name]

    def __iter__(self) -> Any:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def learn_constant(self, name: str, array: NDArray[Any]) -> None:
        """Take note of a constant; those that are no sizes are passed over."""
        if array.dtype.kind in "iub" and array.ndim <= 1 and array.size <= MAX_ITEMS:
            items = tuple(number(item) for item in array.reshape(-1))
            self._known[name] = Values(items, scalar=array.ndim == 0)

    def learn(self, node: Any, shapes: Mapping[str, Sizes]) -> None:
        """Take note of what a node computes, where that can be said."""
        rule = _RULES.get(node.op_type)
        if rule is None or node.domain not in STANDARD_DOMAINS:
            return
        if node.op_type in {"Shape", "Size"}:
            shape = shapes.get(node.input[0])
            found = None if shape is None else rule(node, [Values(shape)])
        else:
            inputs = [self._known.get(name) if name else None for name in node.input]
            if not inputs or inputs[0] is None:
                return
            found = rule(node, inputs)
        if found is not None and len(found.items) <= MAX_ITEMS:
            self._known[node.output[0]] = found


Inputs = list[Values | None]
_Rule = Callable[[Any, Any], Values | None]


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _shape(node: Any, inputs: Inputs) -> Values | None:
    (shape,) = inputs
    assert shape is not None  # noqa: S101 - the caller knows it
    rank = len(shape.items)
    bounds = [_attribute(node, "start", 0), _attribute(node, "end", rank)]
    return Values(shape.items[slice(*bounds)])


def _size(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
    (shape,) = inputs
    return None if shape is None else Values((product(shape.items),), scalar=True)


def _gather(node: Any, inputs: Inputs) -> Values | None:
    source, chosen = inputs
    if (
        source is None
        or chosen is None
        or source.scalar
        or _attribute(node, "axis", 0) not in {0, -1}
    ):
        return None
    indices = _integers(chosen)
    if indices is None or any(not -len(source.items) <= at < len(source.items) for at in indices):
        return None
    return Values(tuple(source.items[at] for at in indices), scalar=chosen.scalar)


def _slice(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
    source, *bounds = inputs
    if source is None or source.scalar or len(bounds) < 2:  # noqa: PLR2004
        return None
    given = [None if values is None else _integers(values) for values in bounds]
    steps = given[3] if len(given) > 3 else [1]  # noqa: PLR2004
    if len(given) > 2 and given[2] not in (None, [0], [-1]):  # noqa: PLR2004
        return None
    if not given[0] or not given[1] or not steps or len(given[0]) != 1 or not steps[0]:
        return None
    return Values(source.items[given[0][0] : given[1][0] : steps[0]])


def _concat(node: Any, inputs: Inputs) -> Values | None:
    if _attribute(node, "axis", 0) not in {0, -1}:
        return None
    # An unknown part has an unknown length, and so nothing behind it has a place.
    if any(part is None or part.scalar for part in inputs):
        return None
    return Values(tuple(item for part in inputs if part is not None for item in part.items))


def _unsqueeze(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
    source = inputs[0]
    return Values(source.items) if source is not None and source.scalar else None


def _squeeze(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
    source = inputs[0]
    if source is None or len(source.items) != 1:
        return None
    return Values(source.items, scalar=True)


def _reshape(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
    source, target = inputs
    if source is None or target is None or target.scalar or len(target.items) > 1:
        return None
    return Values(source.items, scalar=not target.items)


def _same(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
    return inputs[0]


def _cast(node: Any, inputs: Inputs) -> Values | None:
    from onnx import TensorProto

    target = _attribute(node, "to", 0)
    return inputs[0] if target in {TensorProto.INT64, TensorProto.INT32} else None


def _constant_of_shape(node: Any, inputs: Inputs) -> Values | None:
    from onnx import numpy_helper

    lengths = None if inputs[0] is None else _integers(inputs[0])
    if lengths is None or len(lengths) > 1 or (lengths and lengths[0] > MAX_ITEMS):
        return None
    tensors = [numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]
    value = tensors[0] if tensors else np.zeros(1, np.float32)
    if value.dtype.kind not in "iu":
        return None
    return Values((number(value.reshape(-1)[0]),) * (lengths[0] if lengths else 1), not lengths)


def _times(first: Size, second: Size) -> Size | None:
    return first * second


def _plus(first: Size, second: Size) -> Size | None:
    if first.factor == 0 or second.factor == 0:
        return second if first.factor == 0 else first
    if first.free != second.free:
        return None
    total = first.factor + second.factor
    return Size(total, first.free if total else ())


def _minus(first: Size, second: Size) -> Size | None:
    return _plus(first, Size(-second.factor, second.free))


def _over(first: Size, second: Size) -> Size | None:
    if first.known and second.known and second.factor > 0 and first.factor >= 0:
        return number(first.factor // second.factor)
    return first.over(second)


def _modulo(first: Size, second: Size) -> Size | None:
    if not second.known or second.factor <= 0:
        return None
    if first.known and first.factor >= 0:
        return number(first.factor % second.factor)
    return number(0) if first.factor % second.factor == 0 else None


def _extremum(choose: Callable[..., int]) -> Callable[[Size, Size], Size | None]:
    def of(first: Size, second: Size) -> Size | None:
        if first.known and second.known:
            return number(choose(first.factor, second.factor))
        return first if first == second else None

    return of


def _equal(first: Size, second: Size) -> Size | None:
    if first == second:
        return number(1)
    if first.known and second.known:
        return number(0)
    # No size is below zero.
    for one, other in ((first, second), (second, first)):
        if one.known and one.factor < 0 < other.factor:
            return number(0)
    return None


def _elementwise(combine: Callable[[Size, Size], Size | None]) -> _Rule:
    def rule(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
        if len(inputs) != 2 or inputs[0] is None or inputs[1] is None:  # noqa: PLR2004
            return None
        pairs = _aligned(inputs[0], inputs[1])
        if pairs is None:
            return None
        items = tuple(
            None if first is None or second is None else combine(first, second)
            for first, second in pairs
        )
        return Values(items, scalar=inputs[0].scalar and inputs[1].scalar)

    return rule


def _where(node: Any, inputs: Inputs) -> Values | None:  # noqa: ARG001
    condition, first, second = inputs
    if condition is None or first is None or second is None:
        return None
    length = max(len(values.items) for values in (condition, first, second))
    if any(len(values.items) not in {1, length} for values in (condition, first, second)):
        return None
    chosen, one, other = (
        values.items * (length if len(values.items) == 1 else 1)
        for values in (condition, first, second)
    )
    items = tuple(
        None if decision is None else (yes if decision.factor else no)
        for decision, yes, no in zip(chosen, one, other, strict=True)
    )
    return Values(items, scalar=all(v.scalar for v in (condition, first, second)))


def _product_of_all(node: Any, inputs: Inputs) -> Values | None:
    source = inputs[0]
    if source is None:
        return None
    return Values((product(source.items),), scalar=not _attribute(node, "keepdims", 1))


def _aligned(first: Values, second: Values) -> list[tuple[Size | None, Size | None]] | None:
    length = max(len(first.items), len(second.items))
    if {len(first.items), len(second.items)} - {1, length}:
        return None
    one, other = (
        values.items * (length if len(values.items) == 1 else 1) for values in (first, second)
    )
    return list(zip(one, other, strict=True))


def _integers(values: Values) -> list[int] | None:
    if any(item is None or not item.known for item in values.items):
        return None
    return [item.factor for item in values.items if item is not None]


_RULES: Final[Mapping[str, _Rule]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Identity": _same,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Mul": _elementwise(_times),
    "Add": _elementwise(_plus),
    "Sub": _elementwise(_minus),
    "Div": _elementwise(_over),
    "Mod": _elementwise(_modulo),
    "Min": _elementwise(_extremum(min)),
    "Max": _elementwise(_extremum(max)),
    "Equal": _elementwise(_equal),
    "Where": _where,
    "ReduceProd": _product_of_all,
}
