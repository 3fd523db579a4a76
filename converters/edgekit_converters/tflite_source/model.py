"""A `.tflite` file as plain data: tensors with their values, operators with their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantization:
    """The affine map of a tensor: real = scale * (integer - zero_point).

    Attributes:
        scales: float32, one, or one for each index of an axis.
        zero_points: int64, as many as there are scales.
        axis: The axis that several scales run along.
    """

    scales: NDArray[Any]
    zero_points: NDArray[Any]
    axis: int

    @property
    def per_channel(self) -> bool:
        """Whether the scales run along an axis."""
        return self.scales.size > 1

    def same_as(self, other: Quantization) -> bool:
        """Whether two tensors' integers mean the same numbers."""
        return (
            self.scales.tolist() == other.scales.tolist()
            and self.zero_points.tolist() == other.zero_points.tolist()
            and (self.axis == other.axis or not self.per_channel)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensor:
    """A tensor of the main graph.

    Attributes:
        index: Its place in the file.
        name: Unique in the file.
        dtype: A numpy type name, or the schema's word for a type that numpy lacks.
        shape: None where the size is free.
        data: The values of a constant; packed integers of 2 or 4 bits as int8 or uint8.
        quantization: Set where its integers stand for other numbers.
        variable: Whether it keeps its value from one inference to the next.
        fault: Why its values cannot be used, or empty.
    """

    index: int
    name: str
    dtype: str
    shape: Shape
    data: NDArray[Any] | None = None
    quantization: Quantization | None = None
    variable: bool = False
    fault: str = ""

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operator:
    """One step of the main graph.

    Attributes:
        code: The schema's name, or "custom" and a custom operator's own.
        name: Its first output's.
        inputs: None where an optional input is left out.
        outputs: What it computes.
        options_table: The schema's table that its options are written in, or empty.
        options: The fields of that table, defaults included.
    """

    code: str
    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options_table: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The main graph of a file, in execution order.

    Attributes:
        name: The graph's.
        description: The file's own words about itself, or empty.
        notes: What edgekit has written into the file's metadata, such as an order of axes.
        inputs: What the model takes.
        outputs: What it gives.
        operators: All of them.
    """

    name: str
    description: str
    notes: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
