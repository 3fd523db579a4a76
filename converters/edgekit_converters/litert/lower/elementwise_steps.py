"""Steps that work on one element at a time, with broadcasting."""

from __future__ import annotations

import numpy as np

from edgekit_converters.litert.lower.step_base import Operand, StepBase, broadcast
from edgekit_converters.litert.program import Tensor

_FUSABLE = frozenset({"ADD", "SUB", "MUL", "DIV"})


class ElementwiseSteps(StepBase):
    """Arithmetic, comparisons, logic, choices, casts."""

    def unary(self, code: str, tensor: Tensor, dtype: str = "", **options: object) -> Tensor:
        """Any operator of one operand; the result's type is the operand's unless it is named."""
        return self.step(code, [tensor], tensor.shape, dtype or tensor.dtype, **options)

    def binary(self, code: str, first: Operand, second: Operand, dtype: str = "") -> Tensor:
        """Any operator of two operands that are broadcast."""
        one, other = self.pair(first, second)
        options: dict[str, object] = {"fusedActivationFunction": "NONE"} if code in _FUSABLE else {}
        shape = broadcast(one.shape, other.shape)
        return self.step(code, [one, other], shape, dtype or one.dtype, **options)

    def add(self, first: Operand, second: Operand) -> Tensor:
        """The sum."""
        return self.binary("ADD", first, second)

    def sub(self, first: Operand, second: Operand) -> Tensor:
        """The difference."""
        return self.binary("SUB", first, second)

    def mul(self, first: Operand, second: Operand) -> Tensor:
        """The product."""
        return self.binary("MUL", first, second)

    def div(self, first: Operand, second: Operand) -> Tensor:
        """The quotient; of integers, cut towards zero."""
        return self.binary("DIV", first, second)

    def floor_div(self, first: Operand, second: Operand) -> Tensor:
        """The quotient, rounded down."""
        return self.binary("FLOOR_DIV", first, second)

    def floor_mod(self, first: Operand, second: Operand) -> Tensor:
        """The rest that has the divisor's sign."""
        return self.binary("FLOOR_MOD", first, second)

    def maximum(self, first: Operand, second: Operand) -> Tensor:
        """The larger."""
        return self.binary("MAXIMUM", first, second)

    def minimum(self, first: Operand, second: Operand) -> Tensor:
        """The smaller."""
        return self.binary("MINIMUM", first, second)

    def pow(self, first: Operand, second: Operand) -> Tensor:
        """The power."""
        return self.binary("POW", first, second)

    def equal(self, first: Operand, second: Operand) -> Tensor:
        """Whether both are equal."""
        return self.binary("EQUAL", first, second, "bool")

    def not_equal(self, first: Operand, second: Operand) -> Tensor:
        """Whether they differ."""
        return self.binary("NOT_EQUAL", first, second, "bool")

    def less(self, first: Operand, second: Operand) -> Tensor:
        """Whether the first is smaller."""
        return self.binary("LESS", first, second, "bool")

    def less_equal(self, first: Operand, second: Operand) -> Tensor:
        """Whether the first is not larger."""
        return self.binary("LESS_EQUAL", first, second, "bool")

    def greater(self, first: Operand, second: Operand) -> Tensor:
        """Whether the first is larger."""
        return self.binary("GREATER", first, second, "bool")

    def greater_equal(self, first: Operand, second: Operand) -> Tensor:
        """Whether the first is not smaller."""
        return self.binary("GREATER_EQUAL", first, second, "bool")

    def logical_and(self, first: Tensor, second: Tensor) -> Tensor:
        """Both."""
        return self.binary("LOGICAL_AND", first, second)

    def logical_or(self, first: Tensor, second: Tensor) -> Tensor:
        """At least one."""
        return self.binary("LOGICAL_OR", first, second)

    def logical_not(self, tensor: Tensor) -> Tensor:
        """The opposite."""
        return self.unary("LOGICAL_NOT", tensor)

    def select(self, condition: Tensor, first: Operand, second: Operand) -> Tensor:
        """The first where the condition holds, else the second."""
        one, other = self.pair(first, second)
        shape = broadcast(condition.shape, one.shape, other.shape)
        return self.step("SELECT_V2", [condition, one, other], shape, one.dtype)

    def neg(self, tensor: Tensor) -> Tensor:
        """The negative."""
        return self.unary("NEG", tensor)

    def abs(self, tensor: Tensor) -> Tensor:
        """The magnitude."""
        return self.unary("ABS", tensor)

    def sign(self, tensor: Tensor) -> Tensor:
        """-1, 0 or 1."""
        return self.unary("SIGN", tensor)

    def floor(self, tensor: Tensor) -> Tensor:
        """Rounded down."""
        return self.unary("FLOOR", tensor)

    def ceil(self, tensor: Tensor) -> Tensor:
        """Rounded up."""
        return self.unary("CEIL", tensor)

    def round(self, tensor: Tensor) -> Tensor:
        """Rounded to the nearest integer, halves to the even one."""
        return self.unary("ROUND", tensor)

    def exp(self, tensor: Tensor) -> Tensor:
        """The exponential."""
        return self.unary("EXP", tensor)

    def log(self, tensor: Tensor) -> Tensor:
        """The natural logarithm."""
        return self.unary("LOG", tensor)

    def sqrt(self, tensor: Tensor) -> Tensor:
        """The square root."""
        return self.unary("SQRT", tensor)

    def rsqrt(self, tensor: Tensor) -> Tensor:
        """One over the square root."""
        return self.unary("RSQRT", tensor)

    def square(self, tensor: Tensor) -> Tensor:
        """The square."""
        return (
            self.unary("SQUARE", tensor) if tensor.dtype == "float32" else self.mul(tensor, tensor)
        )

    def sin(self, tensor: Tensor) -> Tensor:
        """The sine."""
        return self.unary("SIN", tensor)

    def cos(self, tensor: Tensor) -> Tensor:
        """The cosine."""
        return self.unary("COS", tensor)

    def tanh(self, tensor: Tensor) -> Tensor:
        """The hyperbolic tangent."""
        return self.unary("TANH", tensor)

    def logistic(self, tensor: Tensor) -> Tensor:
        """One over (one plus the exponential of the negative)."""
        return self.unary("LOGISTIC", tensor)

    def relu(self, tensor: Tensor) -> Tensor:
        """The larger of it and zero."""
        return self.unary("RELU", tensor)

    def softmax(self, tensor: Tensor) -> Tensor:
        """Along the last axis."""
        return self.unary("SOFTMAX", tensor, beta=1.0)

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """The same numbers in another type; a constant is cast here and now."""
        if tensor.dtype == dtype:
            return tensor
        if tensor.data is not None:
            with np.errstate(all="ignore"):
                return self.constant(tensor.data.astype(dtype), dtype)
        options = {"inDataType": tensor.dtype, "outDataType": dtype}
        return self.step("CAST", [tensor], tensor.shape, dtype, **options)
