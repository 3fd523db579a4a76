"""Operators that LiteRT cannot express, whatever their inputs are, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers

if TYPE_CHECKING:
    from edgekit_converters.graph import Node

_RANDOM: Final = "it draws random numbers, which LiteRT draws from another sequence"
_TEXT: Final = "it works on strings, for which LiteRT has no such operator"
_REASONS: Final = {
    "Bernoulli": _RANDOM,
    "ImageDecoder": "it decodes image files, which belongs in front of the model",
    "Multinomial": _RANDOM,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "RegexFullMatch": _TEXT,
    "StringConcat": _TEXT,
    "StringNormalizer": _TEXT,
    "StringSplit": _TEXT,
}


@lowers(*_REASONS, dtypes={})
def refuse(build: Builder, node: Node) -> None:  # noqa: ARG001 - every lowering takes both
    """Say why; a function is registered so that none of these is taken for unknown."""
    raise RefusedNodeError(_REASONS[node.op])
