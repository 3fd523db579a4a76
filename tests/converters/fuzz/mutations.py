"""Damage models: bytes without regard to what they mean, and fields with regard to it.

A mutation is data, three whole numbers, so that hypothesis can make, repeat and shrink it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from hypothesis import strategies as st

INTEGERS: Final = (
    0, 1, -1, 2, 3, 5, 7, 64, 1000, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1,
    -(2**63),
)  # fmt: skip
FLOATS: Final = (0.0, -1.0, 0.5, 1e-45, 3e38, math.inf, -math.inf, math.nan, 1e9)
TEXTS: Final = (
    b"", b"x", b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"bidirectional", b"reverse", b"linear",
    b"cubic", b"reflect", b"wrap", b"align_corners", b"tf_crop_and_resize", b"CRD", b"tanh",
    b"ij,jk->ik", b"\xff\xfe", b"a" * 5000,
)  # fmt: skip
_OPERATORS: Final = sorted(
    {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
)
_MOST_ITEMS: Final = 4096


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change: where, what kind, and with what.

    Attributes:
        place: Taken modulo the number of places.
        action: Taken modulo the number of actions.
        value: Chooses among the values of the action.
    """

    place: int
    action: int
    value: int


def mutations(most: int = 6) -> st.SearchStrategy[list[Mutation]]:
    """A few changes."""
    numbers = st.integers(0, 1 << 20)
    return st.lists(st.builds(Mutation, numbers, numbers, numbers), min_size=1, max_size=most)


def mutate_bytes(content: bytes, changes: Sequence[Mutation]) -> bytes:
    """Change, cut, repeat or insert bytes, most often near both ends, where the structure lies."""
    data = bytearray(content)
    for change in changes:
        if not data:
            break
        place = change.place % len(data)
        if change.value % 3:
            place = change.place % min(len(data), 1500)
            place = place if change.value % 2 else len(data) - 1 - place
        match change.action % 8:
            case 0:
                del data[place:]
            case 1:
                del data[place : place + change.value % 16]
            case 2:
                data[place:place] = data[place : place + change.value % 64]
            case 3:
                data[place] ^= 1 << change.value % 8
            case _:
                data[place] = change.value % 256
    return bytes(data)


def mutate_model(model: Any, changes: Sequence[Mutation]) -> Any:
    """Change fields of an ONNX model into values that a hostile or broken exporter may write."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for change in changes:
        if change.action % 7 == 0:
            _change_node(copy, change)
        else:
            places = _places(copy)
            message, field = places[change.place % len(places)]
            _change_field(copy, message, field, change)
    return copy


def _change_node(model: Any, change: Mutation) -> None:
    """Another operator, another input, or one more attribute that the operator knows."""
    if not model.graph.node:
        return
    node = model.graph.node[change.place % len(model.graph.node)]
    chance = random.Random(change.value)  # noqa: S311 - repeatable damage, no secret
    names = _names(model)
    kind = change.value % 4
    if kind == 0:
        node.op_type = chance.choice(_OPERATORS)
    elif kind == 1 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(names)
    elif kind == 2:
        node.input.append(chance.choice(names))
    elif onnx.defs.has(node.op_type, ""):
        schema = onnx.defs.get_schema(node.op_type, "")
        if schema.attributes:
            name, attribute = chance.choice(sorted(schema.attributes.items()))
            found = [a for a in node.attribute if a.name == name]
            target = found[0] if found else node.attribute.add(name=name)
            _set_attribute(target, attribute.type, chance)


def _set_attribute(target: Any, kind: Any, chance: random.Random) -> None:
    kinds = onnx.AttributeProto
    target.type = int(kind)
    length = chance.randint(0, 6)
    small = (*INTEGERS[:8], *INTEGERS[:8], *INTEGERS)
    match target.type:
        case kinds.INT:
            target.i = chance.choice(small)
        case kinds.FLOAT:
            target.f = chance.choice(FLOATS)
        case kinds.STRING:
            target.s = chance.choice(TEXTS)
        case kinds.INTS:
            target.ints[:] = [chance.choice(small) for _ in range(length)]
        case kinds.FLOATS:
            target.floats[:] = [chance.choice(FLOATS) for _ in range(length)]
        case kinds.STRINGS:
            target.strings[:] = [chance.choice(TEXTS) for _ in range(length)]


def _places(message: Any) -> list[tuple[Any, Any]]:
    """Every field that is set, anywhere below a message."""
    found: list[tuple[Any, Any]] = []
    waiting = [message]
    while waiting:
        current = waiting.pop()
        for field, value in current.ListFields():
            found.append((current, field))
            if field.message_type is not None:
                waiting += list(value) if hasattr(value, "append") else [value]
    return found


def _change_field(model: Any, message: Any, field: Any, change: Mutation) -> None:
    value = getattr(message, field.name)
    chance = random.Random(change.value)  # noqa: S311 - repeatable damage, no secret
    if hasattr(value, "append"):
        _change_list(model, value, field, change, chance)
    elif field.message_type is not None or change.action % 5 == 0:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _other(model, value, field, chance))


def _change_list(
    model: Any, items: Any, field: Any, change: Mutation, chance: random.Random
) -> None:
    place = chance.randrange(len(items))
    action = change.action % 5
    if action == 0:
        del items[place]
    elif action == 1 and len(items) < _MOST_ITEMS:
        items.extend([items[place]] * chance.choice([1, 1, 1, 2, 30]))
    elif action == 2:
        kept = list(items)
        chance.shuffle(kept)
        copies = [_copy(item) for item in kept]
        del items[:]
        items.extend(copies)
    elif field.message_type is None:
        items[place] = _other(model, items[place], field, chance)


def _other(model: Any, value: Any, field: Any, chance: random.Random) -> Any:
    kinds = type(field)
    if field.type == kinds.TYPE_STRING:
        pool = _OPERATORS if field.name == "op_type" else [*_names(model), "", "x", "ai.onnx"]
        return chance.choice(pool)
    if field.type == kinds.TYPE_BYTES:
        if len(value) < 32:
            return chance.choice(TEXTS)
        return mutate_bytes(value, [Mutation(chance.randrange(len(value)), 3, 0)])
    if field.type in {kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE}:
        return chance.choice(FLOATS)
    if field.type == kinds.TYPE_ENUM:
        return chance.choice(list(field.enum_type.values_by_number))
    number = chance.choice([*INTEGERS, value + 1, value - 1, value * 2, -value])
    if field.type in {kinds.TYPE_INT32, kinds.TYPE_UINT32}:
        return max(min(number, 2**31 - 1), 0 if field.type == kinds.TYPE_UINT32 else -(2**31))
    return max(min(number, 2**63 - 1), 0 if field.type == kinds.TYPE_UINT64 else -(2**63))


def _names(model: Any) -> list[str]:
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    return sorted(names)


def _copy(item: Any) -> Any:
    if not hasattr(item, "CopyFrom"):
        return item
    copy = type(item)()
    copy.CopyFrom(item)
    return copy
