"""Which function recognises which pattern, by the operator that its search starts from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph, Rewrite

Recogniser = Callable[["PatternGraph", Any], "Rewrite | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One pattern.

    Attributes:
        name: Of its function.
        recognise: Given a graph and a node, what to write instead, or None.
        opset: The oldest opset that has the operators which the rewrite writes.
        late: It is only looked for once all others are found.
        target: The runtime for which alone it pays, "" where it does for all.
    """

    name: str
    recognise: Recogniser
    opset: int
    late: bool
    target: str


_REGISTRY: dict[str, list[Pattern]] = {}


def recognises(
    *operators: str, opset: int = 13, late: bool = False, target: str = ""
) -> Callable[[Recogniser], Recogniser]:
    """Register a function as a pattern whose search starts from these operators."""

    def register(function: Recogniser) -> Recogniser:
        pattern = Pattern(
            name=function.__name__, recognise=function, opset=opset, late=late, target=target
        )
        for operator in operators:
            _REGISTRY.setdefault(operator, []).append(pattern)
        return function

    return register


def patterns_of(
    *, late: bool, without: Collection[str] = (), target: str = ""
) -> dict[str, list[Pattern]]:
    """The patterns of a phase by the operator that their search starts from, the early ones too."""
    # The patterns register themselves.
    import edgekit_converters.patterns.catalogue  # noqa: F401

    chosen = {
        operator: [
            pattern
            for pattern in patterns
            if (late or not pattern.late)
            and pattern.name not in without
            and pattern.target == target
        ]
        for operator, patterns in _REGISTRY.items()
    }
    return {operator: patterns for operator, patterns in chosen.items() if patterns}
