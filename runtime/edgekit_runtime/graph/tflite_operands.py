"""How many inputs and outputs each LiteRT operator has: kernels index them without looking.

`tflite_operands.json` holds, for each builtin operator, its number in the schema and the least and
most inputs and outputs that its kernel takes (null: any number), read from the `Prepare` functions
in tensorflow/lite/kernels. Custom operators and those of StableHLO are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

# They may leave out gates, peepholes and projections anywhere behind their first input.
_WITH_GAPS: Final = frozenset(
    {"LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM",
     "BIDIRECTIONAL_SEQUENCE_RNN", "SVDF", "RNN", "UNIDIRECTIONAL_SEQUENCE_RNN"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OperandCounts:
    """The least and most inputs and outputs of one operator; None where any number will do."""

    name: str
    inputs: tuple[int, int | None]
    outputs: tuple[int, int | None]

    def fault(self, inputs: Sequence[int], outputs: Sequence[int]) -> str:
        """What is wrong with the tensors that an operator names, "" if nothing."""
        for kind, found, (least, most) in (
            ("inputs", inputs, self.inputs),
            ("outputs", outputs, self.outputs),
        ):
            if len(found) < least or (most is not None and len(found) > most):
                wanted = f"{least}" if most == least else f"{least} to {most or 'any number'}"
                return f"has {len(found)} {kind}, {self.name} takes {wanted}"
        needed = 1 if self.name in _WITH_GAPS else self.inputs[0]
        if any(tensor < 0 for tensor in inputs[:needed]):
            return f"leaves out an input that {self.name} needs"
        return ""


@cache
def operand_counts() -> dict[int, OperandCounts]:
    """The table, by the operators' numbers in the schema."""
    text = resources.files(__package__ or "").joinpath("tflite_operands.json").read_text("utf-8")
    return {
        entry["code"]: OperandCounts(name, tuple(entry["inputs"]), tuple(entry["outputs"]))
        for name, entry in json.loads(text).items()
    }
