"""How much accuracy may be lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit_converters.accuracy.metric import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyBudget:
    """The largest drop that is allowed.

    Attributes:
        drop: As a share of one: of shares, points; of errors, a part of the float model's.
    """

    drop: float

    @classmethod
    def parse(cls, text: str) -> AccuracyBudget:
        """Read "0.5%" or "0.005".

        Raises:
            UsageError: If it is neither, or not between nothing and everything.
        """
        stripped = text.strip()
        try:
            value = float(stripped.removesuffix("%"))
        except ValueError:
            value = math.nan
        drop = value / 100 if stripped.endswith("%") else value
        if not 0 <= drop <= 1:
            raise UsageError(
                f"not a drop in accuracy: {text!r}",
                where="max-accuracy-drop",
                fix="give a percentage like 0.5%, or the same as a share: 0.005",
            )
        return cls(drop=drop)

    def holds(self, drop: float) -> bool:
        """Whether a drop is within the budget; float rounding is not held against it."""
        return drop <= self.drop + 1e-9

    def describe(self, metric: Metric) -> str:
        """The budget in words."""
        percent = f"{100 * self.drop:g}"
        if metric.is_share:
            return f"{percent} points of {metric.name}"
        return f"{percent} % of the float model's {metric.name}"
