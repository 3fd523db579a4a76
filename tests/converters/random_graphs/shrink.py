"""Make a model that shows a fault smaller, for as long as it shows it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

from converters.random_graphs.draft import Draft

Shows = Callable[[Draft], bool]


def shrink(draft: Draft, shows: Shows) -> Draft:
    """A part of a draft that shows a fault as well.

    Args:
        draft: It shows the fault; it is not changed.
        shows: Whether a draft shows it.
    """
    draft = _with_outputs(draft, shows)
    for name in reversed(_made(draft)):
        if name in draft.outputs or name in draft.inputs or name not in _made(draft):
            continue
        smaller = part_of(draft, draft.outputs, {name})
        if shows(smaller):
            draft = smaller
    return draft


def _with_outputs(draft: Draft, shows: Shows) -> Draft:
    """With the first value alone as output that is at fault; with fewer where none is alone."""
    for name in _made(draft):
        smaller = part_of(draft, [name], ())
        if shows(smaller):
            return smaller
    for name in list(draft.outputs):
        smaller = part_of(draft, [other for other in draft.outputs if other != name], ())
        if smaller.outputs and shows(smaller):
            draft = smaller
    return draft


def part_of(draft: Draft, outputs: list[str], given: Collection[str]) -> Draft:
    """What a draft needs for some outputs, where some values are given as inputs."""
    part = copy.copy(draft)
    part.outputs = list(outputs)
    needed, nodes = set(outputs), []
    for node in reversed(draft.nodes):
        if needed.intersection(node.output) - set(given):
            nodes.append(node)
            needed.update(_reads(node))
    part.nodes = nodes[::-1]
    made = {name for node in part.nodes for name in node.output}
    part.inputs = {n: shape for n, shape in draft.inputs.items() if n in needed}
    part.inputs.update({n: _declared(draft, n) for n in given if n in needed and n not in made})
    part.constants = {n: array for n, array in draft.constants.items() if n in needed}
    return part


def _declared(draft: Draft, name: str) -> tuple[int | str, ...]:
    """A shape as an input has it: free sizes by the name of what has these sizes."""
    sizes = list(zip(*(array.shape for array in draft.values[name]), strict=True))
    names = {sizes: name for name, sizes in draft.sizes.items()}
    return tuple(
        int(each[0]) if len(set(each)) == 1 else names.get(each, f"free{axis}")
        for axis, each in enumerate(sizes)
    )


def _made(draft: Draft) -> list[str]:
    return [name for node in draft.nodes for name in node.output if name]


def _reads(node: Any) -> list[str]:
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else ():
            names += _reads(inner)
    return names
