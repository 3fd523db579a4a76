"""Lists of tensors, and tensors that may be missing: LiteRT has neither.

Those that the conversion can see through are gone before anything is lowered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers

if TYPE_CHECKING:
    from edgekit_converters.graph import Node


@lowers(
    "ConcatFromSequence",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SplitToSequence",
    dtypes={},
)
def lower_sequence(build: Builder, node: Node) -> None:  # noqa: ARG001 - as all lowerings
    """Nothing is left to do but to say why."""
    raise RefusedNodeError(
        "LiteRT has no lists of tensors, and how long this one is depends on the input"
    )


@lowers("Optional", "OptionalGetElement", "OptionalHasElement", dtypes={})
def lower_optional(build: Builder, node: Node) -> None:  # noqa: ARG001 - as all lowerings
    """Nothing is left to do but to say why."""
    raise RefusedNodeError(
        "LiteRT has no tensors that may be missing, and whether this one is depends on the input"
    )
