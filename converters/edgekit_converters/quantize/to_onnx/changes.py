"""What was changed in a model, so that it can be judged and told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What quantization did to a model.

    Attributes:
        computing: How many nodes compute in integers.
        stored: How many constants are stored as integers.
        short: How many of them with 4 bits.
        in_float: Names of the nodes that compute in float although the scheme is static, and
            that have weights; those that the plan keeps in float are not among them.
    """

    computing: int
    stored: int
    short: int = 0
    in_float: tuple[str, ...] = ()
