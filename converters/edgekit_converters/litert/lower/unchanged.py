"""Operators that hand on their input: Identity, and Dropout where nothing is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node


@lowers("Identity", layout=follow, dtypes=ANYTHING)
def lower_identity(build: Builder, node: Node) -> None:
    """Nothing to do: another name for the same tensor."""
    build.alias(node, build.input(node, order=build.layout.stored))


@lowers("Dropout", layout=follow, dtypes=ANYTHING)
def lower_dropout(build: Builder, node: Node) -> None:
    """Nothing is dropped outside of training, nor at a ratio of zero: the mask is all true."""
    if node.input(2):
        training, ratio = build.known(node, 2), build.known(node, 1)
        if training is None:
            raise RefusedNodeError(f"whether it trains is computed, by {node.input(2)!r}")
        idle = not training.any() or (ratio is not None and not ratio.any())
        if not idle:
            raise RefusedNodeError("it trains: what it drops is random")
    source = build.input(node, order=build.layout.stored)
    build.alias(node, source)
    steps = Steps(build, node)
    steps.finish(steps.like(source, 1.0, "bool"), 1)
