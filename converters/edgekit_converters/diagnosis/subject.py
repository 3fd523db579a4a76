"""What a diagnosis is made of: a quantized model in the names of its float form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.repair.simulation import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.plan import QuantizationPlan

ValuesOf = Callable[[Batch], Mapping[str, "NDArray[Any]"]]

SIMULATED: Final = (
    "computed without the engine's integer kernels, rounded where integers are: this predicts ARM, "
    "also from x86 hosts whose kernels saturate"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A quantized model.

    Attributes:
        model: The float `onnx.ModelProto` that was quantized, in its plain form: perhaps with
            scaled channels and corrected biases, or with the weights that a file really has.
        plan: Of a static scheme; without ranges where only the weights are quantized.
        run: Gives what the file computes for those values of the float model that it still
            computes, by name and in the float model's order of axes; None: it is simulated.
        judged: How the figures come about, a sentence.
        scheme: What it is called, where the plan's scheme does not tell.
    """

    model: Any
    plan: QuantizationPlan
    run: ValuesOf | None = None
    judged: str = SIMULATED
    scheme: str = ""

    @property
    def name(self) -> str:
        """The scheme's name."""
        return self.scheme or self.plan.scheme.value
