"""What all kinds of steps of a formula share: operands that may be numbers, shapes, names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, Made, RefusedNodeError
from edgekit_converters.litert.program import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgekit_converters.graph import Node, Shape

# A number is a constant of the type of the tensor that it stands beside.
Operand = Tensor | float


def broadcast(*shapes: Shape) -> Shape:
    """The shape of what several tensors are broadcast to, None where a free size decides.

    Raises:
        RefusedNodeError: If two known sizes do not go together.
    """
    rank = max((len(shape) for shape in shapes), default=0)
    wide = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result: list[int | None] = []
    for sizes in zip(*wide, strict=True):
        known = {size for size in sizes if size not in {1, None}}
        if len(known) > 1:
            raise RefusedNodeError(f"shapes cannot be broadcast: {[list(s) for s in shapes]}")
        result.append(known.pop() if known else (None if None in sizes else 1))
    return tuple(result)


class StepBase:
    """Operators made one after the other for one node."""

    build: Builder
    node: Node
    prefix: str

    def constant(self, array: NDArray[Any], role: str = "constant") -> Tensor:
        """A constant of the array's own type."""
        return self.build.constant(f"{self.prefix}/{role}", array)

    def integers(self, values: object, role: str = "integers", dtype: str = "int32") -> Tensor:
        """A constant of integers: sizes, axes, indices."""
        return self.build.integers(f"{self.prefix}/{role}", values, dtype=dtype)

    def number(self, value: float, dtype: str = "float32") -> Tensor:
        """A scalar constant."""
        return self.constant(np.array(value, dtype=dtype), "number")

    def step(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        shape: Shape,
        dtype: str,
        **options: object,
    ) -> Tensor:
        """Any LiteRT operator with one output."""
        name = f"{self.prefix}/{code.lower()}"
        return self.build.step(code, list(inputs), name=name, shape=shape, dtype=dtype, **options)

    def steps(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[tuple[Shape, str]],
        **options: object,
    ) -> list[Tensor]:
        """Any LiteRT operator with several outputs, each given as its shape and type."""
        name = f"{self.prefix}/{code.lower()}"
        made = [Made(name, shape, dtype) for shape, dtype in outputs]
        return self.build.run(code, list(inputs), made, options=options)

    def pair(self, first: Operand, second: Operand) -> tuple[Tensor, Tensor]:
        """Two operands as tensors, a number in the type of the other."""
        if isinstance(first, Tensor):
            other = second if isinstance(second, Tensor) else self.number(second, first.dtype)
            return first, other
        if isinstance(second, Tensor):
            return self.number(first, second.dtype), second
        raise TypeError("one of the two must be a tensor")
