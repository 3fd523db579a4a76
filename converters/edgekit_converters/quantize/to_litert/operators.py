"""What LiteRT's kernels ask of scales, operator by operator: `operators.toml` as data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

Release = tuple[int, ...]


class Kind(StrEnum):
    """How the scales of an operator's inputs and outputs hang together."""

    PRODUCT = "product"
    FREE = "free"
    MOVED = "moved"
    JOINED = "joined"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An operator that has integer kernels; see `operators.toml`.

    Attributes:
        kind: How its scales hang together.
        inputs: The positions of its quantized inputs, empty for all.
        weight: The position of the weights, None where it has none.
        bias: Likewise of the bias.
        axis: Where the weights have their channels.
        scale: Of the output where that is fixed, with 8 and with 16 bits.
        zero: Likewise its zero point.
        finest: The smallest scale of the output with 8 and with 16 bits, as a share of the
            inputs' largest, times the weights' largest; empty where it may be any.
        version: Of the operator with 8 and with 16 bits; with 8 alone where 16 has no kernel.
        runtime: The first release that has these versions.
    """

    kind: Kind
    inputs: tuple[int, ...] = (0,)
    weight: int | None = None
    bias: int | None = None
    axis: int = 0
    scale: tuple[float, ...] = ()
    zero: tuple[int, ...] = ()
    finest: tuple[float, ...] = ()
    version: tuple[int, ...]
    runtime: tuple[Release, ...]

    def has(self, bits: int) -> bool:
        """Whether there is a kernel for this width."""
        return len(self.version) > _place(bits)

    def versions(self, bits: int) -> tuple[int, Release]:
        """The version to name, and the release that it needs."""
        return self.version[_place(bits)], self.runtime[_place(bits)]

    def least_share(self, bits: int) -> float:
        """How fine the output's scale may be, by the inputs'."""
        return self.finest[_place(bits)] if self.finest else 0.0

    def fixed(self, bits: int) -> tuple[float, int]:
        """The scale and the zero point that the output has."""
        return self.scale[_place(bits)], self.zero[_place(bits)]


@cache
def rules() -> Mapping[str, Rule]:
    """All operators with integer kernels, by the schema's names."""
    text = resources.files("edgekit_converters.quantize.to_litert").joinpath("operators.toml")
    return {
        code: Rule(
            kind=Kind(entry["kind"]),
            inputs=tuple(entry.get("inputs", (0,))),
            weight=entry.get("weight"),
            bias=entry.get("bias"),
            axis=entry.get("axis", 0),
            scale=tuple(entry.get("scale", ())),
            zero=tuple(entry.get("zero", ())),
            finest=tuple(entry.get("finest", ())),
            version=tuple(entry["version"]),
            runtime=tuple(release(one) for one in entry["runtime"]),
        )
        for code, entry in tomllib.loads(text.read_text("utf-8")).items()
    }


def release(text: str) -> Release:
    """A version in words as numbers that can be compared."""
    return tuple(int(part) for part in text.split("."))


def _place(bits: int) -> int:
    return 1 if bits > 8 else 0  # noqa: PLR2004 - the table has 8 and 16
