"""How much a quantized model may lose and take, and how long may be searched for one that does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgekit_converters.accuracy import AccuracyBudget

#: Where the user names none.
SEARCH_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyGoal:
    """What is asked of the quantized artifacts.

    Attributes:
        metric: Its name, or `module:function`; None: what the labels ask for.
        budget: The largest drop; None: whatever comes out.
        search_seconds: No repair is tried after that.
        max_latency_ms: Predicted on the device.
        keep_best: Whether artifacts that miss the goal are published all the same.
    """

    metric: str | None = None
    budget: AccuracyBudget | None = None
    search_seconds: float = SEARCH_SECONDS
    max_latency_ms: float | None = None
    keep_best: bool = False

    def check(self, *, has_data: bool, has_device: bool) -> None:
        """Refuse what contradicts itself.

        Args:
            has_data: Whether there is evaluation or calibration data.
            has_device: Whether a device was named to predict for.

        Raises:
            UsageError: Saying what is missing.
        """
        if (self.metric or self.budget) and not has_data:
            raise UsageError(
                "accuracy is measured on data, and there is none",
                where="--eval",
                fix="give --eval DATA with labels; or --calibration DATA, of which a part is held "
                "out to compare the answers with the float model's",
            )
        if not self.search_seconds > 0:
            raise UsageError(
                f"a search takes time, not {self.search_seconds:g} seconds",
                where="--search-seconds",
                fix="give a positive number",
            )
        if self.max_latency_ms is None:
            return
        if not has_device:
            raise UsageError(
                "a latency is predicted for a device, and none is named",
                where="--max-latency-ms",
                fix="add --profile NAME; edgekit profiles list has them",
            )
        if self.budget is None or not self.max_latency_ms > 0:
            raise UsageError(
                "the best trade needs a positive latency and an accuracy that may be lost for it",
                where="--max-latency-ms",
                fix="add --max-accuracy-drop, such as 0.5%",
            )


class Device(Protocol):
    """Predicts how long a model takes on a board."""

    @property
    def name(self) -> str:
        """The board, as people know it."""
        ...

    def latency_ms(self, model: Path, target: ModelFormat, *, integers: Collection[str]) -> float:
        """The likely median latency of one inference.

        Args:
            model: The float model in normalised ONNX.
            target: Which engine runs it.
            integers: The names of the nodes that compute in 8-bit integers; others in float32.
        """
        ...

    def kind(self, model: Path, target: ModelFormat) -> str:
        """What such a figure is: "predicted", "estimate only" and so on; see `latency_ms`."""
        ...
