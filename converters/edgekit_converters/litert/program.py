"""A LiteRT model as plain data, before it becomes a flatbuffer: tensors, operators, borders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Shape


@dataclass(slots=True, kw_only=True, eq=False)
class Tensor:
    """A tensor of the program; two tensors are the same only if they are one object.

    Attributes:
        name: What a person finds it by; unique once the program is emitted.
        dtype: A numpy type name.
        shape: None where the size is free.
        data: The values of a constant.
    """

    name: str
    dtype: str
    shape: Shape
    data: NDArray[Any] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Operator:
    """One builtin operator.

    Attributes:
        code: Its name in the schema's `BuiltinOperator`.
        inputs: None stands for an optional input that is left out.
        outputs: What it computes.
        options: Fields of the operator's options table, by the schema's names; enumerations as
            the names of their members, element types as numpy type names.
        bodies: What an IF or WHILE runs, by the field of its options that names it.
    """

    code: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, object] = field(default_factory=dict)
    bodies: dict[str, Program] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Program:
    """Operators in execution order between named borders.

    Attributes:
        inputs: In the source's order, with the source's names.
        outputs: Likewise.
        located: For each ONNX value that survives, its tensor and the order of its axes: stored
            axis i is ONNX axis `permutation[i]`.
    """

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    operators: list[Operator]
    located: Mapping[str, tuple[Tensor, tuple[int, ...]]]

    def readers(self) -> dict[int, list[Operator]]:
        """The operators that read each tensor, by the tensor's `id`."""
        found: dict[int, list[Operator]] = {}
        for operator in self.operators:
            for tensor in operator.inputs:
                if tensor is not None:
                    found.setdefault(id(tensor), []).append(operator)
        return found

    def producers(self) -> dict[int, Operator]:
        """The operator that computes each tensor, by the tensor's `id`."""
        return {id(out): operator for operator in self.operators for out in operator.outputs}
