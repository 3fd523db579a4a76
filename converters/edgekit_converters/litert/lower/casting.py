"""Changes of the element type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import ANYTHING

if TYPE_CHECKING:
    from edgekit_converters.graph import Node


@lowers("Cast", layout=follow, dtypes={"T1": ANYTHING, "T2": ANYTHING})
def lower_cast(build: Builder, node: Node) -> None:
    """CAST, to the type that the graph gives the output."""
    steps = Steps(build, node)
    steps.finish(steps.input())
