"""How the values of a model may be called: what exporters write, and what could be mistaken."""

from __future__ import annotations

from typing import Final

_SUFFIXES: Final = (
    "onnx_order", "axes_0231", "shape", "axes", "float32", "stored", "copy", "wide", "bias",
    "scaled", "empty", "constant",
)  # fmt: skip


def plain(kind: str, number: int) -> str:
    return f"{kind}{number}"


def exported(kind: str, number: int) -> str:
    return f"/block.{number % 3}/{kind}/Layer_{number}_output_0"


def with_signs(kind: str, number: int) -> str:
    return f"{kind} {number}:0;a=ü"


def like_made_ones(kind: str, number: int) -> str:
    """Names that a converter might give to what it makes itself."""
    return f"v{number // 2}/{_SUFFIXES[number % len(_SUFFIXES)]}"


def numbers(kind: str, number: int) -> str:
    return str(number)


NAMINGS: Final = (plain, plain, exported, with_signs, like_made_ones, numbers)
