"""Grow a random model from a seed: inputs, then steps of all kinds, then a choice of outputs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from converters.random_graphs.draft import Draft
from converters.random_graphs.engines import Unfit

Step = Callable[[Draft, str], list[str]]

FAMILIES: Final = (
    "elementwise", "moving", "indexing", "reducing", "windows", "products", "quantized", "states",
    "blocks", "near_misses",
)  # fmt: skip
_TRIES: Final = 60
_MOST_STEPS: Final = 6
_REACH: Final = 3


def steps_of(family: str) -> tuple[Step, ...]:
    """The steps of a family: the functions that its module lists."""
    steps: tuple[Step, ...] = import_module(f"converters.random_graphs.{family}").STEPS
    return steps


def grow(seed: int, *, families: tuple[str, ...] = (), opset: int | None = None) -> Draft:
    """The model of a seed.

    Args:
        seed: Any number; one seed gives one model.
        families: Of these alone; by default a choice of them that differs from seed to seed.
        opset: Of the model, by default another one each time.
    """
    draft = Draft(seed, opset)
    chosen = families or tuple(draft.pick(FAMILIES) for _ in range(draft.between(1, 4)))
    _begin(draft, chosen)
    current = list(draft.values)
    wanted = draft.between(1, _MOST_STEPS)
    for _ in range(_TRIES):
        if wanted <= 0:
            break
        mark = draft.mark()
        step = draft.pick(steps_of(draft.pick(chosen)))
        source = draft.pick(current[-_REACH:] if draft.chance(0.8) else current)
        try:
            current += step(draft, source)
            wanted -= 1
        except (Unfit, ValueError):
            # A ValueError: no number is below a size of nought.
            draft.back_to(mark)
    _choose_outputs(draft, current)
    return draft


def _begin(draft: Draft, families: tuple[str, ...]) -> None:
    """The first inputs: an image, a sequence, a table, or anything."""
    batch: int | str = draft.pick(["batch", "batch", 1, 2])
    kind = draft.pick(["image"] if "windows" in families else ["image", "image", "sequence", "any"])
    if kind == "image":
        channels = int(draft.pick([1, 2, 3, 4, 6, 8]))
        sides = draft.pick([("high", "wide"), (6, 6), (8, 5), (7, 8), (4, 4)])
        draft.input([batch, channels, *sides])
    elif kind == "sequence":
        steps = draft.pick(["steps", 3, 5])
        draft.input([batch, steps, draft.pick([2, 4, 6])])
    else:
        dtype = draft.pick(
            ["float32"] * 4 + ["float16", "float64", "int32", "int64", "int8", "uint8", "int16",
            "uint16", "uint32", "uint64", "bool"]
        )  # fmt: skip
        rank = int(draft.pick([0, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7]))
        sizes: list[int | str] = [int(draft.between(1, 4)) for _ in range(rank)]
        if rank and draft.chance(0.05):
            sizes[draft.between(0, rank - 1)] = 0
            draft.may_be_empty = True
        elif rank and draft.chance(0.4):
            sizes[0] = "batch"
        draft.input(sizes, dtype)


def _choose_outputs(draft: Draft, current: list[str]) -> None:
    """All that nobody reads, and at times what is read too, an input or a constant."""
    read = {name for node in draft.nodes for name in node.input}
    made = [name for name in current if name not in draft.inputs]
    leaves = [name for name in made if name not in read]
    draft.outputs = list(dict.fromkeys(leaves or made))
    for names, probability in (
        (made, 0.2),
        (list(draft.inputs), 0.06),
        (list(draft.constants), 0.03),
    ):
        if names and draft.chance(probability):
            extra = draft.pick(names)
            if extra not in draft.outputs:
                draft.outputs.insert(draft.between(0, len(draft.outputs)), extra)
    if len(draft.outputs) > 1 and draft.chance(0.1):
        # A step's other outputs are left unused.
        draft.outputs.pop()
