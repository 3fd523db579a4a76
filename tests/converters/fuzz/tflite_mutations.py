"""Change fields of a `.tflite` file into values that a hostile or broken converter may write."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converters.fuzz.mutations import FLOATS, INTEGERS, TEXTS, Mutation
from edgekit_converters.litert.emit import pack


def mutate_tflite(content: bytes, changes: Sequence[Mutation]) -> bytes:
    """The file with some of its fields changed; as it was where they cannot be written."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for change in changes:
        places = list(_places(model))
        owner, name = places[change.place % len(places)]
        chance = random.Random(change.value)  # noqa: S311 - repeatable damage, no secret
        value = getattr(owner, name)
        setattr(owner, name, _other(value, chance, change.action))
    try:
        return pack(model)
    except Exception:  # noqa: BLE001 - whatever a number outside its type raises
        return content


def _places(table: Any) -> Iterator[tuple[Any, str]]:
    """Every field that is set, anywhere below a table."""
    for name, value in vars(table).items():
        if value is None:
            continue
        yield table, name
        items = value if isinstance(value, list) else [value]
        for item in items:
            if type(item).__name__.endswith("T") and hasattr(item, "Pack"):
                yield from _places(item)


def _other(value: Any, chance: random.Random, action: int) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([*INTEGERS, value + 1, value - 1, value * 2, -value])
    if isinstance(value, float):
        return chance.choice(FLOATS)
    if isinstance(value, bytes | str):
        return chance.choice(TEXTS)
    if isinstance(value, list | np.ndarray):
        return _other_list(list(value), chance, action)
    return None


def _other_list(items: list[Any], chance: random.Random, action: int) -> list[Any] | None:
    if not items or action % 6 == 0:
        return None
    place = chance.randrange(len(items))
    kind = action % 6
    if kind == 1:
        del items[place]
    elif kind == 2:
        items.insert(place, items[place])
    elif kind == 3:
        chance.shuffle(items)
    elif isinstance(items[place], int | float | np.number):
        number = items[place].item() if isinstance(items[place], np.number) else items[place]
        items[place] = _other(number, chance, action)
    return items
